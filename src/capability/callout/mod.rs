//! Callouts: HTTP requests of plugins to other machines.

mod body;
mod cluster;
mod connection;
mod h2;
mod h3;
mod pool;
mod request;
#[cfg(test)]
mod tests;
mod way;

pub use body::PipeError;
pub use cluster::{ClusterCall, ClusterResponse};
pub use request::{Call, absolute};

pub(super) use body::Pipe;
pub(super) use cluster::{default_scheme, without_connection};
pub(super) use connection::reset;
pub(super) use pool::Lease;
pub(super) use request::{Outgoing, host_header};

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Method, Response};
use hyper::body::Incoming;

use self::connection::{Begun, Failure, Received};
use self::pool::Pool;
use self::way::{Http, Way};
use super::cluster::{ClusterError, Clusters, Endpoint};
use super::net::{NetError, Network, Policy, Target, Transport};
use crate::config::Network as Config;
use crate::headers::MOST_FIELDS;
use crate::observe::metrics::{CalloutMetrics, Metrics};

/// Why a callout has no response.
#[derive(Debug, thiserror::Error)]
pub enum CalloutError {
    #[error("`{0}` is not an absolute URI of http or https, such as `https://api.example.cn/path`")]
    Uri(String),
    #[error("{scheme} does not go over {}: tcp is for http, ssl and quic are for https", .transport.name())]
    Scheme { scheme: &'static str, transport: Transport },
    #[error("`{0}` is about the connection, which belongs to the proxy")]
    Connection(HeaderName),
    #[error("the request has too many headers: {MOST_FIELDS} at the most")]
    TooManyHeaders,
    #[error("`{0}` is not a valid host")]
    Host(String),
    #[error("the body of the {of} is larger than {limit} bytes: body_limit of [network] can permit more")]
    BodyTooLarge { of: &'static str, limit: usize },
    #[error("{0} callouts are in flight already, as many as max_callouts of [network] permits")]
    TooMany(usize),
    #[error("{0} callouts of the VM are in flight already, as many as limits.callouts permits")]
    TooManyOfVm(usize),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// There is no connection.
    #[error(transparent)]
    Net(#[from] NetError),
    /// `from` is a target, or the name of a cluster.
    #[error("no whole response from {from} within {} ms", .timeout.as_millis())]
    Timeout { from: String, timeout: Duration },
    /// Not even its header has come. `reset` is the reason that the server has given for it (RFC 9113, section 7), if any.
    #[error("no whole response from {target}: {text}")]
    Unanswered { target: Target, text: String, reset: Option<u32> },
    /// The response has begun, and breaks off or is wrong.
    #[error("no whole response from {0}: {1}")]
    Broken(Target, String),
}

/// Bytes that a body to or from a cluster may have, whatever is configured: the limit of Envoy, for filters take in whole lists.
const LEAST_OF_CLUSTERS: usize = 32 << 20;

/// How often a request is sent that the server does not look at.
const MOST_TRIES: u32 = 5;

/// How long a server that has refused a stream is left alone, each time so much longer: it may not know yet that others have ended.
const REST: Duration = Duration::from_millis(10);

/// What all callouts of the process share.
pub struct Callouts {
    pool: Arc<Pool>,
    /// Bytes of the largest body, either way.
    body_limit: usize,
    /// The same to and from clusters.
    cluster_body_limit: usize,
    most: usize,
    metrics: CalloutMetrics,
}

impl Callouts {
    pub fn new(config: &Config, metrics: &Metrics) -> Callouts {
        Callouts {
            pool: Arc::default(),
            body_limit: config.body_limit,
            cluster_body_limit: config.body_limit.max(LEAST_OF_CLUSTERS),
            most: config.max_callouts,
            metrics: metrics.callouts(),
        }
    }

    /// Sends a request and waits for the whole response, from the first lookup to the last byte no longer than `timeout`.
    /// The body is none where a response has none: to HEAD, and with 204 and 304 (RFC 9110, section 6.4.1). Redirects are
    /// not followed. Dropped, it gives up, and closes what it had open.
    ///
    /// # Errors
    /// When the request is not valid or not permitted, too many are in flight, a body is too large, the time is over, or
    /// something fails on the way.
    pub async fn call(
        &self,
        network: &Network,
        policy: &Policy,
        transport: Transport,
        call: Call,
        timeout: Duration,
    ) -> Result<Response<Option<Bytes>>, CalloutError> {
        let outgoing = Outgoing::new(transport, call, self.body_limit)?;
        let way = Way::Script { policy, transport };
        let exchange = async { Ok(self.exchange(network, way, &outgoing).await?.response) };
        let late = |timeout| CalloutError::Timeout { from: outgoing.target.to_string(), timeout };
        self.timed(Some(timeout), late, exchange).await
    }

    /// Sends a request to a cluster and waits for the whole response: in HTTP/2 where the operator says so, and with TLS as
    /// he says. Dropped, it gives up, and closes what it had open.
    ///
    /// # Errors
    /// When there is no such cluster or no server of it is healthy ([`CalloutError::Cluster`]), it cannot be connected
    /// ([`CalloutError::Net`]), the time is over ([`CalloutError::Timeout`]), no response comes or none whole
    /// ([`CalloutError::Unanswered`], [`CalloutError::Broken`]), a body is too large, or too many callouts are in flight.
    pub async fn call_cluster(
        &self,
        network: &Network,
        clusters: &Clusters,
        name: &str,
        call: ClusterCall,
    ) -> Result<ClusterResponse, CalloutError> {
        let timeout = call.timeout;
        let exchange = async {
            let endpoint = clusters.endpoint(name).await?;
            let outgoing = call.outgoing(&endpoint, self.cluster_body_limit)?;
            let way = Way::Cluster { endpoint: &endpoint, http: Http::of(&endpoint) };
            let Received { response, trailers } = self.exchange(network, way, &outgoing).await?;
            let (head, body) = response.into_parts();
            let body = body.unwrap_or_default();
            Ok(ClusterResponse { status: head.status, headers: head.headers, body, trailers })
        };
        self.timed(timeout, |timeout| CalloutError::Timeout { from: name.to_owned(), timeout }, exchange).await
    }

    /// Begins a request to a server of a cluster that speaks HTTP/2; the response begins as well.
    ///
    /// # Errors
    /// As [`Callouts::call_cluster`].
    pub(super) async fn begin(
        &self,
        network: &Network,
        endpoint: &Endpoint,
        outgoing: &Outgoing,
    ) -> Result<(Response<Incoming>, Lease), CalloutError> {
        let way = Way::Cluster { endpoint, http: Http::Two };
        match self.begin_on(network, way, outgoing).await? {
            (Begun::Http(response), lease) => Ok((response, lease)),
            (Begun::Http3(_), _) => unreachable!("a server of a cluster is reached over TCP"),
        }
    }

    /// Bytes of the largest message to or from a cluster.
    pub(super) fn cluster_body_limit(&self) -> usize {
        self.cluster_body_limit
    }

    /// A callout that is counted, and takes no longer than this.
    ///
    /// # Errors
    /// When too many are in flight, that of the exchange, and what `late` makes of the timeout.
    pub(super) async fn timed<T, E: From<CalloutError>>(
        &self,
        timeout: Option<Duration>,
        late: impl FnOnce(Duration) -> E,
        exchange: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let _in_flight = self.metrics.begin(self.most).ok_or(CalloutError::TooMany(self.most))?;
        let result = match timeout {
            // Tokio's clock would give it a millisecond.
            Some(Duration::ZERO) => Err(late(Duration::ZERO)),
            Some(timeout) => tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|_| Err(late(timeout))),
            None => exchange.await,
        };
        if result.is_err() {
            self.metrics.failed.inc();
        }
        result
    }

    /// A connection whose call has come to its end goes on to the next one.
    async fn exchange(&self, network: &Network, way: Way<'_>, outgoing: &Outgoing) -> Result<Received, CalloutError> {
        let limit = match way {
            Way::Script { .. } => self.body_limit,
            Way::Cluster { .. } => self.cluster_body_limit,
        };
        let (begun, mut lease) = self.begin_on(network, way, outgoing).await?;
        let received = begun.whole(&outgoing.method, limit).await;
        let received = received.map_err(|failure| failure.into_error(&outgoing.target))?;
        lease.keep();
        Ok(received)
    }

    /// Begins a request on a connection that is there, if it may be used, else on a new one; the response begins as well.
    async fn begin_on(
        &self,
        network: &Network,
        way: Way<'_>,
        outgoing: &Outgoing,
    ) -> Result<(Begun, Lease), CalloutError> {
        let (target, key) = (&outgoing.target, way.key(&outgoing.target));
        way.check(target)?;
        let (mut tries, mut fresh) = (0_u32, false);
        loop {
            tries += 1;
            let found = match fresh {
                true => Err(self.pool.make(&key)),
                false => self.pool.find(&key, |addr| way.permits(target, addr)).await,
            };
            let mut lease = match found {
                Ok(lease) => lease,
                Err(making) => {
                    let (connection, addr) = way.open(network, target, making.changed.clone()).await?;
                    making.done(connection, addr)
                }
            };
            let begun = lease.connection().begin(outgoing).await;
            if !matches!(begun, Err(Failure::Unsent(_))) {
                lease.answered();
            }
            let failure = match begun {
                Ok(begun) => {
                    outgoing.body.settle();
                    return Ok((begun, lease));
                }
                Err(failure) => failure,
            };
            let again = match &failure {
                Failure::Unsent(_) | Failure::Refused(_) => true,
                // The server may have closed it at that very moment: that says nothing about the request.
                Failure::Unanswered(_, None) => !lease.is_new() && outgoing.method.is_idempotent(),
                _ => false,
            };
            if !again || tries == MOST_TRIES || !outgoing.body.rewind() {
                return Err(failure.into_error(target));
            }
            if let Failure::Refused(_) = failure {
                drop(lease);
                tokio::time::sleep(REST * tries).await;
            } else {
                // Where each call has a connection of its own, the others that are kept may have been closed with it.
                fresh = !lease.is_shared();
                lease.forget();
            }
        }
    }
}

/// GETs what the configuration names, not a plugin: no policy asks where it is, and no limit of `[network]` counts it. It
/// goes over a connection of its own, and may take as long as it takes: bound it in time, and drop it to give up.
///
/// # Errors
/// When the body is larger than `limit`, or something fails on the way.
pub async fn fetch(network: &Network, uri: &str, limit: usize) -> Result<Response<Option<Bytes>>, CalloutError> {
    let secure = uri.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"));
    let transport = if secure { Transport::Ssl } else { Transport::Tcp };
    let (params, headers) = (Vec::new(), Vec::new());
    let call = Call { method: Method::GET, uri: uri.to_owned(), params, headers, body: Bytes::new() };
    let outgoing = Outgoing::new(transport, call, 0)?;
    let way = Way::Script { policy: &Policy::everything(), transport };
    let (mut connection, _) = way.open(network, &outgoing.target, Arc::default()).await?;
    let exchange = async { connection.begin(&outgoing).await?.whole(&outgoing.method, limit).await };
    Ok(exchange.await.map_err(|failure| failure.into_error(&outgoing.target))?.response)
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some say what their cause says.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
