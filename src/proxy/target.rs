//! What a request is for: refused when it could mean one thing to us and another to an upstream, and so get around a route.

use http::uri::Uri;
use http::{HeaderName, HeaderValue, Method, Version, header};
use pingora::http::RequestHeader;

use crate::headers::{
    ONE_LINE_OF_REQUESTS, connection_tokens, is_at_most_chunked, is_framing, is_host, is_length, is_padded, joined,
    joined_lines, lists,
};

/// Leaves a path as the target of the request (RFC 9112, section 3.2), or `*` for OPTIONS, and its host in `host`, whatever the
/// version. Gives whether the client says, in any line of `connection`, that this ends (RFC 9112, section 9.3): Pingora reads the
/// first. The error is what is wrong.
pub fn settle(request: &mut RequestHeader) -> Result<bool, &'static str> {
    if request.version == Version::HTTP_2 {
        if request.headers.values().any(is_padded) {
            return Err("a header of the request begins or ends with a blank");
        }
        move_authority(request)?;
    }
    if !matches!(request.raw_path(), [b'/', ..]) && (request.raw_path() != b"*" || request.method != Method::OPTIONS) {
        split_target(request)?;
    }
    one_host(request)?;
    let (mut is_framed, mut has_options, mut upgrades) = (false, false, false);
    for name in request.headers.keys() {
        match *name {
            header::CONTENT_LENGTH | header::TRANSFER_ENCODING => is_framed = true,
            header::CONNECTION => has_options = true,
            header::UPGRADE => upgrades = true,
            _ => {}
        }
    }
    if is_framed {
        one_framing(request)?;
    }
    join_lines(request);
    join_cookies(request);
    if has_options {
        remove_nominated(request)?;
    }
    let has_option =
        |request: &RequestHeader, option| has_options && lists(&request.headers, &header::CONNECTION, option);
    if upgrades {
        let is_websocket = request.version == Version::HTTP_11
            && has_option(request, "upgrade")
            && lists(&request.headers, &header::UPGRADE, "websocket");
        // Of another connection else (RFC 9110, section 7.8), or to what the upstream is not asked for. Pingora does not look.
        request.remove_header(&header::UPGRADE);
        request.remove_header("http2-settings");
        if is_websocket {
            request.insert_header(header::UPGRADE, "websocket").map_err(|_| "the request has too many headers")?;
        }
    }
    Ok(has_option(request, "close"))
}

/// Takes a target in absolute form apart. A `host` beside it has to be the same, which is more than RFC 9112, section 3.2.2, asks
/// for; Pingora does not even let another spelling of it through. HTTP/1.0 need not have one.
fn split_target(request: &mut RequestHeader) -> Result<(), &'static str> {
    const NO_PATH: &str = "the request target is not a path";
    let target = Uri::try_from(request.raw_path()).ok().filter(|target| target.scheme().is_some()).ok_or(NO_PATH)?;
    let path = target.path_and_query().filter(|path| path.as_str().starts_with('/')).cloned().ok_or(NO_PATH)?;
    let authority = target.authority().ok_or(NO_PATH)?.as_str();
    match request.headers.get(header::HOST) {
        Some(host) if !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) => return Err(HOSTS),
        None if request.version < Version::HTTP_11 => {
            request.insert_header(header::HOST, authority).map_err(|_| NO_HOST)?;
        }
        _ => {}
    }
    request.set_uri(path.into());
    Ok(())
}

/// What is `:authority` in HTTP/2 is `host` here. A `host` beside it has to be the same (RFC 9113, section 8.3.1).
fn move_authority(request: &mut RequestHeader) -> Result<(), &'static str> {
    let Some(authority) = request.uri.authority() else { return Ok(()) };
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| NO_HOST)?;
    if request.headers.get_all(header::HOST).iter().any(|other| other != host) {
        return Err(HOSTS);
    }
    let path = request.uri.path_and_query().cloned().ok_or("the request has no path")?;
    request.set_uri(path.into());
    request.insert_header(header::HOST, host).map_err(|_| "the request has too many headers")
}

fn one_host(request: &RequestHeader) -> Result<(), &'static str> {
    let mut hosts = request.headers.get_all(header::HOST).iter();
    match hosts.next() {
        None if request.version == Version::HTTP_11 => Err("the request names no host"),
        Some(host) if !is_host(host.as_bytes()) => Err(NO_HOST),
        _ if hosts.next().is_some() => Err(HOSTS),
        _ => Ok(()),
    }
}

const NO_HOST: &str = "the host of the request is not a valid `host[:port]`";

