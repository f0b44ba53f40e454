//! `kong.*` and `ngx.*`: what filters of Kong ask for, as far as the proxy has it by another name
//! (https://github.com/Kong/kong, "Proxy-Wasm properties"; https://nginx.org/en/docs/varindex.html).

use super::{Found, of_route, put, variable};
use crate::wasm::proxy_wasm::stream::Http;

pub fn get(http: &Http, names: &[&[u8]], out: &mut Vec<u8>) -> Found {
    match names {
        [b"kong", b"route_id" | b"route_name"] => of_route(http, b"route_name", out),
        [b"kong", b"service_id" | b"service_name"] => put(out, http.upstream_name()?),
        [b"ngx", name] => of_nginx(http, std::str::from_utf8(name).ok()?, out),
        _ => None,
    }
}

fn of_nginx(http: &Http, name: &str, out: &mut Vec<u8>) -> Found {
    if let Some(name) = name.strip_prefix("http_") {
        return variable(http, &format!("http_header_{name}"), out);
    }
    if let Some(name) = name.strip_prefix("sent_http_") {
        return variable(http, &format!("http_resp_header_{name}"), out);
    }
    let ours = match name {
        "remote_addr" => "client_ip",
        "remote_port" => "client_port",
        "server_addr" => "local_ip",
        "server_port" => "local_port",
        "host" => "domain",
        "request_method" => "http_request_method",
        "request_uri" => "http_request_uri",
        "uri" => "http_request_path",
        "args" | "query_string" => "http_request_query",
        "scheme" | "status" | "request_id" => name,
        _ => return None,
    };
    variable(http, ours, out)
}
