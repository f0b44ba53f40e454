//! A client in the room.

use phasegate_plugin::http::Response;
use phasegate_plugin::websocket::{self, Message};
use phasegate_plugin::{Verdict, host};
use serde::Deserialize;

use crate::{Act, FULL, Word};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default = "lobby")]
    session: String,
    #[serde(default = "four_kib")]
    longest: usize,
}

fn lobby() -> String {
    "lobby".to_owned()
}

fn four_kib() -> usize {
    4096
}

/// Milliseconds that a client may take for a line, and the room for an answer.
const PATIENCE: u64 = 10_000;
/// Milliseconds that a client may be silent.
const SILENCE: u64 = 60 * 60 * 1000;
/// Close codes (RFC 6455, section 7.4.1, and the registry that it began).
const TOO_BIG: u16 = 1009;
const TRY_AGAIN_LATER: u16 = 1013;

pub fn talk(config: &Config) -> Result<Verdict, String> {
    let Some(name) = name()? else { return refuse(400, "say who you are: ?name=ann") };
    // The first call is what answers the request for a WebSocket.
    if websocket::socket_flush(host::curr_fd(), PATIENCE).is_err() {
        return refuse(426, "this is a WebSocket");
    }
    let member = host::session_recv()?.parse().map_err(|_| "the first message is the mailbox of `wasm-main-ext1`")?;
    let word =
        |act| serde_json::to_string(&Word { member, name: name.clone(), act }).map_err(|error| error.to_string());
    if host::uniq_session_request(&config.session, &word(Act::Come)?, PATIENCE)? == FULL {
        turn_out("the room is full", PATIENCE);
        return Ok(Verdict::Ok);
    }
    // Clients come and go: an error is no failure, but the end.
    while let Ok(Some(message)) = websocket::socket_read(host::curr_fd(), SILENCE) {
        let Message::Text(line) = message else { continue };
        if line.len() > config.longest {
            let _ = websocket::socket_close_with(host::curr_fd(), TOO_BIG, "this line is too long", PATIENCE);
            break;
        }
        let line = line.replace(splits_lines, " ");
        if host::uniq_session_request(&config.session, &word(Act::Say(line))?, PATIENCE)? == FULL {
            turn_out("the room is full", PATIENCE);
            break;
        }
    }
    host::uniq_session_send(&config.session, &word(Act::Leave)?)?;
    Ok(Verdict::Ok)
}

/// Writes a line of the room.
pub fn write(line: String, patience_ms: u64) -> Result<(), String> {
    websocket::socket_write(host::curr_fd(), &Message::Text(line), patience_ms)
}

/// Closes the connection. It may be closed already, or have no time for the reason.
pub fn turn_out(why: &str, patience_ms: u64) {
    let _ = websocket::socket_close_with(host::curr_fd(), TRY_AGAIN_LATER, why, patience_ms);
}

/// What the client calls itself.
fn name() -> Result<Option<String>, String> {
    let name = host::in_get_request()?.params.into_iter().find(|(key, _)| key == "name").map(|(_, name)| name);
    let fits = |name: &String| (1..=32).contains(&name.chars().count()) && !name.contains(splits_lines);
    Ok(name.filter(fits))
}

/// Control characters, and what Unicode has for the ends of lines and paragraphs: more than a line could be forged with them.
fn splits_lines(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

fn refuse(status: u16, why: &str) -> Result<Verdict, String> {
    let mut response = Response::new(status).text(&format!("{why}\n"));
    if status == 426 {
        response = response.header("upgrade", "websocket");
    }
    host::out_set_response(&response)?;
    Ok(Verdict::Return)
}
