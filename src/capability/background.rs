//! What a request has running in its background.

use tokio::task::JoinSet;

use crate::observe::metrics::{Counted, Live};

/// Tasks of one request at once at the most.
pub const MOST_TASKS: usize = 64;

/// Why a task was not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BackgroundError {
    #[error("the request has {MOST_TASKS} runs in its background already: wait until one has ended")]
    TooMany,
    #[error("the request has ended")]
    Ended,
}

/// Tasks that live until they end by themselves, or this does.
#[derive(Default)]
pub struct Background {
    /// Made with the first task: few requests have any.
    tasks: Option<JoinSet<()>>,
    ended: bool,
}

impl Background {
    /// Starts a task on the runtime of the caller.
    ///
    /// # Errors
    /// When too many run, and after the end.
    pub fn spawn(
        &mut self,
        task: impl Future<Output = ()> + Send + 'static,
        live: &Live,
    ) -> Result<(), BackgroundError> {
        if self.ended {
            return Err(BackgroundError::Ended);
        }
        let tasks = self.tasks.get_or_insert_default();
        while tasks.try_join_next().is_some() {}
        if tasks.len() >= MOST_TASKS {
            return Err(BackgroundError::TooMany);
        }
        let counted = Counted::new(&live.spawned_runs);
        tasks.spawn(async move {
            let _counted = counted;
            task.await;
        });
        Ok(())
    }

    /// Cancels what runs, and takes no more.
    pub fn end(&mut self) {
        self.ended = true;
        self.tasks = None;
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn tasks_are_bounded_and_end_with_it() {
        let (mut background, live) = (Background::default(), Live::default());
        background.spawn(ready(()), &live).unwrap();
        while live.spawned_runs.get() > 0 {
            tokio::task::yield_now().await;
        }
        (0..MOST_TASKS).for_each(|_| background.spawn(pending(), &live).unwrap());
        assert_eq!(background.spawn(pending(), &live), Err(BackgroundError::TooMany));
        assert_eq!(live.spawned_runs.get(), MOST_TASKS as i64, "those that have ended do not count");
        background.end();
        assert_eq!(background.spawn(pending(), &live), Err(BackgroundError::Ended));
        while live.spawned_runs.get() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
