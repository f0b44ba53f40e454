//! The memory of instances that were needed once, in a rush, and are not now.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use tokio::time::sleep;

use crate::proxy::Shared;

/// An instance that was not used for so long, at the most twice as long, is dropped.
const IDLE: Duration = Duration::from_secs(5);

/// Drops idle instances of scripts from time to time.
pub struct Trim(pub Arc<Shared>);

#[async_trait]
impl BackgroundService for Trim {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        loop {
            tokio::select! {
                () = sleep(IDLE) => self.0.current.load().snapshot.trim(),
                _ = shutdown.changed() => return,
            }
        }
    }
}
