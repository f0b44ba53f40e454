//! What was seen of a case, as text that can be compared and read.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::OnceLock;

use http::HeaderMap;
use regex::Regex;

/// Half of an exchange, as its receiver saw it.
#[derive(Clone, Default)]
pub struct Seen {
    /// Method and path, or status.
    pub line: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
    /// How it ended, where it did not end well.
    pub end: Option<&'static str>,
}

/// Headers that are each proxy's own business.
const OWN: [&str; 9] =
    ["connection", "date", "keep-alive", "server", "te", "trailer", "transfer-encoding", "via", "x-forwarded-proto"];

impl Seen {
    /// Lines with this indentation.
    pub fn render(&self, to: &mut String, indentation: &str) {
        let _ = writeln!(to, "{indentation}{}", self.line);
        render_headers(&self.headers, to, &format!("{indentation}  "));
        if !self.body.is_empty() {
            let _ = writeln!(to, "{indentation}  body {}", text(&self.body));
        }
        render_headers(&self.trailers, to, &format!("{indentation}  trailer "));
        if let Some(end) = self.end {
            let _ = writeln!(to, "{indentation}  {end}");
        }
    }
}

fn render_headers(headers: &HeaderMap, to: &mut String, before: &str) {
    let mut lines: Vec<_> = headers
        .iter()
        .filter(|(name, _)| !OWN.contains(&name.as_str()) && !name.as_str().starts_with("x-envoy-"))
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    // Stable: the values of one header keep their order.
    lines.sort_by(|a, b| a.split(':').next().cmp(&b.split(':').next()));
    for line in lines {
        let _ = writeln!(to, "{before}{}", normal(&line));
    }
}

fn text(body: &[u8]) -> String {
    match std::str::from_utf8(body) {
        Ok(text) if text.len() <= 300 => format!("{text:?}"),
        _ => format!("of {} bytes {}", body.len(), crate::support::fnv(body)),
    }
}

/// Lines of the log as they are recorded.
pub fn render_log(lines: &[String], unordered: bool, to: &mut String) {
    let lines = done_first(whole_bodies(lines.iter().map(|line| normal(line)).collect()));
    let lines: Vec<_> = match unordered {
        true => lines.into_iter().collect::<BTreeSet<_>>().into_iter().collect(),
        false => lines,
    };
    for line in lines {
        let _ = writeln!(to, "  {line}");
    }
}

/// Into how many pieces a body falls is the network's affair: callbacks between which the guest does nothing but go on, or
/// hold, are one.
fn whole_bodies(lines: Vec<String>) -> Vec<String> {
    let mut whole: Vec<String> = Vec::new();
    for line in lines {
        if let Some((start, size, end)) = piece(&line) {
            let held = whole.last().is_some_and(|last| last.ends_with(" pause() -> OK"));
            let before = whole.len().checked_sub(1 + usize::from(held)).and_then(|index| whole.get(index));
            if let Some((same, earlier, "0")) = before.and_then(|before| piece(before))
                && same == start
            {
                // What is held comes again with what is new.
                let size = if held { size } else { earlier + size };
                let merged = format!("{start}({size}, {end})");
                whole.truncate(whole.len() - 1 - usize::from(held));
                whole.push(merged);
                continue;
            }
        }
        whole.push(line);
    }
    whole
}

/// The specification has a stream done before it is logged, Envoy logs before: here, `on_done` with what it does comes first.
fn done_first(mut lines: Vec<String>) -> Vec<String> {
    let logs: Vec<_> = lines.iter().filter(|line| line.ends_with(" on_log()")).cloned().collect();
    for log in logs {
        let context = log.trim_end_matches("on_log()");
        let position = |lines: &[String], end: &str| lines.iter().position(|line| *line == format!("{context}{end}()"));
        let (Some(at), Some(done)) = (position(&lines, "on_log"), position(&lines, "on_done")) else { continue };
        if at < done {
            let own = |line: &&String| line.starts_with(context) && !line.ends_with("on_delete()");
            let end = done + 1 + lines[done + 1..].iter().take_while(own).count();
            let moved: Vec<_> = lines.drain(done..end).collect();
            lines.splice(at..at, moved);
        }
    }
    lines
}

/// `#2 on_request_body(5, 0)` in its parts.
fn piece(line: &str) -> Option<(&str, usize, &str)> {
    let (start, rest) = line.split_once('(')?;
    if !start.ends_with("_body") {
        return None;
    }
    let (size, end) = rest.strip_suffix(')')?.split_once(", ")?;
    Some((start, size.parse().ok()?, end))
}

/// What differs from run to run, by a word for it.
fn normal(line: &str) -> String {
    static PATTERNS: OnceLock<Vec<(Regex, &str)>> = OnceLock::new();
    let patterns = PATTERNS.get_or_init(|| {
        let pattern = |pattern: &str, word| (Regex::new(pattern).unwrap(), word);
        vec![
            // Envoy dates a response after the filters have seen it; the log sees the date.
            pattern(r#"(, )?"date": "[^"]*""#, ""),
            // It tells an answer to a callout how long that took, in a header more.
            pattern(r#"(, )?"x-envoy-[^"]*": "[^"]*""#, ""),
            pattern(r"on_http_call_response\((\d+), [1-9]\d*,", "on_http_call_response($1, SOME,"),
            pattern(
                r"on_grpc_receive_initial_metadata\((\d+), [1-9]\d*\)",
                "on_grpc_receive_initial_metadata($1, SOME)",
            ),
            pattern(r"on_queue_ready\(\d+\)", "on_queue_ready(an id)"),
            pattern(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
            pattern(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID"),
            pattern(
                r"It's \d{10} \(for the host \d{10}\), your lucky number is \d+",
                "It's TIME, your lucky number is N",
            ),
        ]
    });
    patterns.iter().fold(line.to_owned(), |line, (pattern, word)| pattern.replace_all(&line, *word).into_owned())
}
