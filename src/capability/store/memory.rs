//! The store in the memory of the process. It outlives reloads, not the process.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use prometheus_client::metrics::gauge::Gauge;

use super::StoreError;
use super::value::{Kind, Value};
use crate::observe::metrics::StoreMetrics;

/// Locks, so that threads seldom meet.
const SHARDS: usize = 64;
/// Bytes that a key needs in the tables beside itself, about, and a field.
const PER_KEY: usize = 160;
const PER_FIELD: usize = 80;

/// No key is in two shards, and no call needs two of them.
pub struct Memory {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    /// Most bytes.
    limit: usize,
    /// The gauges are the account.
    bytes: Gauge,
    entries: Gauge,
    /// The shard to look through next for what has expired.
    next_sweep: AtomicUsize,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<Arc<str>, Entry>,
    /// Of the entries that have one, the nearest first.
    deadlines: BTreeSet<(Instant, Arc<str>)>,
}

struct Entry {
    data: Data,
    deadline: Option<Instant>,
}

enum Data {
    Value(Value),
    Fields(HashMap<Box<str>, Value>),
}

impl Memory {
    pub fn new(limit: usize, metrics: &StoreMetrics) -> Memory {
        Memory {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            limit,
            bytes: metrics.bytes.clone(),
            entries: metrics.entries.clone(),
            next_sweep: AtomicUsize::new(0),
        }
    }

    pub fn set(&self, key: &str, value: Value, ttl: Option<Duration>) -> Result<(), StoreError> {
        let (mut shard, now) = self.lock_to_write(key);
        let before = match shard.entries.get(key) {
            Some(Entry { data: Data::Fields(_), .. }) => return Err(StoreError::HoldsFields(key.to_owned())),
            Some(entry) => entry.size(key),
            None => 0,
        };
        self.account(before, PER_KEY + key.len() + value.length())?;
        self.put(&mut shard, key, Data::Value(value), ttl.map(|ttl| now + ttl));
        Ok(())
    }

    pub fn get(&self, key: &str) -> Result<Option<Value>, StoreError> {
        match self.lock(key).0.entries.get(key) {
            None => Ok(None),
            Some(Entry { data: Data::Value(value), .. }) => Ok(Some(value.clone())),
            Some(_) => Err(StoreError::HoldsFields(key.to_owned())),
        }
    }

    pub fn hset(&self, key: &str, field: &str, value: Value) -> Result<(), StoreError> {
        let (mut shard, _) = self.lock_to_write(key);
        let size = field_size(field, &value);
        match shard.entries.get_mut(key) {
            None => {
                self.account(0, PER_KEY + key.len() + size)?;
                let fields = HashMap::from([(field.into(), value)]);
                self.put(&mut shard, key, Data::Fields(fields), None);
            }
            Some(Entry { data: Data::Fields(fields), .. }) => {
                self.account(fields.get(field).map_or(0, |value| field_size(field, value)), size)?;
                fields.insert(field.into(), value);
            }
            Some(_) => return Err(StoreError::HoldsValue(key.to_owned())),
        }
        Ok(())
    }

    pub fn hget(&self, key: &str, field: &str) -> Result<Option<Value>, StoreError> {
        match self.lock(key).0.entries.get(key) {
            None => Ok(None),
            Some(Entry { data: Data::Fields(fields), .. }) => Ok(fields.get(field).cloned()),
            Some(_) => Err(StoreError::HoldsValue(key.to_owned())),
        }
    }

    pub fn del(&self, key: &str) -> Result<bool, StoreError> {
        let (mut shard, _) = self.lock_to_write(key);
        Ok(self.remove(&mut shard, key))
    }

    pub fn hdel(&self, key: &str, field: &str) -> Result<bool, StoreError> {
        let (mut shard, _) = self.lock_to_write(key);
        let fields = match shard.entries.get_mut(key) {
            None => return Ok(false),
            Some(Entry { data: Data::Fields(fields), .. }) => fields,
            Some(_) => return Err(StoreError::HoldsValue(key.to_owned())),
        };
        let Some(value) = fields.remove(field) else { return Ok(false) };
        let last = fields.is_empty();
        if fields.capacity() / 8 > fields.len() {
            // A table keeps the room that it once needed, which the account knows nothing of.
            fields.shrink_to(2 * fields.len());
        }
        self.account(field_size(field, &value), 0)?;
        if last {
            self.remove(&mut shard, key);
        }
        Ok(true)
    }

    pub fn incr(&self, key: &str, delta: i64, ttl: Option<Duration>) -> Result<i64, StoreError> {
        let (mut shard, now) = self.lock_to_write(key);
        let Some(entry) = shard.entries.get_mut(key) else {
            self.account(0, PER_KEY + key.len())?;
            self.put(&mut shard, key, Data::Value(Value::S64(delta)), ttl.map(|ttl| now + ttl));
            return Ok(delta);
        };
        match entry.value(key)? {
            Value::S64(number) => {
                *number = number.checked_add(delta).ok_or_else(|| StoreError::Overflow(key.to_owned()))?;
                Ok(*number)
            }
            other => Err(StoreError::OtherType { key: key.to_owned(), held: other.kind(), asked: Kind::S64 }),
        }
    }

