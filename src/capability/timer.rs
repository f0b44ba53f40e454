//! Timers of one run. They are kept in order here, and waited for on the timer wheel of the runtime.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::budget::{Budget, MOST_WAITING, Taken};
use crate::observe::metrics::Live;

/// Timers of one run at the most.
pub const MOST_TIMERS: usize = 10_000;
/// Bytes of the values of all timers of one run at the most.
pub const MOST_BYTES: usize = 16 << 20;
/// A timer that is set for longer is set for this.
pub const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Why a timer was not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimerError {
    #[error("the run has {MOST_TIMERS} timers already: the timer {0} is dropped")]
    TooMany(u64),
    #[error("the values of the run's timers would be more than {MOST_BYTES} bytes: the timer {0} is dropped")]
    TooLarge(u64),
    #[error("{MOST_WAITING} bytes wait in the mailboxes and timers of the process: the timer {0} is dropped")]
    NoRoom(u64),
}

/// Shared by the entry points of a run: one may wait for what another has set.
pub struct Timers {
    set: Mutex<Set>,
    changed: Notify,
    live: Live,
    waiting: Budget,
}

#[derive(Default)]
struct Set {
    /// By key: when it expires, and its value.
    timers: HashMap<u64, (Instant, String, Taken)>,
    /// The same, in the order in which they expire.
    order: BTreeSet<(Instant, u64)>,
    bytes: usize,
}

impl Timers {
    pub fn new(live: Live, waiting: Budget) -> Timers {
        Timers { set: Mutex::default(), changed: Notify::new(), live, waiting }
    }

    /// Sets a timer. One with the same key is replaced.
    ///
    /// # Errors
    /// When there are too many, or their values are too large; one with the same key is gone then as well.
    pub fn add(&self, after: Duration, key: u64, value: String) -> Result<(), TimerError> {
        self.remove(key);
        let mut set = self.set.lock();
        if set.timers.len() >= MOST_TIMERS {
            return Err(TimerError::TooMany(key));
        }
        if set.bytes + value.len() > MOST_BYTES {
            return Err(TimerError::TooLarge(key));
        }
        let taken = self.waiting.take(value.len()).ok_or(TimerError::NoRoom(key))?;
        let at = Instant::now() + after.min(LONGEST);
        set.bytes += value.len();
        set.order.insert((at, key));
        set.timers.insert(key, (at, value, taken));
        drop(set);
        self.live.timers.inc();
        self.changed.notify_waiters();
        Ok(())
    }

    /// Removes a timer, if there is one with this key.
    pub fn remove(&self, key: u64) {
        let mut set = self.set.lock();
        if let Some((at, value, _)) = set.timers.remove(&key) {
            set.order.remove(&(at, key));
            set.bytes -= value.len();
            self.live.timers.dec();
        }
    }

    /// Waits for the next timer to expire, for so long at the most: the values of all that have expired, in their order.
    /// Each timer is given once.
    pub async fn expired(&self, wait: Duration) -> Vec<String> {
        let end = Instant::now() + wait.min(LONGEST);
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let (expired, next) = self.take_expired();
            if !expired.is_empty() || Instant::now() >= end {
                return expired;
            }
            let until = next.map_or(end, |next| next.min(end));
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = changed => {}
            }
        }
    }

    /// What has expired, and when the next will.
    fn take_expired(&self) -> (Vec<String>, Option<Instant>) {
        let mut set = self.set.lock();
        let now = Instant::now();
        let mut expired = Vec::new();
        while let Some((at, key)) = set.order.first().copied().filter(|(at, _)| *at <= now) {
            set.order.remove(&(at, key));
            if let Some((_, value, _)) = set.timers.remove(&key) {
                set.bytes -= value.len();
                expired.push(value);
            }
        }
        self.live.timers.dec_by(expired.len() as i64);
        (expired, set.order.first().map(|(at, _)| *at))
    }
}

impl Drop for Timers {
    fn drop(&mut self) {
        self.live.timers.dec_by(self.set.get_mut().timers.len() as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(20);

    fn timers() -> (Timers, Live) {
        let live = Live::default();
        (Timers::new(live.clone(), Budget::new(MOST_WAITING)), live)
    }

    #[tokio::test(start_paused = true)]
    async fn they_expire_in_order_and_once() {
        let (timers, live) = timers();
        for (ms, key, value) in [(30, 1, "late"), (10, 2, "first"), (10, 3, "with it"), (20, 4, "gone"), (5, 2, "new")]
        {
            timers.add(MS * ms, key, value.to_owned()).unwrap();
        }
        timers.remove(4);
        timers.remove(4);
        assert_eq!(live.timers.get(), 3);
        assert_eq!(timers.expired(MS).await, [""; 0]);
        assert_eq!(timers.expired(LONG).await, ["new"]);
        tokio::time::sleep(MS * 50).await;
        assert_eq!(timers.expired(Duration::ZERO).await, ["with it", "late"]);
        let start = Instant::now();
        assert_eq!(timers.expired(MS * 50).await, [""; 0]);
        assert_eq!((start.elapsed(), live.timers.get()), (MS * 50, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_wakes_who_waits_already() {
        let (timers, _) = timers();
        let start = Instant::now();
        let add = async {
            tokio::time::sleep(MS * 5).await;
            timers.add(MS * 10, 1, "x".to_owned()).unwrap();
        };
        let (one, other, ()) = tokio::join!(timers.expired(LONG), timers.expired(MS * 40), add);
        assert_eq!([one, other].concat(), ["x"], "one of the two gets it");
        assert!(start.elapsed() >= MS * 15 && start.elapsed() <= MS * 41);
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_times_are_no_trouble() {
        let (timers, _) = timers();
        timers.add(Duration::from_millis(u64::MAX), 1, "never".to_owned()).unwrap();
        assert_eq!(timers.expired(MS).await, [""; 0]);
        assert_eq!(timers.expired(Duration::from_millis(u64::MAX)).await, ["never"], "the clock of this test leaps");
    }

    #[test]
    fn runs_share_what_may_wait() {
        let waiting = Budget::new(5);
        let timers = [(); 2].map(|()| Timers::new(Live::default(), waiting.clone()));
        timers[0].add(LONG, 1, "1234".to_owned()).unwrap();
        assert_eq!(timers[1].add(LONG, 2, "12".to_owned()), Err(TimerError::NoRoom(2)));
        timers[0].remove(1);
        timers[1].add(LONG, 2, "12".to_owned()).unwrap();
        drop(timers);
        assert!(waiting.take(5).is_some());
    }

    #[test]
    fn they_are_bounded_and_counted() {
        let (timers, live) = timers();
        (0..MOST_TIMERS as u64).for_each(|key| timers.add(LONG, key, String::new()).unwrap());
        assert_eq!(timers.add(LONG, 1 << 40, String::new()), Err(TimerError::TooMany(1 << 40)));
        timers.add(LONG, 7, "in the place of another".to_owned()).unwrap();
        assert_eq!(timers.add(LONG, 8, "x".repeat(MOST_BYTES)), Err(TimerError::TooLarge(8)));
        assert_eq!(live.timers.get(), MOST_TIMERS as i64 - 1);
        drop(timers);
        assert_eq!(live.timers.get(), 0);
    }
}
