//! Responses that the proxy makes itself.

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, StatusCode, Version, header};
use pingora::http::ResponseHeader;
use pingora::prelude::Session;
use serde_json::json;

use super::Gateway;
use super::context::Context;
use super::error;
use super::filter::Filtering;
use super::framing::without_body;
use super::run::{Outcome, Subject};
use crate::config::Respond;
use crate::exchange::{Refused, Reply};
use crate::facts::path_and_query;
use crate::headers::has_body;
use crate::phase::Phase;
use crate::wasm::Flow;

/// Most bytes of a body that are written at once: the client has its timeout for each.
const PIECE: usize = 64 << 10;

/// The response of a `respond` route.
pub fn fixed(respond: &Respond) -> Reply {
    let headers = respond.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    with_type(
        Reply { status: respond.status, headers, body: respond.body.clone().into(), length: None },
        "text/plain; charset=utf-8",
    )
}

impl Gateway {
    /// Sends a response, through `wasm_http_filter_headers` like any other. Boxed: the hooks that may respond themselves
    /// stay small for the many requests where they do not, and a chain can respond within a chain.
    pub(super) fn respond<'a>(
        &'a self,
        session: &'a mut Session,
        ctx: &'a mut Context,
        reply: Reply,
    ) -> BoxFuture<'a, pingora::Result<()>> {
        let pending = ctx.filtering.as_ref().and_then(Filtering::take_reply);
        let reply = pending.map_or_else(|| described(reply), Reply::from);
        self.respond_as(session, ctx, reply)
    }

    /// As [`Gateway::respond`], and leaves an error that has no body without one.
    pub(super) fn respond_as<'a>(
        &'a self,
        session: &'a mut Session,
        ctx: &'a mut Context,
        mut reply: Reply,
    ) -> BoxFuture<'a, pingora::Result<()>> {
        Box::pin(async move {
            let mut response = header_of(&reply)?;
            if has_body(reply.status) {
                let head = session.req_header().method == http::Method::HEAD;
                match reply.length {
                    Some(length) if head => {
                        response.set_content_length(usize::try_from(length).unwrap_or(usize::MAX))?;
                    }
                    // As in Envoy, filters are not told the length of what is not there.
                    _ if reply.body.is_empty() && ctx.filtering.is_some() => {}
                    _ => response.set_content_length(reply.body.len())?,
                }
            }
            type_as_text(&mut response, &reply)?;
            if ctx.filtering.is_some() {
                let sends = sends(session, response.status, &reply.body);
                match self.filter_response(session, ctx, &mut response, !sends).await {
                    Flow::On => {}
                    Flow::Reply(instead) => {
                        reply = Reply::from(instead);
                        response = header_of(&reply)?;
                        response.set_content_length(reply.body.len())?;
                        type_as_text(&mut response, &reply)?;
                    }
                    Flow::Reset => return Err(error::cut()),
                }
            }
            match self.filter(session, ctx, &mut response).await {
                Ok(()) => write(session, response, reply.body).await,
                Err(failure) => {
                    if let Some(filtering) = &ctx.filtering {
                        filtering.bypass();
                    }
                    fail(session, failure).await
                }
            }
        })
    }

    /// Sends the head of a response whose body is streamed; the status that it has after `wasm_http_filter_headers`. None:
    /// that failed, and the client has got an error.
    pub(super) fn start<'a>(
        &'a self,
        session: &'a mut Session,
        ctx: &'a mut Context,
        head: &'a Reply,
    ) -> BoxFuture<'a, pingora::Result<Option<StatusCode>>> {
        Box::pin(async move {
            let mut response = header_of(head)?;
            if let Err(failure) = self.filter(session, ctx, &mut response).await {
                fail(session, failure).await?;
                return Ok(None);
            }
            let status = response.status;
            if has_body(status) && status != StatusCode::SWITCHING_PROTOCOLS {
                match head.length {
                    Some(length) => response.set_content_length(usize::try_from(length).unwrap_or(usize::MAX))?,
                    None if session.req_header().version == Version::HTTP_11 => {
                        response.insert_header(header::TRANSFER_ENCODING, "chunked")?;
                    }
                    // HTTP/2 has frames; in HTTP/1.0 the end of the connection ends the body.
                    None => ctx.end_connection(session),
                }
            }
            without_body(&mut response)?;
            session.write_response_header(Box::new(response), false).await.map_err(|error| error.into_down())?;
            Ok(Some(status))
        })
    }

    /// `wasm_http_filter_headers` on a response of our own. The error is the status of its failure.
    async fn filter(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        response: &mut ResponseHeader,
    ) -> Result<(), StatusCode> {
        if response.status != StatusCode::SWITCHING_PROTOCOLS {
            self.take_leave(session, ctx);
        }
        // A chain that fails is not asked to look at the answer to its own failure.
        if std::mem::replace(&mut ctx.filtered, true) {
            return Ok(());
        }
        let outcome = self.run(Phase::HttpFilterHeaders, session, ctx, Subject::Response(response)).await;
        outcome.only_continue().map_err(|failure| {
            let status = StatusCode::from_u16(error::status_of(&failure)).unwrap_or_default();
            if status.is_server_error() { status } else { StatusCode::INTERNAL_SERVER_ERROR }
        })
    }

    /// The embedded origin: says what it received.
    pub(super) async fn echo(&self, session: &mut Session, ctx: &mut Context) -> Reply {
        ctx.body.freeze(session);
        let body_limit = ctx.body_limit();
        let body = match ctx.body.read_whole(session, body_limit).await {
            Ok(body) => body,
            Err(Refused::BodyTooLarge { .. }) => return Reply::of_status(StatusCode::PAYLOAD_TOO_LARGE),
            Err(_) => return Reply::of_status(StatusCode::BAD_REQUEST),
        };
        let request = session.req_header();
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers: Vec<_> = request.headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
        let seen = json!({
            "method": request.method.as_str(),
            "uri": path_and_query(request),
            "version": format!("{:?}", request.version),
            "headers": headers,
            "body_bytes": body.len(),
            "body": String::from_utf8_lossy(&body),
        });
        let reply = Reply { body: format!("{seen:#}\n").into(), ..Reply::of_status(StatusCode::OK) };
        with_type(reply, "application/json")
    }
}

