//! The configuration file: what the user typed (`schema`), and what the program runs on (`model`) once `resolve` has
//! checked it. Nothing stops at the first error; all are collected as diagnostics.

mod diagnostic;
mod keys;
mod leaf;
mod model;
mod reader;
mod resolve;
mod schema;
mod template;
#[cfg(test)]
mod tests;

pub use diagnostic::{Diagnostic, Diagnostics, Severity, Span};
pub use model::*;
pub use template::{Part, Template, TemplateError};

use std::ops::Range;
use std::path::Path;

use toml::de::DeTable;

/// What a configuration file gave.
#[derive(Debug)]
pub struct Loaded {
    /// Everything that could be resolved, also beside errors, so that the modules can be checked too. To be run only when
    /// there are no errors.
    pub config: Config,
    pub diagnostics: Diagnostics,
}

/// Reads and resolves the file. That it cannot be read is a diagnostic too.
pub fn load(path: &Path) -> Loaded {
    let failed = |source: String, diagnostic| {
        let mut diagnostics = Diagnostics::new(path, source);
        diagnostics.push(diagnostic);
        Loaded { config: Config::empty(path), diagnostics }
    };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let message = format!("cannot read the configuration file {}: {error}", path.display());
            let help = "name the file with `-c FILE`";
            return failed(String::new(), Diagnostic::error(0..0, message).help(help));
        }
    };
    match String::from_utf8(bytes) {
        Ok(source) => load_text(path, source),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let source = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let span = at..at + char::REPLACEMENT_CHARACTER.len_utf8();
            let message = "the configuration file is not UTF-8";
            failed(source, Diagnostic::error(span, message).help("save it as UTF-8"))
        }
    }
}

fn load_text(path: &Path, source: String) -> Loaded {
    let mut diagnostics = Diagnostics::new(path, source.clone());
    let (document, errors) = DeTable::parse_recoverable(&source);
    let without_errors = without_errors(&source, &errors);
    for error in syntax_errors(&source, &errors) {
        diagnostics.push(error);
    }
    let document = if errors.is_empty() {
        Some(document)
    } else {
        diagnostics.set_torn();
        without_errors.as_deref().and_then(|source| DeTable::parse(source).ok())
    };
    let config = match document {
        Some(document) => {
            let main = reader::read_table(document.get_ref(), document.span(), &mut diagnostics);
            resolve::resolve(main, path, &mut diagnostics)
        }
        None => Config::empty(path),
    };
    Loaded { config, diagnostics }
}

/// The file with the lines of its syntax errors blanked: what it says is worth checking as well. None if a header is
/// among them, whose keys would then seem to belong to the table before it.
fn without_errors(source: &str, errors: &[toml::de::Error]) -> Option<String> {
    let mut rest = source.to_owned();
    for error in errors {
        let line = line_around(source, error.span()?.start);
        if source[line.clone()].trim_start().starts_with('[') {
            return None;
        }
        rest.replace_range(line.clone(), &" ".repeat(line.len()));
    }
    Some(rest)
}

/// The first error of each line: after it the parser stumbles over what is no mistake.
fn syntax_errors(source: &str, errors: &[toml::de::Error]) -> Vec<Diagnostic> {
    let located = |error: &toml::de::Error| syntax_error(source, error.span().unwrap_or(0..0), error.message());
    let mut errors: Vec<_> = errors.iter().map(located).collect();
    errors.sort_by_key(|error| error.span.start);
    errors.dedup_by_key(|error| line_around(source, error.span.start));
    errors
}

fn syntax_error(source: &str, span: Span, message: &str) -> Diagnostic {
    let line = line_around(source, span.start);
    let unquoted = message.starts_with("string values must be quoted");
    if unquoted && source[span.start..line.end].trim().is_empty() {
        return Diagnostic::error(span, "syntax error: a key without a value").help("write `key = value`");
    }
    let error = Diagnostic::error(span, format!("syntax error: {message}"));
    match message {
        _ if unquoted => error.help("write a string as `key = \"text\"`"),
        "duplicate key" => error.help("keep one of the two; more tables of a kind are written `[[table]]`"),
        _ if message.starts_with("invalid basic string") => error.help("close it with `\"`, and write `\\` as `\\\\`"),
        _ => error.help("the format of the file is TOML: https://toml.io"),
    }
}

/// The bytes of the line that `at` is in, without its end.
fn line_around(source: &str, at: usize) -> Range<usize> {
    let at = at.min(source.len());
    let start = source.as_bytes()[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let end = source.as_bytes()[at..].iter().position(|byte| *byte == b'\n').map_or(source.len(), |length| at + length);
    start..end
}
