//! Answers with the dynamic metadata `uppercased-custom-metadata` that a Lua filter before it has set, if it has.

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, LogLevel};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_http_context(|_, _| Box::new(FilterMetadata));
}}

struct FilterMetadata;

impl Context for FilterMetadata {}

impl HttpContext for FilterMetadata {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let path = vec!["metadata", "filter_metadata", "envoy.filters.http.lua", "uppercased-custom-metadata"];
        let Some(metadata) = self.get_property(path) else { return Action::Continue };
        let metadata = String::from_utf8_lossy(&metadata).into_owned();
        let headers = vec![("Powered-By", "proxy-wasm"), ("uppercased-metadata", &metadata)];
        let body = format!("Custom response with Envoy metadata: {metadata:?}\n");
        self.send_http_response(200, headers, Some(body.as_bytes()));
        Action::Pause
    }
}
