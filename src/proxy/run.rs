//! Running the chain of a phase: lend the request to the plugins, act on verdicts and failures, take it back.

use std::future::poll_fn;
use std::mem::swap;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use futures::channel::oneshot;
use http::StatusCode;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::Session;

use super::Gateway;
use super::context::Context;
use crate::config::OnFailure;
use crate::exchange::{Ask, Exchange, Refused, Reply, Shared};
use crate::phase::{End, Phase, Verdict};
use crate::snapshot::{LiveChain, LiveScript};
use crate::wasm::{Failure, FailureKind};

/// What a phase lends to plugins, beside the request header of the client.
pub enum Subject<'a> {
    Request,
    /// The header on its way to the upstream, instead of the client's.
    UpstreamRequest(&'a mut RequestHeader),
    Response(&'a mut ResponseHeader),
    /// The response as it was sent.
    Ended,
}

/// How a chain left the request.
pub enum Outcome {
    Continue,
    /// It ends with this response.
    Reply(Reply),
    /// It has ended: a plugin has sent the response.
    Replied,
}

impl Gateway {
    /// Runs the chain of a phase, if there is one.
    pub(super) async fn run(
        &self,
        phase: Phase,
        session: &mut Session,
        ctx: &mut Context,
        mut subject: Subject<'_>,
    ) -> Outcome {
        let Some(chain) = ctx.local().and_then(|local| local.chain(phase)).cloned() else {
            return Outcome::Continue;
        };
        let started = Instant::now();
        let exchange = ctx.exchange.get_or_insert_with(|| Shared::new(Exchange::new().into())).clone();
        if phase.can_edit_request() {
            ctx.body.freeze(session);
        }
        lend(&exchange, phase, session, ctx, &mut subject);
        let end = self.walk(&chain, phase, &exchange, session, ctx, &mut subject).await;
        take_back(&exchange, session, ctx, &mut subject);
        ctx.facts.work_times[phase as usize] += started.elapsed();

        let mut exchange = exchange.lock();
        if phase.can_end_request() && exchange.replied {
            return Outcome::Replied;
        }
        outcome(phase, end, exchange.reply.take())
    }

    /// Evaluates the chain; how it ends the request, if it does.
    async fn walk(
        &self,
        chain: &LiveChain,
        phase: Phase,
        exchange: &Shared,
        session: &mut Session,
        ctx: &mut Context,
        subject: &mut Subject<'_>,
    ) -> Option<End> {
        let mut walk = chain.walk(phase);
        while let Some(live) = walk.script() {
            live.metrics.runs.inc();
            let result = if live.script.is_synchronous() {
                live.script.run_now(exchange)
            } else {
                // Boxed: it is large, and would be part of the future of every hook.
                Box::pin(self.drive(live, exchange, session, ctx, subject)).await
            };
            match result {
                Ok(verdict) => {
                    if let Verdict::Ext(ext) = verdict {
                        exchange.lock().facts.ext = Some(ext);
                    }
                    let step = walk.apply(verdict);
                    if step.unsupported {
                        unsupported(live, phase, verdict);
                    }
                    if let Some(upstream) = step.upstream {
                        ctx.upstream = Some(upstream.to_owned());
                    }
                    if step.end.is_some() {
                        return step.end;
                    }
                }
                Err(failure) => {
                    failed(live, phase, exchange, &failure);
                    match live.on_failure {
                        OnFailure::Open => walk.skip(),
                        OnFailure::Close => {
                            let instantiate = failure.kind == FailureKind::Instantiate;
                            return Some(End::Status(if instantiate { 503 } else { 500 }));
                        }
                    }
                }
            }
        }
        None
    }

    /// Runs a script that can wait, and meanwhile does what it asks of the connection: the guest asks, the driver does.
    async fn drive(
        &self,
        live: &LiveScript,
        exchange: &Shared,
        session: &mut Session,
        ctx: &mut Context,
        subject: &mut Subject<'_>,
    ) -> Result<Verdict, Failure> {
        enum Event {
            Done(Result<Verdict, Failure>),
            Asked(Ask),
            Read(Result<bytes::Bytes, Refused>),
        }

        let body_limit = ctx.body_limit();
        let mut run = pin!(live.script.run(exchange));
        let mut readers: Vec<oneshot::Sender<_>> = Vec::new();
        loop {
            let next = poll_fn(|cx| match run.as_mut().poll(cx) {
                Poll::Ready(result) => Poll::Ready(Event::Done(result)),
                Poll::Pending => exchange.lock().asks.pop().map_or(Poll::Pending, |ask| Poll::Ready(Event::Asked(ask))),
            });
            let event = if readers.is_empty() {
                next.await
            } else {
                tokio::select! {
                    biased;
                    event = next => event,
                    body = ctx.body.read_whole(session, body_limit) => Event::Read(body),
                }
            };
            match event {
                Event::Done(result) => {
                    exchange.lock().asks.clear();
                    return result;
                }
                Event::Asked(Ask::Body(reader)) => readers.push(reader),
                Event::Asked(Ask::Respond(reply, answer)) => {
                    let sent = self.respond_within(reply, exchange, session, ctx, subject).await;
                    let _ = answer.send(sent);
                }
                Event::Read(body) => {
                    if let Ok(body) = &body {
                        exchange.lock().body = Some(body.clone());
                    }
                    for reader in readers.drain(..) {
                        let _ = reader.send(body.clone());
                    }
                }
            }
        }
    }
}

impl Gateway {
    /// Sends a response while a script of this exchange still runs.
    async fn respond_within(
        &self,
        reply: Reply,
        exchange: &Shared,
        session: &mut Session,
        ctx: &mut Context,
        subject: &mut Subject<'_>,
    ) -> Result<(), Refused> {
        take_back(exchange, session, ctx, subject);
        // The response has a chain of its own to pass, which gets an exchange of its own.
        let running = ctx.exchange.take();
        let sent = self.respond(session, ctx, reply).await;
        ctx.exchange = running;
        let phase = exchange.lock().phase;
        lend(exchange, phase, session, ctx, subject);
        sent.map_err(|error| Refused::Send(error.to_string()))
    }
}

/// Moves what the phase lends into the exchange. Nothing is copied, but for the response in `wasm_access_log`: Pingora
/// keeps that one.
fn lend(exchange: &Shared, phase: Phase, session: &mut Session, ctx: &mut Context, subject: &mut Subject<'_>) {
    let mut exchange = exchange.lock();
    exchange.phase = phase;
    exchange_with(&mut exchange, session, ctx, subject);
    if let Subject::Ended = subject {
        exchange.response = session.response_written().cloned();
    }
}

/// The same moves the other way.
fn take_back(exchange: &Shared, session: &mut Session, ctx: &mut Context, subject: &mut Subject<'_>) {
    let mut exchange = exchange.lock();
    exchange_with(&mut exchange, session, ctx, subject);
    exchange.response = None;
}

fn exchange_with(exchange: &mut Exchange, session: &mut Session, ctx: &mut Context, subject: &mut Subject<'_>) {
    swap(&mut exchange.facts, &mut ctx.facts);
    match subject {
        Subject::UpstreamRequest(request) => swap(&mut exchange.request, request),
        _ => swap(&mut exchange.request, session.req_header_mut()),
    }
    if let Subject::Response(response) = subject {
        swap(exchange.response.get_or_insert_with(crate::exchange::no_response), response);
    }
}

/// What the end of a chain means for the request.
fn outcome(phase: Phase, end: Option<End>, reply: Option<Reply>) -> Outcome {
    let default = match (phase, end) {
        (_, Some(End::Status(code))) => {
            let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return Outcome::Reply(Reply::of_status(status));
        }
        (_, Some(End::Error)) => StatusCode::INTERNAL_SERVER_ERROR,
        (Phase::Serverless, _) => StatusCode::OK,
        (_, Some(End::Return)) => StatusCode::FORBIDDEN,
        (_, None) => return Outcome::Continue,
    };
    Outcome::Reply(reply.unwrap_or_else(|| Reply::of_status(default)))
}

fn unsupported(live: &LiveScript, phase: Phase, verdict: Verdict) {
    live.metrics.unsupported_verdict(verdict);
    if live.first_unsupported(verdict) {
        let (script, verdict) = (&live.script.spec().name, verdict.name());
        log::warn!("script={script} phase={phase} the verdict `{verdict}` is not supported here: taken as `ok`");
    }
}

/// Counts a failure and logs it, once, with all that there is to know.
fn failed(live: &LiveScript, phase: Phase, exchange: &Shared, failure: &Failure) {
    live.metrics.failures(failure.kind).inc();
    let mut exchange = exchange.lock();
    exchange.facts.timed_out |= failure.kind == FailureKind::Wall;
    let (script, request) = (&live.script.spec().name, exchange.facts.request_id());
    let Failure { kind, detail } = failure;
    // Lines that follow are indented: what a plugin says must not look like a line of the proxy.
    let detail = detail.replace('\n', "\n    ");
    log::error!("script={script} phase={phase} request={request} failed: {}: {detail}", kind.name());
}
