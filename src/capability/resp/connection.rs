//! A connection to Redis that many calls share, and another one when it has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult};
use tokio::sync::Mutex;

#[derive(Clone)]
pub struct Connection {
    pub multiplexed: MultiplexedConnection,
    /// False from when it has come to its end, or should.
    alive: Arc<AtomicBool>,
}

/// Where a connection is. Locked while it is being connected.
#[derive(Default)]
pub struct Place(Mutex<Option<Connection>>);

impl Connection {
    pub fn new(multiplexed: MultiplexedConnection, alive: Arc<AtomicBool>) -> Connection {
        Connection { multiplexed, alive }
    }

    /// Looks whether a call has found out that the connection has ended.
    pub fn judge<T>(&self, answer: &RedisResult<T>) {
        if answer.as_ref().is_err_and(RedisError::is_unrecoverable_error) {
            self.give_up();
        }
    }

    /// Others that use it go on; the next call has another one.
    pub fn give_up(&self) {
        self.alive.store(false, Ordering::Relaxed);
    }
}

impl Place {
    /// The connection; a new one when there is none that lives.
    ///
    /// # Errors
    /// Of `open`.
    pub async fn connected<E>(&self, open: impl Future<Output = Result<Connection, E>>) -> Result<Connection, E> {
        let mut place = self.0.lock().await;
        if let Some(connection) = place.as_ref().filter(|connection| connection.alive.load(Ordering::Relaxed)) {
            return Ok(connection.clone());
        }
        Ok(place.insert(open.await?).clone())
    }

    /// It may have gone silent for good: what comes next tries another one. One that is being connected is left alone.
    pub fn give_up(&self) {
        if let Ok(Some(connection)) = self.0.try_lock().as_deref() {
            connection.give_up();
        }
    }
}
