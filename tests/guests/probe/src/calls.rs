//! The functions that do not wait.

use phasegate_plugin::{host, log};
use serde_json::Value;

use crate::args::{Made, call, sure};
use crate::values::{Entry, Level, ResponseArg, request_value};

type Pairs = Vec<(String, String)>;

pub fn request(call: &str, args: &Value) -> Made {
    Ok(Some(match call {
        "in-get-request" => call!(host::in_get_request().map(request_value)),
        "in-get-header" => call!(args, |key: String| host::in_get_header(&key)),
        "in-get-headers" => call!(host::in_get_headers()),
        "in-is-header" => call!(args, |key: String| host::in_is_header(&key)),
        "in-add-header" => call!(args, |key: String, value: String| host::in_add_header(&key, &value)),
        "in-add-headers" => call!(args, |headers: Pairs| host::in_add_headers(&headers)),
        "in-set-header" => call!(args, |key: String, value: String| host::in_set_header(&key, &value)),
        "in-del-header" => call!(args, |key: String| host::in_del_header(&key)),
        "in-del-headers" => call!(args, |keys: Vec<String>| host::in_del_headers(&keys)),
        "in-set-method" => call!(args, |method: String| host::in_set_method(&method)),
        "in-set-uri" => call!(args, |uri: String| host::in_set_uri(&uri)),
        _ => return Ok(None),
    }))
}

pub fn response(call: &str, args: &Value) -> Made {
    Ok(Some(match call {
        "out-get-status" => call!(host::out_get_status()),
        "out-set-status" => call!(args, |status: u16| host::out_set_status(status)),
        "out-get-header" => call!(args, |key: String| host::out_get_header(&key)),
        "out-get-headers" => call!(host::out_get_headers()),
        "out-is-header" => call!(args, |key: String| host::out_is_header(&key)),
        "out-add-header" => call!(args, |key: String, value: String| host::out_add_header(&key, &value)),
        "out-add-headers" => call!(args, |headers: Pairs| host::out_add_headers(&headers)),
        "out-set-header" => call!(args, |key: String, value: String| host::out_set_header(&key, &value)),
        "out-del-header" => call!(args, |key: String| host::out_del_header(&key)),
        "out-del-headers" => call!(args, |keys: Vec<String>| host::out_del_headers(&keys)),
        "out-set-response" => call!(args, |response: ResponseArg| host::out_set_response(&response.into())),
        _ => return Ok(None),
    }))
}

/// What belongs to the run of a script.
pub fn run(call: &str, args: &Value) -> Made {
    Ok(Some(match call {
        "anyproxy-version" => call!(host::anyproxy_version()),
        "variable" => call!(args, |key: String| host::variable(&key)),
        "curr-session-id" => call!(sure(host::curr_session_id())),
        "curr-fd" => call!(sure(host::curr_fd())),
        "main-session-id" => call!(sure(host::main_session_id())),
        "main-fd" => call!(sure(host::main_fd())),
        "new-session-id" => call!(sure(host::new_session_id())),
        "session-send" => call!(args, |id: u64, value: String| host::session_send(id, &value)),
        "session-try-recv" => call!(host::session_try_recv()),
        "session-response" => call!(args, |value: String| host::session_response(&value)),
        "session-quit" => call!(args, |id: u64| host::session_quit(id)),
        "spawn" => call!(args, |entry: Entry, config: Option<String>| host::spawn(entry.into(), config.as_deref())),
        "uniq-session-send" => call!(args, |name: String, value: String| host::uniq_session_send(&name, &value)),
        "add-timer" => call!(args, |ms: u64, key: u64, value: String| sure(host::add_timer(ms, key, &value))),
        "del-timer" => call!(args, |key: u64| sure(host::del_timer(key))),
        _ => return Ok(None),
    }))
}

pub fn log(call: &str, args: &Value) -> Made {
    Ok(Some(match call {
        "log-enabled" => call!(args, |level: Level| sure(log::log_enabled(level.into()))),
        "log-error" => call!(args, |value: String| sure(log::log_error(&value))),
        "log-warn" => call!(args, |value: String| sure(log::log_warn(&value))),
        "log-info" => call!(args, |value: String| sure(log::log_info(&value))),
        "log-debug" => call!(args, |value: String| sure(log::log_debug(&value))),
        "log-trace" => call!(args, |value: String| sure(log::log_trace(&value))),
        _ => return Ok(None),
    }))
}
