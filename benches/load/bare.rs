//! A reverse proxy with nothing but Pingora: what Phasegate is measured against.

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use pingora::prelude::{HttpPeer, Session};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora_proxy::{ProxyHttp, http_proxy_service};

use crate::Result;

/// Serves with the settings of Phasegate.
pub fn run(addr: &str, upstream: SocketAddr, timeouts: bool) -> Result<()> {
    let conf = ServerConf { threads: 1, work_stealing: false, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Bare { upstream, timeouts });
    service.add_tcp(addr);
    server.add_service(service);
    server.run_forever()
}

struct Bare {
    upstream: SocketAddr,
    timeouts: bool,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn request_filter(&self, session: &mut Session, (): &mut ()) -> pingora::Result<bool> {
        if self.timeouts {
            session.set_write_timeout(Some(Duration::from_secs(60)));
        }
        Ok(false)
    }

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora::Result<Box<HttpPeer>> {
        let mut peer = Box::new(HttpPeer::new(self.upstream, false, String::new()));
        if self.timeouts {
            peer.options.connection_timeout = Some(Duration::from_secs(10));
            peer.options.read_timeout = Some(Duration::from_secs(60));
        }
        Ok(peer)
    }
}
