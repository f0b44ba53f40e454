//! An upstream as what plugins call out to.

use std::net::SocketAddr;

use super::Upstream;
use crate::capability::cluster::{Cluster, Endpoint};

impl Cluster for Upstream {
    fn pick(&self, key: &[u8]) -> Option<Endpoint> {
        let selected = self.select(key, &[])?;
        Some(Endpoint {
            addr: selected.addr,
            tls: self.protocol.endpoint_tls(&selected.host),
            host: selected.host,
            h2: self.protocol.h2(),
            connect_timeout: self.timeouts.connect,
            in_use: selected.active.map(|active| Box::new(active) as _),
        })
    }

    fn servers(&self) -> Vec<(SocketAddr, bool)> {
        self.servers.iter().map(|server| (server.addr, server.usable(&[]))).collect()
    }
}
