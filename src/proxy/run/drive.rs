//! A run that waits: meanwhile, what its script asks of the connection is done.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::task::Poll;

use futures::channel::oneshot;
use pingora::prelude::Session;
use tokio::time::{Instant, sleep_until};

use super::{Subject, lend, take_back};
use crate::exchange::{self, Ask, Refused, Reply, Shared, stream};
use crate::facts::Origin;
use crate::phase::Verdict;
use crate::proxy::Gateway;
use crate::proxy::context::Context;
use crate::proxy::stream::{Step, Streaming, WITHOUT_CLIENT};
use crate::snapshot::LiveScript;
use crate::wasm::Failure;

impl Gateway {
    /// Runs a script that can wait, and meanwhile does what it asks of the connection: the guest asks, the driver does.
    pub(super) async fn drive(
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
            Streamed(Option<Step>),
            /// The client has gone.
            Left,
            /// It has gone long ago.
            Abandoned,
        }

        let body_limit = ctx.body_limit();
        let mut run = pin!(live.script.run(exchange));
        let mut readers: Vec<oneshot::Sender<_>> = Vec::new();
        poll_fn(|cx| {
            exchange.lock().drive(cx.waker());
            Poll::Ready(())
        })
        .await;
        let mut streaming: Option<Box<Streaming>> = None;
        // Before the request goes upstream, nobody else sees whether the client is there.
        let watches = exchange.lock().phase.can_end_request();
        let mut deadline = None;
        let result = loop {
            let next = poll_fn(|cx| match run.as_mut().poll(cx) {
                Poll::Ready(result) => Poll::Ready(Event::Done(result)),
                Poll::Pending => exchange.lock().asked().map_or(Poll::Pending, |ask| Poll::Ready(Event::Asked(ask))),
            });
            let meanwhile = async {
                if !readers.is_empty() {
                    Event::Read(ctx.body.read_whole(session, body_limit).await)
                } else if let Some(streaming) = &mut streaming {
                    Event::Streamed(streaming.step(session, &mut ctx.body).await)
                } else if let Some(deadline) = deadline {
                    sleep_until(deadline).await;
                    Event::Abandoned
                } else if watches {
                    ctx.body.until_gone(session, body_limit).await;
                    Event::Left
                } else {
                    pending().await
                }
            };
            let event = tokio::select! {
                biased;
                event = next => event,
                event = meanwhile => event,
            };
            match event {
                Event::Done(result) => break result,
                Event::Left => deadline = Some(Instant::now() + WITHOUT_CLIENT),
                Event::Abandoned => {
                    exchange.lock().facts.origin = Some(Origin::ClientGone);
                    ctx.cut = true;
                    break Ok(Verdict::Finish);
                }
                Event::Asked(Ask::Body(reader)) => readers.push(reader),
                Event::Asked(Ask::Respond(reply, answer)) => {
                    let sent = self.respond_within(reply, exchange, session, ctx, subject).await;
                    let _ = answer.send(sent);
                }
                Event::Asked(Ask::Stream(answer)) => {
                    let (plugin, client) = stream();
                    streaming = Some(Box::new(Streaming::new(client, session)));
                    let _ = answer.send(plugin);
                }
                Event::Asked(Ask::Head(head, answer)) => {
                    let sent = self.start_within(head, streaming.as_deref_mut(), exchange, session, ctx, subject).await;
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
                Event::Streamed(step) => {
                    let Some(streaming) = &mut streaming else { continue };
                    let Some(step) = step else { break Ok(Verdict::Finish) };
                    if let Some(result) = streaming.follow(step, session, run.as_mut()).await {
                        break result;
                    }
                }
            }
        };
        exchange.lock().stop_driving();
        if let Some(streaming) = streaming
            && let Err(why) = streaming.finish(session, result.is_err()).await
        {
            ctx.cut = true;
            log::info!("script={} the response is cut off: {why}", live.script.spec().name);
        }
        result
    }

    /// Sends a response while a script of this exchange still runs.
    async fn respond_within(
        &self,
        reply: Reply,
        exchange: &Shared,
        session: &mut Session,
        ctx: &mut Context,
        subject: &mut Subject<'_>,
    ) -> Result<(), Refused> {
        let running = pause(exchange, session, ctx, subject);
        let sent = self.respond(session, ctx, reply).await;
        resume(running, exchange, session, ctx, subject);
        sent.map_err(|error| Refused::Send(error.to_string()))
    }

    /// Sends the head of a response that the script streams.
    async fn start_within(
        &self,
        head: Reply,
        streaming: Option<&mut Streaming>,
        exchange: &Shared,
        session: &mut Session,
        ctx: &mut Context,
        subject: &mut Subject<'_>,
    ) -> Result<Option<u64>, Refused> {
        let running = pause(exchange, session, ctx, subject);
        let mut sent = self.start(session, ctx, &head).await;
        if let (Ok(Some(status)), Some(streaming)) = (&sent, streaming) {
            streaming.head_sent(session, *status, head.length);
            if let Err(error) = streaming.write(session, head.body).await {
                sent = Err(error);
            }
        }
        resume(running, exchange, session, ctx, subject);
        match sent {
            Ok(Some(_)) => Ok(head.length),
            Ok(None) => Err(Refused::HeadReplaced),
            Err(error) => Err(Refused::Send(error.to_string())),
        }
    }
}

/// Takes the request back from a script that still runs. The response has a chain of its own to pass, which gets an
/// exchange of its own.
fn pause(
    exchange: &Shared,
    session: &mut Session,
    ctx: &mut Context,
    subject: &mut Subject<'_>,
) -> Option<exchange::Owned> {
    drop(take_back(exchange, session, ctx, subject));
    ctx.exchange.take()
}

fn resume(
    running: Option<exchange::Owned>,
    exchange: &Shared,
    session: &mut Session,
    ctx: &mut Context,
    subject: &mut Subject<'_>,
) {
    ctx.answering = std::mem::replace(&mut ctx.exchange, running);
    let phase = exchange.lock().phase;
    lend(exchange, phase, session, ctx, subject);
}
