//! Connections that are kept for the next callout to the same target, of whatever script: its policy is asked for the
//! address each time.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use super::connection::Connection;
use super::way::Key;

/// How long a connection that nobody uses is kept. Servers close theirs after 60 s or more.
const IDLE: Duration = Duration::from_secs(30);

/// Connections of one key that are kept at most.
const MOST: usize = 100;

/// Keys that are known to have connections for one call at a time, at most.
const MOST_EXCLUSIVE: usize = 1000;

/// Calls at once on one connection, be it that the server permits more.
const MOST_CALLS: usize = 100;

/// How long a server may permit no call on a connection before another one is made.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Default)]
pub struct Pool {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    places: HashMap<Key, Place>,
    /// Those whose last connection takes one call at a time, and could have been one that calls share.
    exclusive: HashSet<Key>,
    /// Whether a task closes what nobody uses.
    watched: bool,
}

/// What there is for one key.
#[derive(Default)]
struct Place {
    /// Those of HTTP/1.1 that are in use are not among them.
    entries: Vec<Entry>,
    /// Connections that are being made.
    making: usize,
    /// Calls that wait for a connection.
    waiting: usize,
    /// Counts connections that were to be made and have not come about.
    unmade: usize,
    /// There may be room for who waits.
    changed: Arc<Notify>,
}

struct Entry {
    connection: Connection,
    addr: SocketAddr,
    id: u64,
    used: Instant,
    calls: usize,
    answers: Answers,
    /// Since when it permits no call, as far as anybody has looked.
    stuck: Option<Instant>,
}

/// Counts what shows that a server answers what goes over its connection: that it reads and acknowledges is not enough.
type Answers = Arc<AtomicU64>;

type Taken = (Connection, SocketAddr, u64, Answers);

/// A place for a call on a connection, until it is dropped. Who gave up waiting for an answer would wait for the next as well:
/// without `keep`, the connection gets no other call, unless calls share it and one of them has been answered meanwhile.
pub struct Lease {
    connection: Option<Connection>,
    addr: SocketAddr,
    id: u64,
    key: Key,
    pool: Arc<Pool>,
    is_new: bool,
    answers: Answers,
    /// How many there were before.
    before: u64,
}

/// The right to make a connection.
pub struct Making {
    key: Key,
    pool: Arc<Pool>,
    /// For who makes it, to tell when it may have room for another call.
    pub changed: Arc<Notify>,
    is_made: bool,
}

impl Pool {
    /// A place on a connection to an address that is permitted: the one that was used or made last, of those with room. Where
    /// there is none, and none to wait for, the caller is to make one.
    pub async fn find(self: &Arc<Pool>, key: &Key, permits: impl Fn(SocketAddr) -> bool) -> Result<Lease, Making> {
        let mut waiting = None::<Waiting<'_>>;
        loop {
            let change = {
                let mut kept = self.kept.lock();
                let shares = key.shares() && !kept.exclusive.contains(key);
                let place = kept.place(self, key);
                // From here on it misses nothing.
                let change = waiting.is_some().then(|| place.change());
                if let Some(taken) = place.take(&permits) {
                    return Ok(self.lease(key, taken, false));
                }
                let Waiting { unmade, .. } = waiting.get_or_insert_with(|| {
                    place.waiting += 1;
                    Waiting { pool: self, key, unmade: place.unmade }
                });
                // What has not come about for others may not for this one: it asks for itself.
                if *unmade != place.unmade || !place.is_worth_waiting(shares, &permits) {
                    return Err(self.making(key, place));
                }
                change
            };
            if let Some(change) = change {
                // Nobody tells that a server permits nothing for too long.
                let _ = tokio::time::timeout(PATIENCE, change).await;
            }
        }
    }

    /// The right to make a connection whatever is there.
    pub fn make(self: &Arc<Pool>, key: &Key) -> Making {
        let mut kept = self.kept.lock();
        let place = kept.place(self, key);
        self.making(key, place)
    }

    fn making(self: &Arc<Pool>, key: &Key, place: &mut Place) -> Making {
        place.making += 1;
        Making { key: key.clone(), pool: self.clone(), changed: place.changed.clone(), is_made: false }
    }

    fn lease(self: &Arc<Pool>, key: &Key, (connection, addr, id, answers): Taken, is_new: bool) -> Lease {
        let before = answers.load(Ordering::Relaxed);
        let (connection, key, pool) = (Some(connection), key.clone(), self.clone());
        Lease { connection, addr, id, key, pool, is_new, answers, before }
    }

