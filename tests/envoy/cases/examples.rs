//! The examples of the Rust SDK.

use crate::case::*;
use crate::compare;

#[tokio::test(flavor = "multi_thread")]
async fn examples() {
    compare("examples", cases()).await;
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("http_headers", Filter::guest("pw_http_headers", ""))
            .request(get("/hello"))
            .request(get("/hello").h2())
            .request(get("/other").header("x-own", "1")),
        Case::new("http_config", Filter::guest("pw_http_config", "a configuration")),
        Case::new("http_config_empty", Filter::guest("pw_http_config", "")),
        Case::new("http_config_twice", Filter::guest("pw_http_config", "first"))
            .then(Filter::guest("pw_http_config", "second")),
        Case::new("http_body", Filter::guest("pw_http_body", ""))
            .origin(Origin::new("origin", |_, path| match path {
                "/secret" => response(200, "x".repeat(44) + "secret"),
                "/pieces" => response(200, "").chunks(["a se", "cr", "et in pieces"]),
                _ => response(200, "nothing to see"),
            }))
            .request(get("/secret"))
            .request(get("/secret").h2())
            .request(get("/pieces"))
            .request(get("/hello")),
        Case::new("http_body_panics", Filter::guest("pw_http_body", ""))
            .origin(Origin::new("origin", |_, _| response(200, vec![0xff, 0xfe])))
            .request(get("/"))
            .request(get("/")),
        Case::new("http_body_panics_open", Filter { failure_policy: "open", ..Filter::guest("pw_http_body", "") })
            .origin(Origin::new("origin", |number, _| {
                if number == 0 { response(200, vec![0xff, 0xfe]) } else { response(200, "hello") }
            }))
            .request(get("/"))
            .request(get("/")),
        Case::new("http_auth_random", Filter::guest("pw_http_auth_random", ""))
            .origin(Origin::new("httpbin", |number, _| match number {
                0 | 3 => response(200, vec![2]).into(),
                1 => response(200, vec![3]).into(),
                2 => Answer::Reset,
                _ => Answer::Silence,
            }))
            .request(get("/even"))
            .request(get("/odd"))
            .request(get("/reset"))
            .request(post("/even", "a body"))
            .request(get("/silence")),
        Case::new("grpc_auth_random", Filter::guest("pw_grpc_auth_random", ""))
            .origin(
                Origin::new("grpcbin", |number, _| {
                    let status = if number == 0 { "0" } else { "3" };
                    let answer = empty(200).header("content-type", "application/grpc").header("grpc-status", status);
                    if number == 0 { answer.chunks([vec![0_u8; 5]]) } else { answer }
                })
                .h2(),
            )
            .request(get("/no-grpc"))
            .request(post("/grpc.reflection.v1/Info", "").header("content-type", "application/grpc").h2())
            .request(post("/a.Service/Method", "").header("content-type", "application/grpc").h2())
            .request(post("/a.Service/Method", "").header("content-type", "application/grpc").h2()),
        Case::new("hello_world", Filter { vm_configuration: "100".into(), ..Filter::guest("pw_hello_world", "") })
            .request(get("/").after(150))
            .until("lucky")
            .unordered(),
        Case::new("envoy_filter_metadata_absent", Filter::guest("pw_envoy_filter_metadata", "")),
        Case {
            lua: Some(
                "function envoy_on_request(handle)\n  local value = handle:headers():get('custom-metadata')\n  if value then handle:streamInfo():dynamicMetadata():set('envoy.filters.http.lua', 'uppercased-custom-metadata', value:upper()) end\nend",
            ),
            ..Case::new("envoy_filter_metadata", Filter::guest("pw_envoy_filter_metadata", ""))
                .request(get("/").header("custom-metadata", "a value"))
                .request(get("/"))
        },
    ]
}