    pub fn compare_and_set(&self, key: &str, expected: Option<&str>, value: Value) -> Result<bool, StoreError> {
        let (mut shard, _) = self.lock_to_write(key);
        let Some(entry) = shard.entries.get_mut(key) else {
            if expected.is_none() {
                self.account(0, PER_KEY + key.len() + value.length())?;
                self.put(&mut shard, key, Data::Value(value), None);
            }
            return Ok(expected.is_none());
        };
        match entry.value(key)? {
            Value::String(held) if Some(held.as_str()) != expected => Ok(false),
            held @ Value::String(_) => {
                self.account(held.length(), value.length())?;
                *held = value;
                Ok(true)
            }
            other => Err(StoreError::OtherType { key: key.to_owned(), held: other.kind(), asked: Kind::String }),
        }
    }

    pub fn expire(&self, key: &str, ttl: Option<Duration>) -> Result<bool, StoreError> {
        let (mut shard, now) = self.lock_to_write(key);
        Ok(shard.set_deadline(key, ttl.map(|ttl| now + ttl)))
    }

    pub fn expires_in(&self, key: &str) -> Result<Option<Duration>, StoreError> {
        let (shard, now) = self.lock(key);
        Ok(shard.entries.get(key).and_then(|entry| entry.deadline).map(|deadline| deadline - now))
    }

    /// The shard of a key, without what has expired.
    fn lock(&self, key: &str) -> (MutexGuard<'_, Shard>, Instant) {
        // The tables hash again, with keys of their own.
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        let mut shard = self.shards[index].lock();
        let now = Instant::now();
        self.sweep(&mut shard, now);
        (shard, now)
    }

    /// The same; and another shard is swept, so that writing anywhere gives back the room of what has expired anywhere.
    fn lock_to_write(&self, key: &str) -> (MutexGuard<'_, Shard>, Instant) {
        let (shard, now) = self.lock(key);
        let next = self.next_sweep.fetch_add(1, Ordering::Relaxed) % SHARDS;
        if let Some(mut other) = self.shards[next].try_lock() {
            self.sweep(&mut other, now);
        }
        (shard, now)
    }

    fn sweep(&self, shard: &mut Shard, now: Instant) {
        while shard.deadlines.first().is_some_and(|(deadline, _)| *deadline <= now) {
            let Some((_, key)) = shard.deadlines.pop_first() else { return };
            self.remove(shard, &key);
        }
    }

    /// Takes room from the account, or gives some back. Where there is none left, all shards are swept first.
    fn account(&self, before: usize, after: usize) -> Result<(), StoreError> {
        let more = after as i64 - before as i64;
        let full = |bytes: i64| more > 0 && bytes > self.limit as i64;
        if !full(self.bytes.inc_by(more) + more) {
            return Ok(());
        }
        let now = Instant::now();
        // The shard that is locked here was swept when it was locked.
        for mut shard in self.shards.iter().filter_map(Mutex::try_lock) {
            self.sweep(&mut shard, now);
        }
        if full(self.bytes.get()) {
            self.bytes.dec_by(more);
            return Err(StoreError::Full(self.limit));
        }
        Ok(())
    }

    /// Puts data that is accounted for.
    fn put(&self, shard: &mut Shard, key: &str, data: Data, deadline: Option<Instant>) {
        match shard.entries.get_mut(key) {
            Some(entry) => entry.data = data,
            None => {
                shard.entries.insert(key.into(), Entry { data, deadline: None });
                self.entries.inc();
            }
        }
        shard.set_deadline(key, deadline);
    }

    fn remove(&self, shard: &mut Shard, key: &str) -> bool {
        let Some((key, entry)) = shard.entries.remove_entry(key) else { return false };
        self.bytes.dec_by(entry.size(&key) as i64);
        self.entries.dec();
        if let Some(deadline) = entry.deadline {
            shard.deadlines.remove(&(deadline, key));
        }
        true
    }
}

impl Shard {
    /// Whether there is such a key.
    fn set_deadline(&mut self, key: &str, deadline: Option<Instant>) -> bool {
        let Some((name, _)) = self.entries.get_key_value(key) else { return false };
        let name = name.clone();
        let Some(entry) = self.entries.get_mut(key) else { return false };
        if let Some(before) = std::mem::replace(&mut entry.deadline, deadline) {
            self.deadlines.remove(&(before, name.clone()));
        }
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, name));
        }
        true
    }
}

impl Entry {
    fn value(&mut self, key: &str) -> Result<&mut Value, StoreError> {
        match &mut self.data {
            Data::Value(value) => Ok(value),
            Data::Fields(_) => Err(StoreError::HoldsFields(key.to_owned())),
        }
    }

    /// Bytes, about.
    fn size(&self, key: &str) -> usize {
        let data = match &self.data {
            Data::Value(value) => value.length(),
            Data::Fields(fields) => fields.iter().map(|(field, value)| field_size(field, value)).sum(),
        };
        PER_KEY + key.len() + data
    }
}

fn field_size(field: &str, value: &Value) -> usize {
    PER_FIELD + field.len() + value.length()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_are_gone_keep_no_room() {
        let memory = Memory::new(64 << 20, &StoreMetrics::default());
        let field = |n: usize| n.to_string();
        (0..10_000).for_each(|n| memory.hset("k", &field(n), Value::Bool(true)).unwrap());
        (1..10_000).for_each(|n| assert!(memory.hdel("k", &field(n)).unwrap()));
        let (shard, _) = memory.lock("k");
        let Data::Fields(fields) = &shard.entries["k"].data else { panic!("no fields") };
        assert!(fields.len() == 1 && fields.capacity() < 100, "{}", fields.capacity());
    }
}
