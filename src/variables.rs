//! Every variable, once: its name and what it can be asked of. Plugins read them by `variable(key)`; the configuration
//! uses them in templates. [`crate::facts`] says where the values come from.

use http::HeaderName;

macro_rules! variables {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A named value of a request.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Variable {
            $($(#[$doc])* $variant,)*
            /// `http_header_NAME`: the first value of a request header; `_` stands for `-`.
            Header(HeaderName),
            /// `http_resp_header_NAME`: the first value of a response header; `_` stands for `-`.
            RespHeader(HeaderName),
        }

        impl Variable {
            /// All names; one that ends in `_` goes on with the name of a header.
            pub fn names() -> impl Iterator<Item = &'static str> {
                [$($name,)* "http_header_", "http_resp_header_"].into_iter()
            }
        }

        /// The variable of this name.
        pub fn parse(name: &str) -> Option<Variable> {
            Some(match name {
                $($name => Variable::$variant,)*
                _ => return parse_header(name),
            })
        }
    };
}

variables! {
    /// RFC 3339, local time zone, milliseconds.
    LocalTime = "local_time",
    LocalAddr = "local_addr",
    LocalIp = "local_ip",
    LocalPort = "local_port",
    /// The peer of the connection.
    RemoteAddr = "remote_addr",
    RemoteIp = "remote_ip",
    RemotePort = "remote_port",
    /// The client; behind trusted proxies what `x-forwarded-for` says, else the peer.
    ClientAddr = "client_addr",
    ClientIp = "client_ip",
    ClientPort = "client_port",
    /// Host without a port, lower case.
    Domain = "domain",
    /// The server name (SNI) of a TLS connection, where it is known.
    SslDomain = "ssl_domain",
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2.0`, with `https` before it on TLS: `https HTTP/1.1`.
    LocalProtocol = "local_protocol",
    /// `https` on TLS, else `http`.
    Scheme = "scheme",
    /// Version of HTTP to the upstream.
    UpstreamProtocol = "upstream_protocol",
    UpstreamName = "upstream_name",
    UpstreamHost = "upstream_host",
    UpstreamAddr = "upstream_addr",
    UpstreamIp = "upstream_ip",
    UpstreamPort = "upstream_port",
    UpstreamBalancer = "upstream_balancer",
    /// Milliseconds, three decimals; 0 for a connection that was reused.
    UpstreamConnectTime = "upstream_connect_time",
    /// Unique in practice: a UUID version 7.
    RequestId = "request_id",
    /// `phasegate/0.1.0`.
    Versions = "versions",
    Status = "status",
    /// Such as `Not Found`.
    StatusStr = "status_str",
    /// Milliseconds since the request header was read, three decimals.
    SessionTime = "session_time",
    /// Milliseconds in each phase that ran: `wasm_access=0.012,wasm_access_log=0.004`.
    StreamWorkTimes = "stream_work_times",
    /// Bytes of the response body.
    ClientBytesSent = "client_bytes_sent",
    /// Bytes of the request body.
    ClientBytesReceived = "client_bytes_received",
    /// Bytes of the request body that went upstream, where Pingora counts them (HTTP/1).
    UpstreamBytesSent = "upstream_bytes_sent",
    /// Bytes of the response body that came from the upstream.
    UpstreamBytesReceived = "upstream_bytes_received",
    Method = "http_request_method",
    /// Path and query.
    Uri = "http_request_uri",
    Path = "http_request_path",
    Query = "http_request_query",
    Version = "http_request_version",
    CacheStatus = "http_cache_status",
    /// `true` when a time limit ended the request.
    IsTimeoutExit = "is_timeout_exit",
    /// `ext1`, `ext2` or `ext3`: the last such verdict.
    WasmExt = "wasm_ext",
}

fn parse_header(name: &str) -> Option<Variable> {
    let header = |name: &str| HeaderName::from_bytes(name.replace('_', "-").as_bytes()).ok();
    if let Some(name) = name.strip_prefix("http_header_") {
        return header(name).map(Variable::Header);
    }
    name.strip_prefix("http_resp_header_").and_then(header).map(Variable::RespHeader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_variable_and_others_are_not() {
        for name in Variable::names() {
            let whole = if name.ends_with('_') { format!("{name}x") } else { name.to_owned() };
            assert!(parse(&whole).is_some(), "{name}");
        }
        assert_eq!(parse("http_header_user_agent"), Some(Variable::Header(http::header::USER_AGENT)));
        assert_eq!(parse("http_resp_header_etag"), Some(Variable::RespHeader(http::header::ETAG)));
        for name in ["", "clientip", "http_header_", "http_header_a b"] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
