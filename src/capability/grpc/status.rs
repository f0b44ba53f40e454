//! How calls end.

use std::fmt::Display;
use std::time::Duration;

use h2::Reason;
use http::{HeaderMap, StatusCode};
use percent_encoding::percent_decode;

use crate::capability::callout::{CalloutError, chain, reset};

pub const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";

const CANCELLED: u32 = 1;
const UNKNOWN: u32 = 2;
const DEADLINE_EXCEEDED: u32 = 4;
const PERMISSION_DENIED: u32 = 7;
const RESOURCE_EXHAUSTED: u32 = 8;
const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;
const UNAUTHENTICATED: u32 = 16;

/// The status of a call: 0 is success. The codes are those of doc/statuscodes.md of grpc/grpc.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("gRPC status {code}: {message}")]
pub struct Status {
    pub code: u32,
    pub message: String,
    /// Empty when the status is not the server's own.
    pub trailers: Box<HeaderMap>,
}

/// The status of gRPC for one of HTTP: grpc/doc/http-grpc-status-mapping.md.
pub fn code_of_http(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

impl Status {
    fn new(code: u32, message: impl Into<String>) -> Status {
        Status { code, message: message.into(), trailers: Box::default() }
    }

    pub(super) fn internal(message: impl Into<String>) -> Status {
        Status::new(INTERNAL, message)
    }

    pub(super) fn unknown(message: impl Into<String>) -> Status {
        Status::new(UNKNOWN, message)
    }

    pub(super) fn unavailable(error: impl Display) -> Status {
        Status::new(UNAVAILABLE, error.to_string())
    }

    pub(super) fn cancelled() -> Status {
        Status::new(CANCELLED, "nobody wants the answer")
    }

    pub(super) fn too_large(length: usize, limit: usize) -> Status {
        Status::exhausted(format!(
            "a message of {length} bytes is larger than {limit} bytes: body_limit of [network] can permit more"
        ))
    }

    pub(super) fn exhausted(error: impl Display) -> Status {
        Status::new(RESOURCE_EXHAUSTED, error.to_string())
    }

    pub(super) fn deadline_exceeded(timeout: Duration) -> Status {
        Status::new(DEADLINE_EXCEEDED, format!("no status within {} ms", timeout.as_millis()))
    }

    /// The server's own; the error is that there is none.
    pub(super) fn of_trailers(trailers: HeaderMap) -> Result<Status, Status> {
        let message =
            trailers.get(MESSAGE).map(|text| percent_decode(text.as_bytes()).decode_utf8_lossy().into_owned());
        let code = trailers.get(STATUS).map(|code| parse(code.as_bytes()));
        let trailers = Box::new(trailers);
        match code {
            Some(Some(code)) => Ok(Status { code, message: message.unwrap_or_default(), trailers }),
            Some(None) => Err(Status { trailers, ..Status::unknown("`grpc-status` is not a number") }),
            None => Err(Status { trailers, ..Status::unknown("the trailers have no `grpc-status`") }),
        }
    }

    /// Of a response that is not one of gRPC.
    pub(super) fn of_http(status: StatusCode) -> Status {
        Status::new(code_of_http(status), format!("the server answered {status}, and not in gRPC"))
    }

    /// Of a response that breaks off.
    pub(super) fn of_reset(error: &hyper::Error) -> Status {
        Status::new(code_of_reset(reset(error)), chain(error))
    }
}

/// Digits only (gRPC over HTTP2, "Responses").
pub fn parse(code: &[u8]) -> Option<u32> {
    let code = std::str::from_utf8(code).ok().filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()))?;
    code.parse().ok()
}

impl From<CalloutError> for Status {
    fn from(error: CalloutError) -> Status {
        let code = match &error {
            CalloutError::TooMany(_) | CalloutError::TooManyOfVm(_) => RESOURCE_EXHAUSTED,
            CalloutError::Unanswered { reset, .. } => code_of_reset(*reset),
            _ => UNAVAILABLE,
        };
        Status::new(code, error.to_string())
    }
}

/// Errors of HTTP/2, by PROTOCOL-HTTP2.md, "Errors"; none: the connection is gone.
fn code_of_reset(reset: Option<u32>) -> u32 {
    match reset.map(Reason::from) {
        None | Some(Reason::REFUSED_STREAM) => UNAVAILABLE,
        Some(Reason::CANCEL) => CANCELLED,
        Some(Reason::ENHANCE_YOUR_CALM) => RESOURCE_EXHAUSTED,
        Some(Reason::INADEQUATE_SECURITY) => PERMISSION_DENIED,
        Some(_) => INTERNAL,
    }
}
