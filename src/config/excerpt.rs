//! The line of the file that a diagnostic shows.

use std::borrow::Cow;

use miette::{MietteError, MietteSpanContents, SourceSpan, SpanContents};

use super::Span;

/// Characters of the longest line that is shown whole.
const LONGEST: usize = 200;

/// Of a longer line, how many characters are shown before the place, and from there on.
const BEFORE: usize = 60;
const AFTER: usize = 100;

/// The line with the marked text and no other, of which miette makes its picture.
#[derive(Debug)]
pub struct Excerpt<'s> {
    name: &'s str,
    text: Cow<'s, [u8]>,
    /// In the text.
    marked: Span,
    /// Of the marked text, counted from 0.
    line: usize,
    column: usize,
    of_nothing: bool,
}

impl<'s> Excerpt<'s> {
    /// Of the file with this name and text. The marked text is within one line.
    pub fn of(name: &'s str, source: &'s str, marked: Span) -> Excerpt<'s> {
        let (before, after) = source.as_bytes().split_at(marked.start);
        let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let end =
            after.iter().position(|byte| matches!(byte, b'\n' | b'\r')).map_or(source.len(), |at| marked.start + at);
        let (text, marked) = match source.get(start..end) {
            Some(line) => cut(line, marked.start - start..marked.end - start),
            None => (Cow::Borrowed(&source.as_bytes()[start..end]), marked.start - start..marked.end - start),
        };
        Excerpt {
            name,
            text,
            marked,
            line: before.iter().filter(|byte| **byte == b'\n').count(),
            // A byte order mark is no character of the line.
            column: String::from_utf8_lossy(&before[start..]).trim_start_matches('\u{feff}').chars().count(),
            of_nothing: source.is_empty(),
        }
    }

    /// Whether there is no line to show.
    pub fn is_empty(&self) -> bool {
        self.of_nothing
    }

    pub fn marked(&self) -> Span {
        self.marked.clone()
    }
}

/// The line, or of a long one what is around the marked text.
fn cut(line: &str, marked: Span) -> (Cow<'_, [u8]>, Span) {
    const MORE: &str = "…";
    let starts: Vec<usize> = line.char_indices().map(|(at, _)| at).collect();
    if starts.len() <= LONGEST {
        return (Cow::Borrowed(line.as_bytes()), marked);
    }
    let place = starts.partition_point(|at| *at < marked.start);
    let from = starts[place.saturating_sub(BEFORE).min(starts.len() - 1)];
    let to = starts.get(place + AFTER).copied().unwrap_or(line.len());
    let ellipsis = |is_cut: bool| if is_cut { MORE } else { "" };
    let (left, right) = (ellipsis(from > 0), ellipsis(to < line.len()));
    let shifted = |at: usize| at.clamp(from, to) - from + left.len();
    let text = [left, &line[from..to], right].concat();
    (Cow::Owned(text.into_bytes()), shifted(marked.start)..shifted(marked.end))
}

impl miette::SourceCode for Excerpt<'_> {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        _lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        // Without context the place is asked for, with context the text.
        let (from, to, column) = match lines_before {
            0 => (span.offset(), span.offset() + span.len(), self.column),
            _ => (0, self.text.len(), 0),
        };
        let data = self.text.get(from..to).ok_or(MietteError::OutOfBounds)?;
        let span = (from, data.len()).into();
        Ok(Box::new(MietteSpanContents::new_named(self.name.to_owned(), data, span, self.line, column, 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str, marked: Span) -> (String, String) {
        let excerpt = Excerpt::of("a.toml", line, marked);
        let text = String::from_utf8(excerpt.text.to_vec()).unwrap();
        let marked = text[excerpt.marked()].to_owned();
        (text, marked)
    }

    #[test]
    fn a_line_is_shown_whole_unless_it_is_long() {
        let line = format!("{}X{}", "ä".repeat(100), "b".repeat(99));
        assert_eq!(shown(&line, 200..201), (line.clone(), "X".to_owned()));
        let long = format!("{line}c");
        let cut = format!("…{}X{}…", "ä".repeat(60), "b".repeat(99));
        assert_eq!(shown(&long, 200..201), (cut, "X".to_owned()));
    }

    #[test]
    fn what_is_marked_may_be_longer_than_what_is_shown() {
        let long = "a".repeat(10_000);
        let (text, marked) = shown(&long, 5..9_000);
        assert_eq!(text, format!("{}…", "a".repeat(105)));
        assert_eq!(marked, "a".repeat(100));
        let (text, marked) = shown(&long, 10_000..10_000);
        assert_eq!((text, marked), (format!("…{}", "a".repeat(60)), String::new()));
    }

    #[test]
    fn the_place_is_that_in_the_file() {
        let file = format!("threads = 1\nä = \"{}\" X\n", "b".repeat(300));
        let at = file.find('X').unwrap();
        let excerpt = Excerpt::of("a.toml", &file, at..at + 1);
        assert_eq!((excerpt.line, excerpt.column), (1, 307));
        assert_eq!(Excerpt::of("a.toml", "\u{feff}a = X", 7..8).column, 4);
    }
}
