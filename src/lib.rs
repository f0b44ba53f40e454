pub mod observe;
pub mod phase;
