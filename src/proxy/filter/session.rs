//! The client's session, with the filters of the request between it and Pingora: bodies and trailers pass them here, and
//! may wait here.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use parking_lot::Mutex;
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::protocols::http::{HttpTask, ServerSession};

use super::{PauseTimer, Response, State, expiry};
use crate::exchange::no_response;
use crate::proxy::decorate::Decoration;
use crate::proxy::{error, is_interim};
use crate::wasm::{Direction, End, Filters, Flow, Stream};

/// Bytes of the request body that are kept for another attempt, as Pingora does.
const RETRY: usize = 64 << 10;

pub struct FilteredSession {
    state: Arc<Mutex<State>>,
    /// Of the filters.
    stream: Arc<Stream>,
    /// Whether the request has a body.
    has_body: bool,
    /// Whether the client's body has come to its end.
    over: bool,
    /// Whether the filters have let that pass.
    ended: bool,
    /// The response header, which the filters hold: whether it is the end.
    held: Option<bool>,
    /// Whether the end of the response has come to the filters.
    response_over: bool,
    /// Whether they have let that pass.
    response_ended: bool,
    /// Of pauses of the request, and of the response.
    timer: PauseTimer,
    response_timer: PauseTimer,
    retry: Retry,
}

/// What has gone to the upstream.
#[derive(Default)]
struct Retry {
    enabled: bool,
    truncated: bool,
    kept: BytesMut,
}

impl FilteredSession {
    /// `over`: the end of the request body has come to the filters. `end`: there is none.
    pub fn new(state: Arc<Mutex<State>>, over: bool, end: bool) -> FilteredSession {
        let stream = state.lock().filters.stream().clone();
        FilteredSession {
            state,
            stream,
            has_body: !end,
            over,
            ended: end,
            held: None,
            response_over: false,
            response_ended: false,
            timer: PauseTimer::default(),
            response_timer: PauseTimer::default(),
            retry: Retry::default(),
        }
    }

    /// Whether what is written now is none of the filters' business.
    fn passes(&self, session: &ServerSession) -> bool {
        let state = self.state.lock();
        state.response != Response::Begun || state.filters.response_ended_with_headers() || session.was_upgraded()
    }

    /// Runs filters with the request header lent to them.
    fn with_filters<T>(&self, session: &mut ServerSession, run: impl FnOnce(&mut Filters) -> T) -> T {
        let filters = &mut self.state.lock().filters;
        filters.lend_request(session.req_header_mut());
        let result = run(filters);
        filters.return_request(session.req_header_mut());
        result
    }

    /// Does what the filters have decided, if that is not to go on.
    fn follow(&self, flow: Flow, direction: Direction) -> Result<()> {
        let reply = match flow {
            Flow::On => return Ok(()),
            Flow::Reply(reply) => Some(reply),
            Flow::Reset => None,
        };
        let mut state = self.state.lock();
        if direction == Direction::Response {
            state.response = Response::Past;
        }
        state.reply = reply;
        Err(error::cut())
    }

    /// Waits where a filter has paused the response until there is more of it, or the end.
    async fn wait(&mut self, session: &mut ServerSession, out: &mut Vec<HttpTask>) -> Result<()> {
        let waited = self.wait_for_filters(session, out).await;
        // What has woken this may be for the request, whose turn comes now.
        self.stream.wake();
        waited
    }

    async fn wait_for_filters(&mut self, session: &mut ServerSession, out: &mut Vec<HttpTask>) -> Result<()> {
        while !self.response_ended {
            let (paused, waits) = {
                let state = self.state.lock();
                let Some(paused) = state.filters.paused(Direction::Response) else { return Ok(()) };
                let waits = self.response_over || state.filters.holds_back_response();
                (paused, waits)
            };
            if !waits {
                // The callout may have been answered since; else it waits for more of the body.
                let flow = self.with_filters(session, |filters| filters.run(Direction::Response));
                self.follow(flow, Direction::Response)?;
                self.take_passed(out);
                self.response_timer = PauseTimer::default();
                return Ok(());
            }
            let paused = self.response_timer.left(Some(paused));
            if !out.is_empty() {
                session.response_duplex_vec(std::mem::take(out)).await?;
            }
            let over = session.is_body_done();
            let flow = tokio::select! {
                biased;
                () = self.stream.woken() => self.with_filters(session, |filters| filters.run(Direction::Response)),
                gone = session.read_body_or_idle(true), if over => {
                    gone.map_err(|error| error.into_down())?;
                    Flow::On
                }
                () = expiry(paused) => {
                    self.with_filters(session, |filters| filters.give_up(Direction::Response))
                }
            };
            self.follow(flow, Direction::Response)?;
            if self.take_passed(out) {
                break;
            }
        }
        Ok(())
    }

