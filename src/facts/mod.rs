//! What the proxy knows of a request beside its header: the source of every variable.

mod connection;
mod request_id;

use std::borrow::Cow;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use quanta::Instant;

use crate::VERSION;
use crate::config::{Part, Template};
use crate::phase::{Ext, Phase};
use crate::variables::Variable;

use self::request_id::RequestId;

pub use connection::{Certificate, Connection, Handshake};

/// Collected by the hooks as the request goes on; lent to plugins with the header maps.
#[derive(Debug, Clone)]
pub struct Facts {
    pub started: Instant,
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
    pub client: Client,
    pub tls: bool,
    pub server_name: Option<String>,
    pub upstream: Option<UpstreamFacts>,
    /// Attempts at the upstream. The same server may be tried again.
    pub attempts: u32,
    /// Where the response comes from.
    pub origin: Option<Origin>,
    pub status: Option<u16>,
    /// Until the end; none before it.
    pub duration: Option<Duration>,
    pub client_bytes_sent: u64,
    pub client_bytes_received: u64,
    pub upstream_bytes_sent: Option<u64>,
    pub upstream_bytes_received: u64,
    /// Indexed by phase.
    pub work_times: [Duration; 6],
    pub timed_out: bool,
    pub ext: Option<Ext>,
    request_id: RequestId,
}

/// Who the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Whoever has made the connection.
    Peer,
    /// Whom a trusted proxy names.
    Named(IpAddr),
    /// A trusted proxy names somebody in a way that cannot be read.
    Unknown,
}

/// Where a response comes from; for those of the proxy, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Upstream,
    /// The configuration, or a script.
    Route,
    NoRoute,
    /// No server of the upstream is healthy.
    NoServer,
    ConnectFailure,
    UpstreamTimeout,
    /// The upstream broke off before its response.
    UpstreamReset,
    /// The upstream broke off in the middle of its response.
    UpstreamBroken,
    ClientGone,
    /// The client has ended its stream of HTTP/2, and nothing else.
    ClientReset,
    /// The client did not keep to the protocol, or was too slow.
    ClientError,
    /// Something in the proxy failed.
    Failure,
}

/// How a request has come, and which way it takes: for filters.
#[derive(Clone, Debug, Default)]
pub struct Way {
    pub connection: Connection,
    pub route: Option<Arc<RouteNames>>,
    /// The upstream of the route, or the one that was chosen: its name, and how many servers it has.
    pub upstream: Option<(Arc<str>, usize)>,
}

/// What a route is called.
#[derive(Debug, Default)]
pub struct RouteNames {
    /// Its path or regular expression; empty where none has matched.
    pub route: String,
    /// The first name of its server; empty where it has none.
    pub server: String,
}

/// The upstream that was chosen.
#[derive(Debug, Clone)]
pub struct UpstreamFacts {
    pub name: Arc<str>,
    pub host: Arc<str>,
    pub addr: SocketAddr,
    pub balancer: &'static str,
    pub tls: bool,
    /// When it was chosen.
    pub asked: Instant,
    pub connect_time: Option<Duration>,
    pub version: Option<http::Version>,
    /// For filters.
    pub connection: Option<Connection>,
    /// For filters: when the header of the request was sent.
    pub sent: Option<Instant>,
    /// For filters: from then to the header of the response.
    pub latency: Option<Duration>,
}

impl Default for Facts {
    fn default() -> Facts {
        let started = Instant::now();
        Facts {
            started,
            local: None,
            remote: None,
            client: Client::Peer,
            tls: false,
            server_name: None,
            upstream: None,
            attempts: 0,
            origin: None,
            status: None,
            duration: None,
            client_bytes_sent: 0,
            client_bytes_received: 0,
            upstream_bytes_sent: None,
            upstream_bytes_received: 0,
            work_times: [Duration::ZERO; 6],
            timed_out: false,
            ext: None,
            request_id: RequestId::new(started),
        }
    }
}

impl Facts {
    pub fn request_id(&self) -> &str {
        self.request_id.as_str()
    }

