//! Streams to and from the client, as its configuration says; several with `;` between them, one after another.
//!
//! - `echo SIZE`: sends the request body back, read by read of at most SIZE bytes.
//! - `count`: reads the request body and answers with its length.
//! - `flood BYTES MS [ADDR]`: writes this many bytes in pieces of 16 KiB, each within MS milliseconds, to the client or
//!   over TCP; logs the error that ends it, and that of another write.
//! - `relay ADDR`: sends what comes from there over TCP.
//! - `write TEXT`, `flush`, `close`, `sleep MS`: what they say.
//! - `wait`: reads until the end, or an error, and logs it.
//! - `websocket`: sends each message of a WebSocket client back, until it closes; logs its close code or the error.
//! - `websocket-close CODE REASON`, `websocket-write TEXT`, `websocket-read`: what they say.
//! - `trap`, `fail`: ends in that way.

use std::fmt::Write;

use phasegate_plugin::http::Response;
use phasegate_plugin::socket::{self, SocketType};
use phasegate_plugin::{Verdict, export, host, log, websocket};

export!(main: run, timeout: run, ext1: run, ext2: run, ext3: run);

/// Milliseconds.
const LONG: u64 = 60_000;

const PIECE: usize = 16 << 10;

fn run(config: Option<String>) -> Result<Verdict, String> {
    for step in config.unwrap_or_default().split(';') {
        let step = step.trim();
        let (what, rest) = step.split_once(' ').unwrap_or((step, ""));
        perform(what, rest)?;
    }
    Ok(Verdict::Ok)
}

fn perform(what: &str, rest: &str) -> Result<(), String> {
    let fd = host::curr_fd();
    match what {
        "echo" => {
            let size = number(rest)?;
            copy(|| socket::socket_read(fd, size, LONG))
        }
        "count" => count(fd),
        "flood" => flood(fd, rest),
        "relay" => {
            let from = socket::socket_connect(SocketType::Tcp, rest, None, LONG)?;
            copy(|| socket::socket_read(from, 1024, LONG))
        }
        "write" => socket::socket_write_all(fd, rest.as_bytes(), LONG).map(drop),
        "flush" => socket::socket_flush(fd, LONG),
        "close" => socket::socket_close(fd, LONG),
        "sleep" => {
            host::sleep(number(rest)?);
            Ok(())
        }
        "wait" => {
            wait(fd);
            Ok(())
        }
        "websocket" => {
            echo_messages(fd);
            Ok(())
        }
        "websocket-close" => {
            let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
            let code = code.parse().map_err(|_| format!("`{code}` is no code"))?;
            websocket::socket_close_with(fd, code, reason, LONG)
        }
        "websocket-write" => websocket::socket_write(fd, &websocket::Message::Text(rest.to_owned()), LONG),
        "websocket-read" => websocket::socket_read(fd, LONG).map(drop),
        "trap" => panic!("as it was told"),
        "fail" => Err("as it was told".to_owned()),
        _ => Err(format!("`{what}` is nothing that this guest does")),
    }
}

fn copy(read: impl Fn() -> Result<Vec<u8>, String>) -> Result<(), String> {
    loop {
        let bytes = read()?;
        if bytes.is_empty() {
            return Ok(());
        }
        socket::socket_write_all(host::curr_fd(), &bytes, LONG)?;
    }
}

fn count(fd: u64) -> Result<(), String> {
    let mut length = 0;
    loop {
        match socket::socket_read(fd, u64::MAX, LONG)?.len() {
            0 => break,
            some => length += some,
        }
    }
    let mut text = String::new();
    let _ = write!(text, "{length}");
    host::out_set_response(&Response::new(200).body("text/plain", text))
}

fn flood(fd: u64, rest: &str) -> Result<(), String> {
    let (bytes, rest) = rest.split_once(' ').ok_or("`flood` needs bytes and milliseconds")?;
    let (ms, fd) = match rest.split_once(' ') {
        Some((ms, addr)) => (ms, socket::socket_connect(SocketType::Tcp, addr, None, LONG)?),
        None => (rest, fd),
    };
    let (bytes, ms) = (number(bytes)?, number(ms)?);
    let mut written = 0;
    while written < bytes {
        let piece = PIECE.min((bytes - written) as usize);
        match socket::socket_write_all(fd, &[b'x'; PIECE][..piece], ms) {
            Ok(length) => written += length,
            Err(error) => {
                let next = socket::socket_write(fd, b"x", ms);
                log::log_info(&format!("flood: {error}; {next:?}"));
                return Ok(());
            }
        }
    }
    log::log_info("flood: done");
    Ok(())
}

fn wait(fd: u64) {
    loop {
        match socket::socket_read(fd, 1024, LONG) {
            Ok(bytes) if bytes.is_empty() => return log::log_info("wait: the end"),
            Ok(_) => {}
            Err(error) => return log::log_info(&format!("wait: {error}")),
        }
    }
}

fn echo_messages(fd: u64) {
    loop {
        let done = match websocket::socket_read(fd, LONG) {
            Ok(Some(message)) => websocket::socket_write(fd, &message, LONG).err(),
            Ok(None) => Some(format!("{:?}", websocket::socket_close_code(fd))),
            Err(error) => Some(error),
        };
        if let Some(done) = done {
            return log::log_info(&format!("websocket: {done}"));
        }
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}
