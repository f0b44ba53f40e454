//! Running the chain of a phase: lend the request to the plugins, act on verdicts and failures, take it back.

mod drive;

use std::future::{Ready, ready};
use std::mem::swap;
use std::sync::Arc;

use futures::future::{BoxFuture, Either};
use http::StatusCode;
use parking_lot::MutexGuard;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::Session;

use super::Gateway;
use super::context::Context;
use super::final_response;
use crate::config::OnFailure;
use crate::exchange::{self, Exchange, Reply, Shared, plain_copy};
use crate::phase::{End, FailureKind, Phase, Verdict, Walk};
use crate::snapshot::{LiveChain, LiveScript};
use crate::wasm::Failure;

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
    /// It ends with this response. Boxed: every phase of every request hands an outcome on.
    Reply(Box<Reply>),
    /// It has ended: a plugin has sent the response.
    Replied,
    /// A plugin has sent a part of the response, and the rest will not come.
    Cut,
}

/// A run of a chain: over, or boxed, for it is large and would be part of the future of every hook.
pub type Running<'a> = Either<Ready<Outcome>, BoxFuture<'a, Outcome>>;

impl Gateway {
    /// Runs the chain of a phase, if there is one: to its end, unless a script of it can wait.
    pub(super) fn run<'a>(
        &'a self,
        phase: Phase,
        session: &'a mut Session,
        ctx: &'a mut Context,
        mut subject: Subject<'a>,
    ) -> Running<'a> {
        let Some(chain) = ctx.chain(phase) else { return Either::Left(ready(Outcome::Continue)) };
        let chain = chain.clone();
        if !chain.scripts().all(|live| live.script.is_synchronous()) {
            return Either::Right(Box::pin(self.run_waiting(chain, phase, session, ctx, subject)));
        }
        let begun = Begun::new(&chain, phase, session, ctx, &mut subject);
        let mut walk = chain.walk(phase);
        let end = loop {
            let Some(live) = walk.script() else { break None };
            live.script.spec().metrics.runs.inc();
            let result = live.script.run_now(&begun.exchange);
            let end = judge(&mut walk, live, phase, &begun.exchange, result, &mut ctx.upstream);
            if end.is_some() {
                break end;
            }
        };
        Either::Left(ready(begun.finish(end, walk.ran(), session, ctx, &mut subject)))
    }

    async fn run_waiting(
        &self,
        chain: Arc<LiveChain>,
        phase: Phase,
        session: &mut Session,
        ctx: &mut Context,
        mut subject: Subject<'_>,
    ) -> Outcome {
        let begun = Begun::new(&chain, phase, session, ctx, &mut subject);
        let exchange = &begun.exchange;
        let mut walk = chain.walk(phase);
        let end = loop {
            let Some(live) = walk.script().filter(|_| !ctx.cut) else { break None };
            live.script.spec().metrics.runs.inc();
            let result = if live.script.is_synchronous() {
                live.script.run_now(exchange)
            } else {
                self.drive(live, exchange, session, ctx, &mut subject).await
            };
            let end = judge(&mut walk, live, phase, exchange, result, &mut ctx.upstream);
            if end.is_some() {
                break end;
            }
        };
        begun.finish(end, walk.ran(), session, ctx, &mut subject)
    }

    /// Runs `wasm_access_log`. Nobody waits for its end: a chain that can wait goes on by itself with a copy, and the
    /// connection is free for the client's next request; but not when there are too many already.
    pub(super) async fn run_at_the_end(&self, session: &mut Session, ctx: &mut Context) {
        let phase = Phase::AccessLog;
        let Some(chain) = ctx.chain(phase).cloned() else { return };
        if chain.scripts().all(|live| live.script.is_synchronous()) {
            self.run(phase, session, ctx, Subject::Ended).await;
            return;
        }
        let exchange = end_of(session, ctx);
        let in_flight = self.shared.metrics.request_in_flight();
        let run = async move {
            let mut walk = chain.walk(phase);
            while let Some(live) = walk.script() {
                live.script.spec().metrics.runs.inc();
                let result = live.script.run(&exchange).await;
                if judge(&mut walk, live, phase, &exchange, result, &mut None).is_some() {
                    break;
                }
            }
            drop(in_flight);
        };
        match self.shared.left_behind.clone().try_acquire_owned() {
            Ok(permit) => drop(tokio::spawn(async move {
                run.await;
                drop(permit);
            })),
            Err(_) => Box::pin(run).await,
        }
    }
}

/// A chain that works on a request.
struct Begun {
    phase: Phase,
    started: quanta::Instant,
    exchange: Shared,
}

impl Begun {
    /// Lends the request.
    fn new(
        chain: &LiveChain,
        phase: Phase,
        session: &mut Session,
        ctx: &mut Context,
        subject: &mut Subject<'_>,
    ) -> Begun {
        let started = quanta::Instant::now();
        let exchange = Shared::clone(ctx.exchange.get_or_insert_default());
        if phase.can_edit_request() {
            ctx.body.freeze(session);
        }
        lend(&exchange, phase, session, ctx, subject);
        if let Subject::Ended = subject
            && chain.scripts().any(|live| live.script.sees_response())
        {
            // Copied: Pingora keeps the one that it has sent.
            exchange.lock().response = final_response(session).map(plain_copy);
        }
        Begun { phase, started, exchange }
    }

