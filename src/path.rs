//! The path by which a request is routed: as the upstream is likely to read it, so that no spelling of a path gets
//! around the checks of its route. What goes upstream is the path as it came.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Percent-decoded, without empty, `.` and `..` segments (RFC 3986, sections 5.2.4 and 6.2.2).
pub fn normal(path: &str) -> Cow<'_, str> {
    if is_normal(path.as_bytes()) { Cow::Borrowed(path) } else { Cow::Owned(Reading::USUAL.read(path)) }
}

/// How else servers read a path that is not normal. They undo escapes, cut parameters, turn backslashes, merge slashes, resolve
/// dots, take the target for a reference to another host (RFC 3986, section 4.2), and end the path at a control character (a NUL,
/// or a newline before the `$` of a regex) or leave it out, each of them or not, and in any order. What is undone twice (`%252e`)
/// is not looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    None,
    /// About one thing: some read it so.
    Also(Vec<Other>),
    /// About several, or about control characters: there is no end of readings.
    Any,
}

/// Another reading of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Other {
    /// Empty and `.` segments are left in.
    Unmerged(String),
    Path(String),
}

pub fn doubt(path: &str) -> Doubt {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let escapes = |escaped: &[&str]| escaped.iter().any(|escape| path.contains(escape));
    let backslashes = decoded.contains('\\');
    let parameters = decoded.contains(';');
    let names = || decoded.split(['/', '\\']).skip(1).map(|segment| segment.split(';').next().unwrap_or_default());
    let dots = names().any(|name| name == "..");
    let empty = decoded.contains("//") || names().any(|name| name == ".");
    let mut after_dots = names().skip_while(|name| *name == ".");
    let host = after_dots.next() == Some("") && after_dots.next().is_some();
    let controls = decoded.bytes().any(|byte| byte.is_ascii_control());
    let escaped = escapes(&["%2f", "%2F", "%2e", "%2E", "%5c", "%5C", "%3b", "%3B"]);
    let usual = Reading::USUAL;
    let unmerged = Reading { merges: false, resolves: false, ..usual };
    let others = [
        (dots, Reading { resolves: false, ..usual }),
        (backslashes, Reading { backslash: true, ..usual }),
        (parameters, Reading { parameters: true, ..usual }),
        (escaped, Reading { escaped_slash: false, ..usual }),
    ];
    let mut others = others.into_iter().filter_map(|(is_there, reading)| is_there.then_some(reading));
    match (others.next(), others.next()) {
        _ if controls => Doubt::Any,
        (None, _) if host => {
            let behind = behind_host(path);
            let merged = Other::Path(usual.read(&behind));
            Doubt::Also(vec![merged, Other::Unmerged(unmerged.read(path)), Other::Unmerged(unmerged.read(&behind))])
        }
        (None, _) if empty => Doubt::Also(vec![Other::Unmerged(unmerged.read(path))]),
        (None, _) => Doubt::None,
        (Some(other), None) if !host && !empty => Doubt::Also(vec![Other::Path(other.read(path))]),
        (Some(_), _) => Doubt::Any,
    }
}

/// The path of a reference without a scheme: what follows the host after `//`. Of `/.//`, the dot may have been resolved before.
fn behind_host(reference: &str) -> String {
    let segments = reference.split('/').skip_while(|name| matches!(*name, "" | "."));
    segments.skip(1).fold(String::new(), |path, segment| path + "/" + segment)
}

/// How a server reads a path.
struct Reading {
    /// Whether `%2F` separates segments.
    escaped_slash: bool,
    /// Whether a backslash does, as in the URL standard of WHATWG.
    backslash: bool,
    /// Whether empty segments are left out.
    merges: bool,
    /// Whether `.` and `..` are resolved.
    resolves: bool,
    /// Whether what follows a `;` in a segment is none of its name (RFC 3986, section 3.3).
    parameters: bool,
}

impl Reading {
    const USUAL: Reading =
        Reading { escaped_slash: true, backslash: false, merges: true, resolves: true, parameters: false };

    fn read(&self, path: &str) -> String {
        let decode = |text| percent_decode_str(text).decode_utf8_lossy();
        let separates = |c: char| c == '/' || (self.backslash && c == '\\');
        let whole = if self.escaped_slash { decode(path) } else { Cow::Borrowed(path) };
        let mut read = String::with_capacity(path.len());
        // Where the segments begin.
        let mut segments = Vec::new();
        let mut is_directory = false;
        for segment in whole.split(separates).skip(1) {
            let segment = if self.escaped_slash {
                Cow::Borrowed(segment)
            } else {
                // What does not separate is not to look as if it did.
                decode(segment).replace('/', "%2F").into()
            };
            let name = match segment.split_once(';') {
                Some((name, _)) if self.parameters => name,
                _ => &segment,
            };
            is_directory = true;
            match name {
                "" if self.merges => {}
                "." if self.resolves => {}
                ".." if self.resolves => read.truncate(segments.pop().unwrap_or(0)),
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
        let also = |reading: &str| Doubt::Also(vec![Other::Path(reading.to_owned())]);
        let unmerged = |reading: &str| Doubt::Also(vec![Other::Unmerged(reading.to_owned())]);
        let behind_host = |behind: &str, readings: [&str; 2]| {
            let [whole, unmerged] = readings.map(|reading| Other::Unmerged(reading.to_owned()));
            Doubt::Also(vec![Other::Path(behind.to_owned()), whole, unmerged])
        };
        for (path, doubt_of_it) in [
            ("/", Doubt::None),
            ("/a/b", Doubt::None),
            ("/a%20b/%70", Doubt::None),
            ("/a.b/.well-known/..c", Doubt::None),
            ("/a//b", unmerged("/a//b")),
            ("/a/./b", unmerged("/a/./b")),
            ("/./a", unmerged("/./a")),
            ("/./", unmerged("/./")),
            ("//x/a%20b", behind_host("/a b", ["//x/a b", "/a b"])),
            ("///x/a", behind_host("/a", ["///x/a", "/a"])),
            ("/.//./x//a/", behind_host("/a/", ["/.//./x//a/", "//a/"])),
            ("//.../a", behind_host("/a", ["//.../a", "/a"])),
            ("//x", behind_host("/", ["//x", "/"])),
            ("//", behind_host("/", ["//", "/"])),
            ("/a.php%0a", Doubt::Any),
            ("/a%00.php/b", Doubt::Any),
            ("/a%c2%85", Doubt::None),
            ("/a%7f", Doubt::Any),
            ("/\\x/a", Doubt::Any),
            ("/%2fx/a", Doubt::Any),
            ("/;/x/a", Doubt::Any),
            ("//x/../a", Doubt::Any),
            ("/private/../pub", also("/private/../pub")),
            ("/private\\a", also("/private/a")),
            ("/private;x/a", also("/private/a")),
            ("/u/a%2Fb/admin", also("/u/a%2Fb/admin")),
            ("/a%2ehtml", also("/a.html")),
            ("/private//../a", Doubt::Any),
            ("/x\\..\\private/a", Doubt::Any),
            ("/x/%2e%2e/private", Doubt::Any),
            ("/private/..%2fpub", Doubt::Any),
            ("/x/..;/private/a", Doubt::Any),
            ("/a/../private;/;/../a", Doubt::Any),
            ("/a%2f/b", Doubt::Any),
            ("/a%5cb", Doubt::Any),
            ("/a%3bb", Doubt::Any),
        ] {
            assert_eq!(doubt(path), doubt_of_it, "{path}");
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
