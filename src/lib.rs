pub mod config;
pub mod phase;
pub mod variables;