    /// Takes the request back after the last script.
    fn finish(
        self,
        end: Option<End>,
        last: Option<&LiveScript>,
        session: &mut Session,
        ctx: &mut Context,
        subject: &mut Subject<'_>,
    ) -> Outcome {
        let mut exchange = take_back(&self.exchange, session, ctx, subject);
        ctx.facts.work_times[self.phase as usize] += self.started.elapsed();
        if ctx.cut {
            return Outcome::Cut;
        }
        if self.phase.can_end_request() && exchange.replied {
            return Outcome::Replied;
        }
        if let (Phase::Access, None, Some(last)) = (self.phase, end, last) {
            forget_reply(last, self.phase, &mut exchange);
        }
        outcome(self.phase, end, exchange.reply.take())
    }
}

/// What the result of a script does to its chain: how it ends the request, if it does.
fn judge(
    walk: &mut Walk<'_, LiveScript>,
    live: &LiveScript,
    phase: Phase,
    exchange: &Shared,
    result: Result<Verdict, Failure>,
    upstream: &mut Option<String>,
) -> Option<End> {
    let end = match result {
        Ok(verdict) => {
            if let Verdict::Ext(ext) = verdict {
                exchange.lock().facts.ext = Some(ext);
            }
            let step = walk.apply(verdict);
            if step.unsupported {
                unsupported(live, phase, verdict);
            }
            if let Some(name) = step.upstream {
                *upstream = Some(name.to_owned());
            }
            step.end
        }
        Err(failure) => {
            let ends = live.on_failure != OnFailure::Open;
            failed(live, exchange, &failure, ends && phase != Phase::AccessLog);
            walk.skip();
            let instantiate = failure.kind == FailureKind::Instantiate;
            ends.then_some(End::Status(if instantiate { 503 } else { 500 }))
        }
    };
    // The response that a plugin has set is for its own verdict; in `wasm_serverless` that of the phase.
    if phase == Phase::Access && end.is_none() && walk.is_at_next_plugin() {
        forget_reply(live, phase, &mut exchange.lock());
    }
    end
}

fn forget_reply(live: &LiveScript, phase: Phase, exchange: &mut Exchange) {
    if exchange.reply.take().is_some() && live.first_unsent_reply() {
        let script = &live.script.spec().name;
        log::warn!("script={script} phase={phase} a response was set, but the verdict does not send it");
    }
}

/// An exchange of its own for `wasm_access_log`. What its chain spawns ends with it.
fn end_of(session: &mut Session, ctx: &Context) -> exchange::Owned {
    let owned = exchange::Owned::default();
    let mut exchange = owned.lock();
    exchange.phase = Phase::AccessLog;
    exchange.lent = true;
    exchange.request = session.req_header().clone();
    exchange.response = final_response(session).map(plain_copy);
    exchange.facts = ctx.facts.clone();
    exchange.body = ctx.exchange.as_ref().and_then(|exchange| exchange.lock().body.clone());
    drop(exchange);
    owned
}

/// Moves what the phase lends into the exchange. Nothing is copied.
fn lend(exchange: &Shared, phase: Phase, session: &mut Session, ctx: &mut Context, subject: &mut Subject<'_>) {
    let mut exchange = exchange.lock();
    exchange.phase = phase;
    exchange.lent = true;
    exchange_with(&mut exchange, session, ctx, subject);
}

/// The same moves the other way.
fn take_back<'e>(
    exchange: &'e Shared,
    session: &mut Session,
    ctx: &mut Context,
    subject: &mut Subject<'_>,
) -> MutexGuard<'e, Exchange> {
    let mut exchange = exchange.lock();
    exchange_with(&mut exchange, session, ctx, subject);
    exchange.lent = false;
    exchange.response = None;
    exchange
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
            return Outcome::Reply(Box::new(Reply::of_status(status)));
        }
        (_, Some(End::Error)) => StatusCode::INTERNAL_SERVER_ERROR,
        (Phase::Serverless, _) => StatusCode::OK,
        (_, Some(End::Return)) => StatusCode::FORBIDDEN,
        (_, None) => return Outcome::Continue,
    };
    Outcome::Reply(Box::new(reply.unwrap_or_else(|| Reply::of_status(default))))
}

fn unsupported(live: &LiveScript, phase: Phase, verdict: Verdict) {
    live.script.spec().metrics.unsupported_verdict(verdict);
    if live.first_unsupported(verdict) {
        let (script, verdict) = (&live.script.spec().name, verdict.name());
        log::warn!("script={script} phase={phase} the verdict `{verdict}` is not supported here: taken as `ok`");
    }
}

/// Counts a failure and logs it, once, with all that there is to know.
fn failed(live: &LiveScript, exchange: &Shared, failure: &Failure, ends_request: bool) {
    let mut exchange = exchange.lock();
    exchange.facts.timed_out |= ends_request && failure.kind == FailureKind::Wall;
    live.script.report(failure, exchange.facts.request_id());
}
