//! Commands to clusters that are Redis, for plugins that spell them in its protocol (RESP) themselves.

mod connection;
mod message;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo};

use super::Capabilities;
use super::callout::CalloutError;
use super::cluster::{ClusterError, Endpoint, EndpointTls};
use super::net::{Link, NetError, Stream};

pub use self::message::{Command, CommandError};

pub(super) use self::connection::{Connection, Place};

/// As whom a plugin comes to a server, and to which of its databases.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Login {
    /// Empty: the default one.
    pub username: String,
    /// Empty: none.
    pub password: String,
    pub database: i64,
}

/// How long a client is kept that nobody holds: VMs of requests come and go.
const IDLE: Duration = Duration::from_secs(60);

/// Those that somebody holds, or has asked for lately.
#[derive(Default)]
pub struct RedisClients(Mutex<HashMap<(String, Login), Known>>);

/// With when it was asked for.
type Known = (Arc<RedisClient>, Instant);

/// The connections to a cluster with one login: one for each server and each runtime, which all commands share. They open with
/// the first command, and close when this is dropped.
pub struct RedisClient {
    cluster: String,
    login: Login,
    connections: Mutex<HashMap<Key, Arc<Place>>>,
}

/// A connection is driven by the runtime that has opened it.
type Key = (SocketAddr, Option<EndpointTls>, tokio::runtime::Id);

/// Why a command has no reply.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Net(#[from] NetError),
    /// Too many are under way.
    #[error(transparent)]
    Refused(#[from] CalloutError),
    #[error("no reply from the upstream `{cluster}`: {error}")]
    Broken { cluster: String, error: redis::RedisError },
    #[error("no reply from the upstream `{cluster}` within {} ms", .timeout.as_millis())]
    Late { cluster: String, timeout: Duration },
}

impl RedisClients {
    /// The client of a cluster with this login.
    pub fn get(&self, cluster: &str, login: Login) -> Arc<RedisClient> {
        let (mut clients, now) = (self.0.lock(), Instant::now());
        clients.retain(|_, (client, asked)| Arc::strong_count(client) > 1 || now.duration_since(*asked) < IDLE);
        let (client, asked) = clients.entry((cluster.to_owned(), login)).or_insert_with_key(|(cluster, login)| {
            let (cluster, login) = (cluster.clone(), login.clone());
            (Arc::new(RedisClient { cluster, login, connections: Mutex::default() }), now)
        });
        *asked = now;
        client.clone()
    }
}

impl RedisClient {
    /// Sends a command to a server of the cluster and waits for its reply, in RESP2, no longer than `timeout`. What the server
    /// refuses, be it the login, is a reply as well.
    ///
    /// # Errors
    /// When too many callouts are in flight, there is no such cluster or no server of it is healthy, it cannot be connected, the
    /// connection ends, or the time is over.
    pub async fn call(
        &self,
        capabilities: &Capabilities,
        command: &Command,
        timeout: Duration,
    ) -> Result<Bytes, RedisError> {
        let used = OnceLock::new();
        let late = |timeout| {
            // It may have gone silent for good: what comes next tries another one.
            used.get().into_iter().for_each(Connection::give_up);
            RedisError::Late { cluster: self.cluster.clone(), timeout }
        };
        capabilities.callouts.timed(Some(timeout), late, self.exchange(capabilities, command, &used)).await
    }

    async fn exchange(
        &self,
        capabilities: &Capabilities,
        command: &Command,
        used: &OnceLock<Connection>,
    ) -> Result<Bytes, RedisError> {
        let mut tried = 0;
        let reply = loop {
            let endpoint = capabilities.clusters.endpoint(&self.cluster).await?;
            tried += 1;
            match self.connection(capabilities, &endpoint).await {
                Ok(mut connection) => {
                    let _ = used.set(connection.clone());
                    break send(&mut connection, &command.0).await;
                }
                Err(RedisError::Broken { error, .. }) => break Err(error),
                // Nothing has been sent yet.
                Err(RedisError::Net(_)) if tried < capabilities.clusters.servers(&self.cluster).len() => {}
                Err(error) => return Err(error),
            }
        };
        message::encode(reply).map_err(|error| self.broken(error))
    }

    /// The connection to a server; a new one when there is none that lives.
    async fn connection(&self, capabilities: &Capabilities, endpoint: &Endpoint) -> Result<Connection, RedisError> {
        let key = (endpoint.addr, endpoint.tls.clone(), tokio::runtime::Handle::current().id());
        let place = self.connections.lock().entry(key).or_default().clone();
        let open = async {
            let Link::Stream(stream, _) = capabilities.network.reach(endpoint, &[]).await? else {
                unreachable!("a server of a cluster is reached over TCP")
            };
            // A reload may have taken servers away.
            let servers = capabilities.clusters.servers(&self.cluster);
            self.connections.lock().retain(|(addr, ..), _| servers.iter().any(|(server, _)| server == addr));
            self.login.open(stream).await.map_err(|error| self.broken(error))
        };
        place.connected(open).await
    }

    fn broken(&self, error: redis::RedisError) -> RedisError {
        RedisError::Broken { cluster: self.cluster.clone(), error }
    }
}

impl Login {
    /// Begins the protocol on a stream, and logs in.
    async fn open(&self, stream: Stream) -> redis::RedisResult<Connection> {
        // The time is that of the whole call.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let nothing_said = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (multiplexed, driver) = MultiplexedConnection::new_with_config(&nothing_said, stream, config).await?;
        let alive = Arc::new(AtomicBool::new(true));
        let mut connection = Connection::new(multiplexed, alive.clone());
        tokio::spawn(async move {
            driver.await;
            alive.store(false, Ordering::Relaxed);
        });
        if !self.username.is_empty() || !self.password.is_empty() {
            let mut auth = redis::cmd("AUTH");
            if !self.username.is_empty() {
                auth.arg(&self.username);
            }
            send(&mut connection, auth.arg(&self.password)).await?.extract_error()?;
        }
        if self.database != 0 {
            send(&mut connection, redis::cmd("SELECT").arg(self.database)).await?.extract_error()?;
        }
        Ok(connection)
    }
}

async fn send(connection: &mut Connection, command: &redis::Cmd) -> redis::RedisResult<redis::Value> {
    let reply = connection.multiplexed.send_packed_command(command).await;
    connection.judge(&reply);
    reply
}
