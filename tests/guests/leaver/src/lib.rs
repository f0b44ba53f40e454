//! Takes all that a run can take, gives nothing back, and waits for what does not come: a socket to the address of its
//! configuration, timers, a mailbox with a message in it, a run in the background. `wasm-main-timeout` ends it after as
//! many milliseconds as its configuration says.

use phasegate_plugin::host::EntryPoint;
use phasegate_plugin::socket::{self, SocketType};
use phasegate_plugin::{Verdict, export, host, session};

export!(main: take, timeout: end, ext1: rest);

fn take(config: Option<String>) -> Result<Verdict, String> {
    for key in 0..3 {
        host::add_timer(3_600_000, key, "never");
    }
    host::session_send(host::curr_session_id(), "left behind")?;
    host::spawn(EntryPoint::WasmMainExt1, config.as_deref())?;
    connect(config)?;
    session::rest()
}

fn end(config: Option<String>) -> Result<Verdict, String> {
    host::sleep(config.unwrap_or_default().parse().map_err(|_| "not a number of milliseconds")?);
    Ok(Verdict::Ok)
}

fn rest(config: Option<String>) -> Result<Verdict, String> {
    connect(config)?;
    host::get_timer_timeout(3_600_000);
    session::rest()
}

fn connect(config: Option<String>) -> Result<(), String> {
    let fd = socket::socket_connect(SocketType::Tcp, &config.unwrap_or_default(), None, 10_000)?;
    socket::socket_write_all(fd, b"hello", 10_000).map(drop)
}
