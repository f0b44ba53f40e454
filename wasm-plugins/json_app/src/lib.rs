//! A small JSON application, for `wasm_serverless`: the request ends here and needs no upstream.
//!
//! ```toml
//! base = "/app"  # where the application is; the default is the root
//! ```
//!
//! | request | answer |
//! |---|---|
//! | `GET /app/hello?name=x` | 200 `{"hello":"x"}`; `world` without a name |
//! | `POST /app/echo` with JSON | 200 `{"bytes":7,"json":…}`; 400 when it is no JSON, 413 when the body cannot be had |
//! | another method | 405 with `allow` |
//! | anything else | 404 |
//!
//! Errors are JSON, too: `{"error":"…"}`. Verdict: `return`.

use phasegate_plugin::http::Response;
use phasegate_plugin::{Verdict, config, export, host};
use serde::Deserialize;
use serde_json::{Value, json};

export!(main: serve);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    base: Base,
}

/// A path without a slash at the end.
#[derive(Deserialize, Default)]
#[serde(try_from = "String")]
struct Base(String);

impl TryFrom<String> for Base {
    type Error = String;

    fn try_from(path: String) -> Result<Self, String> {
        if !path.starts_with('/') {
            return Err(format!("`{path}` is no path, expected such as `/app`"));
        }
        Ok(Self(path.trim_end_matches('/').to_owned()))
    }
}

fn serve(text: Option<String>) -> Result<Verdict, String> {
    let config = config::<Config>(&text)?;
    let path = known("http_request_path")?;
    let method = known("http_request_method")?;
    let response = match (path.strip_prefix(&config.base.0), method.as_str()) {
        (Some("/hello"), "GET" | "HEAD") => hello()?,
        (Some("/hello"), _) => not_allowed("GET, HEAD"),
        (Some("/echo"), "POST") => echo(),
        (Some("/echo"), _) => not_allowed("POST"),
        _ => error(404, &format!("there is nothing at {path}")),
    };
    host::out_set_response(&response)?;
    Ok(Verdict::Return)
}

fn known(variable: &str) -> Result<String, String> {
    host::variable(variable)?.ok_or_else(|| format!("the variable `{variable}` is not known"))
}

fn hello() -> Result<Response, String> {
    let params = host::in_get_request()?.params;
    let name = params.iter().find(|(key, _)| key == "name").map_or("world", |(_, name)| name);
    Ok(answer(200, &json!({ "hello": name })))
}

fn echo() -> Response {
    // Nothing but the limit keeps the body of a client that is still there from us.
    let body = match host::in_body_read_exact() {
        Ok(body) => body,
        Err(reason) => return error(413, &reason),
    };
    match serde_json::from_slice::<Value>(&body) {
        Ok(value) => answer(200, &json!({ "bytes": body.len(), "json": value })),
        Err(reason) => error(400, &format!("the body is no JSON: {reason}")),
    }
}

fn not_allowed(allow: &str) -> Response {
    error(405, "this method is not allowed here").header("allow", allow)
}

fn error(status: u16, reason: &str) -> Response {
    answer(status, &json!({ "error": reason }))
}

fn answer(status: u16, value: &Value) -> Response {
    Response::new(status).body("application/json", format!("{value}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_is_a_path() {
        let base = |text: &str| config::<Config>(&Some(text.to_owned())).map(|config| config.base.0.clone());
        assert_eq!(base("").unwrap(), "");
        assert_eq!(base("base = \"/\"").unwrap(), "");
        assert_eq!(base("base = \"/app/\"").unwrap(), "/app");
        assert!(base("base = \"app\"").unwrap_err().contains("line 1: `app` is no path"));
    }
}