impl Outcome {
    /// For phases where a request can only go on: anything else is a failure.
    pub(super) fn only_continue(self) -> pingora::Result<()> {
        match self {
            Outcome::Continue => Ok(()),
            Outcome::Reply(reply) => Err(error::plugin_failure(reply.status.as_u16())),
            Outcome::Replied => Err(error::plugin_failure(500)),
            Outcome::Cut => Err(error::cut()),
        }
    }
}

/// Gives an error that has no body one that says what it is.
fn described(reply: Reply) -> Reply {
    let silent = reply.body.is_empty() && (reply.status.is_client_error() || reply.status.is_server_error());
    if !silent || reply.headers.iter().any(|(name, _)| name == header::CONTENT_TYPE) {
        return reply;
    }
    let body = format!("{} {}\n", reply.status.as_u16(), reply.status.canonical_reason().unwrap_or("")).into();
    with_type(Reply { body, ..reply }, "text/plain; charset=utf-8")
}

fn with_type(mut reply: Reply, content_type: &'static str) -> Reply {
    if !reply.headers.iter().any(|(name, _)| name == header::CONTENT_TYPE) && !reply.body.is_empty() {
        reply.headers.push((header::CONTENT_TYPE, HeaderValue::from_static(content_type)));
    }
    reply
}

/// As Envoy: after the length.
fn type_as_text(response: &mut ResponseHeader, reply: &Reply) -> pingora::Result<()> {
    if reply.body.is_empty() || response.headers.contains_key(header::CONTENT_TYPE) {
        return Ok(());
    }
    response.insert_header(header::CONTENT_TYPE, "text/plain")
}

fn header_of(reply: &Reply) -> pingora::Result<ResponseHeader> {
    let mut response = ResponseHeader::build(reply.status, Some(reply.headers.len() + 1))?;
    for (name, value) in &reply.headers {
        response.append_header(name.clone(), value.clone())?;
    }
    Ok(response)
}

/// Answers with an error, past all plugins.
async fn fail(session: &mut Session, status: StatusCode) -> pingora::Result<()> {
    let reply = described(Reply::of_status(status));
    let mut response = header_of(&reply)?;
    response.set_content_length(reply.body.len())?;
    write(session, response, reply.body).await
}

async fn write(session: &mut Session, mut response: ResponseHeader, body: Bytes) -> pingora::Result<()> {
    let status = response.status;
    let sends = sends(session, status, &body);
    without_body(&mut response)?;
    let request = session.req_header();
    if request.version == Version::HTTP_2 {
        response.remove_header(&header::UPGRADE);
    }
    if !sends && has_body(status) && request.version < Version::HTTP_2 && request.method != http::Method::HEAD {
        // Nothing else says in HTTP/1.1 where it ends.
        response.set_content_length(0)?;
    }
    session.write_response_header(Box::new(response), !sends).await.map_err(|error| error.into_down())?;
    let mut body = Some(body).filter(|_| sends);
    while let Some(piece) = body.as_mut().filter(|body| body.len() > PIECE).map(|body| body.split_to(PIECE)) {
        session.write_response_body(Some(piece), false).await.map_err(|error| error.into_down())?;
    }
    session.write_response_body(body, true).await.map_err(|error| error.into_down())
}

fn sends(session: &Session, status: StatusCode, body: &Bytes) -> bool {
    has_body(status) && session.req_header().method != http::Method::HEAD && !body.is_empty()
}
