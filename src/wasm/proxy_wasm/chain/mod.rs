//! The filters of one request: headers, bodies and trailers on their way through them, in order for the request and in
//! reverse for the response (as Envoy's filter manager). Nothing here waits: a filter that pauses the stream leaves it
//! where it is until [`Filters::run`] is called again.

mod lane;

use std::sync::Arc;
use std::time::Duration;

use crate::exchange::{RequestHeader, ResponseHeader, plain_copy};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use self::lane::{Headers, Lane, Pause};
use super::abi::{BodyAction, Both, Direction, HeadersAction};
use super::buffer::Buffer;
use super::fields::Fields;
use super::plugin::Plugin;
use super::slot::{Link, Lost};
use super::stream::{Http, LocalReply, Stream};
use crate::config::FailurePolicy;
use crate::facts::{Facts, Way};
use crate::observe::metrics::Counted;
use crate::phase::FailureKind;

pub use self::lane::End;

/// A filter in its place in a chain.
pub struct Filter {
    pub plugin: Arc<Plugin>,
    pub failure_policy: FailurePolicy,
    pub allow_stop_iteration: bool,
    /// How long it may pause a stream.
    pub longest_pause: Duration,
    /// Bytes of a body that it may hold, in each direction.
    pub buffer: usize,
}

/// The filters of one request. Dropped, their streams end.
pub struct Filters {
    chain: Arc<Vec<Filter>>,
    stream: Arc<Stream>,
    /// By position in the chain.
    contexts: Vec<State>,
    lanes: Both<Lane>,
    timed_out: bool,
}

/// A filter's context for this request.
enum State {
    /// Not needed yet.
    Unopened,
    Open(Link, #[expect(dead_code, reason = "it counts until this is dropped")] Counted),
    /// It has failed, and may be skipped.
    Skipped,
    Ended,
}

/// What the filters have decided.
#[derive(Debug, PartialEq, Eq)]
pub enum Flow {
    /// What has come out of the chain can go on; more may be paused.
    On,
    /// The stream ends with this response. Boxed: every step of every request hands a flow on.
    Reply(Box<LocalReply>),
    /// The stream ends at once.
    Reset,
}

impl Filters {
    /// For a request with this header, which is lent until [`Filters::return_request`].
    pub fn new(chain: Arc<Vec<Filter>>, request: &mut RequestHeader, facts: Box<Facts>, way: Way) -> Filters {
        let count = chain.len();
        let mut http = Http::new(facts, way, count);
        http.request.header.lend(request);
        http.request.open.header = true;
        for (position, filter) in chain.iter().enumerate() {
            for direction in [Direction::Request, Direction::Response] {
                let held = http.held(direction, position);
                (held.permitted, held.limit) = (filter.buffer, filter.buffer);
            }
        }
        Filters {
            stream: Arc::new(Stream::of(http)),
            contexts: (0..count).map(|_| State::Unopened).collect(),
            lanes: Both {
                request: Lane::new(Direction::Request, count),
                response: Lane::new(Direction::Response, count),
            },
            timed_out: false,
            chain,
        }
    }

    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// The header of the request has come. `end`: nothing follows it.
    pub fn request_headers(&mut self, end: bool) -> Flow {
        self.lanes.request.begin(end);
        self.run(Direction::Request)
    }

    /// The header of the response has come; it is lent until [`Filters::return_response`].
    pub fn response_headers(&mut self, response: &mut ResponseHeader, end: bool) -> Flow {
        let mut http = self.stream.lock();
        http.request.open.trailers = false;
        http.response.header.lend(response);
        http.response.open.header = true;
        http.response.trailers = None;
        drop(http);
        self.lanes.response.begin(end);
        self.run(Direction::Response)
    }

    /// More of a body has come.
    pub fn body(&mut self, direction: Direction, data: Bytes, end: bool) -> Flow {
        if direction == Direction::Request {
            self.stream.lock().facts.client_bytes_received += data.len() as u64;
        }
        self.lanes[direction].feed(data, if end { Some(End::Body) } else { None });
        self.run(direction)
    }

