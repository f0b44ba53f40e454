//! Proxy-Wasm filters. What they do in Envoy too is in `tests/envoy`.

mod examples;
mod failures;
mod foreign;
mod guest;
mod higress;
mod hostile;
mod lifecycle;
mod limits;
mod output;
mod properties;
mod redis;
mod refused;
mod services;
mod sharing;
mod start;
mod statuses;
mod steps;

use std::fmt::{Display, Write};
use std::path::Path;

use self::guest::Guest;
use crate::support::*;

/// A route with a filter, to be put into a [`Site`].
fn filtered(site: &mut Site, path: &str, handler: &str, name: &str, module: &Path, keys: &str) {
    let mut route = handler.to_owned();
    let _ =
        write!(route, "\n[[server.local.proxy_wasm]]\nname = \"{name}\"\nwasm_path = '{}'\n{keys}", module.display());
    site.route(path, &route);
}

/// A filter of the route above it: more keys can follow.
fn filter(name: &str, module: &Path) -> String {
    table("server.local.proxy_wasm", name, module)
}

fn service(name: &str, module: &Path) -> String {
    table("wasm_service", name, module)
}

fn table(table: &str, name: &str, module: &Path) -> String {
    format!("[[{table}]]\nname = \"{name}\"\nwasm_path = '{}'\n", module.display())
}

/// A counter that guests define.
fn counter(proxy: &Proxy, name: impl Display) -> f64 {
    proxy.metric(&format!("{name}_total"))
}

/// A metric of a filter.
fn of(filter: &str, metric: &str) -> String {
    format!("phasegate_{metric}{{filter=\"{filter}\"}}")
}

fn failures(proxy: &Proxy, filter: &str, kind: &str) -> f64 {
    proxy.metric(&format!("phasegate_filter_failures_total{{filter=\"{filter}\",kind=\"{kind}\"}}"))
}
