pub mod observe;
pub mod phase;
pub mod proxy;
