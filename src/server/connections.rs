//! Connections of clients: counted, for at the end of the process they are waited for, and ended when they are idle.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::protocols::{ALPN, Stream};
use pingora::server::ShutdownWatch;
use prometheus_client::metrics::gauge::Gauge;

use super::begun::{Begun, PREFACE};
use super::shutdown::LATECOMERS;
use crate::observe::metrics::Counted;
use crate::proxy::watched;

/// How much of the preface of HTTP/2 tells it from a request of HTTP/1, which can be shorter than all of it.
const TELLING: usize = 3;

/// How many there are.
#[derive(Clone, Default)]
pub struct Connections(Gauge);

impl Connections {
    pub fn count(&self) -> i64 {
        self.0.get()
    }
}

/// An application, with its connections.
pub struct Connected<A> {
    pub app: Arc<A>,
    /// For clients that may speak HTTP/2 where there is no TLS to say so, and do.
    pub h2c: Option<Arc<A>>,
    pub connections: Connections,
    /// How long a connection of HTTP/1 may be idle, and one of HTTP/2 before it begins. After that it is Pingora's to end.
    pub idle: Duration,
}

impl<A> Connected<A> {
    /// A connection, whose it is, and whether it speaks HTTP/2, for which the client has to begin. None: it does not, for too
    /// long or until the shutdown.
    async fn begin(&self, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<(Stream, &Arc<A>, bool)> {
        let is_agreed = matches!(stream.selected_alpn_proto(), Some(ALPN::H2));
        if !is_agreed && self.h2c.is_none() {
            return Some((stream, &self.app, false));
        }
        let begins = async move {
            io::Result::Ok(match &self.h2c {
                _ if is_agreed => (Box::new(Begun::wait(stream).await?) as Stream, &self.app, true),
                Some(h2c) if begins_http2(&mut stream).await? => (stream, h2c, true),
                _ => (stream, &self.app, false),
            })
        };
        let mut shutdown = shutdown.clone();
        tokio::select! {
            biased;
            begun = tokio::time::timeout(self.idle, begins) => begun.ok()?.ok(),
            () = async {
                // It may be among those that have just come.
                let _ = shutdown.wait_for(|begun| *begun).await;
                tokio::time::sleep(LATECOMERS).await;
            } => None,
        }
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync> ServerApp for Connected<A> {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let _open = Counted::new(&self.connections.0);
        let (stream, app, is_http2) = self.begin(stream, shutdown).await?;
        if is_http2 {
            return app.process_new(stream, shutdown).await;
        }
        watched(self.idle, app.process_new(stream, shutdown)).await.flatten()
    }

    async fn cleanup(&self) {
        self.app.cleanup().await;
        if let Some(h2c) = &self.h2c {
            h2c.cleanup().await;
        }
    }
}

async fn begins_http2(stream: &mut Stream) -> io::Result<bool> {
    let mut beginning = [0; PREFACE.len()];
    stream.try_peek(&mut beginning[..TELLING]).await?;
    if beginning[..TELLING] != PREFACE[..TELLING] {
        return Ok(false);
    }
    stream.try_peek(&mut beginning).await?;
    Ok(beginning == *PREFACE)
}
