//! Three entry points of one run that work together, for `wasm_access`: `wasm-main` waits for a message, `wasm-main-ext1`
//! sends it when a timer expires, and `wasm-main-timeout` gives up on both.
//!
//! ```toml
//! wasm_main_config = '''
//! header = "x-message"        # the request header that the message becomes; without it the message is only waited for
//! '''
//! wasm_main_ext1_config = '''
//! delay_header = "x-delay-ms" # the request header that says after how many milliseconds the message comes
//! delay_ms = 20               # without that header
//! '''
//! wasm_main_timeout_config = '''
//! ms = 200
//! '''
//! ```
//!
//! | what comes first | verdict |
//! |---|---|
//! | the message | `ok` |
//! | the timeout | `error`, with 503 and `retry-after` |
//! | the end of the mailbox: `delay_header` is `quit` | a failure, as nobody will ever send |

use phasegate_plugin::http::Response;
use phasegate_plugin::{Verdict, config, export, host, session};
use serde::Deserialize;

export!(main: wait, ext1: remind, timeout: give_up);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Main {
    header: Option<String>,
}

fn wait(text: Option<String>) -> Result<Verdict, String> {
    let config = config::<Main>(&text)?;
    let message = host::session_recv()?;
    if let Some(header) = &config.header {
        host::in_set_header(header, &message)?;
    }
    Ok(Verdict::Ok)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reminder {
    delay_header: Option<String>,
    delay_ms: u64,
}

fn remind(text: Option<String>) -> Result<Verdict, String> {
    let config = config::<Reminder>(&text)?;
    let main = host::main_session_id();
    let asked = match &config.delay_header {
        Some(header) => host::in_get_header(header)?,
        None => None,
    };
    let delay_ms = match asked.as_deref() {
        Some("quit") => {
            host::session_quit(main)?;
            session::rest();
        }
        Some(ms) => ms.parse().map_err(|_| format!("`{ms}` is no number of milliseconds"))?,
        None => config.delay_ms,
    };
    host::add_timer(delay_ms, 0, &format!("after {delay_ms} ms"));
    for message in host::get_timer_timeout(u64::MAX) {
        host::session_send(main, &message)?;
    }
    // The first entry point to finish gives the verdict, and that is not for this one to give.
    session::rest()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Timeout {
    ms: u64,
}

fn give_up(text: Option<String>) -> Result<Verdict, String> {
    // Not a timer: those belong to the run, and this one would be told of what the other has set.
    host::sleep(config::<Timeout>(&text)?.ms);
    host::out_set_response(&Response::new(503).header("retry-after", "1").text("Nobody sent a message in time.\n"))?;
    Ok(Verdict::Error)
}
