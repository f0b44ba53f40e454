//! Errors of Pingora, and the statuses that they become.

use pingora::{Error, ErrorSource, ErrorType};

/// A plugin failed and its configuration says `on_failure = "close"`.
const PLUGIN_FAILURE: &str = "a plugin failed";

const CUT: &str = "the response is cut off";

/// An error that becomes this status.
pub fn status(code: u16, why: &'static str) -> Box<Error> {
    Error::explain(ErrorType::HTTPStatus(code), why)
}

pub fn plugin_failure(code: u16) -> Box<Error> {
    status(code, PLUGIN_FAILURE)
}

/// The response has begun, and cannot be ended as it should: the client must see that.
pub fn cut() -> Box<Error> {
    Error::explain(ErrorType::ConnectionClosed, CUT).into_down()
}

/// Whether this was logged where it happened.
pub fn is_logged(error: &Error) -> bool {
    let own =
        |error: &Error| error.context.as_ref().is_some_and(|context| [PLUGIN_FAILURE, CUT].contains(&context.as_str()));
    // Pingora wraps what comes from reading and writing.
    let cause = error.cause.as_ref().and_then(|cause| cause.downcast_ref::<Box<Error>>());
    own(error) || cause.is_some_and(|cause| own(cause))
}

pub fn is_timeout(error: &Error) -> bool {
    use ErrorType::{ConnectTimedout, ReadTimedout, TLSHandshakeTimedout, WriteTimedout};
    matches!(error.etype(), ConnectTimedout | ReadTimedout | WriteTimedout | TLSHandshakeTimedout)
}

/// The status for the client; 0 when there is no client left to tell.
pub fn status_of(error: &Error) -> u16 {
    match (error.esource(), error.etype()) {
        (_, ErrorType::HTTPStatus(code)) => *code,
        (ErrorSource::Upstream, _) if is_timeout(error) => 504,
        (ErrorSource::Upstream, _) => 502,
        (ErrorSource::Downstream, ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed) => 0,
        (ErrorSource::Downstream, _) if is_timeout(error) => 408,
        (ErrorSource::Downstream, _) => 400,
        (ErrorSource::Internal | ErrorSource::Unset, _) => 500,
    }
}
