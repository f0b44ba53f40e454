//! Messages on the wire: a byte that says whether it is compressed, four of its length, and itself.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::Status;

/// Bytes before each message.
const PREFIX: usize = 5;

/// A message as it is sent.
pub fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    // The limit of a body is far below.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

pub enum Item {
    Message(Bytes),
    /// The trailers.
    End(HeaderMap),
}

enum Source {
    Body(Box<Incoming>),
    /// There are none, but only the end.
    End(Result<HeaderMap, Status>),
}

/// What a server sends.
pub struct Messages {
    body: Source,
    buffer: BytesMut,
    /// Bytes of the largest message.
    limit: usize,
    encoding: Option<String>,
}

impl Messages {
    pub fn new(body: Incoming, metadata: &HeaderMap, limit: usize) -> Messages {
        let encoding = metadata.get("grpc-encoding").map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
        Messages { body: Source::Body(Box::new(body)), buffer: BytesMut::new(), limit, encoding }
    }

    /// None, and these trailers or this failure.
    pub fn none(end: Result<HeaderMap, Status>) -> Messages {
        Messages { body: Source::End(end), buffer: BytesMut::new(), limit: 0, encoding: None }
    }

    /// The next one, or the end. Not to be called after that.
    ///
    /// # Errors
    /// When the stream breaks off, and when what comes is not right.
    pub async fn next(&mut self) -> Result<Item, Status> {
        loop {
            if let Some(message) = self.whole()? {
                return Ok(Item::Message(message));
            }
            let body = match &mut self.body {
                Source::Body(body) => body,
                Source::End(end) => return std::mem::replace(end, Ok(HeaderMap::new())).map(Item::End),
            };
            let frame = match body.frame().await {
                Some(frame) => frame.map_err(|error| Status::of_reset(&error))?,
                None => {
                    return Err(self.cut().unwrap_or_else(|| Status::unknown("the stream has ended without a status")));
                }
            };
            match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return self.cut().map_or(Ok(Item::End(trailers)), Err);
                }
            }
        }
    }

    fn whole(&mut self) -> Result<Option<Bytes>, Status> {
        if self.buffer.len() < PREFIX {
            return Ok(None);
        }
        let length = u32::from_be_bytes([self.buffer[1], self.buffer[2], self.buffer[3], self.buffer[4]]) as usize;
        match (self.buffer[0], &self.encoding) {
            (0, _) => {}
            (1, Some(encoding)) if encoding != "identity" => {
                return Err(Status::internal(format!(
                    "the message is compressed ({encoding}), which was not asked for"
                )));
            }
            (1, _) => return Err(Status::internal("the message is compressed, and `grpc-encoding` does not say how")),
            (flag, _) => return Err(Status::internal(format!("a message begins with {flag}"))),
        }
        if length > self.limit {
            return Err(Status::too_large(length, self.limit));
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// What an end is in the middle of a message.
    fn cut(&self) -> Option<Status> {
        (!self.buffer.is_empty()).then(|| Status::internal("the stream has ended in the middle of a message"))
    }
}
