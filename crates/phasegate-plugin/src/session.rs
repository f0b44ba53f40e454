//! Sessions, beyond the functions of the host.

use crate::{Verdict, host};

/// Waits until the run is cancelled, for an entry point that has done its part and leaves the verdict to another.
pub fn rest() -> ! {
    loop {
        host::sleep(u64::MAX);
    }
}

/// Receives messages until the session quits, and answers requests: what a named session is made of.
///
/// The function makes an answer of each message; none for a message that wants none. What it makes of a message that was
/// sent, and not asked, goes nowhere. A request without an answer is one until the next message, and then `err`.
///
/// ```
/// # use phasegate_plugin::{Verdict, session};
/// fn count(_config: Option<String>) -> Result<Verdict, String> {
///     let mut seen = 0;
///     session::serve(|message| {
///         seen += 1;
///         Ok((message == "how many?").then(|| seen.to_string()))
///     })
/// }
/// ```
///
/// # Errors
///
/// The first error of the function, which ends the session. An answer that nobody waits for any more is none.
pub fn serve(mut answer: impl FnMut(&str) -> Result<Option<String>, String>) -> Result<Verdict, String> {
    while let Ok(message) = host::session_recv() {
        if let Some(answer) = answer(&message)? {
            let _ = host::session_response(&answer);
        }
    }
    Ok(Verdict::Ok)
}
