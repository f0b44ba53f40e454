use std::ops::Range;

use toml::de::DeTable;

use super::{Diagnostic, Diagnostics, Span};

/// Enough to mend at once; a file with more is probably no TOML at all.
const MOST_ERRORS: usize = 50;

/// Reports all syntax errors, and gives the text without the lines they are on, with everything else in its place: what
/// it says is worth checking too. None if it cannot be trusted, because the header of a table is not right.
pub fn check(source: &str, diagnostics: &mut Diagnostics) -> Option<String> {
    let mut rest = source.to_owned();
    let mut header_lost = false;
    let mut blanked: Vec<Range<usize>> = Vec::new();
    // One error at a time: what the parser says after the first is often only its consequence.
    while let Some((span, message)) = first_error(&rest, header_lost) {
        let line = line_around(source, span.start);
        if blanked.contains(&line) || blanked.len() == MOST_ERRORS {
            return None;
        }
        diagnostics.push(syntax_error(source, span, &message));
        let mut blank = String::new();
        if source[line.clone()].trim_start().starts_with('[') {
            // The keys that follow still need a table, and not the one before.
            blank.push_str("[[_]]");
            header_lost = true;
        }
        blank.push_str(&" ".repeat(line.len().saturating_sub(blank.len())));
        if blank.len() != line.len() {
            return None;
        }
        rest.replace_range(line.clone(), &blank);
        blanked.push(line);
    }
    (!header_lost).then_some(rest)
}

fn first_error(source: &str, header_lost: bool) -> Option<(Span, String)> {
    let (_, errors) = DeTable::parse_recoverable(source);
    let located = errors.iter().map(|error| (error.span().unwrap_or(0..0), error.message().to_owned()));
    // With a header lost, tables seem to be there twice that are not.
    let real = located.filter(|(_, message)| !(header_lost && message == DUPLICATE));
    real.min_by_key(|(span, _)| span.start)
}

const DUPLICATE: &str = "duplicate key";

fn syntax_error(source: &str, span: Span, message: &str) -> Diagnostic {
    let line = line_around(source, span.start);
    let error = |message: &str| Diagnostic::error(span.clone(), format!("syntax error: {message}"));
    if message.starts_with("string values must be quoted") || message.starts_with("invalid float") {
        return match source[span.start..line.end].trim() {
            "" => error("a key without a value").help("write `key = value`"),
            _ => error("this is not a value").help("strings need quotes: `key = \"text\"`"),
        };
    }
    let help = if message == DUPLICATE {
        "keep one of the two; several tables of a kind are written `[[table]]`"
    } else if message.starts_with("invalid basic string") {
        "close it with `\"`, and write `\\` as `\\\\`"
    } else if message.contains("inline table") || message.contains("array element") {
        "is a `}` or `]` missing here, or on a line before?"
    } else if message.starts_with("unclosed") {
        "close it with `]`: `[table]` for one table, `[[table]]` for one of a list"
    } else {
        "the format of the file is TOML, see https://toml.io"
    };
    error(message).help(help)
}

/// The bytes of the line that `at` is in, without its end.
fn line_around(source: &str, at: usize) -> Range<usize> {
    let at = at.min(source.len());
    let start = source.as_bytes()[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let end = source.as_bytes()[at..].iter().position(|byte| *byte == b'\n').map_or(source.len(), |length| at + length);
    start..end
}
