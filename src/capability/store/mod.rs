//! The store: values under a key, or under a key and a field, for all plugins of the process (in memory) or of many
//! processes (Redis). Both behave the same; where Redis has a rule of its own, it is Redis's.

mod memory;
mod redis;
mod value;

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

use self::memory::Memory;
use self::redis::Redis;
use self::value::Value;
pub use self::value::{Kind, Typed};
use crate::config;
use crate::observe::metrics::StoreMetrics;

/// Bytes of the longest key, and of the longest name of a field.
const LONGEST_KEY: usize = 16 << 10;
/// Bytes of the longest string.
const LONGEST_VALUE: usize = 1 << 20;
/// A longer time to live is taken as this, some 300 years: clocks can be added to it.
const LONGEST_LIFE: Duration = Duration::from_millis(10_000_000_000_000);

/// Why the store did not do what it was asked to do.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum StoreError {
    #[error("the {0} is empty")]
    Empty(&'static str),
    #[error("the {what} is longer than {} KiB", LONGEST_KEY >> 10)]
    LongKey { what: &'static str },
    #[error("the value is longer than {} KiB", LONGEST_VALUE >> 10)]
    LongValue,
    #[error("`{}` holds {held}, not {asked}", shown(.key))]
    OtherType { key: String, held: Kind, asked: Kind },
    #[error("`{}` holds fields, not a value: ask by hget, or delete it first", shown(.0))]
    HoldsFields(String),
    #[error("`{}` holds a value, not fields: ask by get, or delete it first", shown(.0))]
    HoldsValue(String),
    #[error("`{}` holds what no plugin has written: use another key, or another `prefix` in [store]", shown(.0))]
    Foreign(String),
    #[error("`{}` would not fit an s64 any more", shown(.0))]
    Overflow(String),
    #[error("the store is full ({}): delete keys, let them expire or raise [store] size", size(*.0))]
    Full(usize),
    #[error("the store cannot be reached: {0}")]
    Unreachable(String),
    #[error("the store did not answer within {} ms", .0.as_millis())]
    Late(Duration),
    #[error("the store refused: {0}")]
    Refused(String),
}

/// The store of the process. A time to live of none keeps a key for good.
pub struct Store {
    backend: Backend,
    failures: Counter,
}

enum Backend {
    Memory(Memory),
    Redis(Redis),
}

/// Hands a call on. Only Redis waits.
macro_rules! ask {
    ($store:ident.$call:ident($($argument:expr),*)) => {
        match &$store.backend {
            Backend::Memory(memory) => memory.$call($($argument),*),
            Backend::Redis(redis) => redis.$call($($argument),*).await,
        }
    };
}

impl Store {
    /// Opens no connection: that is left to the first use.
    pub fn new(config: &config::Store, metrics: &StoreMetrics) -> Store {
        let backend = match config {
            config::Store::Memory { size } => Backend::Memory(Memory::new(*size, metrics)),
            config::Store::Redis(redis) => Backend::Redis(Redis::new(redis.clone())),
        };
        Store { backend, failures: metrics.failures.clone() }
    }

    /// Whether calls can wait. If not, their futures are ready at once.
    pub fn waits(&self) -> bool {
        matches!(self.backend, Backend::Redis(_))
    }

    /// Makes the key anew: what it held, of whatever type, is gone, and so is its time to live. But fields stay.
    pub async fn set<T: Typed>(&self, key: &str, value: T, ttl: Option<Duration>) -> Result<(), StoreError> {
        let value = value.into_value();
        check_key(key)?;
        check_value(&value)?;
        ask!(self.set(key, value, ttl))
    }

    pub async fn get<T: Typed>(&self, key: &str) -> Result<Option<T>, StoreError> {
        check_key(key)?;
        let held: Option<Value> = ask!(self.get(key))?;
        typed(key, held)
    }

    /// Sets a field, of whatever type it was. The time to live of the key stays.
    pub async fn hset<T: Typed>(&self, key: &str, field: &str, value: T) -> Result<(), StoreError> {
        let value = value.into_value();
        check_field(key, field)?;
        check_value(&value)?;
        ask!(self.hset(key, field, value))
    }

    pub async fn hget<T: Typed>(&self, key: &str, field: &str) -> Result<Option<T>, StoreError> {
        check_field(key, field)?;
        let held: Option<Value> = ask!(self.hget(key, field))?;
        typed(field, held)
    }

    /// Removes a key with all its fields; whether it was there.
    pub async fn del(&self, key: &str) -> Result<bool, StoreError> {
        check_key(key)?;
        ask!(self.del(key))
    }

    /// Removes a field; whether it was there. The key goes with its last field.
    pub async fn hdel(&self, key: &str, field: &str) -> Result<bool, StoreError> {
        check_field(key, field)?;
        ask!(self.hdel(key, field))
    }

    /// Adds to an `s64`; an absent one is 0, and only such a one gets the time to live. The new value.
    pub async fn incr(&self, key: &str, delta: i64, ttl: Option<Duration>) -> Result<i64, StoreError> {
        check_key(key)?;
        ask!(self.incr(key, delta, ttl))
    }

    /// Sets a string when its value is `expected` (none: when the key is absent); whether it did. The time to live
    /// stays.
    pub async fn compare_and_set(&self, key: &str, expected: Option<&str>, value: String) -> Result<bool, StoreError> {
        let value = Value::String(value);
        check_key(key)?;
        check_value(&value)?;
        ask!(self.compare_and_set(key, expected, value))
    }

    /// Gives the key a time to live; whether it is there.
    pub async fn expire(&self, key: &str, ttl: Option<Duration>) -> Result<bool, StoreError> {
        check_key(key)?;
        ask!(self.expire(key, ttl))
    }

    /// How many milliseconds the key still lives; none: it is absent, or kept for good.
    pub async fn expires_in(&self, key: &str) -> Result<Option<u64>, StoreError> {
        check_key(key)?;
        let left: Option<Duration> = ask!(self.expires_in(key))?;
        Ok(left.map(|left| left.as_millis() as u64))
    }

    /// Counts a failure; what it says.
    pub fn failed(&self, error: &StoreError) -> String {
        self.failures.inc();
        error.to_string()
    }
}

/// A time to live as plugins write it: in milliseconds, 0 for none.
pub fn ttl(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms).min(LONGEST_LIFE))
}

