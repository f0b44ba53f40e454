//! Clusters: the named upstreams of the configuration, as what plugins call out to.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::config;

/// A group of servers.
pub trait Cluster: Send + Sync {
    /// A healthy server for the next call; none when there is none. The key is for those that choose by a hash.
    fn pick(&self, key: &[u8]) -> Option<Endpoint>;

    /// All its servers, and whether they are healthy.
    fn servers(&self) -> Vec<(SocketAddr, bool)>;
}

/// A server that was chosen for a call, and how it is spoken to.
pub struct Endpoint {
    pub addr: SocketAddr,
    /// As configured, without the port; an IPv6 address keeps its brackets.
    pub host: Arc<str>,
    pub tls: Option<EndpointTls>,
    /// HTTP/2: with TLS where the server chooses it, without TLS with no question.
    pub h2: bool,
    /// Until the connection stands, with TLS.
    pub connect_timeout: Duration,
    /// Kept as long as the call uses the server, if somebody counts that.
    pub in_use: Option<Box<dyn Send + Sync>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointTls {
    /// The name that the certificate must have; it is sent as SNI unless it is an address.
    pub server_name: Arc<str>,
    /// Whether the certificate has to be right.
    pub verify: bool,
}

/// Why there is no server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    #[error("there is no upstream `{0}`: add `[upstream.{key}]` to the configuration", key = config::key(.0))]
    Unknown(String),
    #[error("no server of the upstream `{0}` is healthy")]
    NoneHealthy(String),
}

/// The clusters of the generation that is live, and the names of the one that is being loaded.
#[derive(Default)]
pub struct Clusters {
    table: watch::Sender<Table>,
    /// For each call another one.
    keys: AtomicU64,
}

#[derive(Default)]
struct Table {
    live: HashMap<String, Arc<dyn Cluster>>,
    announced: HashSet<String>,
}

/// Names that are known until this is dropped, or the clusters are replaced.
#[must_use = "the names are withdrawn when this is dropped"]
pub struct Announced(Arc<Clusters>);

impl Clusters {
    /// Makes names known before their clusters are there: a plugin may call out while its generation is being loaded.
    pub fn announce(self: &Arc<Self>, names: impl IntoIterator<Item = String>) -> Announced {
        self.table.send_modify(|table| table.announced = names.into_iter().collect());
        Announced(self.clone())
    }

    /// Puts the clusters of a generation in the place of the ones so far. Calls that wait for one go on.
    pub fn replace(&self, clusters: HashMap<String, Arc<dyn Cluster>>) {
        self.table.send_replace(Table { live: clusters, announced: HashSet::new() });
    }

    /// Whether a call to this name can be begun.
    pub fn is_known(&self, name: &str) -> bool {
        let table = self.table.borrow();
        table.live.contains_key(name) || table.announced.contains(name)
    }

    /// All servers of the cluster of this name, and whether they are healthy; none where it is not live.
    pub fn servers(&self, name: &str) -> Vec<(SocketAddr, bool)> {
        self.table.borrow().live.get(name).map(|cluster| cluster.servers()).unwrap_or_default()
    }

    /// A server of the cluster of this name. Waits while the name is announced and its generation is not live.
    ///
    /// # Errors
    /// When there is no such cluster, and when no server of it is healthy.
    pub async fn endpoint(&self, name: &str) -> Result<Endpoint, ClusterError> {
        let mut table = self.table.subscribe();
        // The sender is `self`: it does not end before this does.
        let table = table.wait_for(|table| table.live.contains_key(name) || !table.announced.contains(name)).await;
        let cluster = table.ok().and_then(|table| table.live.get(name).cloned());
        let cluster = cluster.ok_or_else(|| ClusterError::Unknown(name.to_owned()))?;
        let key = self.keys.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        cluster.pick(&key).ok_or_else(|| ClusterError::NoneHealthy(name.to_owned()))
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.0.table.send_modify(|table| table.announced.clear());
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    struct Fixed(Option<SocketAddr>);

    impl Cluster for Fixed {
        fn pick(&self, _: &[u8]) -> Option<Endpoint> {
            let connect_timeout = Duration::from_secs(1);
            self.0.map(|addr| Endpoint {
                addr,
                host: "a.cn".into(),
                tls: None,
                h2: false,
                connect_timeout,
                in_use: None,
            })
        }

        fn servers(&self) -> Vec<(SocketAddr, bool)> {
            self.0.map(|addr| (addr, true)).into_iter().collect()
        }
    }

    fn of(name: &str, port: Option<u16>) -> HashMap<String, Arc<dyn Cluster>> {
        let cluster: Arc<dyn Cluster> = Arc::new(Fixed(port.map(|port| ([127, 0, 0, 1], port).into())));
        HashMap::from([(name.to_owned(), cluster)])
    }

    fn port(endpoint: Result<Endpoint, ClusterError>) -> Result<u16, ClusterError> {
        endpoint.map(|endpoint| endpoint.addr.port())
    }

    #[tokio::test]
    async fn a_name_stands_for_what_is_live() {
        let clusters = Clusters::default();
        assert!(!clusters.is_known("a"));
        assert_eq!(port(clusters.endpoint("a").await), Err(ClusterError::Unknown("a".into())));
        clusters.replace(of("a", Some(1)));
        assert!(clusters.is_known("a"));
        assert_eq!(port(clusters.endpoint("a").await), Ok(1));
        clusters.replace(of("a", None));
        assert_eq!(port(clusters.endpoint("a").await), Err(ClusterError::NoneHealthy("a".into())));
        clusters.replace(of("b", Some(2)));
        assert!(!clusters.is_known("a"));
    }

    #[tokio::test]
    async fn a_name_that_is_announced_is_waited_for() {
        let clusters = Arc::new(Clusters::default());
        clusters.replace(of("a", Some(1)));
        let announced = clusters.announce(["a".to_owned(), "b".to_owned()]);
        assert!(clusters.is_known("b") && !clusters.is_known("c"));
        assert_eq!(port(clusters.endpoint("a").await), Ok(1), "it is live");
        let mut waiting = Box::pin(clusters.endpoint("b"));
        assert!(waiting.as_mut().now_or_never().is_none());
        clusters.replace(of("b", Some(2)));
        assert_eq!(port(waiting.await), Ok(2));
        drop(announced);
        assert!(clusters.is_known("b") && !clusters.is_known("a"));
    }

    #[tokio::test]
    async fn a_generation_that_comes_to_nothing_ends_the_wait() {
        let clusters = Arc::new(Clusters::default());
        let announced = clusters.announce(["b".to_owned()]);
        let mut waiting = Box::pin(clusters.endpoint("b"));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(announced);
        assert_eq!(port(waiting.await), Err(ClusterError::Unknown("b".into())));
    }
}
