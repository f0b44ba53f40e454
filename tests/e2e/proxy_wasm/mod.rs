//! Proxy-Wasm filters. What they do in Envoy too is in `tests/envoy`.

mod examples;
mod foreign;
mod hostile;
mod properties;
mod refused;
mod steps;

use std::fmt::Write;
use std::path::Path;

use crate::support::*;

/// A route with a filter, to be put into a [`Site`].
fn filtered(site: &mut Site, path: &str, handler: &str, name: &str, module: &Path, keys: &str) {
    let mut route = handler.to_owned();
    let _ =
        write!(route, "\n[[server.local.proxy_wasm]]\nname = \"{name}\"\nwasm_path = '{}'\n{keys}", module.display());
    site.route(path, &route);
}
