//! Proxy-Wasm filters on a request: headers in the hooks, bodies on a session that passes them through the filters.

mod session;

use std::sync::Arc;
use std::time::Duration;

use http::{Method, header};
use parking_lot::Mutex;
use pingora::http::ResponseHeader;
use pingora::prelude::Session;

use self::session::FilteredSession;
use super::Gateway;
use super::context::Context;
use super::decorate::{self, Slot};
use super::error;
use super::framing::{frame_anew, is_framed};
use super::target::join_lines;
use crate::exchange::{Reply, plain_copy};
use crate::facts::{Connection, Origin, Way};
use crate::headers::{ONE_LINE_OF_RESPONSES, has_body, is_of_connection, joined_lines};
use crate::wasm::{Direction, Filters, Flow, LocalReply, Stream};

/// The filters of a request, and what they have come to.
pub struct Filtering {
    state: Arc<Mutex<State>>,
    /// Where the client's session comes back from, when bodies pass the filters.
    slot: Option<Slot>,
}

/// What hooks and the session share. They run on one task: nobody waits for the lock.
struct State {
    filters: Filters,
    /// What the client gets instead of what was on its way.
    reply: Option<Box<LocalReply>>,
    /// Whether a response header has come to the filters.
    response: Response,
    /// Whether a hook waits for the filters: then the session does not.
    hook_waits: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Response {
    Ahead,
    /// Its header has passed the filters, or they hold it.
    Begun,
    /// It is not for the filters: their own answer to it.
    Past,
}

impl Gateway {
    /// `proxy_wasm`: the header of the request passes the filters of its route, which may wait.
    pub(super) async fn filter_request(&self, session: &mut Session, ctx: &mut Context) -> pingora::Result<Flow> {
        let Some(chain) = ctx.local().and_then(|local| local.filters.clone()) else { return Ok(Flow::On) };
        ctx.body.freeze(session);
        let end = ctx.body.is_over(session);
        // Scripts may have added some.
        join_lines(session.req_header_mut());
        let way_here = way(session, ctx);
        let mut filters = Filters::new(chain, session.req_header_mut(), ctx.facts.clone(), way_here);
        let flow = match filters.request_headers(end) {
            // Boxed: few requests wait here.
            Flow::On if !filters.headers_passed(Direction::Request) => {
                Box::pin(self.request_headers_passed(session, ctx, &mut filters)).await
            }
            flow => Ok(flow),
        };
        let (early, over) = ctx.body.hand_over();
        let flow = match flow {
            Ok(Flow::On) if !early.is_empty() => Ok(filters.body(Direction::Request, early, over)),
            flow => flow,
        };
        filters.close_request();
        filters.return_request(session.req_header_mut());
        let moved = filters.request_moved();
        {
            let http = filters.stream().lock();
            if let Some(name) = &http.upstream {
                ctx.upstream = Some(name.clone());
            }
            ctx.server = http.upstream_server;
        }
        let stream = filters.stream().clone();
        let filtering = Filtering::new(filters);
        let state = filtering.state.clone();
        ctx.filtering = Some(filtering);
        let flow = flow?;
        if let Some(filtering) = &mut ctx.filtering {
            filtering.slot = Some(decorate::install(session, FilteredSession::new(state, over, end)));
        }
        if flow == Flow::On {
            if moved {
                self.reroute(session, ctx)?;
            }
            if moved || ctx.upstream.is_some() {
                stream.lock().way = way(session, ctx);
            }
        }
        Ok(flow)
    }

    /// Waits until the header has passed all filters, or something else is to happen. What the client sends meanwhile is
    /// taken, as far as filters may hold it: that shows whether the client is still there.
    async fn request_headers_passed(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        filters: &mut Filters,
    ) -> pingora::Result<Flow> {
        let stream = filters.stream().clone();
        let mut over = ctx.body.is_over(session);
        let mut timer = PauseTimer::default();
        let mut flow = Flow::On;
        while flow == Flow::On && !filters.headers_passed(Direction::Request) {
            let reads = !over
                && !filters.is_full(Direction::Request)
                && (filters.holds_headers_alone(Direction::Request) || !ctx.body.waits_for_invitation());
            let paused = timer.left(filters.paused(Direction::Request));
            flow = tokio::select! {
                biased;
                () = stream.woken() => filters.run(Direction::Request),
                () = expiry(paused) => filters.give_up(Direction::Request),
                chunk = ctx.body.next_or_gone(session, over), if reads || over => {
                    let chunk = chunk.map_err(|error| error.into_down())?;
                    over |= chunk.is_none() || ctx.body.is_over(session);
                    filters.body(Direction::Request, chunk.unwrap_or_default(), over)
                }
            };
        }
        Ok(flow)
    }

