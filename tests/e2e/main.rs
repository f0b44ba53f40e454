//! The real binary between real clients and real origins, with the real plugins. Each module is one concern of the proxy;
//! `support` is what they are told with.

mod support;

mod access_log;
mod admin;
mod bodies;
mod cli;
mod examples;
mod failures;
mod protocol;
mod responses;
mod routing;
mod shutdown;
mod tls;