    pub fn client_ip(&self) -> Option<IpAddr> {
        match self.client {
            Client::Peer => self.remote.map(|addr| addr.ip()),
            Client::Named(ip) => Some(ip),
            Client::Unknown => None,
        }
    }

    /// The port of the client, unknown behind another proxy.
    pub fn client_port(&self) -> Option<u16> {
        self.remote.filter(|_| self.client == Client::Peer).map(|addr| addr.port())
    }
}

/// A request in a moment: what variables are read from.
pub struct View<'a> {
    pub request: &'a RequestHeader,
    pub response: Option<&'a ResponseHeader>,
    pub facts: &'a Facts,
}

impl<'a> View<'a> {
    /// The value of a variable; none when it is not known (yet).
    pub fn variable(&self, variable: &Variable) -> Option<Cow<'a, str>> {
        let View { request, response, facts } = self;
        let upstream = facts.upstream.as_ref();
        Some(match variable {
            Variable::LocalTime => chrono::Local::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, false).into(),
            Variable::LocalAddr => facts.local?.to_string().into(),
            Variable::LocalIp => facts.local?.ip().to_string().into(),
            Variable::LocalPort => facts.local?.port().to_string().into(),
            Variable::RemoteAddr => facts.remote?.to_string().into(),
            Variable::RemoteIp => facts.remote?.ip().to_string().into(),
            Variable::RemotePort => facts.remote?.port().to_string().into(),
            Variable::ClientAddr => match facts.client_port() {
                Some(port) => SocketAddr::new(facts.client_ip()?, port).to_string().into(),
                None => facts.client_ip()?.to_string().into(),
            },
            Variable::ClientIp => facts.client_ip()?.to_string().into(),
            Variable::ClientPort => facts.client_port()?.to_string().into(),
            Variable::Domain => domain(request)?,
            Variable::SslDomain => facts.server_name.as_deref()?.into(),
            Variable::Scheme => if facts.tls { "https" } else { "http" }.into(),
            Variable::LocalProtocol => protocol(facts.tls, request.version).into(),
            Variable::UpstreamProtocol => protocol(upstream?.tls, upstream?.version?).into(),
            Variable::UpstreamName => upstream?.name.as_ref().into(),
            Variable::UpstreamHost => upstream?.host.as_ref().into(),
            Variable::UpstreamAddr => upstream?.addr.to_string().into(),
            Variable::UpstreamIp => upstream?.addr.ip().to_string().into(),
            Variable::UpstreamPort => upstream?.addr.port().to_string().into(),
            Variable::UpstreamBalancer => upstream?.balancer.into(),
            Variable::UpstreamConnectTime => millis(upstream?.connect_time?).into(),
            Variable::RequestId => facts.request_id().into(),
            Variable::Versions => VERSION.into(),
            Variable::Status => self.status()?.to_string().into(),
            Variable::StatusStr => {
                http::StatusCode::from_u16(self.status()?).ok()?.canonical_reason().unwrap_or("").into()
            }
            Variable::SessionTime => millis(facts.started.elapsed()).into(),
            Variable::StreamWorkTimes => work_times(&facts.work_times)?.into(),
            Variable::ClientBytesSent => facts.client_bytes_sent.to_string().into(),
            Variable::ClientBytesReceived => facts.client_bytes_received.to_string().into(),
            Variable::UpstreamBytesSent => facts.upstream_bytes_sent?.to_string().into(),
            Variable::UpstreamBytesReceived => upstream.map(|_| facts.upstream_bytes_received)?.to_string().into(),
            Variable::Method => request.method.as_str().into(),
            Variable::Uri => path_and_query(request),
            Variable::Path => request.uri.path().into(),
            Variable::Query => request.uri.query()?.into(),
            Variable::Version => format!("{:?}", request.version).into(),
            // There is no cache in front of upstreams.
            Variable::CacheStatus => return None,
            Variable::IsTimeoutExit => (if facts.timed_out { "true" } else { "false" }).into(),
            Variable::WasmExt => facts.ext?.name().into(),
            Variable::Header(name) => first(&request.headers, name)?,
            Variable::RespHeader(name) => first(&(*response)?.headers, name)?,
        })
    }

    /// A template with its variables filled in; `-` for a value that is not known.
    pub fn render(&self, template: &Template) -> String {
        self.fill(template, |text, value| text.push_str(value))
    }

    /// As [`View::render`], for a line of a log: no value ends a line, or a string in quotes.
    pub fn render_line(&self, template: &Template) -> String {
        self.fill(template, push_escaped)
    }

    fn fill(&self, template: &Template, push: impl Fn(&mut String, &str)) -> String {
        let mut text = String::with_capacity(128);
        for part in &template.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Variable(variable) => push(&mut text, self.variable(variable).as_deref().unwrap_or("-")),
            }
        }
        text
    }

    fn status(&self) -> Option<u16> {
        self.response.map(|response| response.status.as_u16()).or(self.facts.status)
    }
}

