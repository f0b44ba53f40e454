//! Calls `RandomError` of the cluster `grpcbin`: an even status grants access, an odd one does not. Reflection is free; what
//! is not gRPC is refused.

use std::time::Duration;

use log::info;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, GrpcStatusCode, LogLevel};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_http_context(|_, _| Box::new(GrpcAuthRandom));
}}

struct GrpcAuthRandom;

impl Context for GrpcAuthRandom {
    fn on_grpc_call_response(&mut self, _: u32, status: u32, _: usize) {
        if status.is_multiple_of(2) {
            info!("Access granted.");
            self.resume_http_request();
        } else {
            info!("Access forbidden.");
            let metadata: Vec<(&str, &[u8])> = vec![("Powered-By", b"proxy-wasm")];
            self.send_grpc_response(GrpcStatusCode::Aborted, Some("Aborted by Proxy-Wasm!"), metadata);
        }
    }
}

impl HttpContext for GrpcAuthRandom {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let header = |name| self.get_http_request_header(name).unwrap_or_default();
        if !header("content-type").starts_with("application/grpc") {
            let body = b"Service accessible only to gRPC clients.\n";
            self.send_http_response(503, vec![("Powered-By", "proxy-wasm")], Some(body));
            return Action::Pause;
        }
        if header(":path").starts_with("/grpc.reflection") {
            return Action::Continue;
        }
        let timeout = Duration::from_secs(1);
        self.dispatch_grpc_call("grpcbin", "grpcbin.GRPCBin", "RandomError", vec![], None, timeout).unwrap();
        Action::Pause
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        self.set_http_response_header("Powered-By", Some("proxy-wasm"));
        Action::Continue
    }
}