    /// A filter has changed host or path: the request goes on by the route that it has now.
    fn reroute(&self, session: &Session, ctx: &mut Context) -> pingora::Result<()> {
        if let Some(route) = &ctx.route {
            let generation = route.generation.clone();
            ctx.route = Some(self.route(session, generation)?);
        }
        Ok(())
    }

    /// `proxy_wasm`: the header of a response passes the filters, which may wait.
    pub(super) async fn filter_response(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        response: &mut ResponseHeader,
        end: bool,
    ) -> Flow {
        let Some(filtering) = &ctx.filtering else { return Flow::On };
        let state = filtering.state.clone();
        let stream = {
            let mut state = state.lock();
            if state.response != Response::Ahead {
                // Another is sent in its place: the filters have seen theirs.
                state.response = Response::Past;
                return Flow::On;
            }
            state.response = Response::Begun;
            ctx.measure(session);
            let stream = state.filters.stream().clone();
            stream.lock().facts.clone_from(&ctx.facts);
            stream
        };
        for (name, line) in joined_lines(&response.headers, &ONE_LINE_OF_RESPONSES) {
            // Fewer than there were.
            let _ = response.insert_header(name, line);
        }
        let framed = is_framed(response);
        let mut flow = {
            let filters = &mut state.lock().filters;
            filters.lend_request(session.req_header_mut());
            filters.response_headers(response, end)
        };
        if flow == Flow::On && state.lock().holds_response() {
            // Boxed: few responses wait here.
            flow = Box::pin(response_headers_passed(session, ctx, &state, &stream)).await;
        }
        let mut state = state.lock();
        state.filters.return_request(session.req_header_mut());
        state.filters.return_response(response);
        if framed && !is_framed(response) && !end {
            frame_anew(session, ctx, response);
        }
        if flow != Flow::On {
            // Whatever they say to a response of their own, it is not asked about again.
            state.response = Response::Past;
        }
        flow
    }

    /// [`Gateway::filter_response`] on the header of the upstream's response. Another response that the filters want instead
    /// is sent here, and the upstream's is given up.
    pub(super) async fn filter_upstream_response(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        response: &mut ResponseHeader,
    ) -> pingora::Result<()> {
        ctx.facts.origin = Some(Origin::Upstream);
        let head = session.req_header().method == Method::HEAD;
        let end = ctx.header_only || head || !has_body(response.status);
        match self.filter_response(session, ctx, response, end).await {
            Flow::On => Ok(()),
            Flow::Reply(reply) => {
                ctx.end_connection(session);
                self.respond_as(session, ctx, reply.into()).await?;
                Err(error::cut())
            }
            Flow::Reset => Err(error::cut()),
        }
    }

    /// The request has ended: its filters are told, and the client's own session is put back.
    pub(super) fn end_filters(&self, session: &mut Session, ctx: &mut Context) {
        let Some(Filtering { state, slot }) = ctx.filtering.take() else { return };
        if let Some(slot) = slot {
            decorate::remove(session, &slot);
        }
        ctx.facts.duration = Some(ctx.facts.started.elapsed());
        let mut state = state.lock();
        ctx.facts.timed_out |= state.filters.have_timed_out();
        let replaced = state.response == Response::Past;
        let stream = state.filters.stream().clone();
        {
            let mut http = stream.lock();
            std::mem::swap(&mut http.facts, &mut ctx.facts);
            // What the client got, where it was not what the filters saw.
            if let Some(written) =
                session.response_written().filter(|_| replaced || http.response.header.as_ref().is_none())
            {
                http.response.header.keep_copy(plain_copy(written));
            }
            // How the body was framed is none of theirs any more.
            if let Some(header) = http.response.header.as_mut() {
                header.remove_header(&header::TRANSFER_ENCODING);
            }
        }
        state.filters.lend_request(session.req_header_mut());
        state.filters.end();
        state.filters.return_request(session.req_header_mut());
        std::mem::swap(&mut stream.lock().facts, &mut ctx.facts);
    }
}

impl Filtering {
    fn new(filters: Filters) -> Filtering {
        let state = State { filters, reply: None, response: Response::Ahead, hook_waits: false };
        Filtering { state: Arc::new(Mutex::new(state)), slot: None }
    }

