//! Connections of clients: counted, for at the end of the process they are waited for, and ended when they are idle.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::protocols::{ALPN, Stream};
use pingora::server::ShutdownWatch;
use prometheus_client::metrics::gauge::Gauge;

use crate::observe::metrics::Counted;
use crate::proxy::watched;

/// With which a client of HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much of it tells it from a request of HTTP/1, which can be shorter than all of it.
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
    /// How long a connection of HTTP/1 may be idle. Those of HTTP/2 are Pingora's to end.
    pub idle: Duration,
}

impl<A> Connected<A> {
    /// Whose a connection is, and whether it speaks HTTP/2. None: the client says nothing, for too long or until the shutdown.
    async fn app_of(&self, stream: &mut Stream, shutdown: &ShutdownWatch) -> Option<(&Arc<A>, bool)> {
        let Some(h2c) = &self.h2c else {
            return Some((&self.app, matches!(stream.selected_alpn_proto(), Some(ALPN::H2))));
        };
        let mut shutdown = shutdown.clone();
        let is_http2 = tokio::select! {
            biased;
            begins = tokio::time::timeout(self.idle, begins_http2(stream)) => begins.ok()?.ok()?,
            _ = shutdown.wait_for(|begun| *begun) => return None,
        };
        Some(if is_http2 { (h2c, true) } else { (&self.app, false) })
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync> ServerApp for Connected<A> {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let _open = Counted::new(&self.connections.0);
        let (app, is_http2) = self.app_of(&mut stream, shutdown).await?;
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

async fn begins_http2(stream: &mut Stream) -> std::io::Result<bool> {
    let mut beginning = [0; PREFACE.len()];
    stream.try_peek(&mut beginning[..TELLING]).await?;
    if beginning[..TELLING] != PREFACE[..TELLING] {
        return Ok(false);
    }
    stream.try_peek(&mut beginning).await?;
    Ok(beginning == *PREFACE)
}
