//! Proxy-Wasm: what surrounds the VMs of filters.

mod failures;
mod guest;
mod lifecycle;

use std::fmt::Display;
use std::path::Path;

use super::support::*;
use guest::Guest;

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