    /// Closes what nobody has used for long; whether anything is left.
    fn sweep(&self) -> bool {
        let mut kept = self.kept.lock();
        kept.places.retain(|_, place| {
            let in_use = |entry: &Entry| entry.calls > 0 || entry.used.elapsed() < IDLE;
            place.entries.retain(|entry| in_use(entry) && !entry.connection.is_closed());
            place.is_in_use()
        });
        kept.watched = !kept.places.is_empty();
        kept.watched
    }
}

impl Kept {
    /// Whether calls share the connections.
    fn learn(&mut self, key: &Key, shares: bool) {
        if shares {
            self.exclusive.remove(key);
        } else if key.shares() && !self.exclusive.contains(key) {
            if self.exclusive.len() == MOST_EXCLUSIVE {
                self.exclusive.clear();
            }
            self.exclusive.insert(key.clone());
        }
    }

    fn place(&mut self, pool: &Arc<Pool>, key: &Key) -> &mut Place {
        if !std::mem::replace(&mut self.watched, true) {
            tokio::spawn(watch(Arc::downgrade(pool)));
        }
        self.places.entry(key.clone()).or_default()
    }
}

impl Place {
    fn is_in_use(&self) -> bool {
        !self.entries.is_empty() || self.making + self.waiting > 0
    }

    /// Ready when there may be room, from now on.
    fn change(&self) -> Pin<Box<OwnedNotified>> {
        let mut change = Box::pin(self.changed.clone().notified_owned());
        change.as_mut().enable();
        change
    }

    fn take(&mut self, permits: impl Fn(SocketAddr) -> bool) -> Option<Taken> {
        self.entries.retain(|entry| !entry.connection.is_closed());
        for entry in &mut self.entries {
            entry.look();
        }
        let has_room = |entry: &Entry| entry.calls < entry.most_calls();
        let position = self.entries.iter().rposition(|entry| has_room(entry) && permits(entry.addr))?;
        let entry = &mut self.entries[position];
        let (addr, id, answers) = (entry.addr, entry.id, entry.answers.clone());
        entry.calls += 1;
        let connection = entry.connection.share().unwrap_or_else(|| self.entries.remove(position).connection);
        Some((connection, addr, id, answers))
    }

    /// Whether who waits has a chance: a server has not said yet how many calls it permits, or connections for all of them are
    /// being made.
    fn is_worth_waiting(&self, shares: bool, permits: impl Fn(SocketAddr) -> bool) -> bool {
        let mut entries = self.entries.iter().filter(|entry| !entry.is_stuck());
        if entries.clone().any(|entry| entry.most_calls() == 0 && permits(entry.addr)) {
            return true;
        }
        // Those that are being made go where others are.
        if !self.entries.is_empty() && !self.entries.iter().any(|entry| permits(entry.addr)) {
            return false;
        }
        let calls = match entries.rfind(|entry| entry.most_calls() > 0) {
            Some(entry) => entry.most_calls(),
            None if shares => MOST_CALLS,
            None => 1,
        };
        self.making * calls >= self.making + self.waiting
    }

    fn put(&mut self, entry: Entry) {
        if self.entries.len() >= MOST {
            self.entries.remove(0);
        }
        self.entries.push(entry);
    }
}

impl Entry {
    /// With the call for which it has been taken.
    fn new((connection, addr, id, answers): Taken) -> Entry {
        Entry { connection, addr, id, used: Instant::now(), calls: 1, answers, stuck: None }
    }

    /// Calls that it takes at once, for now.
    fn most_calls(&self) -> usize {
        self.connection.most_calls().min(MOST_CALLS)
    }

    fn look(&mut self) {
        match self.most_calls() {
            0 => drop(self.stuck.get_or_insert_with(Instant::now)),
            _ => self.stuck = None,
        }
    }

    /// The server has permitted no call for so long that nobody waits for it.
    fn is_stuck(&self) -> bool {
        self.stuck.is_some_and(|since| since.elapsed() >= PATIENCE)
    }
}

/// A call that waits.
struct Waiting<'a> {
    pool: &'a Pool,
    key: &'a Key,
    unmade: usize,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.pool.kept.lock().places.get_mut(self.key) {
            place.waiting -= 1;
        }
    }
}

