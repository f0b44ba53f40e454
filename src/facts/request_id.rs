//! The id of a request: a UUID of version 7 (RFC 9562, section 5.7). Most requests never need theirs, so that nothing is made
//! when they come but a number; whoever asks makes the same id of it, from any copy.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::{LazyLock, OnceLock};
use std::time::SystemTime;

use quanta::Instant;
use uuid::{Builder, Uuid};

#[derive(Debug)]
pub struct RequestId {
    came: Instant,
    /// No other request of the process has it.
    number: u64,
    text: OnceLock<String>,
}

impl RequestId {
    pub fn new(came: Instant) -> RequestId {
        RequestId { came, number: number(), text: OnceLock::new() }
    }

    /// 32 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        self.text.get_or_init(|| self.uuid().simple().to_string())
    }

    fn uuid(&self) -> Uuid {
        /// What makes numbers of this process into bits that nobody can guess, nor another process have.
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let mut random = [0; 10];
        random[..8].copy_from_slice(&KEY.hash_one(self.number).to_ne_bytes());
        random[8..].copy_from_slice(&KEY.hash_one((self.number, ())).to_ne_bytes()[..2]);
        Builder::from_unix_timestamp_millis(unix_millis(self.came), &random).into_uuid()
    }
}

impl Clone for RequestId {
    fn clone(&self) -> RequestId {
        RequestId { came: self.came, number: self.number, text: OnceLock::new() }
    }
}

/// Each thread counts from a place of its own.
fn number() -> u64 {
    thread_local!(static NEXT: Cell<u64> = Cell::new(RandomState::new().hash_one(())));
    NEXT.with(|next| next.replace(next.get().wrapping_add(1)))
}

/// Always the same for the same moment, whatever becomes of the system's clock.
fn unix_millis(moment: Instant) -> u64 {
    static ORIGIN: LazyLock<(Instant, u64)> = LazyLock::new(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        (Instant::now(), u64::try_from(since.as_millis()).unwrap_or_default())
    });
    let (origin, millis) = *ORIGIN;
    let distance =
        |from: Instant, to: Instant| u64::try_from(to.saturating_duration_since(from).as_millis()).unwrap_or(0);
    millis + distance(origin, moment) - distance(moment, origin)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_copy_has_the_same_id_and_no_other_request_has_it() {
        let came = Instant::now();
        let ids: Vec<_> = (0..1000).map(|_| RequestId::new(came)).collect();
        assert!(ids.iter().all(|id| id.clone().as_str() == id.as_str()));
        let distinct: HashSet<_> = ids.iter().map(RequestId::as_str).collect();
        assert_eq!(distinct.len(), ids.len());
    }

    #[test]
    fn it_says_when_the_request_came() {
        let now =
            || u64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap();
        let before = now();
        let uuid = RequestId::new(Instant::now()).uuid();
        let (seconds, nanos) = uuid.get_timestamp().unwrap().to_unix();
        let millis = seconds * 1000 + u64::from(nanos) / 1_000_000;
        assert_eq!(uuid.get_version_num(), 7);
        assert!((before.saturating_sub(2)..=now() + 2).contains(&millis), "{before} {millis}");
    }
}
