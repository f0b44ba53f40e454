//! Token check, for `wasm_access`: an authentication service says who may come in, and when it lets a token in, this is kept
//! in the store.
//!
//! ```toml
//! service = "http://10.0.0.7:8080/verify"  # asked by GET, with the token in the same header field
//! header = "authorization"                 # where the token is (the default)
//! identity = "x-user"                      # this field of the answer goes to the upstream (the default: none)
//! keep_seconds = 60                        # how long its 2xx holds; 0: it is asked every time (the default, 60)
//! timeout_ms = 1000                        # how long the service has to answer (the default)
//! ```
//!
//! 2xx lets the request pass; 401 and 403 refuse it. Nobody but the service can name the user: a field `identity` that the
//! client has sent is removed. Of several lines of the field the first is checked, and goes to the upstream alone (of
//! `authorization` the proxy makes one line). A token is never stored, only its SHA-256. A refusal is not stored at all:
//! anybody could fill the store with tokens that are none. A store that fails is a line in the log, level warn, and the
//! service is asked every time. The script needs `allow = { net = ["10.0.0.7:8080"] }`.
//!
//! Verdicts: `ok`; `return` with 401 for a request without a token or with one that is not UTF-8, and with what the service
//! said for one that is refused. A service that does not answer, or anything else, is a failure.

use phasegate_plugin::http::{Method, Request, Response, handle_http};
use phasegate_plugin::socket::SocketType;
use phasegate_plugin::{Verdict, config, export, host, log, store};
use serde::Deserialize;
use sha2::{Digest, Sha256};

export!(main: check);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    service: String,
    #[serde(default = "authorization")]
    header: String,
    identity: Option<String>,
    #[serde(default = "a_minute")]
    keep_seconds: u32,
    #[serde(default = "one_second")]
    timeout_ms: u64,
}

fn authorization() -> String {
    "authorization".to_owned()
}

fn a_minute() -> u32 {
    60
}

fn one_second() -> u64 {
    1000
}

fn check(text: Option<String>) -> Result<Verdict, String> {
    let config = config::<Config>(&text)?;
    if let Some(identity) = &config.identity {
        host::in_del_header(identity)?;
    }
    let Some(token) = token(&config.header)? else { return refuse(401) };
    let answer = config.answer(&token)?;
    if !answer.lets_in() {
        return refuse(answer.status);
    }
    if let (Some(name), Some(value)) = (&config.identity, &answer.identity) {
        host::in_set_header(name, value)?;
    }
    Ok(Verdict::Ok)
}

/// The token of the request, from here on its only one: of two, the upstream might take the one that was not checked.
fn token(header: &str) -> Result<Option<String>, String> {
    if !host::in_is_header(header)? {
        return Ok(None);
    }
    // What is no text is no token.
    let token = host::in_get_header(header).ok().flatten().filter(|token| !token.is_empty());
    if let Some(token) = &token {
        host::in_set_header(header, token)?;
    }
    Ok(token)
}

fn refuse(status: u16) -> Result<Verdict, String> {
    let response = Response::new(status).text(match status {
        401 => "A valid token, please.\n",
        _ => "This token has no access.\n",
    });
    // RFC 9110, section 15.5.2.
    let response = if status == 401 { response.header("www-authenticate", "Bearer") } else { response };
    host::out_set_response(&response)?;
    Ok(Verdict::Return)
}

impl Config {
    /// What the service says of the token, or has said not long ago.
    fn answer(&self, token: &str) -> Result<Answer, String> {
        if self.keep_seconds == 0 {
            return self.ask(token);
        }
        let key = self.key(token);
        let kept = store::get_string(&key).unwrap_or_else(|error| {
            log::log_warn(&format!("no answer from the store: {error}"));
            None
        });
        if let Some(answer) = kept.as_deref().and_then(Answer::from_text) {
            return Ok(answer);
        }
        let answer = self.ask(token)?;
        if answer.lets_in() {
            let kept = store::set_string_with_expiry(&key, &answer.to_text(), u64::from(self.keep_seconds) * 1000);
            if let Err(error) = kept {
                log::log_warn(&format!("an answer is not kept: {error}"));
            }
        }
        Ok(answer)
    }

    fn ask(&self, token: &str) -> Result<Answer, String> {
        let transport = if self.service.starts_with("https:") { SocketType::Ssl } else { SocketType::Tcp };
        let request = Request {
            method: Method::Get,
            uri: self.service.clone(),
            headers: vec![(self.header.clone(), token.to_owned())],
            params: Vec::new(),
            body: None,
        };
        let response = handle_http(transport, &request, self.timeout_ms)?;
        let headers = response.headers.unwrap_or_default();
        let identity = self.identity.as_ref().and_then(|wanted| {
            headers.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
        });
        match response.status {
            200..=299 | 401 | 403 => Ok(Answer { status: response.status, identity }),
            status => Err(format!("{} answered {status}", self.service)),
        }
    }

    /// What is kept depends on whom was asked, and what for.
    fn key(&self, token: &str) -> String {
        let mut hash = Sha256::new();
        for part in [&self.service, &self.header, self.identity.as_deref().unwrap_or_default(), token] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("token_check:{hash}")
    }
}

#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    identity: Option<String>,
}

impl Answer {
    fn lets_in(&self) -> bool {
        (200..=299).contains(&self.status)
    }

    /// As it is kept: `200`, or `200 user`.
    fn to_text(&self) -> String {
        match &self.identity {
            Some(identity) => format!("{} {identity}", self.status),
            None => self.status.to_string(),
        }
    }

    fn from_text(text: &str) -> Option<Self> {
        let (status, identity) = match text.split_once(' ') {
            Some((status, identity)) => (status, Some(identity.to_owned())),
            None => (text, None),
        };
        Some(Self { status: status.parse().ok()?, identity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_kept_as_text() {
        for answer in [
            Answer { status: 200, identity: None },
            Answer { status: 200, identity: Some("user 7".to_owned()) },
            Answer { status: 403, identity: Some(String::new()) },
        ] {
            assert_eq!(Answer::from_text(&answer.to_text()), Some(answer));
        }
        assert_eq!(Answer::from_text("no"), None);
    }

    #[test]
    fn keys_are_apart_and_do_not_show_the_token() {
        let config = |text: &str| config::<Config>(&Some(text.to_owned())).unwrap();
        let key = |text: &str, token| config(text).key(token);
        let one = key("service = 'http://a'", "secret");
        assert_eq!(one, key("service = 'http://a'", "secret"));
        assert!(!one.contains("secret") && one.len() == "token_check:".len() + 64);
        for other in [
            key("service = 'http://b'", "secret"),
            key("service = 'http://a'\nheader = 'x-token'", "secret"),
            key("service = 'http://a'\nidentity = 'x-user'", "secret"),
            key("service = 'http://a'", "secret2"),
        ] {
            assert_ne!(one, other);
        }
    }
}