/// As in a string of JSON (RFC 8259, section 7), with all that ends a line for some reader escaped.
fn push_escaped(text: &mut String, value: &str) {
    let is_special = |c: char| c.is_control() || matches!(c, '"' | '\\' | '\u{2028}' | '\u{2029}');
    let mut rest = value;
    while let Some((before, after)) = rest.split_once(is_special) {
        text.push_str(before);
        match rest[before.len()..].chars().next() {
            Some(quoted @ ('"' | '\\')) => text.extend(['\\', quoted]),
            Some(control) => drop(write!(text, "\\u{:04x}", u32::from(control))),
            None => {}
        }
        rest = after;
    }
    text.push_str(rest);
}

/// Host without a port, lower case.
pub fn domain(request: &RequestHeader) -> Option<Cow<'_, str>> {
    let host = host_of(request.headers.get(header::HOST)?.to_str().ok()?);
    Some(if host.bytes().any(|b| b.is_ascii_uppercase()) { host.to_ascii_lowercase().into() } else { host.into() })
}

/// `host[:port]` without the port and without the dot of a name that is absolute (RFC 1034, section 3.1); the brackets of an
/// IPv6 address stay.
fn host_of(authority: &str) -> &str {
    let host = match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    };
    host.strip_suffix('.').unwrap_or(host)
}

/// Path and query as they came, also of a target that is not valid UTF-8.
pub fn path_and_query(request: &RequestHeader) -> Cow<'_, str> {
    match request.uri.path_and_query() {
        Some(target) if request.raw_path_is_utf8() => target.as_str().into(),
        _ => String::from_utf8_lossy(request.raw_path()),
    }
}

fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()))
}

fn millis(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64() * 1000.0)
}

/// None when nothing has run.
fn work_times(times: &[Duration; 6]) -> Option<String> {
    let mut text = String::new();
    for (phase, time) in Phase::ALL.into_iter().zip(times).filter(|(_, time)| !time.is_zero()) {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{phase}={}", millis(*time));
    }
    (!text.is_empty()).then_some(text)
}

fn protocol(tls: bool, version: Version) -> String {
    let scheme = if tls { "https " } else { "" };
    format!("{scheme}{version:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_within_their_quotes() {
        for (value, escaped) in [
            ("plain ü", "plain ü"),
            ("a\" 200 \"GET", "a\\\" 200 \\\"GET"),
            ("\\\n\u{7f}", "\\\\\\u000a\\u007f"),
            ("a\u{2028}\u{85}b", "a\\u2028\\u0085b"),
        ] {
            let mut text = String::new();
            push_escaped(&mut text, value);
            assert_eq!(text, escaped);
        }
    }

    #[test]
    fn a_host_loses_its_port_only() {
        for (authority, host) in [
            ("a.cn:80", "a.cn"),
            ("a.cn", "a.cn"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("a:b", "a:b"),
            ("a.cn.", "a.cn"),
            ("a.cn.:80", "a.cn"),
        ] {
            assert_eq!(host_of(authority), host);
        }
    }
}
