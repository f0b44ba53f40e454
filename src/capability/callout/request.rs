//! The request of a callout, checked, and as each version of HTTP wants it.

use bytes::Bytes;
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use hyper::body::Body;

use super::CalloutError;
use super::body::Payload;
use crate::capability::net::{Target, Transport};
use crate::headers::{MOST_FIELDS, is_host, is_of_connection};

/// What a plugin asks for. The headers do not frame the body, which is none of theirs.
pub struct Call {
    pub method: Method,
    /// Absolute.
    pub uri: String,
    /// Appended to the query, encoded as that of a form.
    pub params: Vec<(String, String)>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

/// A request that can be sent, more than once.
pub struct Outgoing {
    pub method: Method,
    pub body: Payload,
    pub target: Target,
    pub scheme: Scheme,
    /// What the server takes for its name: `host` of the plugin, else the authority of the URI.
    pub host: HeaderValue,
    pub path: PathAndQuery,
    pub headers: HeaderMap,
}

impl Outgoing {
    /// # Errors
    /// When the URI, its scheme for this transport, a header or the length of the body is not right.
    pub fn new(transport: Transport, call: Call, body_limit: usize) -> Result<Outgoing, CalloutError> {
        let Call { method, uri, params, headers, body } = call;
        if body.len() > body_limit {
            return Err(CalloutError::BodyTooLarge { of: "request", limit: body_limit });
        }
        let invalid = || CalloutError::Uri(uri.clone());
        let (scheme, authority, path) = absolute(&uri, &params).ok_or_else(invalid)?;
        let (scheme, port) = match scheme.as_str() {
            "http" => (Scheme::HTTP, 80),
            "https" => (Scheme::HTTPS, 443),
            _ => return Err(invalid()),
        };
        if (scheme == Scheme::HTTP) != (transport == Transport::Tcp) {
            let scheme = if scheme == Scheme::HTTP { "http" } else { "https" };
            return Err(CalloutError::Scheme { scheme, transport });
        }
        let target = match authority.as_str().strip_prefix(authority.host()) {
            // A port that is there and empty is the default one (RFC 3986, section 6.2.3).
            Some("" | ":") => Target::parse(&format!("{}:{port}", authority.host()))?,
            _ => Target::parse(authority.as_str())?,
        };
        let (authority, headers) = split_host(authority, headers)?;
        let (body, host) = (Payload::whole(body), host_header(&authority));
        Ok(Outgoing { method, body, target, scheme, host, path, headers })
    }