const HOSTS: &str = "the request names more than one host";

/// What servers read in more than one way: lengths that stand there twice or begin with a zero, and codings of transfer other
/// than `chunked`, which would be lost on the way (RFC 9112, sections 6.1 and 6.3).
fn one_framing(request: &RequestHeader) -> Result<(), &'static str> {
    if let Some(length) = request.headers.get(header::CONTENT_LENGTH) {
        if !is_length(length.as_bytes()) {
            return Err("the content-length of the request is no number");
        }
        if request.headers.get_all(header::CONTENT_LENGTH).iter().nth(1).is_some() {
            return Err("the request has more than one content-length");
        }
    }
    if is_at_most_chunked(&request.headers) {
        Ok(())
    } else {
        Err("the transfer-encoding of the request is not `chunked`")
    }
}

/// Removes what the client says is for this connection only (RFC 9110, section 7.6.1): here, because Pingora would remove it after
/// plugins have set headers for the upstream.
fn remove_nominated(request: &mut RequestHeader) -> Result<(), &'static str> {
    let (options, nominated): (Vec<_>, Vec<_>) =
        connection_tokens(&request.headers).partition(|token| is_option(token));
    if nominated.is_empty() {
        return Ok(());
    }
    let names: Result<Vec<_>, _> = nominated.into_iter().map(HeaderName::from_bytes).collect();
    let names = names.map_err(|_| "`connection` of the request has what is no name of a header")?;
    if names.iter().any(|name| *name == header::HOST || name.as_str().starts_with("x-forwarded-")) {
        return Err("`connection` of the request names a header that is not for this connection only");
    }
    let options = HeaderValue::from_bytes(&options.join(&b", "[..])).map_err(|_| "`connection` is not valid")?;
    // How the body is framed is not the client's to take back.
    for name in names.iter().filter(|name| !is_framing(name)) {
        request.remove_header(name);
    }
    request.remove_header(&header::CONNECTION);
    match options.is_empty() {
        true => Ok(()),
        false => request.insert_header(header::CONNECTION, options).map_err(|_| "the request has too many headers"),
    }
}

/// Of a connection, beside the names of headers.
fn is_option(token: &[u8]) -> bool {
    [&b"close"[..], b"keep-alive", b"upgrade"].iter().any(|option| token.eq_ignore_ascii_case(option))
}

/// Leaves one line of each header that has one.
pub fn join_lines(request: &mut RequestHeader) {
    for (name, line) in joined_lines(&request.headers, &ONE_LINE_OF_REQUESTS) {
        // Fewer than there were.
        let _ = request.insert_header(name, line);
    }
}

