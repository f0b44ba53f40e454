//! What happens on connections of HTTP/1: one on which no request comes to be served for too long is ended. One timer a
//! connection does for that, where Pingora would set one for each request, and none while a header comes byte by byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{AbortHandle, Abortable};

tokio::task_local! {
    static CONNECTION: Arc<Activity>;
}

/// Of one connection.
#[derive(Default)]
struct Activity {
    /// Counted up when a request begins, and when it ends: it is odd while one is served.
    turns: AtomicU64,
}

/// A request that is served. Dropped, it has ended.
pub struct Turn(Arc<Activity>);

impl Turn {
    /// None on a connection that is not watched.
    pub fn begin() -> Option<Turn> {
        let activity = CONNECTION.try_with(Arc::clone).ok()?;
        activity.turns.fetch_add(1, Ordering::Relaxed);
        Some(Turn(activity))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.turns.fetch_add(1, Ordering::Relaxed);
    }
}

/// Serves a connection of HTTP/1, until it ends or no request has begun or ended on it for this long: at the latest for
/// twice as long.
pub async fn watched<T>(idle: Duration, serve: impl Future<Output = T>) -> Option<T> {
    let activity = Arc::<Activity>::default();
    let (serve, ends) = (CONNECTION.scope(activity.clone(), serve), AbortHandle::new_pair());
    let (end, registration) = ends;
    let watch = tokio::spawn(async move {
        let mut seen = 0;
        loop {
            tokio::time::sleep(idle).await;
            let turns = activity.turns.load(Ordering::Relaxed);
            if turns == seen && turns % 2 == 0 {
                return end.abort();
            }
            seen = turns;
        }
    });
    let served = Abortable::new(serve, registration).await.ok();
    watch.abort();
    served
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    const IDLE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_requests_ends() {
        let begun = Instant::now();
        assert_eq!(watched(IDLE, std::future::pending::<()>()).await, None);
        assert_eq!(begun.elapsed(), IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_may_take_as_long_as_it_takes() {
        let serve = async {
            for seconds in [100, 1, 30] {
                let turn = Turn::begin();
                assert!(turn.is_some());
                sleep(Duration::from_secs(seconds)).await;
                drop(turn);
                sleep(IDLE - Duration::from_secs(1)).await;
            }
            "all of them"
        };
        assert_eq!(watched(IDLE, serve).await, Some("all of them"));
        assert!(Turn::begin().is_none());
    }
}
