//! Differences that are the same wherever they show: what Envoy does, rewritten to what Phasegate must do.

use std::sync::LazyLock;

use regex::Regex;

use crate::reason::Reason;

type Rule = (Reason, fn(&[String]) -> Vec<String>);

const RULES: [Rule; 8] = [
    (Reason::StreamEnd, done_first),
    (Reason::RequestTrailers, without_request_trailers),
    (Reason::ResponseTrailers, without_trailers_in_http1),
    (Reason::MissingMap, not_found),
    (Reason::StaleBuffer, without_stale_buffer),
    (Reason::GrpcMessage, plain_message),
    (Reason::MetricTwice, without_metric_ids),
    (Reason::HeaderOrder, sorted),
];

/// What Phasegate must do, by what Envoy does in a case, and the reasons for what was changed.
pub fn apply(section: &str) -> (String, Vec<Reason>) {
    let mut lines: Vec<String> = section.lines().map(str::to_owned).collect();
    let mut reasons = Vec::new();
    for (reason, rule) in RULES {
        let changed = rule(&lines);
        if changed != lines {
            reasons.push(reason);
            lines = changed;
        }
    }
    (joined(&lines), reasons)
}

/// What Phasegate does, without what means nothing.
pub fn plain(section: &str) -> String {
    let lines: Vec<_> = section.lines().map(str::to_owned).collect();
    joined(&sorted(&without_metric_ids(&lines)))
}

fn joined(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn each(lines: &[String], change: impl Fn(&str) -> Option<String>) -> Vec<String> {
    lines.iter().map(|line| change(line).unwrap_or_else(|| line.clone())).collect()
}

/// The context that a line of the log is of, with what is before it; none: it is of no callback or step.
fn context(line: &str) -> Option<&str> {
    static CONTEXT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^  #\d+ ").unwrap());
    CONTEXT.find(line).map(|found| found.as_str())
}

/// Whether the line is what a guest did in a callback of this context.
fn is_step(line: &str, of: &str) -> bool {
    line.strip_prefix(of).is_some_and(|rest| !rest.starts_with("on_"))
}

/// The specification has a stream done before it is logged, Envoy logs before: `on_done` comes first, with what it does.
fn done_first(lines: &[String]) -> Vec<String> {
    let mut lines = lines.to_vec();
    let mut at = 0;
    while at < lines.len() {
        let log = context(&lines[at]).filter(|of| lines[at][of.len()..] == *"on_log()").map(str::to_owned);
        at += 1;
        let Some(of) = log else { continue };
        let done = format!("{of}on_done()");
        let Some(start) = lines[at..].iter().position(|line| *line == done) else { continue };
        let start = at + start;
        let steps = lines[start + 1..].iter().take_while(|line| is_step(line, &of)).count();
        let moved: Vec<_> = lines.drain(start..=start + steps).collect();
        at += moved.len();
        let before = at - moved.len() - 1;
        lines.splice(before..before, moved);
    }
    lines
}

/// Trailers of requests are not there, and the body is the end.
fn without_request_trailers(lines: &[String]) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    let mut dropped = None;
    for line in lines {
        if line.starts_with("      trailer ") {
            continue;
        }
        if let Some(of) = context(line).filter(|of| line[of.len()..].starts_with("on_request_trailers(")) {
            let body = format!("{of}on_request_body(");
            if let Some(body) = kept.iter_mut().rfind(|line| line.starts_with(&body)) {
                *body = body.replace(", 0)", ", 1)");
            }
            dropped = Some(of);
            continue;
        }
        if dropped.is_some_and(|of| is_step(line, of)) {
            continue;
        }
        dropped = None;
        kept.push(line.clone());
    }
    kept
}

/// A client of HTTP/1.1 gets no trailers.
fn without_trailers_in_http1(lines: &[String]) -> Vec<String> {
    let mut is_http1 = false;
    let mut kept = Vec::new();
    for line in lines {
        if !line.starts_with(' ') {
            is_http1 = line.ends_with(" HTTP/1.1");
        }
        if !(is_http1 && line.starts_with("    trailer ")) {
            kept.push(line.clone());
        }
    }
    kept
}