    /// Takes what has passed all filters; whether that was the end.
    fn take_passed(&mut self, out: &mut Vec<HttpTask>) -> bool {
        let mut state = self.state.lock();
        let filters = &mut state.filters;
        if !filters.headers_passed(Direction::Response) {
            return false;
        }
        if let Some(end) = self.held.take() {
            let mut header = Box::new(no_response());
            filters.return_response(&mut header);
            out.push(HttpTask::Header(header, end));
        }
        let (data, end) = filters.take_body(Direction::Response);
        if data.is_some() || end.is_some() {
            self.response_timer = PauseTimer::default();
        }
        let trailers = (end == Some(End::Trailers)).then(|| filters.take_response_trailers());
        if data.is_some() || (end.is_some() && trailers.is_none()) {
            out.push(HttpTask::Body(data, end.is_some() && trailers.is_none()));
        }
        if let Some(trailers) = trailers {
            out.push(HttpTask::Trailer(trailers.map(Box::new)));
        }
        self.response_ended |= end.is_some();
        end.is_some()
    }

    /// A part of the response on its way to the client. What comes after the end is nothing: a filter may have ended it.
    async fn write(&mut self, session: &mut ServerSession, task: HttpTask, out: &mut Vec<HttpTask>) -> Result<()> {
        if self.response_ended {
            self.response_over |= matches!(task, HttpTask::Body(_, true) | HttpTask::Trailer(_) | HttpTask::Done);
            if let HttpTask::Done | HttpTask::Failed(_) = task {
                out.push(task);
            }
            return Ok(());
        }
        let flow = match task {
            HttpTask::Header(header, end) if !is_interim(header.status) => {
                if self.state.lock().filters.headers_passed(Direction::Response) {
                    out.push(HttpTask::Header(header, end));
                    return Ok(());
                }
                // After 101 no body follows that could resume it.
                self.response_over |= header.status == StatusCode::SWITCHING_PROTOCOLS;
                self.state.lock().filters.hold_response(header);
                self.held = Some(end);
                Flow::On
            }
            HttpTask::Body(data, end) => {
                self.response_over |= end;
                self.with_filters(session, |filters| filters.body(Direction::Response, data.unwrap_or_default(), end))
            }
            HttpTask::Trailer(Some(trailers)) if !self.response_over => {
                self.response_over = true;
                self.with_filters(session, |filters| filters.response_trailers(*trailers))
            }
            HttpTask::Trailer(None) | HttpTask::Done if !self.response_over => {
                self.response_over = true;
                self.with_filters(session, |filters| filters.body(Direction::Response, Bytes::new(), true))
            }
            other => {
                out.push(other);
                return Ok(());
            }
        };
        self.follow(flow, Direction::Response)?;
        if self.take_passed(out) || self.state.lock().filters.paused(Direction::Response).is_none() {
            return Ok(());
        }
        // Boxed: few responses wait here.
        Box::pin(self.wait(session, out)).await
    }
}

impl Decoration for FilteredSession {
    async fn read_body(&mut self, session: &mut ServerSession) -> Result<Option<Bytes>> {
        if session.was_upgraded() {
            return session.read_request_body().await;
        }
        loop {
            let (reads, paused) = {
                let mut state = self.state.lock();
                let (data, end) = state.filters.take_body(Direction::Request);
                self.ended |= end.is_some();
                if let Some(data) = data {
                    self.retry.keep(&data);
                    return Ok(Some(data));
                }
                if self.ended {
                    return Ok(None);
                }
                let is_header_alone =
                    || state.filters.response_ended_with_headers() && state.filters.headers_passed(Direction::Response);
                if self.over && (self.response_ended || is_header_alone()) {
                    // Nobody waits for what filters hold of the request. Its end would say that the upstream has all of it.
                    return Err(error::cut());
                }
                let reads = !self.over && !state.filters.is_full(Direction::Request);
                let longest = state.filters.paused(Direction::Request).filter(|_| !reads);
                (reads, self.timer.left(longest))
            };
            let flow = tokio::select! {
                biased;
                () = self.stream.woken() => self.with_filters(session, |filters| filters.run(Direction::Request)),
                () = expiry(paused) => {
                    self.with_filters(session, |filters| filters.give_up(Direction::Request))
                }
                chunk = next_or_gone(session, self.over), if reads || self.over => {
                    let chunk = chunk?;
                    self.over |= chunk.is_none() || session.is_body_done();
                    let over = self.over;
                    self.with_filters(session, |filters| filters.body(Direction::Request, chunk.unwrap_or_default(), over))
                }
            };
            self.follow(flow, Direction::Request)?;
        }
    }

