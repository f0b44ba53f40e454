//! The proxy itself: what happens to a request on its way. The hooks, in their order; what a step does is in the file of its
//! name.

mod activity;
mod body;
mod context;
mod decorate;
mod error;
mod filter;
mod framing;
mod generation;
mod replay;
mod respond;
mod run;
mod stream;
mod target;
pub mod upstream;

pub use activity::watched;
pub use generation::Generation;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::{StatusCode, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::prelude::{HttpPeer, Session};
use pingora::protocols::Digest;
use pingora::upstreams::peer::ALPN;
use pingora_proxy::{FailToProxy, ProxyHttp};
use tokio::sync::Semaphore;

use self::context::{Context, Route};
use self::filter::Filtering;
use self::run::{Outcome, Subject};
use self::upstream::Upstream;
use crate::config::{self, Handler};
use crate::exchange::Reply;
use crate::facts::{self, Connection, Origin, UpstreamFacts, View};
use crate::headers::{is_padded, lists};
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::Metrics;
use crate::path;
use crate::phase::Phase;
use crate::snapshot::RouteId;
use crate::wasm::Flow;

/// What all listeners share.
pub struct Shared {
    /// What new requests are served from.
    pub current: ArcSwap<Generation>,
    pub access_log: Option<AccessLog>,
    pub metrics: Arc<Metrics>,
    /// Whether requests are wanted: until the process shuts down.
    pub ready: Arc<AtomicBool>,
    /// For chains that go on without their request.
    pub left_behind: Arc<Semaphore>,
}

/// Chains of `wasm_access_log` that go on at once without their request.
pub const MOST_LEFT_BEHIND: usize = 1000;

/// Attempts beyond one for each server, when connections end with a request or servers refuse it.
const MORE_ATTEMPTS: usize = 2;

/// The proxy behind one listener.
pub struct Gateway {
    shared: Arc<Shared>,
    listener: usize,
}

impl Gateway {
    /// The listener is a position in [`Config::listeners`](crate::config::Config::listeners).
    pub fn new(shared: Arc<Shared>, listener: usize) -> Gateway {
        Gateway { shared, listener }
    }

    /// The route of a request. The error is that its upstream may take the path for that of another local, whose checks it
    /// would dodge.
    fn route(&self, session: &Session, generation: Arc<Generation>) -> pingora::Result<Route> {
        let request = session.req_header();
        let server = generation.router(self.listener).server(|| facts::domain(request));
        let path = request.uri.path();
        let normal = path::normal(path);
        let id = generation.snapshot.route(server, &normal);
        if matches!(normal, Cow::Owned(_)) && generation.snapshot.may_dodge(id, path) {
            return Err(error::status(400, "the path can also be read as that of another local"));
        }
        Ok(Route { generation, id })
    }

    /// What a request is answered from that is refused: as one that nothing matches, from the chains of its server.
    fn no_route(&self, session: &Session) -> Route {
        let generation = self.shared.current.load_full();
        let server = generation.router(self.listener).server(|| facts::domain(session.req_header()));
        Route { generation, id: RouteId::of_server(server) }
    }

    /// A connection whose response begins while the process shuts down ends with it: the client is told so, and sends its next
    /// request elsewhere.
    fn take_leave(&self, session: &mut Session, ctx: &Context) {
        if !self.shared.ready.load(Ordering::Relaxed) {
            ctx.end_connection(session);
        }
    }

    /// Answers a request that needs no upstream.
    async fn answer(&self, session: &mut Session, ctx: &mut Context) -> pingora::Result<()> {
        ctx.facts.origin = Some(Origin::Route);
        let reply = match ctx.local().and_then(|local| local.handler.as_ref()) {
            Some(Handler::Respond(respond)) => respond::fixed(respond),
            Some(Handler::Echo) => self.echo(session, ctx).await,
            Some(Handler::ProxyPass(_)) | None => {
                ctx.facts.origin = Some(Origin::NoRoute);
                Reply::of_status(StatusCode::NOT_FOUND)
            }
        };
        self.respond(session, ctx, reply).await
    }

    /// The upstream that a plugin chose, else that of the route.
    fn upstream(ctx: &Context) -> Option<&Arc<Upstream>> {
        let upstreams = &ctx.route.as_ref()?.generation.upstreams;
        if let Some(name) = &ctx.upstream {
            return upstreams.iter().find(|upstream| **upstream.name() == **name);
        }
        match ctx.local()?.handler.as_ref()? {
            Handler::ProxyPass(index) => upstreams.get(*index),
            _ => None,
        }
    }

    /// Writes the access log, and counts the request.
    fn account(&self, session: &Session, ctx: &Context) {
        self.shared.metrics.request_ended(ctx.facts.status);
        let Some(log) = &self.shared.access_log else { return };
        let current;
        let generation = match &ctx.route {
            Some(route) => &route.generation,
            None => {
                current = self.shared.current.load_full();
                &current
            }
        };
        if let Some(config::AccessLog { format, .. }) = &generation.config.access_log {
            let view = View { request: session.req_header(), response: final_response(session), facts: &ctx.facts };
            log.write(view.render_line(format));
        }
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    /// Boxed: Pingora moves it through futures that it copies for every request.
    type CTX = Box<Context>;

    fn new_ctx(&self) -> Box<Context> {
        Box::new(Context::new(self.shared.metrics.request_in_flight()))
    }

    /// None: Pingora's own module, compression, would be asked at every step of a request and do nothing.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    /// `wasm_access`, `wasm_serverless`, `proxy_wasm`, and the handlers that need no upstream.
    async fn request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> pingora::Result<bool> {
        let generation = self.shared.current.load_full();
        ctx.arrive(session, &generation.config.trusted_proxies);
        if session.req_header().version < Version::HTTP_11 {
            // Such a client knows no interim responses (RFC 9110, section 15.2).
            session.set_ignore_info_resp(true);
        }
        session.set_write_timeout(Some(generation.config.client_timeout));
        // The next request, if it comes before the response, is kept (RFC 9112, section 9.3.2).
        session.set_pipelining_enabled(true);
        let settled = target::settle(session.req_header_mut()).map_err(|wrong| error::status(400, wrong));
        if let Ok(true) = settled {
            session.set_keepalive(None);
        }
        let routed = settled.and_then(|_| self.route(session, generation));
        ctx.route = match routed {
            Ok(route) => Some(route),
            Err(refusal) => {
                ctx.route = Some(self.no_route(session));
                return Err(refusal);
            }
        };
        for phase in [Phase::Access, Phase::Serverless] {
            match self.run(phase, session, ctx, Subject::Request).await {
                Outcome::Continue => {}
                Outcome::Reply(reply) => {
                    self.respond(session, ctx, *reply).await?;
                    return Ok(true);
                }
                Outcome::Replied => return Ok(true),
                Outcome::Cut => return Err(error::cut()),
            }
        }
        ctx.body.verify()?;
        if ctx.has_filters() {
            match Box::pin(self.filter_request(session, ctx)).await? {
                Flow::On => {}
                Flow::Reply(reply) => {
                    self.respond_as(session, ctx, reply.into()).await?;
                    return Ok(true);
                }
                Flow::Reset => return Err(error::cut()),
            }
        }
        if !matches!(ctx.local().and_then(|local| local.handler.as_ref()), Some(Handler::ProxyPass(_))) {
            Box::pin(self.answer(session, ctx)).await?;
            return Ok(true);
        }
        ctx.body.give_back(session);
        Ok(false)
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Self::CTX) -> pingora::Result<Box<HttpPeer>> {
        let Some(upstream) = Self::upstream(ctx) else { return Err(error::status(500, "no upstream")) };
        let key = upstream
            .hash_key()
            .map(|key| View { request: session.req_header(), response: None, facts: &ctx.facts }.render(key));
        let wanted = ctx.server.and_then(|addr| upstream.select_server(addr, &ctx.failed_servers));
        let select = || upstream.select(key.as_deref().unwrap_or_default().as_bytes(), &ctx.failed_servers);
        let Some(selected) = wanted.or_else(select) else { return Err(error::no_server()) };
        let mut peer = upstream.peer(&selected);
        if upstream.tls() && session.is_upgrade_req() {
            // A WebSocket begins in HTTP/1.1.
            peer.options.alpn = ALPN::H1;
        }
        if !session.is_body_empty() {
            // A header by itself does not wait for a server that takes nothing: the socket's buffer takes it.
            peer.options.write_timeout = Some(upstream.timeouts().silence);
        }
        ctx.facts.upstream = Some(UpstreamFacts {
            name: upstream.name().clone(),
            host: selected.host.clone(),
            addr: selected.addr,
            balancer: upstream.balancer(),
            tls: upstream.tls(),
            asked: quanta::Instant::now(),
            connect_time: None,
            version: None,
            connection: None,
            sent: None,
            latency: None,
        });
        ctx.facts.attempts += 1;
        ctx.selected = Some(selected);
        Ok(peer)
    }

    /// Nothing has been sent yet, so another server of the upstream may have the request.
    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Self::CTX,
        mut failure: Box<pingora::Error>,
    ) -> Box<pingora::Error> {
        ctx.failed_servers.extend(ctx.selected.as_ref().map(|selected| selected.addr));
        let others = Self::upstream(ctx).is_some_and(|upstream| upstream.has_other(&ctx.failed_servers));
        failure.set_retry(others);
        failure
    }

    /// As Pingora does by itself, but a few times only: an upstream that refuses requests has too many of them.
    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        failure: Box<pingora::Error>,
        ctx: &mut Self::CTX,
        client_reused: bool,
    ) -> Box<pingora::Error> {
        let mut failure = failure.more_context(format!("Peer: {peer}"));
        let servers = Self::upstream(ctx).map_or(0, |upstream| upstream.size());
        let is_last = ctx.facts.attempts as usize > servers + MORE_ATTEMPTS;
        let can_repeat = session.req_header().method.is_idempotent() && !session.as_ref().retry_buffer_truncated();
        let is_unanswered = ctx.facts.upstream.as_ref().is_some_and(|upstream| upstream.version.is_none());
        let is_held = || ctx.filtering.as_ref().is_some_and(Filtering::holds_request);
        if error::is_silence(&failure) && is_unanswered && is_sending(session) && !is_held() {
            failure.as_down();
        }
        if client_reused && is_unanswered && error::is_unsent(&failure) {
            // Pingora asks for that only where it finds out in reading.
            failure.set_retry(true);
        }
        if can_repeat && !is_last {
            failure.retry.decide_reuse(client_reused);
        } else {
            failure.set_retry(false);
        }
        failure
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        digest: Option<&Digest>,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        if let Some(upstream) = &mut ctx.facts.upstream {
            upstream.connect_time = Some(if reused { Duration::ZERO } else { upstream.asked.elapsed() });
            if ctx.filtering.is_some() {
                upstream.connection = digest.map(Connection::of);
            }
        }
        ctx.body_sent = Some(0);
        Ok(())
    }

    /// An HTTP/2 client may end its body with an empty frame. Pingora would write that to an HTTP/1.1 upstream as a chunk of
    /// no bytes, which ends the body, and then end the body once more: the upstream would take that for a request.
    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        if let (Some(body), Some(sent)) = (&body, &mut ctx.body_sent) {
            *sent += body.len() as u64;
        }
        if end_of_stream && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        Ok(())
    }

    /// `wasm_http_in_headers`, on the header that goes to this upstream: once for every attempt.
    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        // A client of HTTP/1.0 need not name one.
        name_host(request, ctx)?;
        if request.version == Version::HTTP_2 && asks_for_trailers(session.req_header()) {
            // Servers of gRPC want to be told. Pingora takes it for the client's connection where filters see the bodies.
            request.insert_header(header::TE, "trailers")?;
        }
        let outcome = self.run(Phase::HttpInHeaders, session, ctx, Subject::UpstreamRequest(request)).await;
        ctx.body.verify()?;
        ctx.body.give_back(session);
        ctx.body.seal();
        if let (Some(_), Some(upstream)) = (&ctx.filtering, &mut ctx.facts.upstream) {
            upstream.sent = Some(quanta::Instant::now());
        }
        outcome.only_continue()?;
        if request.version == Version::HTTP_2 && session.req_header().version == Version::HTTP_11 {
            // Pingora does not pass on what an upstream of HTTP/2 says before its response.
            ctx.body.freeze(session);
            ctx.body.invite(session).await.map_err(|error| error.into_down())?;
        }
        if ctx.body.continued() || request.version == Version::HTTP_2 {
            request.remove_header(&header::EXPECT);
        }
        if ctx.chain(Phase::HttpInHeaders).is_some() {
            // A plugin may have removed it.
            name_host(request, ctx)?;
        }
        Ok(())
    }

    /// `wasm_http_filter_headers_pre`.
    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        if let Some(upstream) = &mut ctx.facts.upstream {
            upstream.version = Some(response.version);
            upstream.latency = upstream.latency.or(upstream.sent.map(|sent| sent.elapsed()));
        }
        if response.version < Version::HTTP_11 {
            // The version is that of who sends it (RFC 9110, section 2.5): the client gets chunks, if it knows them.
            response.set_version(Version::HTTP_11);
        }
        if response.version == Version::HTTP_2 && response.headers.values().any(is_padded) {
            return Err(error::padded());
        }
        if is_interim(response.status) {
            framing::end_interim(response);
            return Ok(());
        }
        if response.status == StatusCode::SWITCHING_PROTOCOLS && !is_upgrade(session.req_header(), response) {
            return Err(error::unasked_upgrade());
        }
        if response.status != StatusCode::SWITCHING_PROTOCOLS && !framing::is_plain(response) {
            framing::check(response)?;
            framing::end_connection(response);
        }
        self.run(Phase::HttpFilterHeadersPre, session, ctx, Subject::Response(response)).await.only_continue()
    }

    /// Pingora says only here whether a body follows the header.
    async fn adjust_upstream_modules(
        &self,
        _session: &mut Session,
        _response: &ResponseHeader,
        end: bool,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        ctx.header_only = end;
        Ok(())
    }

    /// `proxy_wasm`, `wasm_http_filter_headers`.
    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        if is_interim(response.status) {
            return Ok(());
        }
        if session.req_header().version == Version::HTTP_10
            && response.remove_header(&header::TRANSFER_ENCODING).is_some()
        {
            // Such a client knows no chunks: the end of the connection ends the body (RFC 9112, sections 6.1 and 6.3).
            ctx.end_connection(session);
        }
        if ctx.filtering.is_some() {
            Box::pin(self.filter_upstream_response(session, ctx, response)).await?;
        }
        ctx.filtered = true;
        self.run(Phase::HttpFilterHeaders, session, ctx, Subject::Response(response)).await.only_continue()?;
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        self.take_leave(session, ctx);
        if ctx.filtering.is_some() && !framing::is_plain(response) {
            // Filters may set any header.
            framing::end_connection(response);
        }
        framing::frame(session, response, ctx)
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<Option<Duration>> {
        if ctx.drops_body {
            *body = None;
        }
        Ok(None)
    }

    async fn fail_to_proxy(&self, session: &mut Session, failure: &pingora::Error, ctx: &mut Self::CTX) -> FailToProxy {
        ctx.facts.timed_out |= error::is_timeout(failure);
        let code = error::status_of(failure);
        let written = final_response(session).is_some();
        ctx.facts.origin = error::origin(failure, written).or(ctx.facts.origin);
        if let Some(reply) = ctx.filtering.as_ref().and_then(Filtering::take_reply).filter(|_| !written) {
            ctx.end_connection(session);
            if let Err(error) = self.respond_as(session, ctx, reply.into()).await {
                log::debug!("the response of a filter could not be sent: {error}");
            }
        } else if code > 0 && !written {
            // Whatever went wrong, the connection is not worth keeping.
            ctx.end_connection(session);
            let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            if let Err(error) = self.respond(session, ctx, Reply::of_status(status)).await {
                log::debug!("the error response could not be sent: {error}");
            }
        }
        FailToProxy { error_code: code, can_reuse_downstream: false }
    }

    /// `wasm_access_log`, the access log, metrics.
    async fn logging(&self, session: &mut Session, failure: Option<&pingora::Error>, ctx: &mut Self::CTX) {
        ctx.body.recover(session);
        ctx.depart(session);
        self.end_filters(session, ctx);
        self.run_at_the_end(session, ctx).await;
        self.account(session, ctx);
        let closes = failure.is_some() || session.as_http1().is_some_and(|client| !client.will_keepalive());
        if closes && final_response(session).is_some() && is_sending(session) && !session.was_upgraded() {
            // Pingora closes the connection now, and with it the response could be lost.
            Box::pin(stream::linger(session)).await;
        }
    }

    fn suppress_error_log(&self, session: &Session, _ctx: &Self::CTX, failure: &pingora::Error) -> bool {
        if error::is_logged(failure) {
            // Where it happened there was more to say.
            return true;
        }
        if let pingora::ErrorType::HTTPStatus(400) = failure.etype() {
            log::info!("a request was refused: {failure}");
            return true;
        }
        if error::is_client_gone(failure) {
            log::info!("the client has gone: {failure}");
            return true;
        }
        if let Some(without) = error::without_message(failure) {
            log::error!("Fail to proxy: {without}, {}", session.request_summary());
            return true;
        }
        false
    }
}

