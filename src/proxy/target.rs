//! What a request is for: refused when it could mean one thing to us and another to an upstream, and so get around a route.

use http::uri::{PathAndQuery, Uri};
use http::{Method, Version, header};
use pingora::http::RequestHeader;

/// Leaves a path as the target of the request (RFC 9112, section 3.2), or `*` for OPTIONS. The error is what is wrong.
pub fn settle(request: &mut RequestHeader) -> Result<(), &'static str> {
    one_host(request)?;
    match request.raw_path() {
        [b'/', ..] => Ok(()),
        b"*" if request.method == Method::OPTIONS => Ok(()),
        absolute => {
            let path = path_of(absolute, request).ok_or("the request target is not a path")?;
            request.set_uri(path.into());
            Ok(())
        }
    }
}

/// The path of a target in absolute form, of the host that the request names.
fn path_of(target: &[u8], request: &RequestHeader) -> Option<PathAndQuery> {
    let target = Uri::try_from(target).ok().filter(|target| target.scheme().is_some())?;
    let host = request.headers.get(header::HOST)?.as_bytes();
    let is_same = target.authority()?.as_str().as_bytes().eq_ignore_ascii_case(host);
    target.path_and_query().filter(|path| is_same && path.as_str().starts_with('/')).cloned()
}

fn one_host(request: &RequestHeader) -> Result<(), &'static str> {
    let mut hosts = request.headers.get_all(header::HOST).iter();
    match hosts.next() {
        None if request.version == Version::HTTP_11 => Err("the request names no host"),
        Some(host) if !is_host(host.as_bytes()) => Err("the host of the request is none"),
        _ if hosts.next().is_some() => Err("the request names more than one host"),
        _ => Ok(()),
    }
}

/// RFC 3986, section 3.2.2, and a port. An empty one is allowed (RFC 9110, section 7.2).
fn is_host(host: &[u8]) -> bool {
    host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(method: &str, target: &str, host: &str) -> Option<String> {
        let mut request = RequestHeader::build(method, target.as_bytes(), None).unwrap();
        request.insert_header(header::HOST, host).unwrap();
        settle(&mut request).ok().map(|()| String::from_utf8_lossy(request.raw_path()).into_owned())
    }

    #[test]
    fn a_target_is_a_path_or_refused() {
        for (target, path) in [
            ("/", Some("/")),
            ("/a/../b?c", Some("/a/../b?c")),
            ("http://a.cn/b?c", Some("/b?c")),
            ("HTTPS://A.cn", Some("/")),
            ("http://a.cn?b", None),
            ("http://b.cn/", None),
            ("http://x@a.cn/", None),
            ("http:/b", None),
            ("b", None),
            ("b/../c", None),
            ("?b", None),
            ("*", None),
            ("a.cn:80", None),
        ] {
            assert_eq!(settled("GET", target, "a.cn").as_deref(), path, "{target}");
        }
        assert_eq!(settled("OPTIONS", "*", "a.cn").as_deref(), Some("*"));
    }

    #[test]
    fn a_host_is_one() {
        for (host, is_one) in [("", true), ("a_b.c:80", true), ("[::1]:80", true), ("a b", false), ("a/b", false)] {
            assert_eq!(settled("GET", "/", host).is_some(), is_one, "{host}");
        }
    }
}