impl Making {
    /// The connection has been made: the caller has the first place on it.
    pub fn done(mut self, connection: Connection, addr: SocketAddr) -> Lease {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (id, answers) = (NEXT.fetch_add(1, Ordering::Relaxed), Answers::default());
        let mut kept = self.pool.kept.lock();
        kept.learn(&self.key, connection.share().is_some());
        if let Some(connection) = connection.share() {
            kept.place(&self.pool, &self.key).put(Entry::new((connection, addr, id, answers.clone())));
        }
        drop(kept);
        self.is_made = true;
        self.pool.lease(&self.key, (connection, addr, id, answers), true)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        let mut kept = self.pool.kept.lock();
        if let Some(place) = kept.places.get_mut(&self.key) {
            place.making -= 1;
            place.unmade += usize::from(!self.is_made);
            if !place.is_in_use() {
                kept.places.remove(&self.key);
            }
        }
        drop(kept);
        self.changed.notify_waiters();
    }
}

impl Lease {
    pub fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("it is there until `keep`")
    }

    /// Whether the connection was made for this call.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    pub fn is_shared(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.share().is_some())
    }

    /// The call has come to its end, or so far that it says nothing against the connection, which goes on to the next.
    pub fn keep(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if connection.share().is_none() {
            let entry = Entry::new((connection, self.addr, self.id, self.answers.clone()));
            self.pool.kept.lock().place(&self.pool, &self.key).put(entry);
        }
    }

    /// The server has had something to say to the call.
    pub fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// The connection gets no other call.
    pub fn forget(self) {
        if let Some(place) = self.pool.kept.lock().places.get_mut(&self.key) {
            place.entries.retain(|entry| entry.id != self.id);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut kept = self.pool.kept.lock();
        let Some(place) = kept.places.get_mut(&self.key) else { return };
        if let Some(position) = place.entries.iter().position(|entry| entry.id == self.id) {
            let entry = &mut place.entries[position];
            (entry.calls, entry.used) = (entry.calls - 1, Instant::now());
            if self.connection.is_some() && self.answers.load(Ordering::Relaxed) == self.before {
                place.entries.remove(position);
            }
        }
        // Not each may use every address.
        place.changed.notify_waiters();
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

/// Who watches. Its runtime may end before the pool does: then the next call brings another.
struct Watch(Weak<Pool>);

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(pool) = self.0.upgrade() {
            pool.kept.lock().watched = false;
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
            pool.make(&key).done(connection, addr).keep();
        }
        assert!(pool.sweep(), "both are young");
        let long_ago = Instant::now() - IDLE;
        pool.kept.lock().places.get_mut(&key).unwrap().entries[0].used = long_ago;
        assert!(pool.sweep());
        assert!(pool.find(&key, |_| false).await.is_err(), "nothing is permitted");
        let mut lease = pool.find(&key, |_| true).await.ok().expect("one is left");
        assert!(pool.find(&key, |_| true).await.is_err(), "and it is in use");
        lease.keep();
        drop(lease);
        pool.kept.lock().places.get_mut(&key).unwrap().entries[0].used = long_ago;
        assert!(!pool.sweep());
        assert!(pool.kept.lock().places.is_empty());
        // Their tasks end by themselves.
        while metrics.connections("tcp").get() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn that_a_server_does_not_speak_http2_is_known_for_longer_than_its_connections_last() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (metrics, policy) = (Metrics::new(), Policy::new(load_rules(&["127.0.0.1"])));
        let network = Network::load(&Config::default(), &metrics, &mut Diagnostics::new("".as_ref(), String::new()));
        let pool = Arc::new(Pool::default());
        let key = Way::Script { policy: &policy, transport: Transport::Ssl }.key(&addr.into());
        let stream = network.connect(&policy, Transport::Tcp, &addr.to_string(), None, &[]).await.unwrap();
        drop(pool.make(&key).done(Connection::http1(stream).await.unwrap(), addr));
        assert!(!pool.sweep());
        let making = pool.find(&key, |_| true).await.err().unwrap();
        let other = tokio::time::timeout(Duration::from_secs(1), pool.find(&key, |_| true)).await;
        assert!(other.expect("it does not wait").is_err());
        drop(making);
        assert!(pool.kept.lock().places.is_empty());
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
            pool.make(&key).done(Connection::http1(stream).await.unwrap(), addr).keep();
            tokio::task::yield_now().await;
        });
        assert!(pool.kept.lock().watched);
        drop(runtime);
        assert!(!pool.kept.lock().watched);
    }
}
