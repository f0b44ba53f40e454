//! The admin endpoint: metrics, health, what is loaded. For operators, on an address of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use async_trait::async_trait;
use futures::future::BoxFuture;
use http::{Method, Response, StatusCode, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use pingora::services::listening::Service;
use serde_json::{Value, json};

use super::metrics::{self, Metrics};

/// Makes the answer of a path when it is asked for.
pub type Report = Box<dyn Fn() -> Value + Send + Sync>;

/// Loads the configuration anew, and says how that went.
pub type Reload = Box<dyn Fn() -> BoxFuture<'static, (StatusCode, Value)> + Send + Sync>;

/// What the admin endpoint shows.
pub struct Admin {
    pub metrics: Arc<Metrics>,
    /// Whether to send this process requests: this endpoint opens last, so they can be until the process shuts down.
    pub ready: Arc<AtomicBool>,
    /// `GET /plugins`
    pub plugins: Report,
    /// `GET /config`
    pub config: Report,
    /// `POST /reload`
    pub reload: Reload,
}

impl Admin {
    /// The service that answers on this address, on one thread.
    pub fn service(self, listen: &str) -> Service<Admin> {
        let mut service = Service::new("admin".to_owned(), self);
        service.threads = Some(1);
        service.add_tcp(listen);
        service
    }

    async fn answer(&self, method: &Method, path: &str) -> Response<Vec<u8>> {
        let Some(allowed) = methods(path) else {
            return json_response(StatusCode::NOT_FOUND, json!({ "error": format!("there is nothing at {path}") }));
        };
        if !allowed.split(", ").any(|allowed| allowed == method.as_str()) {
            return not_allowed(method, path, allowed);
        }
        match path {
            "/metrics" => self.metrics_response(),
            "/healthz" => json_response(StatusCode::OK, json!({ "status": "alive" })),
            "/readyz" if self.ready.load(Relaxed) => json_response(StatusCode::OK, json!({ "status": "ready" })),
            "/readyz" => json_response(StatusCode::SERVICE_UNAVAILABLE, json!({ "status": "not ready" })),
            "/plugins" => json_response(StatusCode::OK, (self.plugins)()),
            "/config" => json_response(StatusCode::OK, (self.config)()),
            // The only path left that has methods.
            _ => {
                let (status, report) = (self.reload)().await;
                json_response(status, report)
            }
        }
    }

    fn metrics_response(&self) -> Response<Vec<u8>> {
        match self.metrics.encode() {
            Ok(text) => response(StatusCode::OK, metrics::CONTENT_TYPE, text.into_bytes()),
            Err(error) => json_response(StatusCode::INTERNAL_SERVER_ERROR, json!({ "error": error.to_string() })),
        }
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let mut response = self.answer(&request.method, request.uri.path()).await;
        if request.method == Method::HEAD {
            response.body_mut().clear();
        }
        response
    }
}

/// What can be done with a path, as in the header `allow`; none: there is no such path.
fn methods(path: &str) -> Option<&'static str> {
    match path {
        "/metrics" | "/healthz" | "/readyz" | "/plugins" | "/config" => Some("GET, HEAD"),
        "/reload" => Some("POST"),
        _ => None,
    }
}

fn not_allowed(method: &Method, path: &str, allowed: &'static str) -> Response<Vec<u8>> {
    let error = format!("{path} takes {allowed}, not {method}");
    let mut response = json_response(StatusCode::METHOD_NOT_ALLOWED, json!({ "error": error }));
    response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allowed));
    response
}

fn json_response(status: StatusCode, value: Value) -> Response<Vec<u8>> {
    response(status, "application/json", format!("{value:#}\n").into_bytes())
}

fn response(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
    let length = body.len().into();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_LENGTH, length);
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use pingora::apps::HttpServerApp;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn admin() -> Admin {
        Admin {
            metrics: Arc::new(Metrics::new()),
            ready: Arc::new(AtomicBool::new(true)),
            plugins: Box::new(|| json!([{ "name": "referer" }])),
            config: Box::new(|| json!({ "threads": 2 })),
            reload: Box::new(|| Box::pin(async { (StatusCode::CONFLICT, json!({ "error": "threads" })) })),
        }
    }

    async fn answer(admin: &Admin, method: Method, path: &str) -> (u16, Value) {
        let response = admin.answer(&method, path).await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap())
    }

    #[tokio::test]
    async fn reports_are_json() {
        let admin = admin();
        assert_eq!(answer(&admin, Method::GET, "/plugins").await, (200, json!([{ "name": "referer" }])));
        assert_eq!(answer(&admin, Method::GET, "/config").await, (200, json!({ "threads": 2 })));
    }

    #[tokio::test]
    async fn readiness_follows_its_flag_and_health_does_not() {
        let admin = admin();
        assert_eq!(answer(&admin, Method::GET, "/readyz").await.0, 200);
        admin.ready.store(false, Relaxed);
        assert_eq!(answer(&admin, Method::GET, "/readyz").await, (503, json!({ "status": "not ready" })));
        assert_eq!(answer(&admin, Method::GET, "/healthz").await, (200, json!({ "status": "alive" })));
    }

    #[tokio::test]
    async fn metrics_are_text() {
        let admin = admin();
        admin.metrics.request_ended(Some(200));
        let response = admin.answer(&Method::GET, "/metrics").await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], metrics::CONTENT_TYPE);
        let text = String::from_utf8(response.into_body()).unwrap();
        assert!(text.contains("phasegate_requests_total{status=\"2xx\"} 1\n"), "{text}");
    }

    #[tokio::test]
    async fn the_rest_is_refused_with_a_reason() {
        let admin = admin();
        assert_eq!(answer(&admin, Method::POST, "/reload").await, (409, json!({ "error": "threads" })));
        assert_eq!(answer(&admin, Method::GET, "/").await, (404, json!({ "error": "there is nothing at /" })));
        for (method, path, allowed) in [(Method::POST, "/metrics", "GET, HEAD"), (Method::GET, "/reload", "POST")] {
            assert_eq!(answer(&admin, method.clone(), path).await.0, 405);
            assert_eq!(admin.answer(&method, path).await.headers()[header::ALLOW], allowed);
        }
    }

    /// What a client gets that sends this on one connection.
    async fn exchange(request: &str) -> String {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let (_shutdown, watch) = tokio::sync::watch::channel(true);
        client.write_all(request.as_bytes()).await.unwrap();
        Arc::new(admin()).process_new_http(ServerSession::new_http1(Box::new(server)), &watch).await;
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        response
    }

    #[tokio::test]
    async fn it_speaks_http() {
        let response = exchange("GET /healthz?verbose HTTP/1.1\r\nhost: admin\r\n\r\n").await;
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        assert!(response.ends_with("\r\n\r\n{\n  \"status\": \"alive\"\n}\n"), "{response}");

        let response = exchange("HEAD /healthz HTTP/1.1\r\nhost: admin\r\n\r\n").await;
        assert!(response.to_ascii_lowercase().contains("\r\ncontent-length: 24\r\n"), "{response}");
        assert!(response.ends_with("\r\n\r\n"), "{response}");

        let response = exchange("POST /reload HTTP/1.1\r\nhost: admin\r\ncontent-length: 2\r\n\r\n{}").await;
        assert!(response.starts_with("HTTP/1.1 409 Conflict\r\n"), "{response}");
    }
}
