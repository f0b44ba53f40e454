//! The request body, as far as a plugin has read it before it went upstream.

use std::future::pending;

use bytes::{Bytes, BytesMut};
use http::{Version, header};
use pingora::ErrorType;
use pingora::prelude::Session;

use super::decorate;
use super::replay::Replay;
use crate::exchange::Refused;

/// What has been taken from the connection, and must still reach the upstream.
#[derive(Default)]
pub struct RequestBody {
    read: BytesMut,
    complete: bool,
    /// What went wrong: then there is no more of it to be had, and it is not to be taken for whole.
    failed: Option<ErrorType>,
    /// The length that the client declared, in bytes.
    declared: Option<u64>,
    /// Whether the client waits for a `100 Continue` before it sends the body (RFC 9110, section 10.1.1).
    expects_continue: bool,
    /// Whether it was told to go on.
    continued: bool,
    frozen: bool,
    /// What is not read by now goes upstream unread.
    sealed: bool,
    /// Where the session comes back from while a [`Replay`] stands in for it.
    lent: Option<decorate::Slot>,
}

impl RequestBody {
    /// Fixes the framing of the body: Pingora reads it from the header when it is first asked for, and by then a plugin
    /// may have edited the header, or have it on loan.
    pub fn freeze(&mut self, session: &mut Session) {
        if std::mem::replace(&mut self.frozen, true) {
            return;
        }
        if session.is_body_done() {
            return;
        }
        let request = session.req_header();
        let headers = &request.headers;
        self.declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let expect = headers.get(header::EXPECT);
        self.expects_continue = request.version >= Version::HTTP_11
            && expect.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    }

    /// Reads to the end. Can be cancelled and called again: what was read is kept.
    ///
    /// # Errors
    /// When the body is larger than `limit` bytes (what is beyond stays on the connection, to go upstream), or the client
    /// does not deliver it.
    pub async fn read_whole(&mut self, session: &mut Session, limit: usize) -> Result<Bytes, Refused> {
        let failed = |error: Box<pingora::Error>| Refused::Body(error.etype().as_str().to_owned());
        if self.declared.is_some_and(|declared| declared > limit as u64) {
            return Err(Refused::BodyTooLarge { limit });
        }
        if self.sealed && !self.complete {
            return Err(Refused::Body("an earlier attempt has begun to send it upstream".to_owned()));
        }
        while !self.complete {
            if self.read.len() > limit {
                return Err(Refused::BodyTooLarge { limit });
            }
            match self.receive(session).await.map_err(failed)? {
                Some(chunk) => self.read.extend_from_slice(&chunk),
                None => self.complete = true,
            }
        }
        if self.read.len() > limit {
            return Err(Refused::BodyTooLarge { limit });
        }
        Ok(self.read.clone().freeze())
    }

    /// The next piece of a body that goes to a plugin alone, from what was read before on; none at its end. Can be
    /// cancelled and called again. After an upgrade it is whatever the client sends.
    ///
    /// # Errors
    /// When the client does not deliver it.
    pub async fn next(&mut self, session: &mut Session) -> pingora::Result<Option<Bytes>> {
        if !self.read.is_empty() {
            return Ok(Some(self.read.split().freeze()));
        }
        if self.complete && !session.downstream_session.was_upgraded() {
            return Ok(None);
        }
        self.receive(session).await
    }

    async fn receive(&mut self, session: &mut Session) -> pingora::Result<Option<Bytes>> {
        self.verify()?;
        self.invite(session).await?;
        let piece = session.downstream_session.read_request_body().await;
        if let Err(error) = &piece {
            // Where the next request begins is not known.
            session.set_keepalive(None);
            self.failed = Some(error.etype().clone());
        }
        piece
    }

    /// Tells a client that waits for it to send its body.
    ///
    /// # Errors
    /// When it has gone.
    pub async fn invite(&mut self, session: &mut Session) -> pingora::Result<()> {
        if self.expects_continue {
            session.downstream_session.write_continue_response().await?;
            self.expects_continue = false;
            self.continued = true;
        }
        Ok(())
    }

    /// # Errors
    /// When a read has failed before: the client has left, or its body is malformed.
    pub fn verify(&self) -> pingora::Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(why) => Err(pingora::Error::explain(why.clone(), "reading the request body").into_down()),
        }
    }

    /// Whether the client was told to go on with its body: the upstream need not tell it again.
    pub fn continued(&self) -> bool {
        self.continued
    }

    /// Whether nothing of it is left to come.
    pub fn is_over(&mut self, session: &mut Session) -> bool {
        self.failed.is_none() && self.read.is_empty() && (self.complete || session.is_body_done())
    }

    /// Whether to read now would tell the client to send a body that nobody may want.
    pub fn waits_for_invitation(&self) -> bool {
        self.expects_continue
    }

    /// As [`RequestBody::next`] until the body is `over`, and then until the client goes.
    ///
    /// # Errors
    /// When it goes, or does not deliver.
    pub async fn next_or_gone(&mut self, session: &mut Session, over: bool) -> pingora::Result<Option<Bytes>> {
        if !over {
            return self.next(session).await;
        }
        session.downstream_session.read_body_or_idle(true).await
    }

    /// Until the client goes, as far as it can be seen: what it sends of its body meanwhile is kept, up to `limit` bytes.
    pub async fn until_gone(&mut self, session: &mut Session, limit: usize) {
        if !self.is_over(session) && !self.complete {
            if self.waits_for_invitation() {
                return pending().await;
            }
            match self.read_whole(session, limit).await {
                Ok(_) => {}
                Err(Refused::Body(_)) => return,
                Err(_) => return pending().await,
            }
        }
        if session.downstream_session.read_body_or_idle(true).await.is_ok() {
            pending().await
        }
    }

    /// Gives what was read to the filters, and whether that was all; from now on they are where the body comes from.
    pub fn hand_over(&mut self) -> (Bytes, bool) {
        let read = if self.read.is_empty() { Bytes::new() } else { self.read.split().freeze() };
        let over = self.complete;
        let continued = self.continued;
        let expects_continue = self.expects_continue;
        *self = RequestBody { continued, expects_continue, frozen: true, ..RequestBody::default() };
        (read, over)
    }

    /// Puts what was read in front of what the proxy will read, so that the upstream gets the body whole.
    pub fn give_back(&mut self, session: &mut Session) {
        if !self.read.is_empty() {
            self.recover(session);
            self.lent = Some(decorate::install(session, Replay(self.read.clone().freeze())));
        }
    }

    /// There while what was read in advance stands in front of the session.
    pub fn slot(&self) -> Option<&decorate::Slot> {
        self.lent.as_ref()
    }

    /// The body goes upstream now: what an attempt has sent, the next must not read again from the connection.
    pub fn seal(&mut self) {
        self.sealed = true;
    }

    /// The client's own session again: at the end of the request, before its connection is kept or closed.
    pub fn recover(&mut self, session: &mut Session) {
        if let Some(slot) = self.lent.take() {
            decorate::remove(session, &slot);
        }
    }
}