/// A header of a map that is not there is not found.
fn not_found(lines: &[String]) -> Vec<String> {
    static GET: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r#"^(  #\d+ get\("[a-z_]+","[^"]*"\)) -> BAD_ARGUMENT$"#).unwrap());
    each(lines, |line| GET.captures(line).map(|found| format!("{} -> NOT_FOUND", &found[1])))
}

/// Where there are no arguments of a foreign function, Envoy shows what another buffer has held.
fn without_stale_buffer(lines: &[String]) -> Vec<String> {
    static BUFFER: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r#"^(  #\d+ (?:set_)?buffer(?:_status)?\("call_data".*\)) -> "#).unwrap());
    let mut is_start = false;
    let mut kept: Vec<String> = Vec::new();
    for line in lines {
        is_start = if line.starts_with(' ') { is_start } else { line == "start" };
        let line = BUFFER.captures(line).map_or_else(|| line.clone(), |found| format!("{} -> NOT_FOUND", &found[1]));
        // What starts says each line once.
        if !(is_start && kept.contains(&line)) {
            kept.push(line);
        }
    }
    kept
}

/// Envoy adds the details of the response to the message of the server, and leaves it encoded.
fn plain_message(lines: &[String]) -> Vec<String> {
    static STATUS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r#"^(  #\d+ status\(\) -> \d+) "(?:([^"{]*)\{[^"]*\}|via_upstream)"$"#).unwrap());
    each(lines, |line| {
        let found = STATUS.captures(line)?;
        let message = found.get(2).map_or("", |message| message.as_str());
        let message = percent_encoding::percent_decode_str(message).decode_utf8_lossy();
        Some(format!("{} {message:?}", &found[1]))
    })
}

/// Only the low two bits of an id say something.
fn without_metric_ids(lines: &[String]) -> Vec<String> {
    static DEFINE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^(  #\d+ define_metric\(.*\)) -> (\d+)$").unwrap());
    each(lines, |line| {
        let found = DEFINE.captures(line)?;
        let id: u32 = found[2].parse().ok()?;
        Some(format!("{} -> an id of kind {}", &found[1], id & 3))
    })
}

/// Headers by their names, where pseudo-headers come first; values of one name stay as they are.
fn sorted(lines: &[String]) -> Vec<String> {
    let mut lines = each(lines, sorted_pairs);
    // Of the example that logs each of them.
    let key = |line: &String| {
        let of = context(line)?;
        let arrow = ["-> ", "<- "].into_iter().find(|arrow| line[of.len()..].starts_with(arrow))?;
        Some(format!("{of}{arrow}"))
    };
    for run in lines.chunk_by_mut(|a, b| key(a).is_some() && key(a) == key(b)) {
        run.sort_by(|a, b| name(a).cmp(name(b)));
    }
    lines
}

/// Of `  #2 -> NAME: VALUE`, all before the value.
fn name(line: &str) -> &str {
    line.split_once(": ").map_or(line, |(name, _)| name)
}

fn sorted_pairs(line: &str) -> Option<String> {
    static PAIRS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r#"^(  #\d+ pairs\("[a-z_]+"\) -> \[)(.*)\]$"#).unwrap());
    static PAIR: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r#"^(?:, )?(("(?:[^"\\]|\\.)*"|0x[0-9a-f]*): (?:"(?:[^"\\]|\\.)*"|0x[0-9a-f]*))"#).unwrap()
    });
    let found = PAIRS.captures(line)?;
    let (mut rest, mut pairs) = (&found[2], Vec::new());
    while let Some(pair) = PAIR.captures(rest) {
        pairs.push((pair[2].to_owned(), pair[1].to_owned()));
        rest = &rest[pair[0].len()..];
    }
    let is_pseudo = |(name, _): &(String, String)| name.starts_with("\":");
    let first = pairs.iter().take_while(|pair| is_pseudo(pair)).count();
    if !rest.is_empty() || pairs[first..].iter().any(is_pseudo) {
        return None;
    }
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    let pairs: Vec<_> = pairs.into_iter().map(|(_, pair)| pair).collect();
    Some(format!("{}{}]", &found[1], pairs.join(", ")))
}
