//! The path by which a request is routed: as the upstream is likely to read it, so that no spelling of a path gets
//! around the checks of its route. What goes upstream is the path as it came.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Percent-decoded, without empty, `.` and `..` segments (RFC 3986, sections 5.2.4 and 6.2.2).
pub fn normal(path: &str) -> Cow<'_, str> {
    if is_normal(path.as_bytes()) {
        return Cow::Borrowed(path);
    }
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let mut normal = String::with_capacity(decoded.len());
    for segment in &segments {
        normal.push('/');
        normal.push_str(segment);
    }
    let directory = ["/", "/.", "/.."].iter().any(|end| decoded.ends_with(end));
    if directory || normal.is_empty() {
        normal.push('/');
    }
    Cow::Owned(normal)
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
        *byte != b'%' && !(begins && matches!(byte, b'/' | b'.'))
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