    /// While there is nothing to read, filters may still decide something. How long they pause the response does not count:
    /// it is the upstream that is waited for.
    async fn read_body_or_idle(
        &mut self,
        session: &mut ServerSession,
        no_body_expected: bool,
    ) -> Result<Option<Bytes>> {
        if !no_body_expected && !session.was_upgraded() {
            return self.read_body(session).await;
        }
        if self.state.lock().hook_waits {
            return session.read_body_or_idle(no_body_expected).await;
        }
        loop {
            let flow = tokio::select! {
                biased;
                () = self.stream.woken() => self.with_filters(session, |filters| filters.run(Direction::Request)),
                read = session.read_body_or_idle(no_body_expected) => return read,
            };
            self.follow(flow, Direction::Request)?;
        }
    }

    /// Not by the header, which filters may have changed.
    fn is_body_empty(&mut self, session: &mut ServerSession) -> bool {
        if session.was_upgraded() { session.is_body_empty() } else { !self.has_body }
    }

    fn is_body_done(&mut self, session: &mut ServerSession) -> bool {
        if session.was_upgraded() { session.is_body_done() } else { self.ended }
    }

    fn retry_buffer(&self, _session: &ServerSession) -> Option<Bytes> {
        // Also of a body that the filters have emptied: its end has to go again.
        let has_gone = !self.retry.kept.is_empty() || (self.retry.enabled && self.has_body && self.ended);
        (!self.retry.truncated && has_gone).then(|| self.retry.kept.clone().freeze())
    }

    fn retry_buffer_truncated(&self, _session: &ServerSession) -> bool {
        self.retry.truncated
    }

    fn enable_retry_buffering(&mut self, _session: &mut ServerSession) {
        self.retry.enabled = true;
    }

    async fn write_header(&mut self, session: &mut ServerSession, response: Box<ResponseHeader>) -> Result<()> {
        if self.passes(session) {
            return session.write_response_header(response).await;
        }
        let mut out = Vec::new();
        self.write(session, HttpTask::Header(response, false), &mut out).await?;
        write_all(session, out).await
    }

    async fn write_body(&mut self, session: &mut ServerSession, data: Bytes, end: bool) -> Result<()> {
        if self.passes(session) {
            return session.write_response_body(data, end).await;
        }
        let mut out = Vec::new();
        self.write(session, HttpTask::Body(Some(data), end), &mut out).await?;
        write_all(session, out).await
    }

    async fn write_tasks(&mut self, session: &mut ServerSession, tasks: Vec<HttpTask>) -> Result<bool> {
        if self.passes(session) {
            return session.response_duplex_vec(tasks).await;
        }
        let mut out = Vec::with_capacity(tasks.len() + 1);
        for task in tasks {
            self.write(session, task, &mut out).await?;
        }
        let ended = session.response_duplex_vec(out).await?;
        if self.response_ended && !self.response_over {
            // By a filter: nobody waits for what the upstream still has.
            return Err(error::cut());
        }
        Ok(ended)
    }
}

/// What comes next of a body, else the error that the client has gone.
async fn next_or_gone(session: &mut ServerSession, over: bool) -> Result<Option<Bytes>> {
    if over { session.read_body_or_idle(true).await } else { session.read_request_body().await }
}

/// Writes a response of our own, piece by piece.
async fn write_all(session: &mut ServerSession, tasks: Vec<HttpTask>) -> Result<()> {
    for task in tasks {
        match task {
            HttpTask::Header(header, _) => session.write_response_header(header).await?,
            HttpTask::Body(data, end) => session.write_response_body(data.unwrap_or_default(), end).await?,
            HttpTask::Trailer(Some(trailers)) => session.write_response_trailers(*trailers).await?,
            _ => {}
        }
    }
    Ok(())
}

impl Retry {
    fn keep(&mut self, data: &[u8]) {
        if !self.enabled || self.truncated {
            return;
        }
        self.truncated = self.kept.len() + data.len() > RETRY;
        if self.truncated {
            self.kept.clear();
        } else {
            self.kept.extend_from_slice(data);
        }
    }
}
