//! Errors of Pingora, and the statuses that they become.

use pingora::{Error, ErrorSource, ErrorType};

use crate::facts::Origin;

/// A plugin failed and its configuration says `on_failure = "close"`.
const PLUGIN_FAILURE: &str = "a plugin failed";

const CUT: &str = "the response is cut off";

const NO_SERVER: &str = "no healthy server in the upstream";

/// An error that becomes this status.
pub fn status(code: u16, why: &'static str) -> Box<Error> {
    Error::explain(ErrorType::HTTPStatus(code), why)
}

pub fn no_server() -> Box<Error> {
    status(503, NO_SERVER)
}

/// The upstream switches protocols, which the client has not asked for, or to another (RFC 9110, section 15.2.2).
pub fn unasked_upgrade() -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, "101 to another protocol than was asked for").into_up()
}

/// A header of the upstream's response begins or ends with a blank, which HTTP/2 forbids (RFC 9113, section 8.2.1).
pub fn padded() -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, "a header of the response begins or ends with a blank").into_up()
}

/// The upstream says of the body what has no meaning, or what nobody has asked for.
pub fn bad_framing() -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, "the response has a wrong content-length or transfer-encoding")
        .into_up()
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
    says(error, &[PLUGIN_FAILURE, CUT])
}

/// Whether it is one of ours.
fn says(error: &Error, texts: &[&str]) -> bool {
    let own = |error: &Error| error.context.as_ref().is_some_and(|context| texts.contains(&context.as_str()));
    // Pingora wraps what comes from reading and writing.
    let cause = error.cause.as_ref().and_then(|cause| cause.downcast_ref::<Box<Error>>());
    own(error) || cause.is_some_and(|cause| own(cause))
}

/// Whether the client has left: nothing is wrong with the proxy then.
pub fn is_client_gone(error: &Error) -> bool {
    use ErrorType::{ConnectionClosed, H2Error, ReadError, WriteError};
    let has_ended = matches!(error.etype(), ConnectionClosed | ReadError | WriteError | H2Error);
    *error.esource() == ErrorSource::Downstream && has_ended
}

/// Whether the client has ended its stream of HTTP/2, and not its connection.
fn is_stream_reset(error: &Error) -> bool {
    // Pingora's words where it waits for nothing else.
    let says = error.context.as_ref().is_some_and(|context| context.as_str().starts_with("Client closed H2"));
    let has = |cause: &(dyn std::error::Error + 'static)| {
        let reset = cause.downcast_ref::<h2::Error>().is_some_and(h2::Error::is_reset);
        reset || cause.downcast_ref::<Box<Error>>().is_some_and(|error| is_stream_reset(error))
    };
    says || error.cause.as_deref().is_some_and(|cause| has(cause))
}

pub fn is_timeout(error: &Error) -> bool {
    use ErrorType::{ConnectTimedout, ReadTimedout, TLSHandshakeTimedout, WriteTimedout};
    matches!(error.etype(), ConnectTimedout | ReadTimedout | WriteTimedout | TLSHandshakeTimedout)
}

/// Whether the upstream has said nothing for too long.
pub fn is_silence(error: &Error) -> bool {
    *error.esource() == ErrorSource::Upstream && matches!(error.etype(), ErrorType::ReadTimedout)
}

/// Whether the connection to the upstream has ended before the request was written.
pub fn is_unsent(error: &Error) -> bool {
    *error.esource() == ErrorSource::Upstream && matches!(error.etype(), ErrorType::WriteError)
}

/// What an error says, if that ends with the head of a message that could not be read: its headers are not for the log.
pub fn without_message(error: &Error) -> Option<String> {
    error.to_string().split_once(" buf: ").map(|(before, _)| before.trim_end_matches([',', ' ']).to_owned())
}

/// The status for the client; 0 when there is no client left to tell.
pub fn status_of(error: &Error) -> u16 {
    match (error.esource(), error.etype()) {
        (_, ErrorType::HTTPStatus(code)) => *code,
        (ErrorSource::Upstream, _) if is_timeout(error) => 504,
        (ErrorSource::Upstream, _) => 502,
        _ if is_client_gone(error) => 0,
        (ErrorSource::Downstream, _) if is_timeout(error) => 408,
        (ErrorSource::Downstream, _) => 400,
        (ErrorSource::Internal | ErrorSource::Unset, _) => 500,
    }
}

/// Why the response is not that of the upstream, or not all of it (`begun`); none where we have decided to cut it off.
pub fn origin(error: &Error, begun: bool) -> Option<Origin> {
    use ErrorType::{ConnectError, ConnectNoRoute, ConnectRefused, ConnectTimedout, TLSHandshakeFailure};
    if says(error, &[CUT]) {
        return None;
    }
    Some(match (error.esource(), error.etype()) {
        _ if says(error, &[NO_SERVER]) => Origin::NoServer,
        (
            ErrorSource::Upstream,
            ConnectError | ConnectNoRoute | ConnectRefused | ConnectTimedout | TLSHandshakeFailure,
        ) => Origin::ConnectFailure,
        (ErrorSource::Upstream, _) if is_timeout(error) => Origin::UpstreamTimeout,
        (ErrorSource::Upstream, _) if begun => Origin::UpstreamBroken,
        (ErrorSource::Upstream, _) => Origin::UpstreamReset,
        (ErrorSource::Downstream, _) if is_stream_reset(error) => Origin::ClientReset,
        (ErrorSource::Downstream, _) if status_of(error) == 0 => Origin::ClientGone,
        (ErrorSource::Downstream, _) => Origin::ClientError,
        (ErrorSource::Internal | ErrorSource::Unset, _) => Origin::Failure,
    })
}