    /// The trailers have come.
    pub fn response_trailers(&mut self, trailers: HeaderMap) -> Flow {
        self.stream.lock().response.trailers = Some(trailers);
        self.lanes.response.feed(Bytes::new(), Some(End::Trailers));
        self.run(Direction::Response)
    }

    /// The response header is held back: filters that have paused it alone can go on changing it.
    pub fn hold_response(&mut self, header: Box<ResponseHeader>) {
        let mut http = self.stream.lock();
        http.request.open.trailers = false;
        http.response.header.keep(header);
        http.response.open.header = true;
    }

    /// Whether nothing follows the header of the response.
    pub fn response_ended_with_headers(&self) -> bool {
        self.lanes.response.ends_with_headers()
    }

    /// Whether the filter that has paused a direction holds the header, and goes on looking at the body.
    pub fn holds_headers_alone(&self, direction: Direction) -> bool {
        self.lanes[direction].holds_headers_alone()
    }

    /// Whether a filter has set the host or the path of the request.
    pub fn request_moved(&self) -> bool {
        self.stream.lock().target.moved
    }

    /// Whether the header has passed all filters.
    pub fn headers_passed(&self, direction: Direction) -> bool {
        self.lanes[direction].headers_passed()
    }

    /// The request header can be changed no more.
    pub fn close_request(&mut self) {
        let mut http = self.stream.lock();
        http.request.open.header = false;
        http.upstream_open = false;
    }

    /// Lends the request header to the filters, for callbacks that look at it.
    pub fn lend_request(&mut self, request: &mut RequestHeader) {
        self.stream.lock().request.header.lend(request);
    }

    /// Gives it back. While a filter has paused the stream, there is a copy for callbacks that come meanwhile.
    pub fn return_request(&mut self, request: &mut RequestHeader) {
        let is_paused = self.lanes.request.paused().or(self.lanes.response.paused()).is_some();
        let header = &mut self.stream.lock().request.header;
        header.give_back(request);
        if is_paused {
            header.keep_copy(request.clone());
        }
    }

    /// Gives the response header back, as it goes on. Filters keep a copy to look at.
    pub fn return_response(&mut self, response: &mut ResponseHeader) {
        let mut http = self.stream.lock();
        http.response.open.header = false;
        http.response.header.give_out(response);
        http.response.header.keep_copy(plain_copy(response));
    }

    /// What of the body has passed all filters, and whether it was the end.
    pub fn take_body(&mut self, direction: Direction) -> (Option<Bytes>, Option<End>) {
        let (data, end) = self.lanes[direction].take();
        if let (Direction::Response, Some(data)) = (direction, &data) {
            self.stream.lock().facts.client_bytes_sent += data.len() as u64;
        }
        (data, end)
    }

    /// Trailers of the response, to be sent after the body; filters keep a copy to look at.
    pub fn take_response_trailers(&mut self) -> Option<HeaderMap> {
        let trailers = self.stream.lock().response.trailers.clone()?;
        (!trailers.is_empty()).then_some(trailers)
    }

    /// Whether a filter that has paused this direction holds so much that no more should be read.
    pub fn is_full(&self, direction: Direction) -> bool {
        let mut http = self.stream.lock();
        self.lanes[direction].is_full(&mut http)
    }

    /// The position of the filter that has paused this direction, and for how long it may; none: nothing is paused.
    pub fn paused(&self, direction: Direction) -> Option<(usize, Duration)> {
        let position = self.lanes[direction].paused()?;
        Some((position, self.chain[position].longest_pause))
    }

    /// Whether the filter that has paused the response should get no more of it: it waits for a callout that it has made since,
    /// or holds as much as it may.
    pub fn holds_back_response(&self) -> bool {
        let Some(position) = self.lanes.response.paused() else { return false };
        let calls_out = self.stream.lock().held(Direction::Response, position).has_callouts();
        calls_out || self.is_full(Direction::Response)
    }

    /// Whether one of them has ended the stream by a pause that was too long.
    pub fn have_timed_out(&self) -> bool {
        self.timed_out
    }

