//! `proxy_get_property` and `proxy_set_property`.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::steps::*;
use crate::support::*;

const NONE: &str = "NOT_FOUND";

/// Sends the request that the tests below ask about. The client's address.
async fn ask(proxy: &Proxy) -> String {
    let mut client = Raw::connect(proxy.addr()).await;
    let addr = client.local_addr();
    client
        .send("POST /a/b?c=d HTTP/1.1\r\nhost: a.test\r\nx-one: 1\r\nx-one: 2\r\nreferer: http://from.test/\r\nuser-agent: me\r\nx-request-id: an-id\r\ncontent-length: 4\r\n\r\nbody")
        .await;
    client.read_response().await;
    drop(client);
    addr.to_string()
}

/// The steps that read properties, and what they give.
fn assert_read(proxy: &Proxy, callback: &str, expected: &[(&str, String)]) {
    let given = outcomes(proxy, "first", callback);
    assert_eq!(given.len(), expected.len(), "{callback}: {given:#?}");
    for ((path, expected), given) in expected.iter().zip(given) {
        assert_eq!(&given, expected, "{path} in {callback}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_a_request_from_its_header_to_its_end() {
    let origin = Origin::start(|_| {
        let mut response = reply(201, "hello");
        let headers = response.headers_mut();
        headers.append("x-own", "1".parse().unwrap());
        headers.append("x-own", "2".parse().unwrap());
        headers.insert("date", "a day".parse().unwrap());
        response
    })
    .await;
    let port = |addr: &str| addr.rsplit(':').next().unwrap().parse::<u64>().unwrap();
    let (request_size, response_size) = (131, 46);
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    // Each path with what it gives in the header of the request, in that of the response and at the end.
    let table = |client: &str, proxy: &str, origin: &str| -> Vec<(&'static str, [String; 3])> {
        let always = |value: String| [value.clone(), value.clone(), value];
        let later = |value: String| [NONE.to_owned(), value.clone(), value];
        vec![
            ("request.path", always(text("/a/b?c=d"))),
            ("request.url_path", always(text("/a/b"))),
            ("request.query", always(text("c=d"))),
            ("request.host", always(text("a.test"))),
            ("request.scheme", always(text("http"))),
            ("request.method", always(text("POST"))),
            ("request.referer", always(text("http://from.test/"))),
            ("request.useragent", always(text("me"))),
            ("request.protocol", always(text("HTTP/1.1"))),
            ("request.id", always(text("an-id"))),
            ("request.size", always(number(4))),
            ("request.headers_bytes", always(number(request_size))),
            ("request.total_size", [number(request_size), number(request_size + 4), number(request_size + 4)]),
            ("request.headers.x-one", always(text("1,2"))),
            ("request.headers.X-ONE", always(text("1,2"))),
            ("request.headers.:path", always(text("/a/b?c=d"))),
            ("request.headers.host", always(text("a.test"))),
            ("request.headers.x-none", always(NONE.into())),
            ("response.code", later(number(201))),
            ("response.code_details", later(text("via_upstream"))),
            ("response.flags", always(number(0))),
            ("response.grpc_status", later(number(2))),
            ("response.size", [number(0), number(0), number(5)]),
            ("response.total_size", [number(0), number(response_size), number(response_size + 5)]),
            ("response.headers.x-own", later(text("1,2"))),
            ("response.headers.:status", later(text("201"))),
            ("response.trailers.x-none", always(NONE.into())),
            ("source.address", always(text(client))),
            ("source.port", always(number(port(client)))),
            ("destination.address", always(text(proxy))),
            ("destination.port", always(number(port(proxy)))),
            ("connection.mtls", always("0x00".into())),
            ("connection.requested_server_name", always(text(""))),
            ("connection.tls_version", always(NONE.into())),
            ("connection.subject_local_certificate", always(NONE.into())),
            ("connection.subject_peer_certificate", always(NONE.into())),
            ("connection.termination_details", always(NONE.into())),
            ("upstream.address", later(text(origin))),
            ("upstream.port", later(number(port(origin)))),
            ("upstream.num_endpoints", always(number(1))),
            ("upstream.request_attempt_count", [number(0), number(1), number(1)]),
            ("upstream.tls_version", always(NONE.into())),
            ("upstream.transport_failure_reason", later(text(""))),
            ("xds.cluster_name", always(text("behind"))),
            ("xds.route_name", always(text("/a"))),
            ("xds.virtual_host_name", always(text("a.test"))),
            ("xds.listener_direction", always(number(1))),
            ("xds.filter_chain_name", always(text(""))),
            ("xds.route_metadata", always(text(""))),
            ("xds.upstream_host_metadata", always(NONE.into())),
            ("xds.node.id", always(text(&hostname))),
            ("xds.node.cluster", always(text("phasegate"))),
            ("xds.node.metadata.x", always(NONE.into())),
            ("node.id", always(text(&hostname))),
            ("cluster_name", always(text("behind"))),
            ("route_name", always(text("/a"))),
            ("listener_direction", always(number(1))),
            ("upstream_host_metadata", always(NONE.into())),
            ("metadata", always(text(""))),
            ("metadata.filter_metadata.x.y", always(NONE.into())),
            ("plugin_name", always(text("first"))),
            ("plugin_root_id", always(text("the root"))),
            ("plugin_vm_id", always(text("the VM"))),
            ("request", always("SERIALIZATION_FAILURE".into())),
            ("xds", always("SERIALIZATION_FAILURE".into())),
            ("request.nothing", always(NONE.into())),
            ("request.method.nothing", always(NONE.into())),
            ("a.path.of.too.many.names", always(NONE.into())),
            ("nothing", always(NONE.into())),
            // Variables.
            ("client_addr", always(text(client))),
            ("http_header_x_one", always(text("1"))),
            ("http_resp_header_x_own", later(text("1"))),
            ("status", later(text("201"))),
            ("upstream_name", always(text("behind"))),
            ("upstream_balancer", later(text("round_robin"))),
            ("local_protocol", always(text("HTTP/1.1"))),
            // Of Kong.
            ("ngx.remote_addr", always(text(client.rsplit_once(':').unwrap().0))),
            ("ngx.http_x_one", always(text("1"))),
            ("ngx.sent_http_x_own", later(text("1"))),
            ("ngx.request_uri", always(text("/a/b?c=d"))),
            ("ngx.uri", always(text("/a/b"))),
            ("ngx.nothing", always(NONE.into())),
            ("kong.route_id", always(text("/a"))),
            ("kong.service_id", always(text("behind"))),
            ("kong.nothing", always(NONE.into())),
        ]
    };
    let paths = table("a:1", "b:2", "c:3");
    let steps = read(paths.iter().map(|(path, _)| *path));
    let callbacks = ["on_request_headers", "on_response_headers", "on_log"];
    let plan: serde_json::Map<_, _> =
        callbacks.iter().map(|callback| ((*callback).to_owned(), Value::from(steps.clone()))).collect();
    let config = format!(
        "[upstream.behind]\nservers = [{{ addr = '{}' }}]\n[[server]]\nname = ['a.test', 'b.test']\n{LISTEN}\n\
         [[server.local]]\npath = '/a'\nproxy_pass = 'behind'\n{}root_id = 'the root'\nvm_id = 'the VM'\n",
        origin.addr(),
        pw_probe("first", &Value::from(plan)),
    );
    let proxy = Proxy::start(&config);
    let client = ask(&proxy).await;

    let table = table(&client, &proxy.addr().to_string(), &origin.addr().to_string());
    for (index, callback) in callbacks.into_iter().enumerate() {
        let expected: Vec<_> = table.iter().map(|(path, values)| (*path, values[index].clone())).collect();
        assert_read(&proxy, callback, &expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn times_ids_and_maps_have_their_sizes() {
    let origin = Origin::saying("hello").await;
    let times = |values: [&str; 7]| {
        let paths = [
            "request.time",
            "connection.id",
            "connection_id",
            "request.duration",
            "response.backend_latency",
            "upstream.local_address",
            "upstream.cx_pool_ready_duration",
        ];
        paths.into_iter().zip(values.map(str::to_owned)).collect::<Vec<_>>()
    };
    let (paths, local) = (times([""; 7]), origin.addr().ip().to_string());
    let sizes: Vec<_> =
        paths.iter().map(|(path, _)| json!(["has_property", path.split('.').collect::<Vec<_>>()])).collect();
    let maps = [["request", "headers"], ["response", "headers"], ["response", "trailers"]];
    let maps: Vec<_> = maps.iter().map(|path| json!(["property_map", path])).collect();
    let node = json!(["has_property", ["node"]]);
    let at_the_end = [&sizes[..], &[node], &maps[..]].concat();
    let plan = json!({ "on_request_headers": sizes, "on_response_headers": sizes, "on_log": at_the_end });
    let config = proxy_to(origin.addr()) + &pw_probe("first", &plan);
    let proxy = Proxy::start(&config);
    ask(&proxy).await;

    let has_local = |given: &str| given.parse::<usize>().is_ok_and(|length| length > local.len());
    assert_read(&proxy, "on_request_headers", &times(["8", "8", "8", NONE, NONE, NONE, NONE]));
    let response = outcomes(&proxy, "first", "on_response_headers");
    assert_eq!((&response[..5], &response[6][..]), (&["8", "8", "8", NONE, NONE].map(String::from)[..], "8"));
    assert!(has_local(&response[5]), "{response:?}");
    let end = outcomes(&proxy, "first", "on_log");
    assert_eq!((&end[..5], &end[6][..]), (&["8"; 5].map(String::from)[..], "8"));
    let (node, maps) = (&end[7], &end[8..]);
    assert!(node.parse::<usize>().unwrap() > 10, "{node}");
    assert!(maps[0].contains(r#"":path": "/a/b?c=d""#) && maps[0].contains(r#""x-one": "1,2""#), "{}", maps[0]);
    assert!(maps[1].contains(r#"":status": "200""#), "{}", maps[1]);
    assert_eq!(maps[2], "[]");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_has_the_name_that_it_is_given() {
    let mut site = Site::new();
    for (path, name) in
        [("path = '/chat'", "name = 'chat'"), ("regex = '^/v[0-9]'", ""), ("path = '/empty'", "name = ''")]
    {
        let filter = pw_probe("first", &json!({ "on_request_headers": read(["xds.route_name", "route_name"]) }));
        site.filter(&format!("[[server.local]]\n{path}\n{name}\nrespond = {{ status = 200 }}\n{filter}"));
    }
    let proxy = Proxy::start(&site.to_string());
    for (path, name) in [("/chat", "chat"), ("/v1", "^/v[0-9]"), ("/empty", "")] {
        let before = lines(&proxy, "first").len();
        assert_eq!(send(http1().get(proxy.url(path))).await.status, 200);
        eventually("the end of the stream", || {
            lines(&proxy, "first")[before..].iter().any(|line| line == "on_delete()")
        });
        let named = format!("-> {}", text(name));
        let lines = lines(&proxy, "first")[before..].to_vec();
        assert_eq!(lines.iter().filter(|line| line.ends_with(&named)).count(), 2, "{path}: {lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_on_both_sides() {
    let authority = Authority::new();
    let behind = authority.issue("behind.test");
    let origin = SecureOrigin::tls(&behind, &["http/1.1"], |_| reply(200, "hello")).await;
    let paths = [
        "connection.requested_server_name",
        "connection.tls_version",
        "connection.subject_local_certificate",
        "connection.dns_san_local_certificate",
        "connection.uri_san_local_certificate",
        "connection.mtls",
        "request.scheme",
        "upstream.tls_version",
        "upstream.sha256_peer_certificate_digest",
    ];
    let config = format!(
        "{}[upstream.behind]\nservers = [{{ addr = '{}' }}]\ntls = {{ sni = 'behind.test' }}\n\
         [[server]]\nname = ['a.test']\nlisten = [{{ addr = '127.0.0.1:0', tls = {}, h2 = true }}]\n\
         [[server.local]]\npath = '/'\nproxy_pass = 'behind'\n{}",
        authority.network(),
        origin.addr(),
        authority.issue("a.test").tls(),
        pw_probe("first", &json!({ "on_log": read(paths) })),
    );
    let proxy = Proxy::start(&config);
    let client = https(&authority, &["a.test"], proxy.tls_addr()).build().unwrap();
    let url = format!("https://a.test:{}/", proxy.tls_addr().port());
    assert_eq!(send(client.get(url)).await.text(), "hello");

    let pem = std::fs::read(&behind.cert).unwrap();
    let der =
        <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(&pem).unwrap();
    let digest: String = Sha256::digest(&der).iter().map(|byte| format!("{byte:02x}")).collect();
    let values = [
        text("a.test"),
        text("TLSv1.3"),
        text("CN=rcgen self signed cert"),
        text("a.test"),
        NONE.into(),
        "0x00".into(),
        text("https"),
        text("TLSv1.3"),
        text(digest),
    ];
    assert_read(&proxy, "on_log", &paths.into_iter().zip(values).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_sets_all_filters_of_the_stream_see() {
    let origin = Origin::saying("hello").await;
    let first = json!({ "on_request_headers": [
        ["set_property", ["own"], "one"], ["set_property", ["own"], "two"],
        ["set_property", ["a", "b"], "nested"],
        ["set_property", { "hex": "62797465730000" }, { "hex": "00" }], ["set_property", { "hex": "627974657300" }, { "hex": "00ff" }],
        ["set_property", ["empty"], ""], ["set_property", ["status"], "mine"],
        ["set_property", ["request", "path"], "/other"], ["property", ["request", "path"]],
    ] });
    let reads = json!([
        ["property", ["own"]], ["property", ["filter_state", "wasm.own"]], ["property", ["a", "b"]],
        ["property", { "hex": "62797465730000" }], ["property", ["bytes"]],
        ["property", ["empty"]], ["property", ["status"]], ["property", ["filter_state", "own"]],
        ["property", { "hex": "72657175657374006d6574686f6400" }], ["property", { "hex": "00" }], ["property", { "hex": "ff" }],
        ["property", ""], ["property", "request.method"],
    ]);
    let second = json!({ "on_request_headers": reads, "on_response_headers": reads, "on_log": reads });
    let config = proxy_to(origin.addr()) + &pw_probe("first", &first) + &pw_probe("second", &second);
    let proxy = Proxy::start(&config);
    assert_eq!(send(http1().get(proxy.url("/x"))).await.status, 200);

    let set = outcomes(&proxy, "first", "on_request_headers");
    assert_eq!(set, ["OK", "OK", "OK", "OK", "OK", "OK", "OK", "OK", r#""/x""#]);
    for callback in ["on_request_headers", "on_response_headers", "on_log"] {
        assert_eq!(
            outcomes(&proxy, "second", callback),
            [
                r#""two""#,
                r#""two""#,
                r#""nested""#,
                "0x00",
                "0x00ff",
                r#""""#,
                r#""mine""#,
                NONE,
                r#""GET""#,
                NONE,
                NONE,
                "SERIALIZATION_FAILURE",
                NONE
            ],
            "{callback}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_stream_has_its_own() {
    let origin = Origin::saying("hello").await;
    let plan = json!({ "on_request_headers": [["property", ["own"]], ["set_property", ["own"], "one"]] });
    let proxy = Proxy::start(&(proxy_to(origin.addr()) + &pw_probe("first", &plan)));
    for _ in 0..2 {
        assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
    }
    let reads = || lines(&proxy, "first").into_iter().filter(|line| line.starts_with("property")).collect::<Vec<_>>();
    eventually("both streams", || reads().len() == 2);
    assert_eq!(reads(), [r#"property(["own"]) -> NOT_FOUND"#; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_an_end_to_what_filters_set() {
    let origin = Origin::saying("hello").await;
    let half = json!({ "times": 600 << 10, "text": "x" });
    let plan = json!({ "on_request_headers": [
        ["set_property", ["a"], half], ["set_property", ["a"], half], ["set_property", ["b"], half],
        ["set_property", ["a"], "small"], ["set_property", ["b"], half],
    ] });
    let proxy = Proxy::start(&(proxy_to(origin.addr()) + &pw_probe("first", &plan)));
    // What a filter has set must not be missing without anybody noticing.
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 503);
    assert_eq!(outcomes(&proxy, "first", "on_request_headers"), ["OK"; 5]);
    proxy.wait_for_log("proxy_set_property: the filters of a stream can set 1 MiB: the stream ends");
    assert!(origin.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_chooses_the_upstream() {
    let (first, second) = (Origin::saying("first").await, Origin::saying("second").await);
    let plan = json!({
        "on_request_headers": [
            ["if", "/second", [["set_property", ["upstream_name"], "second"], ["property", ["upstream_name"]], ["property", ["xds", "cluster_name"]]]],
            ["if", "/unknown", [["set_property", ["upstream_name"], "nobody"]]],
        ],
        "on_response_headers": [["if", "/late", [["set_property", ["upstream_name"], "second"], ["property", ["upstream_name"]]]]],
    });
    let mut site = Site::with(&format!(
        "[upstream.first]\nservers = [{{ addr = '{}' }}]\n[upstream.second]\nservers = [{{ addr = '{}' }}]",
        first.addr(),
        second.addr()
    ));
    site.route("/", &format!("proxy_pass = 'first'\n{}", pw_probe("first", &plan)));
    let proxy = Proxy::start(&site.to_string());
    let ask = async |path: &str| send(http1().get(proxy.url(path))).await;

    assert_eq!(ask("/").await.text(), "first");
    assert_eq!(ask("/second").await.text(), "second");
    assert_eq!(ask("/unknown").await.status, 500);
    proxy.wait_for_log("is set to `nobody`, and there is no such upstream");
    assert_eq!(ask("/late").await.text(), "first");
    proxy.wait_for_log("was set too late");
    for line in [
        r#"property(["upstream_name"]) -> "second""#,
        r#"property(["xds","cluster_name"]) -> "second""#,
        r#"set_property(["upstream_name"],"nobody") -> OK"#,
        r#"property(["upstream_name"]) -> "first""#,
    ] {
        eventually(line, || lines(&proxy, "first").iter().any(|given| given == line));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_response_comes_from() {
    let down = DownOrigin::new();
    let broken = RawOrigin::start(|mut client, _| async move {
        client.read_request().await;
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort").await;
    })
    .await;
    let silent = Origin::start_async(|_| std::future::pending::<Reply>()).await;
    let plan = json!({
        "on_request_headers": [["if", "/teapot", [["local_response", { "status": 418, "details": "a  teapot\tof tin" }], ["pause"]]]],
        "on_log": read(["response.code", "response.code_details", "response.flags", "upstream.request_attempt_count"]),
    });
    let routes = [
        ("/down", format!("proxy_pass = '{}'", down.addr())),
        ("/hang", "proxy_pass = 'hanging'".to_owned()),
        ("/sick", "proxy_pass = 'sick'".to_owned()),
        ("/broken", format!("proxy_pass = '{}'", broken.addr())),
        ("/fixed", "respond = { status = 202 }".to_owned()),
        ("/teapot", "respond = { status = 200 }".to_owned()),
    ];
    let mut site = Site::with(&format!(
        "[upstream.hanging]\nservers = [{{ addr = '{}' }}]\nsilence_timeout_ms = 200\n\
         [upstream.sick]\nservers = [{{ addr = '{}' }}]\nhealth_check = {{ path = '/', interval_ms = 50 }}",
        silent.addr(),
        down.addr()
    ));
    for (path, handler) in &routes {
        site.route(path, &format!("{handler}\n{}", pw_probe(&path[1..], &plan)));
    }
    let proxy = Proxy::start(&site.to_string());
    for (path, status, details, flags, attempts) in [
        ("/down", 502, "upstream_reset_before_response_started{remote_connection_failure}", 0x20, 1),
        ("/hang", 504, "upstream_response_timeout", 0x4, 1),
        ("/fixed", 202, "direct_response", 0, 0),
        ("/teapot", 418, "a__teapot_of_tin", 0, 0),
    ] {
        assert_eq!(send(http1().get(proxy.url(path))).await.status, status, "{path}");
        let expected = [number(status.into()), text(details), number(flags), number(attempts)];
        assert_eq!(outcomes(&proxy, &path[1..], "on_log"), expected, "{path}");
    }
    let cut = http1().get(proxy.url("/broken")).send().await.unwrap();
    assert!(soon("the end", cut.bytes()).await.is_err());
    let details = "upstream_reset_after_response_started{protocol_error}";
    let expected = [number(200), text(details), number(0x80_0000), number(1)];
    assert_eq!(outcomes(&proxy, "broken", "on_log"), expected);
    // As soon as the health check has noticed.
    soon("no server", async { while send(http1().get(proxy.url("/sick"))).await.status != 503 {} }).await;
    proxy.wait_for_log("\"no_healthy_upstream\"");
    assert!(lines(&proxy, "sick").join("\n").contains(&number(0x2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_context_knows_itself_and_no_request() {
    let plugin = ["plugin_name", "plugin_root_id", "plugin_vm_id"];
    let node =
        ["xds.node.cluster", "node.cluster", "request.path", "xds.cluster_name", "xds.listener_direction", "client_ip"];
    let set = json!(["set_property", ["a"], "b"]);
    let steps = [read(plugin), read(node), vec![set]].concat();
    let plan = json!({ "on_configure": steps });
    let route = "path = '/'\nrespond = { status = 200 }";
    let proxy = Proxy::start(&format!("{}{}vm_id = 'v'\n", server(route), pw_probe("first", &plan)));
    proxy.wait_for_log("set_property");
    let lines = lines(&proxy, "first");
    let given: Vec<_> = lines.iter().filter_map(|line| Some(line.split_once(" -> ")?.1)).collect();
    let expected = [
        text("first"),
        text(""),
        text("v"),
        text("phasegate"),
        text("phasegate"),
        NONE.into(),
        NONE.into(),
        number(1),
        NONE.into(),
        NONE.into(),
    ];
    assert_eq!(given[..expected.len()], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_a_filter_before() {
    let origin = Origin::saying("hello").await;
    let path = ["metadata", "filter_metadata", "envoy.filters.http.lua", "uppercased-custom-metadata"];
    let plan = json!({ "on_request_headers": [["if", "/set", [["set_property", path, "METADATA"]]]] });
    let reader =
        format!("[[server.local.proxy_wasm]]\nwasm_path = '{}'\n", guests::path("pw_envoy_filter_metadata").display());
    let proxy = Proxy::start(&(proxy_to(origin.addr()) + &pw_probe("first", &plan) + &reader));

    assert_eq!(send(http1().get(proxy.url("/"))).await.text(), "hello");
    let answer = send(http1().get(proxy.url("/set"))).await;
    assert_eq!(answer.header("uppercased-metadata"), Some("METADATA"));
}
