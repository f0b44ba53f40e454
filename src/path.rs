//! The path by which a request is routed: as the upstream is likely to read it, so that no spelling of a path gets
//! around the checks of its route. What goes upstream is the path as it came.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Percent-decoded, without empty, `.` and `..` segments (RFC 3986, sections 5.2.4 and 6.2.2).
pub fn normal(path: &str) -> Cow<'_, str> {
    if is_normal(path.as_bytes()) { Cow::Borrowed(path) } else { Cow::Owned(USUAL.read(path)) }
}

/// The other ways in which servers read a path that is not normal: what they disagree about, in every combination.
pub fn other_readings(path: &str) -> impl Iterator<Item = String> {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let has = |texts: &[&str]| texts.iter().any(|text| decoded.contains(text));
    let in_doubt = [
        path.contains("%2f") || path.contains("%2F"),
        decoded.contains('\\'),
        has(&["//", "/\\", "\\/", "\\\\"]),
        has(&["/.", "\\."]),
        decoded.contains(';'),
    ];
    let alternatives = |usual: bool, in_doubt: bool| std::iter::once(usual).chain(in_doubt.then_some(!usual));
    let mut readings = Vec::new();
    for encoded_slash in alternatives(USUAL.encoded_slash, in_doubt[0]) {
        for backslash in alternatives(USUAL.backslash, in_doubt[1]) {
            for merges in alternatives(USUAL.merges, in_doubt[2]) {
                for resolves in alternatives(USUAL.resolves, in_doubt[3]) {
                    for parameters in alternatives(USUAL.parameters, in_doubt[4]) {
                        readings.push(Reading { encoded_slash, backslash, merges, resolves, parameters });
                    }
                }
            }
        }
    }
    readings.into_iter().skip(1).map(move |reading| reading.read(path))
}

/// How a server reads a path.
struct Reading {
    /// `%2F` separates segments.
    encoded_slash: bool,
    /// A backslash separates segments, as in the URL standard of WHATWG.
    backslash: bool,
    /// Empty segments are left out.
    merges: bool,
    /// `.` and `..` are resolved.
    resolves: bool,
    /// What follows a `;` in a segment is none of its name (RFC 3986, section 3.3).
    parameters: bool,
}

const USUAL: Reading =
    Reading { encoded_slash: true, backslash: false, merges: true, resolves: true, parameters: false };

impl Reading {
    fn read(&self, path: &str) -> String {
        let decode = |text| percent_decode_str(text).decode_utf8_lossy();
        let separates = |c: char| c == '/' || (self.backslash && c == '\\');
        let whole = if self.encoded_slash { decode(path) } else { Cow::Borrowed(path) };
        let mut segments = Vec::new();
        let mut is_directory = false;
        for segment in whole.split(separates).skip(1) {
            let segment = if self.encoded_slash { Cow::Borrowed(segment) } else { decode(segment) };
            let name = if self.parameters { segment.split(';').next().unwrap_or_default() } else { &segment };
            is_directory = true;
            match name {
                "" if self.merges => {}
                "." if self.resolves => {}
                ".." if self.resolves => drop(segments.pop()),
                name => {
                    is_directory = name.is_empty();
                    segments.push(name.to_owned());
                }
            }
        }
        let end = if is_directory && segments.last().is_none_or(|last| !last.is_empty()) { "/" } else { "" };
        segments.into_iter().flat_map(|segment| ["/".to_owned(), segment]).collect::<String>() + end
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