    /// A filter has paused a direction for too long: that is a failure of it.
    pub fn give_up(&mut self, direction: Direction) -> Flow {
        let Some(position) = self.lanes[direction].paused() else { return Flow::On };
        let filter = &self.chain[position];
        let identity = &filter.plugin.identity;
        identity.metrics.failures(FailureKind::Wall).inc();
        let (limit, id) = (filter.longest_pause.as_millis(), self.stream.lock().facts.request_id().to_owned());
        log::error!(
            "filter={} request={id} failed: wall: paused the stream for more than limits.wall_ms, {limit} ms",
            identity.name
        );
        if let Err(flow) = self.lost(position) {
            self.timed_out = true;
            return flow;
        }
        self.run(direction)
    }

    /// Lets everything go on as far as it can.
    pub fn run(&mut self, direction: Direction) -> Flow {
        match self.go_on(direction) {
            Ok(()) => Flow::On,
            Err(flow) => flow,
        }
    }

    /// No filter sees a body before all have seen the headers, but for one that holds them up.
    fn go_on(&mut self, direction: Direction) -> Result<(), Flow> {
        for index in 0..self.contexts.len() {
            self.resume(direction, index)?;
            self.pass_headers(direction, index)?;
        }
        for index in 0..self.contexts.len() {
            self.pass_body(direction, index)?;
            // That may have let the headers go on as well.
            for next in index + 1..self.contexts.len() {
                self.pass_headers(direction, next)?;
            }
            let position = self.lanes[direction].position(index);
            let metrics = &self.chain[position].plugin.identity.metrics;
            self.lanes[direction].stage_mut(index).count_pause(|| metrics.paused());
        }
        Ok(())
    }

    fn pass_headers(&mut self, direction: Direction, index: usize) -> Result<(), Flow> {
        let lane = &self.lanes[direction];
        if lane.has_headers_for(index) { self.on_headers(direction, index, lane.position(index)) } else { Ok(()) }
    }

    fn pass_body(&mut self, direction: Direction, index: usize) -> Result<(), Flow> {
        let position = self.lanes[direction].position(index);
        if self.lanes[direction].has_body_for(index) {
            self.on_body(direction, index, position)?;
        }
        if self.lanes[direction].has_trailers_for(index) {
            self.on_trailers(direction, index, position)?;
        }
        Ok(())
    }

    /// Whether the filter has been resumed, or lost, since the last time.
    fn resume(&mut self, direction: Direction, index: usize) -> Result<(), Flow> {
        let position = self.lanes[direction].position(index);
        if let State::Open(link, _) = &self.contexts[position]
            && !link.is_alive()
        {
            self.lost(position)?;
        }
        self.inject(direction, position);
        let is_paused = self.lanes[direction].stage(index).is_paused();
        let resumed = self.decided(direction, position)?;
        if is_paused && (resumed || matches!(self.contexts[position], State::Skipped)) {
            self.release(direction, index, position);
        }
        Ok(())
    }

    fn on_headers(&mut self, direction: Direction, index: usize, position: usize) -> Result<(), Flow> {
        let end = self.lanes[direction].ends_with_headers();
        let count = self.stream.lock().fields(direction).map_or(0, Fields::count);
        let action = self.call(direction, position, |link| link.on_headers(direction, count, end))?;
        let mut http = self.stream.lock();
        let resumed = action.is_none() || http.decided(direction, position)?;
        let action = HeadersAction::parse(action.unwrap_or(0), self.chain[position].allow_stop_iteration);
        let headers = match action {
            _ if resumed => Headers::Passed,
            HeadersAction::Continue => Headers::Passed,
            HeadersAction::StopIteration => Headers::Held,
            HeadersAction::StopAll => Headers::HeldWithAll,
        };
        if headers == Headers::Passed {
            http.held(direction, position).go_on();
        }
        drop(http);
        self.lanes[direction].stage_mut(index).headers = headers;
        Ok(())
    }

