//! Carries bytes between a plugin and the client: what is behind `curr-fd` in `wasm_serverless`.

use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, StatusCode};
use pingora::prelude::Session;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until, timeout};

use super::body::RequestBody;
use crate::exchange::ClientEnd;
use crate::headers::has_body;

/// Most bytes of one write to the client.
const CHUNK: usize = 16 << 10;

/// For this long a plugin may go on when its client has gone, to say goodbye elsewhere.
pub const WITHOUT_CLIENT: Duration = Duration::from_secs(10);

/// For this long the last bytes of a run that has failed may take, and the client's end of a connection that was upgraded.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why a response is cut off whose client does not read.
const NOT_TAKEN: &str = "the client does not take it";

/// The stream of a request.
pub struct Streaming {
    /// The plugin's side; none once the client has gone.
    plugin: Option<(ReadHalf<DuplexStream>, WriteHalf<DuplexStream>)>,
    lost: Arc<OnceLock<String>>,
    source: Source,
    /// Read from the client, and not taken by the plugin yet.
    input: Bytes,
    output: BytesMut,
    sink: Option<Sink>,
    plugin_ended: bool,
    /// When a run whose client has gone ends.
    deadline: Option<Instant>,
    /// The session's, which is not the plugin's: a client may be silent for as long as the plugin waits for it.
    read_timeout: Option<Duration>,
    /// How long the client may take nothing of what is written to it.
    write_timeout: Duration,
}

/// What the client still sends.
enum Source {
    /// Its body.
    Body,
    /// Nothing, but that it goes would show.
    Ended,
}

/// A response whose head has been sent.
struct Sink {
    /// For HEAD, and statuses without a body: what the plugin writes goes nowhere.
    silent: bool,
    upgraded: bool,
    /// Bytes that are missing of the length that was given.
    missing: Option<u64>,
}

/// What happened next.
pub enum Step {
    /// The plugin has written this.
    Output(Bytes),
    /// The plugin will write no more.
    PluginEnded,
    /// The client has gone.
    Lost(String),
}

impl Streaming {
    pub fn new(end: ClientEnd, session: &mut Session) -> Streaming {
        // Whether the client goes is seen by reading on.
        let read_timeout = session.get_read_timeout();
        session.set_read_timeout(None);
        Streaming {
            plugin: Some(tokio::io::split(end.stream)),
            lost: end.lost,
            source: Source::Body,
            input: Bytes::new(),
            output: BytesMut::new(),
            sink: None,
            plugin_ended: false,
            deadline: None,
            read_timeout,
            write_timeout: session.get_write_timeout().unwrap_or(Duration::MAX),
        }
    }

    /// The head of the response has been sent. `length` is that of the body, if it was given.
    pub fn head_sent(&mut self, session: &Session, status: StatusCode, length: Option<u64>) {
        let silent = session.req_header().method == Method::HEAD || !has_body(status);
        let upgraded = session.downstream_session.was_upgraded();
        self.sink = Some(Sink { silent, upgraded, missing: length.filter(|_| !silent) });
    }

    /// Carries on until something happens. Can be cancelled: nothing is lost by it.
    /// None: the client has gone, too long ago for the run to go on.
    pub async fn step(&mut self, session: &mut Session, body: &mut RequestBody) -> Option<Step> {
        if let Some(deadline) = self.deadline {
            sleep_until(deadline).await;
            return None;
        }
        let (from_plugin, to_plugin) = self.plugin.as_mut()?;
        tokio::select! {
            biased;
            step = output(from_plugin, &mut self.output), if !self.plugin_ended => Some(step),
            why = input(to_plugin, &mut self.input, &mut self.source, session, body) => Some(Step::Lost(why)),
        }
    }

    /// Acts on a step; the result of the run, if it came meanwhile.
    pub async fn follow<R, E>(
        &mut self,
        step: Step,
        session: &mut Session,
        run: Pin<&mut impl Future<Output = Result<R, E>>>,
    ) -> Option<Result<R, E>> {
        match step {
            Step::Output(bytes) => {
                let (written, ended) = meanwhile(self.write(session, bytes), run).await;
                match written {
                    Some(Ok(())) => {}
                    Some(Err(error)) => self.lose(gone(&error)),
                    None => self.lose(NOT_TAKEN.to_owned()),
                }
                return ended;
            }
            Step::PluginEnded => {
                if let Err(why) = self.close(session).await {
                    self.lose(why);
                }
            }
            Step::Lost(why) => self.lose(why),
        }
        None
    }