    /// What a filter has answered while the body was on its way.
    pub fn take_reply(&self) -> Option<Box<LocalReply>> {
        self.state.lock().reply.take()
    }

    /// Whether a filter holds up the request.
    pub fn holds_request(&self) -> bool {
        self.state.lock().filters.paused(Direction::Request).is_some()
    }

    /// There when bodies pass the filters.
    pub fn slot(&self) -> Option<&Slot> {
        self.slot.as_ref()
    }

    /// Lets a response pass by the filters.
    pub fn bypass(&self) {
        self.state.lock().response = Response::Past;
    }
}

impl From<Box<LocalReply>> for Reply {
    fn from(reply: Box<LocalReply>) -> Reply {
        let LocalReply { status, headers, body, details: _ } = *reply;
        let mut reply = Reply { status, headers, body, length: None };
        reply.headers.retain(|(name, _)| *name != header::CONTENT_LENGTH && !is_of_connection(name));
        reply
    }
}

impl State {
    /// Whether the header of the response waits for a filter, and all that follows it.
    fn holds_response(&self) -> bool {
        let filters = &self.filters;
        let waits_for_body = filters.holds_headers_alone(Direction::Response) && !filters.response_ended_with_headers();
        !filters.headers_passed(Direction::Response) && !waits_for_body
    }
}

/// Waits until the header of the response has passed all filters, or something else is to happen.
async fn response_headers_passed(
    session: &mut Session,
    ctx: &mut Context,
    state: &Mutex<State>,
    stream: &Stream,
) -> Flow {
    let mut flow = Flow::On;
    let mut timer = PauseTimer::default();
    state.lock().hook_waits = true;
    while flow == Flow::On {
        let paused = {
            let state = state.lock();
            if !state.holds_response() {
                break;
            }
            timer.left(state.filters.paused(Direction::Response))
        };
        let over = session.is_body_done();
        flow = tokio::select! {
            biased;
            () = stream.woken() => state.lock().filters.run(Direction::Response),
            gone = session.downstream_session.read_body_or_idle(true), if over => {
                if let Err(gone) = gone {
                    ctx.facts.origin = error::origin(&gone.into_down(), true);
                }
                Flow::Reset
            }
            () = expiry(paused) => state.lock().filters.give_up(Direction::Response),
        };
    }
    state.lock().hook_waits = false;
    // What has woken this may be for the request, whose turn comes now.
    stream.wake();
    flow
}

/// Measures how long a stream has been paused by one filter.
#[derive(Default)]
struct PauseTimer(Option<(usize, tokio::time::Instant)>);

impl PauseTimer {
    /// What is left of the longest pause of the filter at this position; none: nothing is paused.
    fn left(&mut self, paused: Option<(usize, Duration)>) -> Option<Duration> {
        let Some((position, longest)) = paused else {
            self.0 = None;
            return None;
        };
        let (_, since) = match self.0 {
            Some(running) if running.0 == position => running,
            _ => *self.0.insert((position, tokio::time::Instant::now())),
        };
        Some(longest.saturating_sub(since.elapsed()))
    }
}

/// Until a pause of which so much is left has lasted too long; for ever where nothing is paused.
async fn expiry(left: Option<Duration>) {
    match left {
        Some(left) => tokio::time::sleep(left).await,
        None => std::future::pending().await,
    }
}

/// How a request has come, and where it goes as things stand.
fn way(session: &Session, ctx: &Context) -> Way {
    Way {
        connection: session.digest().map(Connection::of).unwrap_or_default(),
        route: ctx.local().map(|local| local.names.clone()),
        upstream: Gateway::upstream(ctx).map(|upstream| (upstream.name().clone(), upstream.size())),
    }
}
