//! What else a proxy does beside what is measured: the load from which the compiler learns which code is hot (`make dist`).
//! TLS, HTTP/2, bodies, filters that look at bodies, responses of the proxy's own, the access log.

use std::net::SocketAddr;

use futures::future::try_join_all;
use reqwest::{Client, ClientBuilder};

use crate::config::module;
use crate::process::free_addr;
use crate::{Result, Site};

/// Requests of each client to each path: so many at the same time, so many in turn.
const AT_ONCE: usize = 16;
const IN_TURN: usize = 50;

const PATHS: [&str; 4] = ["/plain", "/h2", "/filtered", "/respond"];

/// Bytes.
const BODY: usize = 100 << 10;

pub fn run(site: &Site) -> Result<()> {
    let addrs = Addrs { plain: free_addr()?, tls: free_addr()?, inner: free_addr()?, inner_tls: free_addr()? };
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".into()])?;
    let (cert, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
    site.write("cert.pem", &cert)?;
    site.write("key.pem", &key)?;
    let mut proxy = site.phasegate("train", &config(&addrs)?)?;
    for addr in [addrs.plain, addrs.tls, addrs.inner, addrs.inner_tls] {
        proxy.listens_on(addr)?;
    }
    site.runtime.block_on(async {
        for (client, base) in [
            (client().http1_only().build()?, format!("http://{}", addrs.plain)),
            (client().http2_prior_knowledge().build()?, format!("http://{}", addrs.plain)),
            (client().http1_only().build()?, format!("https://{}", addrs.tls)),
            (client().build()?, format!("https://{}", addrs.tls)),
        ] {
            for path in PATHS {
                let url = format!("{base}{path}");
                try_join_all((0..AT_ONCE).map(|_| requests(&client, &url))).await?;
            }
        }
        Ok(())
    })
}

struct Addrs {
    plain: SocketAddr,
    tls: SocketAddr,
    inner: SocketAddr,
    inner_tls: SocketAddr,
}

/// One that takes any certificate.
fn client() -> ClientBuilder {
    // One in the process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().danger_accept_invalid_certs(true)
}

async fn requests(client: &Client, url: &str) -> Result<()> {
    for _ in 0..IN_TURN {
        for request in [client.get(url), client.post(url).body(vec![b'x'; BODY])] {
            request.send().await?.error_for_status()?.bytes().await?;
        }
    }
    Ok(())
}

fn config(addrs: &Addrs) -> Result<String> {
    let Addrs { plain, tls, inner, inner_tls } = addrs;
    let filter = module("pw_http_body")?;
    Ok(format!(
        r#"
threads = 1
error_log = "warn"
access_log = {{ path = "access.log" }}

[upstream.plain]
servers = [{{ addr = "{inner}" }}]

[upstream.h2]
servers = [{{ addr = "{inner_tls}" }}]
tls = {{ sni = "localhost", verify = false }}
h2 = true

[[server]]
listen = [
  {{ addr = "{plain}", h2 = true }},
  {{ addr = "{tls}", tls = {{ cert = "cert.pem", key = "key.pem" }}, h2 = true }},
]

[[server.local]]
path = "/plain"
proxy_pass = "plain"

[[server.local]]
path = "/h2"
proxy_pass = "h2"

[[server.local]]
path = "/filtered"
proxy_pass = "plain"

[[server.local.proxy_wasm]]
name = "body"
wasm_path = '{filter}'

[[server.local]]
path = "/respond"
respond = {{ status = 200, body = "hello" }}

[[server]]
listen = [
  {{ addr = "{inner}" }},
  {{ addr = "{inner_tls}", tls = {{ cert = "cert.pem", key = "key.pem" }}, h2 = true }},
]

[[server.local]]
path = "/"
echo = true
"#,
        filter = filter.display()
    ))
}
