//! The functions that wait.

use phasegate_plugin::{host, http, socket, websocket};
use serde_json::Value;

use crate::args::{Made, call, sure};
use crate::values::{MessageArg, RequestArg, ResponseArg, SocketKind, body, message_value, response_value, text};

pub fn std(call: &str, args: &Value) -> Made {
    Ok(Some(match call {
        "sleep" => call!(args, |ms: u64| sure(host::sleep(ms))),
        "in-body-read-exact" => call!(host::in_body_read_exact().map(body)),
        "out-response" => call!(args, |response: ResponseArg| host::out_response(&response.into())),
        "session-recv" => call!(host::session_recv()),
        "session-request" => {
            call!(args, |id: u64, value: String, ms: u64| host::session_request(id, &value, ms))
        }
        "uniq-session-request" => {
            call!(args, |name: String, value: String, ms: u64| host::uniq_session_request(&name, &value, ms))
        }
        "get-timer-timeout" => call!(args, |ms: u64| sure(host::get_timer_timeout(ms))),
        _ => return Ok(None),
    }))
}

pub fn network(call: &str, args: &Value) -> Made {
    Ok(Some(match call {
        "handle-http" => call!(args, |kind: SocketKind, request: RequestArg, ms: u64| {
            http::handle_http(kind.into(), &request.into(), ms).map(response_value)
        }),
        "socket-connect" => call!(args, |kind: SocketKind, addr: String, domain: Option<String>, ms: u64| {
            socket::socket_connect(kind.into(), &addr, domain.as_deref(), ms)
        }),
        "socket-read" => call!(args, |fd: u64, size: u64, ms: u64| socket::socket_read(fd, size, ms).map(text)),
        "socket-read-exact" => {
            call!(args, |fd: u64, size: u64, ms: u64| socket::socket_read_exact(fd, size, ms).map(text))
        }
        "socket-write" => {
            call!(args, |fd: u64, data: String, ms: u64| socket::socket_write(fd, data.as_bytes(), ms))
        }
        "socket-write-all" => {
            call!(args, |fd: u64, data: String, ms: u64| socket::socket_write_all(fd, data.as_bytes(), ms))
        }
        "socket-flush" => call!(args, |fd: u64, ms: u64| socket::socket_flush(fd, ms)),
        "socket-close" => call!(args, |fd: u64, ms: u64| socket::socket_close(fd, ms)),
        "websocket/socket-connect" => call!(args, |kind: SocketKind, request: RequestArg, ms: u64| {
            websocket::socket_connect(kind.into(), &request.into(), ms)
        }),
        "websocket/socket-read" => {
            call!(args, |fd: u64, ms: u64| websocket::socket_read(fd, ms).map(|message| message.map(message_value)))
        }
        "websocket/socket-write" => {
            call!(args, |fd: u64, message: MessageArg, ms: u64| websocket::socket_write(fd, &message.into(), ms))
        }
        "websocket/socket-ping" => {
            call!(args, |fd: u64, data: String, ms: u64| websocket::socket_ping(fd, data.as_bytes(), ms))
        }
        "websocket/socket-close-with" => call!(args, |fd: u64, code: u16, reason: String, ms: u64| {
            websocket::socket_close_with(fd, code, &reason, ms)
        }),
        "websocket/socket-close-code" => call!(args, |fd: u64| websocket::socket_close_code(fd)),
        "websocket/socket-flush" => call!(args, |fd: u64, ms: u64| websocket::socket_flush(fd, ms)),
        "websocket/socket-close" => call!(args, |fd: u64, ms: u64| websocket::socket_close(fd, ms)),
        _ => return Ok(None),
    }))
}
