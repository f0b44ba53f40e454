//! The path by which a request is routed: as the upstream is likely to read it, so that no spelling of a path gets
//! around the checks of its route. What goes upstream is the path as it came.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Percent-decoded, without empty, `.` and `..` segments (RFC 3986, sections 5.2.4 and 6.2.2).
pub fn normal(path: &str) -> Cow<'_, str> {
    if is_normal(path.as_bytes()) { Cow::Borrowed(path) } else { Cow::Owned(Reading::USUAL.read(path)) }
}

/// The other ways in which servers read a path that is not normal: what they disagree about, in every combination.
pub fn other_readings(path: &str) -> impl Iterator<Item = String> {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let in_doubt = [
        (Reading::ENCODED_SLASH, &["%2f", "%2F"][..], path),
        (Reading::BACKSLASH, &["\\"], &decoded),
        (Reading::MERGES, &["//", "/\\", "\\/", "\\\\"], &decoded),
        (Reading::RESOLVES, &["/.", "\\."], &decoded),
        (Reading::PARAMETERS, &[";"], &decoded),
    ];
    let in_doubt = in_doubt.into_iter().filter(|(_, signs, text)| signs.iter().any(|sign| text.contains(sign)));
    let in_doubt = in_doubt.fold(0, |all, (question, ..)| all | question);
    (1..=Reading::ALL)
        .filter(move |others| others & !in_doubt == 0)
        .map(move |others| Reading(Reading::USUAL.0 ^ others).read(path))
}

/// How a server reads a path: what it says yes to.
struct Reading(u8);

impl Reading {
    /// Whether `%2F` separates segments.
    const ENCODED_SLASH: u8 = 1;
    /// Whether a backslash does, as in the URL standard of WHATWG.
    const BACKSLASH: u8 = 2;
    /// Whether empty segments are left out.
    const MERGES: u8 = 4;
    /// Whether `.` and `..` are resolved.
    const RESOLVES: u8 = 8;
    /// Whether what follows a `;` in a segment is none of its name (RFC 3986, section 3.3).
    const PARAMETERS: u8 = 16;
    const ALL: u8 = 31;

    const USUAL: Reading = Reading(Reading::ENCODED_SLASH | Reading::MERGES | Reading::RESOLVES);

    fn read(&self, path: &str) -> String {
        let says = |question| self.0 & question != 0;
        let decode = |text| percent_decode_str(text).decode_utf8_lossy();
        let separates = |c: char| c == '/' || (says(Reading::BACKSLASH) && c == '\\');
        let is_whole = says(Reading::ENCODED_SLASH);
        let whole = if is_whole { decode(path) } else { Cow::Borrowed(path) };
        let mut read = String::with_capacity(path.len());
        // Where the segments begin.
        let mut segments = Vec::new();
        let mut is_directory = false;
        for segment in whole.split(separates).skip(1) {
            let segment = if is_whole { Cow::Borrowed(segment) } else { decode(segment) };
            let name = match segment.split_once(';') {
                Some((name, _)) if says(Reading::PARAMETERS) => name,
                _ => &segment,
            };
            is_directory = true;
            match name {
                "" if says(Reading::MERGES) => {}
                "." if says(Reading::RESOLVES) => {}
                ".." if says(Reading::RESOLVES) => read.truncate(segments.pop().unwrap_or(0)),
                name => {
                    is_directory = false;
                    segments.push(read.len());
                    read.push('/');
                    read.push_str(name);
                }
            }
        }
        if (is_directory && !read.ends_with('/')) || read.is_empty() {
            read.push('/');
        }
        read
    }
}

/// The spelling in which the beginning of a path is found in normal paths. `/.` stays as it is: names may begin so.
pub fn normal_prefix(prefix: &str) -> String {
    // Of a path that goes on from it; no digit of an escape.
    const MORE: char = 'x';
    let longer = format!("{prefix}{MORE}");
    let normal = normal(&longer);
    normal.strip_suffix(MORE).unwrap_or(&normal).to_owned()
}

/// Whether there is nothing to decode and no segment to take out. Byte by byte: for a path, that is ten times faster than
/// to search it for strings, and every request comes by here.
fn is_normal(path: &[u8]) -> bool {
    let mut before = b' ';
    path.iter().all(|byte| {
        let begins = std::mem::replace(&mut before, *byte) == b'/';
        !(matches!(byte, b'%' | b'\\' | b';') || begins && matches!(byte, b'/' | b'.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_path_is_the_same_path() {
        for (path, expected) in [
            ("/", "/"),
            ("/private/x", "/private/x"),
            ("//private//x", "/private/x"),
            ("/%70rivate/x", "/private/x"),
            ("/a/../private/./x", "/private/x"),
            ("/a/%2e%2E/private/x", "/private/x"),
            ("/private%2Fx", "/private/x"),
            ("/../../private/", "/private/"),
            ("/private/x/..", "/private/"),
            ("/private/.", "/private/"),
            ("/.well-known/x", "/.well-known/x"),
            ("/%ff", "/\u{fffd}"),
            ("/..", "/"),
        ] {
            assert_eq!(normal(path), expected, "{path}");
        }
    }

    #[test]
    fn what_servers_may_take_a_path_for() {
        for (path, among, not) in [
            ("/private//../a", "/private/a", "/b"),
            ("/private\\a", "/private/a", "/b"),
            ("/x\\..\\private/a", "/private/a", "/b"),
            ("/x/%2e%2e\\private\\a", "/private/a", "/b"),
            ("/x/%2e%2e%5cprivate", "/private", "/b"),
            ("/private/..%2fpub", "/private/../pub", "/b"),
            ("/private/../pub", "/private/../pub", "/private/pub"),
            ("/x/..;/private/a", "/private/a", "/b"),
            ("/a//b", "/a//b", "/b"),
            ("/a/.", "/a/.", "/b"),
        ] {
            let readings: Vec<_> = other_readings(path).collect();
            assert!(readings.iter().any(|reading| reading == among), "{path}: {readings:?}");
            assert!(readings.iter().all(|reading| reading != not), "{path}: {readings:?}");
        }
        for unanimous in ["/", "/a/b", "/a%20b", "/%70rivate", "/a.b/c.html"] {
            assert_eq!(other_readings(unanimous).next(), None, "{unanimous}");
        }
    }

    #[test]
    fn prefixes() {
        for (prefix, expected) in [
            ("/", "/"),
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("/a b/\u{fc}", "/a b/\u{fc}"),
            ("/100%", "/100%"),
            ("/.", "/."),
            ("/a/..", "/a/.."),
            ("/a%20b", "/a b"),
            ("/a//b", "/a/b"),
            ("/a//", "/a/"),
            ("//", "/"),
            ("/a/../b", "/b"),
            ("/a/./", "/a/"),
            ("/a/../", "/"),
            ("/%2e", "/."),
        ] {
            assert_eq!(normal_prefix(prefix), expected, "{prefix}");
        }
    }

    #[test]
    fn an_ordinary_path_is_not_copied() {
        assert!(matches!(normal("/a/b.html"), Cow::Borrowed(_)));
    }
}