fn typed<T: Typed>(name: &str, held: Option<Value>) -> Result<Option<T>, StoreError> {
    let Some(value) = held else { return Ok(None) };
    let held = value.kind();
    T::from_value(value).map(Some).ok_or_else(|| StoreError::OtherType { key: name.to_owned(), held, asked: T::KIND })
}

fn check_key(key: &str) -> Result<(), StoreError> {
    check_name("key", key)
}

fn check_field(key: &str, field: &str) -> Result<(), StoreError> {
    check_name("key", key)?;
    check_name("field", field)
}

fn check_name(what: &'static str, name: &str) -> Result<(), StoreError> {
    match name.len() {
        0 => Err(StoreError::Empty(what)),
        1..=LONGEST_KEY => Ok(()),
        _ => Err(StoreError::LongKey { what }),
    }
}

fn check_value(value: &Value) -> Result<(), StoreError> {
    if value.length() > LONGEST_VALUE { Err(StoreError::LongValue) } else { Ok(()) }
}

/// A key as a message shows it: the beginning of a long one, on one line.
fn shown(key: &str) -> String {
    let mut shown: String = key.chars().take(64).flat_map(char::escape_debug).collect();
    if key.chars().nth(64).is_some() {
        shown.push('…');
    }
    shown
}

fn size(bytes: usize) -> String {
    match bytes {
        bytes if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        bytes if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        bytes => format!("{bytes} B"),
    }
}
