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
    // An empty line is the end of another's text.
    let lines = whole_bodies(lines.iter().filter(|line| !line.is_empty()).map(|line| normal(line)).collect());
    let lines: Vec<_> = match unordered {
        true => lines.into_iter().collect::<BTreeSet<_>>().into_iter().collect(),
        false => lines,
    };
    for line in lines {
        let _ = writeln!(to, "  {line}");
    }
}

/// Into how many pieces a body falls is the network's affair: callbacks between which the guest does nothing but go on, or
/// hold, are one. Those of other filters may be between them.
fn whole_bodies(lines: Vec<String>) -> Vec<String> {
    let mut whole: Vec<String> = Vec::new();
    for line in lines {
        if let Some((start, size, end)) = piece(&line)
            && let Some((at, held)) = before(&whole, start)
            && let Some((same, earlier, "0")) = piece(&whole[at])
            && same == start
        {
            // What is held comes again with what is new.
            let size = if held.is_some() { size } else { earlier + size };
            whole[at] = format!("{start}({size}, {end})");
            if let Some(held) = held {
                whole.remove(held);
            }
            continue;
        }
        whole.push(line);
    }
    whole
}

/// The callback of the same context that is the last, if only bodies have come to other contexts since, and whether it was
/// held.
fn before(lines: &[String], start: &str) -> Option<(usize, Option<usize>)> {
    let context = start.split_once(' ')?.0;
    let is_own = |line: &String| line.strip_prefix(context).is_some_and(|rest| rest.starts_with(' '));
    let last = lines.iter().rposition(is_own)?;
    let is_pause = |line: &str| line.ends_with(" pause() -> OK");
    if !lines[last + 1..].iter().all(|line| piece(line).is_some() || is_pause(line)) {
        return None;
    }
    if !is_pause(&lines[last]) {
        return Some((last, None));
    }
    Some((lines[..last].iter().rposition(is_own)?, Some(last)))
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
            // The host's name, or what Envoy tells of itself.
            pattern(r#"(property\(\["xds","node","id"\]\)) -> ".*""#, "$1 -> a name"),
            pattern(r#"(has_property\(\[("xds",)?"node"\]\)) -> \d+"#, "$1 -> SOME"),
            pattern(r"on_queue_ready\(\d+\)", "on_queue_ready(an id)"),
            pattern(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
            // Where the machine that has built a guest keeps the sources.
            pattern(r"panicked at \S*/registry/src/[^/]*/", "panicked at "),
            pattern(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID"),
            pattern(
                r"It's \d{10} \(for the host \d{10}\), your lucky number is \d+",
                "It's TIME, your lucky number is N",
            ),
        ]
    });
    patterns.iter().fold(line.to_owned(), |line, (pattern, word)| pattern.replace_all(&line, *word).into_owned())
}
