//! The real binary between real clients and real origins, with the real plugins. Each module is one concern of the proxy;
//! `support` is what they are told with.

mod support;

mod access_log;
mod admin;
mod bad_modules;
mod bodies;
mod calling_plugins;
mod callouts;
mod cli;
mod entry_points;
mod examples;
mod failures;
mod headers;
mod host_functions;
mod instances;
mod isolation;
mod named_sessions;
mod own_plugin;
mod plugins;
mod policy;
mod protocol;
mod rate_limit;
mod reload;
mod responses;
mod routing;
mod sessions;
mod shutdown;
mod spawn;
mod store;
mod timers;
mod tls;
mod variables;
mod verdicts;