    /// For HTTP/1.1: the host is a header.
    pub fn http1(&self) -> Request<Payload> {
        let mut request = Request::new(self.body.attempt());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from(self.path.clone());
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(header::HOST, self.host.clone());
        let expects_body = [Method::POST, Method::PUT, Method::PATCH].contains(&self.method);
        if expects_body && self.body.is_end_stream() {
            // RFC 9110, section 8.6: some servers refuse one that does not say it.
            request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        request
    }

    /// For HTTP/2.
    pub fn http2(&self) -> Request<Payload> {
        self.http3().map(|()| self.body.attempt())
    }

    /// For HTTP/3, where the body goes by itself.
    pub fn http3(&self) -> Request<()> {
        let mut parts = Parts::default();
        parts.scheme = Some(self.scheme.clone());
        // A filter may have said something else than a host; that is only for HTTP/1.1.
        let authority = Authority::try_from(self.host.as_bytes());
        let authority = authority.or_else(|_| Authority::try_from(self.target.to_string()));
        parts.authority = Some(authority.expect("a target is a host and a port"));
        parts.path_and_query = Some(self.path.clone());
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from_parts(parts).expect("all parts of a URI are there");
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// An authority as the header `host`.
pub fn host_header(authority: &Authority) -> HeaderValue {
    HeaderValue::from_str(authority.as_str()).expect("an authority is visible ASCII")
}

/// What an absolute URI of a plugin says, with the parameters behind its query; none when it is not valid.
pub fn absolute(uri: &str, params: &[(String, String)]) -> Option<(Scheme, Authority, PathAndQuery)> {
    // What is not ASCII has to be escaped (RFC 3986, section 2).
    let Parts { scheme, authority, path_and_query, .. } =
        uri.is_ascii().then(|| uri.parse::<Uri>().ok())??.into_parts();
    let authority = authority.filter(|authority| !authority.as_str().contains('@'))?;
    Some((scheme?, authority, with_params(path_and_query.as_ref(), params)?))
}

/// Path and query of a request: those of its URI, with the parameters after them; none when they are not valid together.
fn with_params(path: Option<&PathAndQuery>, params: &[(String, String)]) -> Option<PathAndQuery> {
    let path = path.map_or("/", PathAndQuery::as_str);
    // `http://host?query` has a path that is not there.
    let slash = if path.starts_with('/') { "" } else { "/" };
    let separator = match path.split_once('?') {
        _ if params.is_empty() => "",
        None => "?",
        Some((_, query)) if query.is_empty() || query.ends_with('&') => "",
        Some(_) => "&",
    };
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(params).finish();
    format!("{slash}{path}{separator}{query}").parse().ok()
}

/// Takes `host` out of the headers; those that are about the connection are refused.
fn split_host(
    mut authority: Authority,
    headers: Vec<(HeaderName, HeaderValue)>,
) -> Result<(Authority, HeaderMap), CalloutError> {
    if headers.len() > MOST_FIELDS {
        return Err(CalloutError::TooManyHeaders);
    }
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        if name == header::HOST {
            let invalid = || CalloutError::Host(String::from_utf8_lossy(value.as_bytes()).into_owned());
            if !is_host(value.as_bytes()) {
                return Err(invalid());
            }
            authority = Authority::try_from(value.as_bytes()).map_err(|_| invalid())?;
            continue;
        }
        if is_of_connection(&name) {
            return Err(CalloutError::Connection(name));
        }
        map.try_append(name, value).map_err(|_| CalloutError::TooManyHeaders)?;
    }
    Ok((authority, map))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(uri: &str) -> Call {
        Call { method: Method::GET, uri: uri.into(), params: Vec::new(), headers: Vec::new(), body: Bytes::new() }
    }

    fn outgoing(call: Call) -> Result<Outgoing, String> {
        let transport =
            if call.uri.to_ascii_lowercase().starts_with("https") { Transport::Ssl } else { Transport::Tcp };
        Outgoing::new(transport, call, 10).map_err(|error| error.to_string())
    }

    #[test]
    fn the_uri_says_where_and_what() {
        for (uri, target, host, path) in [
            ("http://Api.example.cn", "api.example.cn:80", "Api.example.cn", "/"),
            ("http://api.example.cn?a=b#c", "api.example.cn:80", "api.example.cn", "/?a=b"),
            ("HTTPS://api.example.cn:8443/a?b=c", "api.example.cn:8443", "api.example.cn:8443", "/a?b=c"),
            ("https://api.example.cn:/", "api.example.cn:443", "api.example.cn:", "/"),
            ("https://[2001:db8::1]/a", "[2001:db8::1]:443", "[2001:db8::1]", "/a"),
        ] {
            let outgoing = outgoing(call(uri)).unwrap();
            assert_eq!(outgoing.target.to_string(), target, "{uri}");
            let request = outgoing.http1();
            assert_eq!(
                (request.headers()["host"].as_bytes(), request.uri().to_string().as_str()),
                (host.as_bytes(), path)
            );
            assert_eq!(outgoing.http3().uri().authority().unwrap(), host);
            assert_eq!(outgoing.http2().uri().path_and_query().unwrap(), path);
        }
        for uri in [
            "",
            "/a",
            "a.cn",
            "a.cn:80",
            "ftp://a.cn/",
            "http://",
            "http:///a",
            "http://u:p@a.cn/",
            "http://a b/",
            "http://a.cn:0/",
            "http://a.cn:99999/",
            "http://a.cn/ä",
            "http://a.cn/?ä",
        ] {
            assert!(outgoing(call(uri)).is_err(), "{uri}");
        }
    }

    #[test]
    fn params_follow_the_query() {
        let params = [("a", "1 2"), ("ä&", "=")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let encoded = "a=1+2&%C3%A4%26=%3D";
        for (uri, path) in [
            ("http://a.cn", format!("/?{encoded}")),
            ("http://a.cn/b", format!("/b?{encoded}")),
            ("http://a.cn/b?", format!("/b?{encoded}")),
            ("http://a.cn/b?c=d", format!("/b?c=d&{encoded}")),
        ] {
            let call = Call { params: params.to_vec(), ..call(uri) };
            assert_eq!(outgoing(call).unwrap().http1().uri().to_string(), path);
        }
    }

    #[test]
    fn the_scheme_must_go_over_the_transport() {
        for (uri, transport, ok) in [
            ("http://a.cn/", Transport::Tcp, true),
            ("http://a.cn/", Transport::Ssl, false),
            ("http://a.cn/", Transport::Quic, false),
            ("https://a.cn/", Transport::Tcp, false),
            ("https://a.cn/", Transport::Ssl, true),
            ("https://a.cn/", Transport::Quic, true),
        ] {
            assert_eq!(Outgoing::new(transport, call(uri), 0).is_ok(), ok, "{uri} {transport:?}");
        }
        let error = Outgoing::new(Transport::Tcp, call("https://a.cn/"), 0).err().unwrap().to_string();
        assert_eq!(error, "https does not go over tcp: tcp is for http, ssl and quic are for https");
    }

    #[test]
    fn headers() {
        let with = |name: &'static str, value| {
            let headers = vec![(HeaderName::from_static(name), HeaderValue::from_static(value))];
            outgoing(Call { headers, ..call("http://a.cn/") })
        };
        assert_eq!(with("host", "b.cn").unwrap().http1().headers()["host"], "b.cn");
        assert_eq!(with("host", "b.cn:1").unwrap().http2().uri().authority().unwrap(), "b.cn:1");
        assert!(with("host", "b.cn").unwrap().http2().headers().is_empty());
        assert_eq!(with("host", "b.cn").unwrap().target.to_string(), "a.cn:80");
        assert_eq!(with("x-a", "1").unwrap().http1().headers()["x-a"], "1");
        for (name, value) in [("host", "b cn"), ("host", "u@b.cn"), ("connection", "close"), ("te", "trailers")] {
            assert!(with(name, value).is_err(), "{name}");
        }
    }

    #[test]
    fn a_body_over_the_limit() {
        let with = |length| outgoing(Call { body: vec![0; length].into(), ..call("http://a.cn/") });
        assert!(with(10).is_ok());
        assert!(with(11).err().unwrap().contains("body of the request is larger"));
    }
}
