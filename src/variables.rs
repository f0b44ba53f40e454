//! Every variable, once: its name and what it stands for.

use http::HeaderName;

/// A value of the request that plugins, the access log and hash keys can read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Variable {
    LocalTime,
    LocalAddr,
    LocalIp,
    LocalPort,
    RemoteAddr,
    RemoteIp,
    RemotePort,
    ClientAddr,
    ClientIp,
    ClientPort,
    Domain,
    SslDomain,
    LocalProtocol,
    UpstreamProtocol,
    UpstreamName,
    UpstreamHost,
    UpstreamAddr,
    UpstreamIp,
    UpstreamPort,
    UpstreamBalancer,
    UpstreamConnectTime,
    RequestId,
    Versions,
    Status,
    StatusStr,
    SessionTime,
    StreamWorkTimes,
    ClientBytesSent,
    ClientBytesReceived,
    UpstreamBytesSent,
    UpstreamBytesReceived,
    HttpRequestMethod,
    HttpRequestUri,
    HttpRequestPath,
    HttpRequestQuery,
    HttpRequestVersion,
    HttpCacheStatus,
    IsTimeoutExit,
    WasmExt,
    /// `http_header_NAME`: a header of the request.
    Header(HeaderName),
    /// `http_resp_header_NAME`: a header of the response.
    RespHeader(HeaderName),
}

const HEADER: &str = "http_header_";
const RESP_HEADER: &str = "http_resp_header_";

/// The variables whose whole name is fixed.
const NAMED: [(&str, Variable); 39] = [
    ("local_time", Variable::LocalTime),
    ("local_addr", Variable::LocalAddr),
    ("local_ip", Variable::LocalIp),
    ("local_port", Variable::LocalPort),
    ("remote_addr", Variable::RemoteAddr),
    ("remote_ip", Variable::RemoteIp),
    ("remote_port", Variable::RemotePort),
    ("client_addr", Variable::ClientAddr),
    ("client_ip", Variable::ClientIp),
    ("client_port", Variable::ClientPort),
    ("domain", Variable::Domain),
    ("ssl_domain", Variable::SslDomain),
    ("local_protocol", Variable::LocalProtocol),
    ("upstream_protocol", Variable::UpstreamProtocol),
    ("upstream_name", Variable::UpstreamName),
    ("upstream_host", Variable::UpstreamHost),
    ("upstream_addr", Variable::UpstreamAddr),
    ("upstream_ip", Variable::UpstreamIp),
    ("upstream_port", Variable::UpstreamPort),
    ("upstream_balancer", Variable::UpstreamBalancer),
    ("upstream_connect_time", Variable::UpstreamConnectTime),
    ("request_id", Variable::RequestId),
    ("versions", Variable::Versions),
    ("status", Variable::Status),
    ("status_str", Variable::StatusStr),
    ("session_time", Variable::SessionTime),
    ("stream_work_times", Variable::StreamWorkTimes),
    ("client_bytes_sent", Variable::ClientBytesSent),
    ("client_bytes_received", Variable::ClientBytesReceived),
    ("upstream_bytes_sent", Variable::UpstreamBytesSent),
    ("upstream_bytes_received", Variable::UpstreamBytesReceived),
    ("http_request_method", Variable::HttpRequestMethod),
    ("http_request_uri", Variable::HttpRequestUri),
    ("http_request_path", Variable::HttpRequestPath),
    ("http_request_query", Variable::HttpRequestQuery),
    ("http_request_version", Variable::HttpRequestVersion),
    ("http_cache_status", Variable::HttpCacheStatus),
    ("is_timeout_exit", Variable::IsTimeoutExit),
    ("wasm_ext", Variable::WasmExt),
];

/// The variable of this name; none when there is no such variable. In the name of a header, `_` stands for `-`.
pub fn parse(name: &str) -> Option<Variable> {
    if let Some((_, variable)) = NAMED.iter().find(|(known, _)| *known == name) {
        return Some(variable.clone());
    }
    let header = |name: &str| HeaderName::from_bytes(name.replace('_', "-").as_bytes()).ok();
    if let Some(name) = name.strip_prefix(HEADER) {
        return header(name).map(Variable::Header);
    }
    name.strip_prefix(RESP_HEADER).and_then(header).map(Variable::RespHeader)
}

impl Variable {
    /// The name by which `parse` finds it.
    pub fn name(&self) -> String {
        match self {
            Variable::Header(name) => format!("{HEADER}{name}"),
            Variable::RespHeader(name) => format!("{RESP_HEADER}{name}"),
            _ => {
                let named = NAMED.iter().find(|(_, variable)| variable == self);
                named.map(|(name, _)| *name).unwrap_or_default().to_owned()
            }
        }
    }

    /// All fixed names and the prefixes of the others, for suggestions.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMED.iter().map(|(name, _)| *name).chain([HEADER, RESP_HEADER])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_itself() {
        for (name, variable) in &NAMED {
            assert_eq!(parse(name).as_ref(), Some(variable));
            assert_eq!(variable.name(), *name);
        }
    }

    #[test]
    fn headers() {
        let agent = Variable::Header(http::header::USER_AGENT);
        assert_eq!(parse("http_header_user-agent"), Some(agent.clone()));
        assert_eq!(parse("http_header_User_Agent"), Some(agent));
        assert_eq!(parse("http_resp_header_age"), Some(Variable::RespHeader(http::header::AGE)));
        assert_eq!(parse("http_header_"), None);
        assert_eq!(parse("nothing"), None);
    }
}
