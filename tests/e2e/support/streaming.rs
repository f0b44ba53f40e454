//! Sites of the guest `streams`, which speaks with the client and other machines bit by bit.

use super::{Proxy, Script, Site};

/// The guest, with what it is to do.
pub fn streaming(config: &str) -> Script {
    Script::guest("streams", "streams").main(config)
}

/// A site with a script that serves `/`.
pub fn serverless(script: Script) -> Site {
    let mut site = Site::new();
    site.route("/", "").script("wasm_serverless", script);
    site
}

pub fn start_streaming(config: &str) -> Proxy {
    Proxy::start(&serverless(streaming(config)).to_string())
}

/// Everything that runs held is released.
pub fn assert_released(proxy: &Proxy) {
    proxy.wait_until_idle();
    proxy.wait_for_metric("phasegate_sockets", 0.0);
}
