//! Traffic statistics, for `wasm_access_log`: lines of JSON in the proxy's log, level info.
//!
//! ```toml
//! every = 1000  # one line for so many requests instead of one for each (the default, 1)
//! ```
//!
//! For every request:
//! `{"domain":"example.cn","method":"GET","path":"/","status":200,"session_time":"…","bytes_sent":512,"bytes_received":80}`
//!
//! For many: `{"requests":1000,"bytes_sent":512000,"bytes_received":80000,"2xx":990,"5xx":10}`, with `none` for
//! requests that ended without a response. Every instance counts what it has served and keeps the rest for its next
//! line; add the lines up. What an instance has not reported when it is replaced is lost.
//!
//! Verdict: `ok`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::num::NonZeroU64;

use phasegate_plugin::{Verdict, config, export, host, log};
use serde::{Deserialize, Serialize};

export!(main: record);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default = "one")]
    every: NonZeroU64,
}

fn one() -> NonZeroU64 {
    NonZeroU64::MIN
}

fn record(text: Option<String>) -> Result<Verdict, String> {
    let every = config::<Config>(&text)?.every.get();
    if every == 1 {
        report(&Request::now()?)?;
        return Ok(Verdict::Ok);
    }
    let (status, sent, received) = (number("status")?, number("client_bytes_sent")?, number("client_bytes_received")?);
    TOTAL.with_borrow_mut(|total| {
        total.count(status, sent.unwrap_or_default(), received.unwrap_or_default());
        if total.requests >= every {
            report(&std::mem::take(total))?;
        }
        Ok(Verdict::Ok)
    })
}

thread_local! {
    static TOTAL: RefCell<Total> = RefCell::default();
}

#[derive(Serialize)]
struct Request {
    domain: Option<String>,
    method: Option<String>,
    path: Option<String>,
    status: Option<u64>,
    session_time: Option<String>,
    bytes_sent: Option<u64>,
    bytes_received: Option<u64>,
}

impl Request {
    /// The request that has just ended.
    fn now() -> Result<Self, String> {
        Ok(Self {
            domain: host::variable("domain")?,
            method: host::variable("http_request_method")?,
            path: host::variable("http_request_path")?,
            status: number("status")?,
            session_time: host::variable("session_time")?,
            bytes_sent: number("client_bytes_sent")?,
            bytes_received: number("client_bytes_received")?,
        })
    }
}

fn number(variable: &str) -> Result<Option<u64>, String> {
    Ok(host::variable(variable)?.and_then(|text| text.parse().ok()))
}

#[derive(Serialize, Default)]
struct Total {
    requests: u64,
    bytes_sent: u64,
    bytes_received: u64,
    #[serde(flatten)]
    by_class: BTreeMap<&'static str, u64>,
}

impl Total {
    fn count(&mut self, status: Option<u64>, sent: u64, received: u64) {
        self.requests += 1;
        self.bytes_sent += sent;
        self.bytes_received += received;
        *self.by_class.entry(class(status)).or_default() += 1;
    }
}

fn class(status: Option<u64>) -> &'static str {
    match status.map(|status| status / 100) {
        Some(1) => "1xx",
        Some(2) => "2xx",
        Some(3) => "3xx",
        Some(4) => "4xx",
        Some(5) => "5xx",
        _ => "none",
    }
}

fn report(line: &impl Serialize) -> Result<(), String> {
    log::log_info(&serde_json::to_string(line).map_err(|error| error.to_string())?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_add_up() {
        let mut total = Total::default();
        total.count(Some(200), 10, 1);
        total.count(Some(204), 20, 2);
        total.count(Some(502), 30, 3);
        total.count(None, 0, 4);
        assert_eq!(
            serde_json::to_string(&total).unwrap(),
            r#"{"requests":4,"bytes_sent":60,"bytes_received":10,"2xx":2,"5xx":1,"none":1}"#
        );
    }

    #[test]
    fn every_is_at_least_one() {
        assert_eq!(config::<Config>(&None).unwrap().every.get(), 1);
        let error = config::<Config>(&Some("every = 0".to_owned())).map(|_| ()).unwrap_err();
        assert!(error.starts_with("configuration (TOML), line 1:"), "{error}");
    }
}