    fn on_body(&mut self, direction: Direction, index: usize, position: usize) -> Result<(), Flow> {
        let (data, end) = self.lanes[direction].show_body(index);
        let size = {
            let mut http = self.stream.lock();
            if end {
                http.open_trailers(direction);
            }
            let held = http.held(direction, position);
            held.body.append(data);
            held.visible = true;
            u32::try_from(held.body.len()).unwrap_or(u32::MAX)
        };
        let Some(action) = self.call(direction, position, |link| link.on_body(direction, size, end))? else {
            self.release(direction, index, position);
            return Ok(());
        };
        let mut http = self.stream.lock();
        let resumed = http.decided(direction, position)?;
        let held = http.held(direction, position);
        let action = if resumed { BodyAction::Continue } else { BodyAction::parse(action) };
        if action == BodyAction::NoBuffer {
            held.body.take();
        }
        if action == BodyAction::Buffer && held.body.len() > held.limit {
            let (limit, name) = (held.limit, &self.chain[position].plugin.identity.name);
            let id = http.facts.request_id();
            log::debug!("filter={name} request={id} holds more of a body than limits.buffer permits, {limit} bytes");
            let reply = too_large(direction);
            http.details = Some(reply.details.clone());
            return Err(Flow::Reply(reply));
        }
        let body = match action {
            BodyAction::Watermark => held.body.take(),
            BodyAction::Continue | BodyAction::Buffer | BodyAction::NoBuffer => Buffer::default(),
        };
        drop(http);
        if action == BodyAction::Continue {
            self.release(direction, index, position);
        } else {
            self.lanes[direction].keep(index, body);
            self.lanes[direction].stage_mut(index).pause = Pause::Body;
        }
        Ok(())
    }

    fn on_trailers(&mut self, direction: Direction, index: usize, position: usize) -> Result<(), Flow> {
        self.lanes[direction].stage_mut(index).told = true;
        let count = {
            let mut http = self.stream.lock();
            http.open_trailers(direction);
            http.trailers(direction).map_or(0, |trailers| u32::try_from(trailers.len()).unwrap_or(u32::MAX))
        };
        let action = self.call(direction, position, |link| link.on_trailers(direction, count))?.unwrap_or(0);
        let resumed = self.decided(direction, position)?;
        if action == 0 || resumed {
            self.release(direction, index, position);
        } else {
            self.lanes[direction].stage_mut(index).pause = Pause::Trailers;
        }
        Ok(())
    }

    /// What the filter holds goes on to the next.
    fn release(&mut self, direction: Direction, index: usize, position: usize) {
        let mut http = self.stream.lock();
        let body = http.let_go(direction, position);
        // A filter may have added some where there were none.
        let trailers = http.trailers(direction).is_some_and(|trailers| !trailers.is_empty());
        drop(http);
        self.lanes[direction].release(index, body, trailers);
    }

    /// Calls a filter back; none when it is to be skipped. What it has decided beside its answer is [`Filters::decided`].
    fn call(
        &mut self,
        direction: Direction,
        position: usize,
        callback: impl FnOnce(&Link) -> Result<u32, Lost>,
    ) -> Result<Option<u32>, Flow> {
        if let State::Unopened = self.contexts[position] {
            if self.lanes.response.has_begun() {
                // The request has not come to it: as in Envoy, it learns of this one at its end.
                return Ok(None);
            }
            self.open(position)?;
        }
        let State::Open(link, _) = &self.contexts[position] else { return Ok(None) };
        match callback(link) {
            Ok(action) => {
                self.inject(direction, position);
                Ok(Some(action))
            }
            Err(Lost) => {
                self.lost(position)?;
                // It may be skipped, but what it has decided before it failed counts.
                self.decided(direction, position).map(|_| None)
            }
        }
    }

    /// What the filter has put on the way of the response by itself.
    fn inject(&mut self, direction: Direction, position: usize) {
        if direction == Direction::Request {
            return;
        }
        let index = self.lanes.response.position(position);
        if self.lanes.response.stage(index).headers == Headers::Ahead {
            // Until the filter has seen them.
            return;
        }
        let mut http = self.stream.lock();
        let held = http.held(Direction::Response, position);
        if held.injected.is_empty() && !held.injects_end {
            return;
        }
        let (body, end) = (held.injected.take(), std::mem::take(&mut held.injects_end));
        if !body.is_empty() && self.lanes.response.waits_behind(index) + body.len() > held.limit {
            http.fail("more waits that a filter has sent on by itself than limits.buffer permits".to_owned());
            return;
        }
        drop(http);
        self.lanes.response.inject(index, body, end);
    }