    /// Sends what the plugin has written. Must not be cancelled, but to cut the response off.
    pub async fn write(&mut self, session: &mut Session, mut bytes: Bytes) -> pingora::Result<()> {
        let Some(sink) = self.sink.as_mut().filter(|sink| !sink.silent) else { return Ok(()) };
        if let Some(missing) = &mut sink.missing {
            *missing = missing.saturating_sub(bytes.len() as u64);
        }
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(CHUNK));
            session.write_response_body(Some(piece), false).await?;
        }
        Ok(())
    }

    /// The client has gone: the plugin learns it from its next call.
    pub fn lose(&mut self, why: String) {
        let _ = self.lost.set(why);
        self.plugin = None;
        self.deadline = Some(Instant::now() + WITHOUT_CLIENT);
    }

    /// The plugin has closed the stream: the response is whole.
    pub async fn close(&mut self, session: &mut Session) -> Result<(), String> {
        if std::mem::replace(&mut self.plugin_ended, true) {
            return Ok(());
        }
        match &self.sink {
            None => Ok(()),
            Some(Sink { missing: Some(1..), .. }) => {
                Err("it wrote less than the content-length that it gave".to_owned())
            }
            Some(Sink { upgraded: true, .. }) => {
                linger(session).await;
                Ok(())
            }
            Some(_) => match timeout(self.write_timeout, session.write_response_body(None, true)).await {
                Ok(ended) => ended.map_err(|error| error.to_string()),
                Err(_) => Err(NOT_TAKEN.to_owned()),
            },
        }
    }

    /// After the run: sends what is left, and ends the response. The error says why the response must be cut off instead.
    pub async fn finish(mut self, session: &mut Session, failed: bool) -> Result<(), String> {
        session.set_read_timeout(self.read_timeout);
        let upgraded = match &self.sink {
            _ if self.deadline.is_some() => return Err(self.lost.get().cloned().unwrap_or_default()),
            _ if self.plugin_ended => return Ok(()),
            None => return Ok(()),
            Some(sink) => sink.upgraded,
        };
        if !failed {
            timeout(self.write_timeout, self.drain(session)).await.unwrap_or_else(|_| Err(NOT_TAKEN.to_owned()))?;
            return self.close(session).await;
        }
        let _ = timeout(LAST_WORDS, self.drain(session)).await;
        if upgraded {
            return self.close(session).await;
        }
        Err("the plugin failed while it streamed".to_owned())
    }

    /// Sends what the plugin wrote before its end of the stream was closed.
    async fn drain(&mut self, session: &mut Session) -> Result<(), String> {
        while !self.plugin_ended {
            let Some((from_plugin, _)) = &mut self.plugin else { return Ok(()) };
            let Step::Output(bytes) = output(from_plugin, &mut self.output).await else { return Ok(()) };
            self.write(session, bytes).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// A write to a slow client may take long. The plugin runs on meanwhile, so that its timeouts hold; when it fails, the
/// write is given up.
async fn meanwhile<W, R, E>(
    write: impl Future<Output = W>,
    mut run: Pin<&mut impl Future<Output = Result<R, E>>>,
) -> (Option<W>, Option<Result<R, E>>) {
    let mut write = pin!(write);
    let mut ended = None;
    let written = poll_fn(|cx| {
        if let Poll::Ready(written) = write.as_mut().poll(cx) {
            return Poll::Ready(Some(written));
        }
        if ended.is_none()
            && let Poll::Ready(result) = run.as_mut().poll(cx)
        {
            let failed = result.is_err();
            ended = Some(result);
            if failed {
                return Poll::Ready(None);
            }
        }
        Poll::Pending
    })
    .await;
    (written, ended)
}

async fn output(from_plugin: &mut ReadHalf<DuplexStream>, buffer: &mut BytesMut) -> Step {
    // Else what is left of the last piece's room would be all that is read.
    buffer.reserve(CHUNK);
    match from_plugin.read_buf(&mut buffer.limit(CHUNK)).await {
        Ok(1..) => Step::Output(buffer.split().freeze()),
        _ => Step::PluginEnded,
    }
}

/// Carries what the client sends to the plugin. Returns when the client has gone, with what is known of it.
async fn input(
    to_plugin: &mut WriteHalf<DuplexStream>,
    input: &mut Bytes,
    source: &mut Source,
    session: &mut Session,
    body: &mut RequestBody,
) -> String {
    loop {
        while !input.is_empty() {
            if to_plugin.write_buf(input).await.is_err() {
                // The plugin reads no more. What it has not read is for Pingora to drain.
                input.clear();
                return pending().await;
            }
        }
        let failed = match source {
            Source::Body => match body.next(session).await {
                Ok(Some(chunk)) => {
                    *input = chunk;
                    continue;
                }
                Ok(None) => {
                    let _ = to_plugin.shutdown().await;
                    *source = Source::Ended;
                    continue;
                }
                Err(failed) => failed,
            },
            Source::Ended => match session.downstream_session.read_body_or_idle(true).await {
                Ok(_) => continue,
                Err(failed) => failed,
            },
        };
        return gone(&failed);
    }
}

fn gone(error: &pingora::Error) -> String {
    format!("the client has gone: {}", error.etype().as_str())
}

/// Ends a connection so that the last bytes arrive: closed with input unread, they could be lost with it.
pub async fn linger(session: &mut Session) {
    let client = &mut session.downstream_session;
    let _ = timeout(LAST_WORDS, async {
        client.shutdown().await;
        while let Ok(Some(_)) = client.read_request_body().await {}
    })
    .await;
}
