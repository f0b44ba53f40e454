//! The real binary between real clients and real origins, with the real plugins. Each module is one concern of the proxy;
//! `support` is what they are told with.

mod support;

mod bad_modules;
mod entry_points;
mod host_functions;
mod instances;
mod isolation;
mod own_plugin;
mod plugins;
mod protocol;
mod verdicts;
