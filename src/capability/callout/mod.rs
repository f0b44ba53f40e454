//! Callouts: HTTP requests of plugins to other machines.

mod connection;
mod h3;
mod pool;
mod request;

pub use request::{Call, with_params};

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Method, Response};

use self::connection::{Answer, Connection, Failure};
use self::pool::{Key, Lease, Pool};
use self::request::Outgoing;
use super::net::{NetError, Network, Policy, Target, Transport};
use crate::config::Network as Config;
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
    #[error("the request has too many headers")]
    TooManyHeaders,
    #[error("`{0}` is not a valid host")]
    Host(String),
    #[error("the body of the {of} is larger than body_limit of [network], {limit} bytes")]
    BodyTooLarge { of: &'static str, limit: usize },
    #[error("{0} callouts are in flight already, as many as max_callouts of [network] permits")]
    TooMany(usize),
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("no whole response from {target} within {} ms", .timeout.as_millis())]
    Timeout { target: Target, timeout: Duration },
    #[error("no whole response from {0}: {1}")]
    Exchange(Target, String),
}

/// What all callouts of the process share.
pub struct Callouts {
    pool: Arc<Pool>,
    /// Bytes of the largest body, either way.
    body_limit: usize,
    most: usize,
    metrics: CalloutMetrics,
}

impl Callouts {
    pub fn new(config: &Config, metrics: &Metrics) -> Callouts {
        Callouts {
            pool: Arc::default(),
            body_limit: config.body_limit,
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
        let _in_flight = self.metrics.begin(self.most).ok_or(CalloutError::TooMany(self.most))?;
        let result = tokio::time::timeout(timeout, self.exchange(network, policy, &outgoing)).await;
        let result =
            result.unwrap_or_else(|_| Err(CalloutError::Timeout { target: outgoing.target().clone(), timeout }));
        if result.is_err() {
            self.metrics.failed.inc();
        }
        result
    }

    /// On a connection that is there, if the policy permits it too, else on a new one.
    async fn exchange(
        &self,
        network: &Network,
        policy: &Policy,
        outgoing: &Outgoing,
    ) -> Result<Response<Option<Bytes>>, CalloutError> {
        let key = Key { transport: outgoing.transport, target: outgoing.target().clone() };
        if let Some(mut lease) = self.pool.take(&key, policy) {
            match lease.connection().send(outgoing, self.body_limit).await {
                // The server may have closed it at that very moment: that says nothing about the request.
                Err(Failure::Unsent(_)) => {}
                Err(Failure::Unanswered(_)) if outgoing.method.is_idempotent() => {}
                answer => return settle(lease, answer, outgoing.target()),
            }
        }
        let (connection, addr) = Connection::open(network, policy, outgoing).await?;
        let mut lease = self.pool.lease(key, connection, addr);
        let answer = lease.connection().send(outgoing, self.body_limit).await;
        settle(lease, answer, outgoing.target())
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
    let (mut connection, _) = Connection::open(network, &Policy::everything(), &outgoing).await?;
    connection.send(&outgoing, limit).await.map_err(|failure| failure.into_error(outgoing.target()))
}

/// A connection whose call has come to its end goes on to the next one.
fn settle(lease: Lease, answer: Answer, target: &Target) -> Result<Response<Option<Bytes>>, CalloutError> {
    let response = answer.map_err(|failure| failure.into_error(target))?;
    lease.keep();
    Ok(response)
}

/// An error with its causes, in one line.
fn chain(error: &dyn Error) -> String {
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
