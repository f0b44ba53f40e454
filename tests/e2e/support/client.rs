//! Clients that know how it is done.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Version};
use reqwest::{Certificate, Client, ClientBuilder, RequestBuilder};

use super::{Authority, soon};

/// A whole response.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}: {}", self.status, self.text()))
    }
}

/// HTTP/1.1.
pub fn http1() -> Client {
    plain().http1_only().build().unwrap()
}

/// HTTP/2 without an upgrade, for a listener with `h2 = true`.
pub fn http2() -> Client {
    plain().http2_prior_knowledge().build().unwrap()
}

/// HTTPS with what the handshake gives, HTTP/2 or HTTP/1.1. It trusts the authority, and finds these names at this address.
pub fn https(authority: &Authority, names: &[&str], addr: SocketAddr) -> ClientBuilder {
    let root = Certificate::from_pem(authority.pem().as_bytes()).unwrap();
    let client = plain().tls_built_in_root_certs(false).add_root_certificate(root);
    names.iter().fold(client, |client, name| client.resolve(name, addr))
}

fn plain() -> ClientBuilder {
    // One in the process. Whoever comes first has done it for all.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none())
}

/// Sends a request and takes the whole response, which must come.
pub async fn send(request: RequestBuilder) -> Answer {
    soon("a response", async {
        let response = request.send().await.unwrap_or_else(|error| panic!("{error:?}"));
        let (status, version) = (response.status().as_u16(), response.version());
        let headers = response.headers().clone();
        let body = response.bytes().await.unwrap_or_else(|error| panic!("{error:?}"));
        Answer { status, version, headers, body }
    })
    .await
}