    fn open(&mut self, position: usize) -> Result<(), Flow> {
        let Filter { plugin, failure_policy, .. } = &self.chain[position];
        let beside = || {
            let mut others = self.chain.iter().zip(&self.contexts);
            others.find_map(|(other, state)| match state {
                State::Open(link, _) if Arc::ptr_eq(&other.plugin.group, &plugin.group) && link.is_alive() => {
                    Some(link)
                }
                _ => None,
            })
        };
        match plugin.group.open(plugin, *failure_policy, &self.stream, position, beside) {
            Ok(link) => {
                // What it decides now counts after the callback that it is opened for.
                self.contexts[position] = State::Open(link, plugin.identity.metrics.stream());
                Ok(())
            }
            Err(Lost) => self.lost(position),
        }
    }

    /// What was decided beside the answer to a callback: whether the filter goes on all the same. The error is what the
    /// stream does instead of going on.
    fn decided(&self, direction: Direction, position: usize) -> Result<bool, Flow> {
        self.stream.lock().decided(direction, position)
    }

    /// The filter has failed: it is skipped, if its policy says so, else the stream ends.
    fn lost(&mut self, position: usize) -> Result<(), Flow> {
        let may_be_skipped = self.chain[position].failure_policy == FailurePolicy::Open;
        let left = if may_be_skipped { State::Skipped } else { State::Ended };
        if let State::Open(link, _) = std::mem::replace(&mut self.contexts[position], left) {
            // Its VM may well live: it has paused the stream for too long.
            link.on_end();
            link.delete();
        }
        if may_be_skipped {
            return Ok(());
        }
        let mut http = self.stream.lock();
        // Its own answer, if it had one, is not what the client gets.
        (http.reply, http.failure) = (None, None);
        let reply = http.failed(StatusCode::SERVICE_UNAVAILABLE, String::new());
        http.details = Some(reply.details.clone());
        Err(Flow::Reply(reply))
    }

    /// The stream has ended: done and log for each filter, also those that the request has not come to, and then delete.
    /// Once.
    pub fn end(&mut self) {
        {
            let mut http = self.stream.lock();
            http.request.open = Default::default();
            http.response.open = Default::default();
            http.closed = true;
        }
        for position in 0..self.contexts.len() {
            if let State::Unopened = self.contexts[position] {
                // Whatever it decides, or fails at, there is nothing left that could end.
                let _ = self.open(position);
            }
            if let State::Open(link, _) = &self.contexts[position] {
                link.on_end();
            }
        }
        for state in &mut self.contexts {
            if let State::Open(link, _) = std::mem::replace(state, State::Ended) {
                link.delete();
            }
        }
    }
}

/// As Envoy answers when a filter holds more of a message than it may.
fn too_large(direction: Direction) -> Box<LocalReply> {
    let (status, details, body) = match direction {
        Direction::Request => (StatusCode::PAYLOAD_TOO_LARGE, "request_payload_too_large", "Payload Too Large"),
        Direction::Response => {
            (StatusCode::INTERNAL_SERVER_ERROR, "response_payload_too_large", "Internal Server Error")
        }
    };
    let body = Bytes::from_static(body.as_bytes());
    Box::new(LocalReply { status, headers: Vec::new(), body, details: details.to_owned() })
}

impl Http {
    /// [`Filters::decided`].
    fn decided(&mut self, direction: Direction, position: usize) -> Result<bool, Flow> {
        if self.closed {
            // A response that has come already says enough.
            if self.response.header.as_ref().is_none() {
                self.details.get_or_insert_with(|| "wasm_close_stream".to_owned());
            }
            return Err(Flow::Reset);
        }
        let failure = self.failure.take();
        if let Some(reply) = self.reply.take().or(failure) {
            self.details = Some(reply.details.clone());
            return Err(Flow::Reply(reply));
        }
        Ok(std::mem::take(&mut self.held(direction, position).resume))
    }

    /// What a filter has been shown of a body: it holds that no more.
    fn let_go(&mut self, direction: Direction, position: usize) -> Buffer {
        let held = self.held(direction, position);
        held.visible = false;
        held.go_on();
        held.body.take()
    }
}

impl Drop for Filters {
    fn drop(&mut self) {
        self.end();
    }
}