/// A client of HTTP/2 may send the pairs of a cookie one by one (RFC 9113, section 8.2.3). One of HTTP/1.1 may not (RFC 6265,
/// section 5.4), but some servers take them together all the same.
fn join_cookies(request: &mut RequestHeader) {
    let cookies = request.headers.get_all(header::COOKIE);
    if cookies.iter().nth(1).is_some()
        && let Some(cookies) = joined(cookies, b"; ")
    {
        let _ = request.insert_header(header::COOKIE, cookies);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(method: &str, target: &str, host: &str) -> Option<String> {
        let mut request = RequestHeader::build(method, target.as_bytes(), None).unwrap();
        request.insert_header(header::HOST, host).unwrap();
        settle(&mut request).ok().map(|_| String::from_utf8_lossy(request.raw_path()).into_owned())
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
    fn a_target_may_name_the_host() {
        for (version, target, host) in [
            (Version::HTTP_10, "http://b.cn/x", Some("b.cn")),
            (Version::HTTP_10, "http://b.cn:80/x", Some("b.cn:80")),
            (Version::HTTP_10, "http://u@b.cn/x", None),
            (Version::HTTP_10, "http:///x", None),
            (Version::HTTP_11, "http://b.cn/x", None),
        ] {
            let mut request = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
            request.set_version(version);
            let settled = settle(&mut request).ok().map(|_| request.headers[header::HOST].to_str().unwrap());
            assert_eq!(settled, host, "{target}");
        }
    }

    #[test]
    fn there_is_one_way_to_frame_it() {
        for (name, values, is_one) in [
            ("content-length", &["3"][..], true),
            ("content-length", &["3, 3"], false),
            ("content-length", &["+3"], false),
            ("transfer-encoding", &["chunked"], true),
            ("transfer-encoding", &["Chunked"], true),
            ("transfer-encoding", &["gzip, chunked"], false),
            ("transfer-encoding", &["chunked, chunked"], false),
            ("transfer-encoding", &["chunked", "chunked"], false),
        ] {
            let mut request = RequestHeader::build("POST", b"/", None).unwrap();
            request.insert_header(header::HOST, "a").unwrap();
            values.iter().for_each(|value| _ = request.append_header(name, *value).unwrap());
            assert_eq!(settle(&mut request).is_ok(), is_one, "{name}: {values:?}");
        }
    }

    #[test]
    fn an_upgrade_is_one_of_this_connection() {
        for (connection, upgrades) in [
            (&["upgrade"][..], true),
            (&["keep-alive, Upgrade"], true),
            (&["keep-alive", "upgrade"], true),
            (&["x, upgrade"], true),
            (&["keep-alive"], false),
            (&[], false),
        ] {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            request.insert_header(header::HOST, "a").unwrap();
            request.insert_header(header::UPGRADE, "h2c, WebSocket").unwrap();
            connection.iter().for_each(|line| _ = request.append_header(header::CONNECTION, *line).unwrap());
            settle(&mut request).unwrap();
            let upgrade = request.headers.get(header::UPGRADE).map(HeaderValue::as_bytes);
            assert_eq!(upgrade, upgrades.then_some(&b"websocket"[..]), "{connection:?}");
        }
    }

    #[test]
    fn an_upgrade_to_http_2_is_none() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        let lines =
            [("host", "a"), ("upgrade", "h2c"), ("connection", "Upgrade, HTTP2-Settings"), ("http2-settings", "")];
        lines.iter().for_each(|(name, value)| request.insert_header(*name, *value).unwrap());
        settle(&mut request).unwrap();
        assert!(!request.headers.contains_key(header::UPGRADE));
        assert!(!request.headers.contains_key("http2-settings"));
    }

    #[test]
    fn what_has_one_line_is_one() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in [
            ("Host", "a"),
            ("Authorization", "Basic x"),
            ("x-a", "1"),
            ("x-forwarded-for", "192.0.2.1"),
            ("authorization", "Bearer y"),
            ("X-Forwarded-For", "192.0.2.2"),
            ("x-a", "2"),
            ("cookie", "a=b"),
            ("cookie", "c=d"),
            ("accept", ""),
            ("accept", "x"),
            ("accept", ""),
        ] {
            request.append_header(name, value).unwrap();
        }
        settle(&mut request).unwrap();
        let all = |name: &str| request.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(all("authorization"), ["Basic x,Bearer y"]);
        assert_eq!(all("x-forwarded-for"), ["192.0.2.1,192.0.2.2"]);
        assert_eq!(all("x-a"), ["1", "2"]);
        assert_eq!((all("cookie"), all("accept")), (vec!["a=b; c=d"], vec!["x"]));
    }

    #[test]
    fn a_value_of_http_2_has_no_blanks_around_it() {
        for (value, version, is_refused) in [
            (" admin", Version::HTTP_2, true),
            ("admin\t", Version::HTTP_2, true),
            (" ", Version::HTTP_2, true),
            ("", Version::HTTP_2, false),
            ("a b\tc", Version::HTTP_2, false),
            (" admin", Version::HTTP_11, false),
        ] {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            request.set_version(version);
            request.insert_header(header::HOST, "a").unwrap();
            request.insert_header("x-role", value).unwrap();
            assert_eq!(settle(&mut request).is_err(), is_refused, "{value:?}");
        }
    }

    #[test]
    fn cookies_of_http_2_are_one() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.set_version(Version::HTTP_2);
        ["a=b", "c=d"].iter().for_each(|pair| _ = request.append_header(header::COOKIE, *pair).unwrap());
        settle(&mut request).unwrap();
        let cookies: Vec<_> = request.headers.get_all(header::COOKIE).iter().collect();
        assert_eq!(cookies, ["a=b; c=d"]);
    }

    #[test]
    fn a_host_is_one() {
        for (host, is_one) in [
            ("", true),
            ("a_b.c:80", true),
            ("a.", true),
            ("a:", true),
            ("[::1]", true),
            ("[::1]:80", true),
            ("a b", false),
            ("a/b", false),
            ("a:x", false),
            ("a:80:80", false),
            ("[::1]x", false),
            ("[::1", false),
            ("::1", false),
            ("u@a", false),
            ("a..", false),
            ("%61.cn", false),
            ("a,b", false),
            ("[fe80::1%25eth0]:80", true),
        ] {
            assert_eq!(settled("GET", "/", host).is_some(), is_one, "{host}");
        }
    }
}