/// Whether a client of HTTP/1.1, which sends its request before it gets the response, is still to send some of the body.
fn is_sending(session: &mut Session) -> bool {
    session.req_header().version < Version::HTTP_2 && !session.as_mut().is_body_done()
}

/// A request without a host names that of the server's address.
fn name_host(request: &mut RequestHeader, ctx: &Context) -> pingora::Result<()> {
    if request.headers.contains_key(header::HOST) {
        return Ok(());
    }
    let host = ctx.facts.upstream.as_ref().map(|upstream| upstream.host.clone());
    host.map_or(Ok(()), |host| request.insert_header(header::HOST, &*host))
}

/// The response that the client has, at least in part.
fn final_response(session: &Session) -> Option<&ResponseHeader> {
    session.response_written().filter(|response| !is_interim(response.status))
}

/// Whether the upstream switches to the protocol that was asked for: Pingora lets no other request pass than for WebSocket.
fn is_upgrade(request: &RequestHeader, response: &ResponseHeader) -> bool {
    let names = |headers| lists(headers, &header::UPGRADE, "websocket");
    request.version == Version::HTTP_11 && names(&request.headers) && names(&response.headers)
}

fn asks_for_trailers(request: &RequestHeader) -> bool {
    request.headers.get(header::TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"))
}

/// Whether another response follows. After 101, none does (RFC 9110, section 15.2.2).
fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}
