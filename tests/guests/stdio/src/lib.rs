//! Uses what the standard library asks the host for, and answers with what it got:
//!
//! `{"env":{…},"file":{"err":"…"},"tcp":{"err":"…"},"terminal":true,"unix_time":1700000000,"elapsed_ns":1,"random":"…"}`
//!
//! The configuration goes to stdout and, after `stderr: `, to stderr. Verdict: `return`.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::IsTerminal;
use std::net::TcpStream;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use phasegate_plugin::http::Response;
use phasegate_plugin::{Verdict, export, host};
use serde_json::{Value, json};

export!(main: look_around);

fn look_around(config: Option<String>) -> Result<Verdict, String> {
    let config = config.unwrap_or_default();
    println!("{config}");
    eprintln!("stderr: {config}");
    let started = Instant::now();
    let found = json!({
        "env": std::env::vars().collect::<BTreeMap<_, _>>(),
        "file": outcome(std::fs::read_to_string("/etc/hostname")),
        "tcp": outcome(TcpStream::connect("127.0.0.1:1").map(drop)),
        "terminal": std::io::stdout().is_terminal(),
        "unix_time": SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?.as_secs(),
        "random": format!("{:016x}", RandomState::new().hash_one(0)),
        "elapsed_ns": started.elapsed().as_nanos() as u64,
    });
    host::out_set_response(&Response::new(200).body("application/json", found.to_string()))?;
    Ok(Verdict::Return)
}

fn outcome<T: Into<Value>>(result: std::io::Result<T>) -> Value {
    match result {
        Ok(value) => json!({ "ok": value.into() }),
        Err(error) => json!({ "err": error.to_string() }),
    }
}
