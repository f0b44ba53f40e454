//! What can be seen of the running proxy: logs, metrics, and the admin endpoint.

pub mod access_log;
pub mod admin;
pub mod defined_metrics;
pub mod error_log;
pub mod metrics;
mod sink;
