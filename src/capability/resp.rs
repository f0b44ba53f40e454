//! Commands to clusters that are Redis, for plugins that spell them in its protocol (RESP) themselves.

mod message;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    connections: Mutex<HashMap<Key, Place>>,
}

/// A connection is driven by the runtime that has opened it.
type Key = (SocketAddr, Option<EndpointTls>, tokio::runtime::Id);

/// Locked while it is being connected.
type Place = Arc<tokio::sync::Mutex<Option<Connection>>>;

#[derive(Clone)]
struct Connection {
    multiplexed: MultiplexedConnection,
    /// False from when it has come to its end, or should.
    alive: Arc<AtomicBool>,
}

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
        let _in_flight = capabilities.callouts.enter()?;
        let mut used = None;
        let exchange = self.exchange(capabilities, command, &mut used);
        let reply = match tokio::time::timeout(timeout, exchange).await {
            Ok(reply) => reply,
            Err(_) => {
                // It may have gone silent for good: what comes next tries another one.
                used.iter().for_each(Connection::give_up);
                Err(RedisError::Late { cluster: self.cluster.clone(), timeout })
            }
        };
        if reply.is_err() {
            capabilities.callouts.failed();
        }
        reply
    }

    async fn exchange(
        &self,
        capabilities: &Capabilities,
        command: &Command,
        used: &mut Option<Connection>,
    ) -> Result<Bytes, RedisError> {
        let mut others = capabilities.clusters.servers(&self.cluster).len();
        let connection = loop {
            let endpoint = capabilities.clusters.endpoint(&self.cluster).await?;
            others = others.saturating_sub(1);
            match self.connection(capabilities, &endpoint).await {
                // Nothing has been sent yet.
                Err(RedisError::Net(_)) if others > 0 => {}
                connection => break connection?,
            }
        };
        let reply = match connection {
            Ok(connection) => used.insert(connection).send(&command.0).await,
            Err(refused) => Err(refused),
        };
        message::encode(reply).map_err(|error| RedisError::Broken { cluster: self.cluster.clone(), error })
    }

    /// The connection to a server; a new one when there is none that lives.
    async fn connection(
        &self,
        capabilities: &Capabilities,
        endpoint: &Endpoint,
    ) -> Result<redis::RedisResult<Connection>, RedisError> {
        let key = (endpoint.addr, endpoint.tls.clone(), tokio::runtime::Handle::current().id());
        let place = self.connections.lock().entry(key).or_default().clone();
        let mut place = place.lock().await;
        if let Some(connection) = place.as_ref().filter(|connection| connection.alive.load(Ordering::Relaxed)) {
            return Ok(Ok(connection.clone()));
        }
        let Link::Stream(stream, _) = capabilities.network.reach(endpoint, &[]).await? else {
            unreachable!("a server of a cluster is reached over TCP")
        };
        let opened = Connection::open(stream, &self.login).await;
        *place = opened.as_ref().ok().cloned();
        // A reload may have taken servers away.
        let servers = capabilities.clusters.servers(&self.cluster);
        self.connections.lock().retain(|(addr, ..), _| servers.iter().any(|(server, _)| server == addr));
        Ok(opened)
    }
}

impl Connection {
    /// Begins the protocol on a stream, and logs in.
    async fn open(stream: Stream, login: &Login) -> redis::RedisResult<Connection> {
        // The time is that of the whole call.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let nothing_said = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (multiplexed, driver) = MultiplexedConnection::new_with_config(&nothing_said, stream, config).await?;
        let alive = Arc::new(AtomicBool::new(true));
        let mut connection = Connection { multiplexed, alive: alive.clone() };
        tokio::spawn(async move {
            driver.await;
            alive.store(false, Ordering::Relaxed);
        });
        if !login.username.is_empty() || !login.password.is_empty() {
            let mut auth = redis::cmd("AUTH");
            if !login.username.is_empty() {
                auth.arg(&login.username);
            }
            connection.send(auth.arg(&login.password)).await?.extract_error()?;
        }
        if login.database != 0 {
            connection.send(redis::cmd("SELECT").arg(login.database)).await?.extract_error()?;
        }
        Ok(connection)
    }

    async fn send(&mut self, command: &redis::Cmd) -> redis::RedisResult<redis::Value> {
        let reply = self.multiplexed.send_packed_command(command).await;
        if reply.as_ref().is_err_and(redis::RedisError::is_unrecoverable_error) {
            self.give_up();
        }
        reply
    }

    /// Others that use it go on; the next command has another one.
    fn give_up(&self) {
        self.alive.store(false, Ordering::Relaxed);
    }
}
