use std::fmt;
use std::ops::Range;
use std::path::Path;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan};

use super::excerpt::Excerpt;

/// A range of bytes of the configuration file.
pub type Span = Range<usize>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// One thing that is wrong in the configuration file, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub span: Span,
    pub message: String,
    /// What stands under the marked text.
    pub label: Option<String>,
    pub help: Option<String>,
}

impl Diagnostic {
    pub fn error(span: Span, message: impl Into<String>) -> Self {
        Diagnostic { severity: Severity::Error, span, message: message.into(), label: None, help: None }
    }

    pub fn warning(span: Span, message: impl Into<String>) -> Self {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(span, message) }
    }

    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Everything that was found in one configuration file. `Display` gives the text for people, without colour.
#[derive(Debug)]
pub struct Diagnostics {
    source: Source,
    list: Vec<Diagnostic>,
    /// Lines with syntax errors were left out: what is absent may have stood there.
    torn: bool,
}

impl Diagnostics {
    /// None yet, for the file at `path` with the text `source`.
    pub fn new(path: &Path, source: String) -> Self {
        Diagnostics { source: Source { name: path.display().to_string(), text: source }, list: Vec::new(), torn: false }
    }

    pub fn push(&mut self, diagnostic: Diagnostic) {
        // By position, and in the order of arrival at one position.
        let at = self.list.partition_point(|other| other.span.start <= diagnostic.span.start);
        self.list.insert(at, diagnostic);
    }

    /// Pushes what complains that something is not there, unless a syntax error may be why.
    pub(super) fn push_absent(&mut self, diagnostic: Diagnostic) {
        if !self.torn {
            self.push(diagnostic);
        }
    }

    pub(super) fn set_torn(&mut self) {
        self.torn = true;
    }

    pub fn has_errors(&self) -> bool {
        self.error_count() > 0
    }

    pub fn error_count(&self) -> usize {
        self.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count()
    }

    /// By position in the file.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// Of the same file, and this one alone.
    pub fn alone(self, diagnostic: Diagnostic) -> Diagnostics {
        Diagnostics { list: vec![diagnostic], ..self }
    }

    /// The text of the file.
    pub fn source(&self) -> &str {
        &self.source.text
    }

    /// The line that it begins in, from 1.
    pub(super) fn line(&self, span: &Span) -> usize {
        let before = &self.source()[..span.start.min(self.source().len())];
        before.matches('\n').count() + 1
    }

    /// The span of `part` of `value`, the decoded text of the string at `span`; the whole string if escapes hide it.
    pub(super) fn inside(&self, span: &Span, value: &str, part: Range<usize>) -> Span {
        let offset = self.source().get(span.clone()).and_then(|raw| raw.find(value));
        offset.map_or(span.clone(), |offset| span.start + offset + part.start..span.start + offset + part.end)
    }

    /// The text for people: severity, message, place, the marked line and the help, of each.
    pub fn render(&self, colour: bool) -> String {
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_wrap_lines(false)
            .with_context_lines(1)
            .with_links(false)
            .without_syntax_highlighting();
        let mut text = String::new();
        for diagnostic in &self.list {
            let Source { name, text: source } = &self.source;
            let excerpt = Excerpt::of(name, source, marked(source, &diagnostic.span));
            let report = Report { diagnostic, excerpt };
            if handler.render_report(&mut text, &report).is_err() {
                text.push_str(&diagnostic.message);
            }
            text.push('\n');
        }
        text
    }

    /// The same without the lines of the file, which hold what is nobody else's business.
    pub fn without_lines(&self) -> String {
        let mut text = String::new();
        for Diagnostic { severity, span, message, help, .. } in &self.list {
            let line = self.line(span);
            let severity = if *severity == Severity::Error { "error" } else { "warning" };
            let help = help.as_ref().map(|help| format!("\n  help: {help}")).unwrap_or_default();
            text.push_str(&format!("{severity}: {message}\n  at {}:{line}{help}\n", self.source.name));
        }
        text
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// The candidate that `name` is probably a misspelling of.
pub(super) fn nearest<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let distance = |candidate: &str| strsim::damerau_levenshtein(name, candidate);
    let (distance, candidate) = candidates.into_iter().map(|c| (distance(c), c)).min_by_key(|(d, _)| *d)?;
    (distance <= name.len().max(candidate.len()).div_ceil(3)).then_some(candidate)
}

/// The text as a string of TOML.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// The text as a key of TOML.
pub fn key(text: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !text.is_empty() && text.bytes().all(bare) { text.to_owned() } else { quoted(text) }
}

/// The file.
#[derive(Debug)]
struct Source {
    name: String,
    text: String,
}

/// What to mark in the text: of a span over several lines the first, so that the picture stays small; for the end of a
/// line, where nothing can be marked, the character before.
fn marked(text: &str, span: &Span) -> Span {
    let start = span.start.min(text.len());
    let end = span.end.clamp(start, text.len());
    let rest = text.as_bytes()[start..].iter().position(|byte| matches!(byte, b'\n' | b'\r'));
    let end = rest.map_or(end, |rest| end.min(start + rest));
    let before = text.get(..start).and_then(|before| before.chars().next_back());
    match before {
        Some(before) if rest.unwrap_or(text.len() - start) == 0 && before != '\n' => start - before.len_utf8()..start,
        _ => start..end,
    }
}

/// A diagnostic as miette wants it.
#[derive(Debug)]
struct Report<'d> {
    diagnostic: &'d Diagnostic,
    excerpt: Excerpt<'d>,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.diagnostic.message)
    }
}

impl std::error::Error for Report<'_> {}

impl miette::Diagnostic for Report<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.diagnostic.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.diagnostic.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(&self.excerpt)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        // There is no line to show of an empty file.
        if self.excerpt.is_empty() {
            return None;
        }
        let label = LabeledSpan::new_primary_with_span(self.diagnostic.label.clone(), self.excerpt.marked());
        Some(Box::new(std::iter::once(label)))
    }
}
