//! Connections that are kept for the next callout to the same target, of whatever script: its policy is asked for the
//! address each time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::connection::Connection;
use super::way::Key;

/// How long a connection that nobody uses is kept. Servers close theirs after 60 s or more.
const IDLE: Duration = Duration::from_secs(30);

/// Connections of one key that are kept at most.
const MOST: usize = 100;

/// Calls at once on one connection. Servers take 100 or more; those beyond would wait, for a stream perhaps for ever.
const MOST_CALLS: usize = 100;

#[derive(Default)]
pub struct Pool {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    connections: HashMap<Key, Vec<Entry>>,
    /// Whether a task closes those that nobody uses.
    watched: bool,
}

struct Entry {
    connection: Connection,
    addr: SocketAddr,
    id: u64,
    used: Instant,
    /// Held by every call.
    calls: Arc<()>,
}

/// A connection, in use. Dropped, it is not trusted with another call: who gave up waiting for one answer would wait for
/// the next as well.
pub struct Lease {
    connection: Option<Connection>,
    addr: SocketAddr,
    id: u64,
    key: Key,
    pool: Arc<Pool>,
    calls: Arc<()>,
}

impl Pool {
    /// The connection that was used last, of those to an address that is permitted.
    pub fn take(self: &Arc<Pool>, key: &Key, permits: impl Fn(SocketAddr) -> bool) -> Option<Lease> {
        let mut kept = self.kept.lock();
        let entries = kept.connections.get_mut(key)?;
        entries.retain(|entry| !entry.connection.is_closed());
        // One is the entry's own.
        let free = |entry: &Entry| Arc::strong_count(&entry.calls) <= MOST_CALLS && permits(entry.addr);
        let position = entries.iter().rposition(free)?;
        let Entry { addr, id, ref calls, .. } = entries[position];
        let calls = calls.clone();
        let connection = match entries[position].connection.share() {
            Some(connection) => connection,
            None => entries.remove(position).connection,
        };
        Some(Lease { connection: Some(connection), addr, id, key: key.clone(), pool: self.clone(), calls })
    }

    /// Takes in a new connection, to which it goes at once if others can use it too.
    pub fn lease(self: &Arc<Pool>, key: Key, connection: Connection, addr: SocketAddr) -> Lease {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let calls: Arc<()> = Arc::default();
        if let Some(connection) = connection.share() {
            self.put(key.clone(), Entry { connection, addr, id, used: Instant::now(), calls: calls.clone() });
        }
        Lease { connection: Some(connection), addr, id, key, pool: self.clone(), calls }
    }

    fn put(self: &Arc<Pool>, key: Key, entry: Entry) {
        let mut kept = self.kept.lock();
        let entries = kept.connections.entry(key).or_default();
        entries.retain(|other| other.id != entry.id);
        if entries.len() >= MOST {
            entries.remove(0);
        }
        entries.push(entry);
        if !std::mem::replace(&mut kept.watched, true) {
            tokio::spawn(watch(Arc::downgrade(self)));
        }
    }

    fn forget(&self, key: &Key, id: u64) {
        let mut kept = self.kept.lock();
        if let Some(entries) = kept.connections.get_mut(key) {
            entries.retain(|entry| entry.id != id);
        }
    }

    /// Closes what nobody has used for long; whether anything is left.
    fn sweep(&self) -> bool {
        let mut kept = self.kept.lock();
        for entries in kept.connections.values_mut() {
            let in_use = |entry: &Entry| Arc::strong_count(&entry.calls) > 1 || entry.used.elapsed() < IDLE;
            entries.retain(|entry| in_use(entry) && !entry.connection.is_closed());
        }
        kept.connections.retain(|_, entries| !entries.is_empty());
        kept.watched = !kept.connections.is_empty();
        kept.watched
    }
}

async fn watch(pool: Weak<Pool>) {
    let watch = Watch(pool);
    loop {
        tokio::time::sleep(IDLE / 2).await;
        if !watch.0.upgrade().is_some_and(|pool| pool.sweep()) {
            return;
        }
    }
}

/// Who watches. Its runtime may end before the pool does: then the next connection brings another.
struct Watch(Weak<Pool>);

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(pool) = self.0.upgrade() {
            pool.kept.lock().watched = false;
        }
    }
}

impl Lease {
    pub fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("only `keep` takes it, and the lease with it")
    }

    /// The call has come to its end, or so far that it says nothing against the connection, which goes on to the next. As
    /// long as the answer is held, it counts as one of the calls on it.
    pub fn keep(mut self) -> Arc<()> {
        if let Some(connection) = self.connection.take() {
            let calls = self.calls.clone();
            let entry = Entry { connection, addr: self.addr, id: self.id, used: Instant::now(), calls };
            self.pool.put(self.key.clone(), entry);
        }
        self.calls.clone()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.connection.is_some() {
            self.pool.forget(&self.key, self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::capability::callout::way::Way;
    use crate::capability::net::{Network, Policy, Transport};
    use crate::config::{Diagnostics, Network as Config, load_rules};
    use crate::observe::metrics::Metrics;

    #[tokio::test]
    async fn what_nobody_uses_is_closed_and_forgotten() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (metrics, policy) = (Metrics::new(), Policy::new(load_rules(&["127.0.0.1"])));
        let network = Network::load(&Config::default(), &metrics, &mut Diagnostics::new("".as_ref(), String::new()));
        let pool = Arc::new(Pool::default());
        let key = Way::Script { policy: &policy, transport: Transport::Tcp }.key(&addr.into());
        for _ in 0..2 {
            let stream = network.connect(&policy, Transport::Tcp, &addr.to_string(), None, &[]).await.unwrap();
            let connection = Connection::http1(stream).await.unwrap();
            pool.lease(key.clone(), connection, addr).keep();
        }
        assert!(pool.sweep(), "both are young");
        let long_ago = Instant::now() - IDLE;
        pool.kept.lock().connections.get_mut(&key).unwrap()[0].used = long_ago;
        assert!(pool.sweep());
        assert!(pool.take(&key, |_| false).is_none(), "nothing is permitted");
        let lease = pool.take(&key, |_| true).expect("one is left");
        assert!(pool.take(&key, |_| true).is_none(), "and it is in use");
        lease.keep();
        pool.kept.lock().connections.get_mut(&key).unwrap()[0].used = long_ago;
        assert!(!pool.sweep());
        assert!(pool.kept.lock().connections.is_empty());
        // Their tasks end by themselves.
        while metrics.connections("tcp").get() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn somebody_watches_after_a_runtime_has_ended() {
        let pool = Arc::new(Pool::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            let (metrics, policy) = (Metrics::new(), Policy::new(load_rules(&["127.0.0.1"])));
            let network =
                Network::load(&Config::default(), &metrics, &mut Diagnostics::new("".as_ref(), String::new()));
            let stream = network.connect(&policy, Transport::Tcp, &addr.to_string(), None, &[]).await.unwrap();
            let key = Way::Script { policy: &policy, transport: Transport::Tcp }.key(&addr.into());
            pool.lease(key, Connection::http1(stream).await.unwrap(), addr).keep();
            tokio::task::yield_now().await;
        });
        assert!(pool.kept.lock().watched);
        drop(runtime);
        assert!(!pool.kept.lock().watched);
    }
}
