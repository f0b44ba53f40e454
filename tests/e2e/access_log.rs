//! The access log: a line for every request, whatever becomes of it.

use std::fs;

use super::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_gets_a_line_for_every_request() {
    let origin = Origin::saying("hello").await;
    let format = "${client_ip} ${remote_ip} ${http_request_method} ${http_request_uri} ${http_request_path} \
        ${http_request_query} ${http_request_version} ${status} ${status_str} ${domain} ${http_header_x-a} \
        ${http_resp_header_content-length} ${client_bytes_received} ${client_bytes_sent} ${upstream_name} \
        ${upstream_ip} ${upstream_bytes_received} ${upstream_protocol} ${local_protocol} ${wasm_ext} ${ssl_domain} \
        ${is_timeout_exit} ${versions}";
    let config = format!(
        "access_log = {{ path = 'logs/access.log', format = '''{format}''' }}\n\
         [upstream.web]\nservers = [{{ addr = '{}' }}]\n{}",
        origin.addr(),
        server("path = '/'\nproxy_pass = 'web'")
    );
    let proxy = Proxy::start(&config);

    for client in [http1(), http2()] {
        let request = client.post(proxy.url("/a?b=c")).header("x-a", "1").body("12345");
        assert_eq!(send(request).await.status, 200);
    }
    proxy.terminate();
    let lines = fs::read_to_string(proxy.folder().join("logs/access.log")).unwrap();
    let line = |version: &str, origin_version: &str| {
        format!(
            "127.0.0.1 127.0.0.1 POST /a?b=c /a b=c {version} 200 OK 127.0.0.1 1 5 5 5 web 127.0.0.1 5 {origin_version} \
             {version} - - false phasegate/{}",
            env!("CARGO_PKG_VERSION")
        )
    };
    let expected = [line("HTTP/1.1", "HTTP/1.1"), line("HTTP/2.0", "HTTP/1.1")];
    assert_eq!(lines.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn times_and_names_have_their_form() {
    let origin = Origin::saying("hello").await;
    let format = "${local_time}|${session_time}|${upstream_connect_time}|${stream_work_times}|${request_id}|${local_port}|${upstream_addr}";
    let config = format!(
        "access_log = {{ path = 'stdout', format = '{format}' }}\n{}{}",
        proxy_to(origin.addr()),
        script("wasm_access", &guests::path("verdict"), "sleep 20 then ok")
    );
    let proxy = Proxy::start(&config);
    send(http1().get(proxy.url("/"))).await;

    let line = proxy.wait_for_stdout("|");
    let fields: Vec<&str> = line.split('|').collect();
    assert!(fields[0].len() == 29 && fields[0].contains('T'), "{line}");
    let milliseconds = |text: &str| text.parse::<f64>().unwrap();
    assert!(milliseconds(fields[1]) >= 20.0, "{line}");
    assert!(milliseconds(fields[2]) < 1000.0, "{line}");
    let access = fields[3].split(',').find_map(|work| work.strip_prefix("wasm_access=")).unwrap();
    assert!(milliseconds(access) >= 20.0, "{line}");
    assert!(fields[4].len() == 32 && fields[4].bytes().all(|b| b.is_ascii_hexdigit()), "{line}");
    assert_eq!(fields[5], proxy.addr().port().to_string());
    assert_eq!(fields[6], origin.addr().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_fail_are_in_it_and_in_the_phase() {
    let down = DownOrigin::new();
    let steps = r#"[{"call": "variable", "args": ["status"]}, {"call": "out-get-status"}, {"deliver": "log"}]"#;
    let config = format!(
        "access_log = {{ path = 'stdout', format = '${{http_request_path}} ${{status}} end' }}\n\
         {}[[server]]\n{LISTEN}\n[[server.local]]\npath = '/down'\nproxy_pass = '{}'\n\
         [[server.local]]\npath = '/refused'\necho = true\n{}\
         [[server.local]]\npath = '/failed'\necho = true\n{}",
        script("main.wasm_access_log", &guests::path("probe_sync"), steps),
        down.addr(),
        script("wasm_access", &guests::path("verdict"), "return"),
        script("wasm_access", &guests::path("verdict"), "err no"),
    );
    let proxy = Proxy::start(&config);

    let runs = r#"phasegate_plugin_runs_total{script="probe_sync",phase="wasm_access_log"}"#;
    for (number, (path, status)) in
        [("/none", 404), ("/down", 502), ("/refused", 403), ("/failed", 500)].iter().enumerate()
    {
        assert_eq!(send(http1().get(proxy.url(path))).await.status, *status);
        proxy.wait_for_stdout(&format!("{path} {status} end"));
        proxy.wait_for_log(&format!(r#"probe: [{{"ok":"{status}"}},{{"ok":{status}}}]"#));
        proxy.wait_for_metric(runs, (number + 1) as f64);
    }
    let lines = proxy.stdout();
    assert_eq!(lines.lines().count(), 4, "{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_reader_that_does_not_read() {
    let filler = "x".repeat(10_000);
    let config = format!(
        "access_log = {{ path = 'stdout', format = '{filler}' }}\n{}",
        server("path = '/'\nrespond = { status = 200, body = 'ok' }")
    );
    let proxy = Proxy::start_with_blocked_stdout(&config);

    let client = http1();
    // A pipe holds 64 KiB; the log keeps 8 MiB more, and drops what is over.
    for _ in 0..1000 {
        assert_eq!(send(client.get(proxy.url("/"))).await.status, 200);
    }
    eventually("lines are dropped", || proxy.metric("phasegate_access_log_dropped_total") > 0.0);
    let lost = proxy.metric("phasegate_access_log_dropped_total");
    proxy.read_stdout();
    proxy.wait_for_log(&format!("access log: {lost} lines are lost"));
    assert!(proxy.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_forge_a_line() {
    let log = "access_log = { path = 'stdout', format = '\"${http_request_uri}\" \"${http_header_user-agent}\"' }\n";
    let proxy = Proxy::start(&format!("{log}{}", server("path = '/'\nrespond = { status = 200 }")));
    let mut raw = Raw::connect(proxy.addr()).await;
    raw.send("GET /x\"y HTTP/1.1\r\nhost: a\r\nuser-agent: a\" 200 \\\r\n\r\n").await;
    raw.read_response().await;
    proxy.wait_for_stdout("\"/x\\\"y\" \"a\\\" 200 \\\\\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_renamed_goes_on_under_its_name() {
    let log = "access_log = { path = 'access.log', format = '${http_request_path}' }\n";
    let proxy = Proxy::start(&format!("{log}{}", server("path = '/'\nrespond = { status = 200 }")));
    let path = |name| proxy.folder().join(name);
    let read = |name| fs::read_to_string(path(name)).unwrap_or_default();
    for (request, file) in [("/1", "access.log.1"), ("/2", "access.log.2"), ("/3", "access.log")] {
        send(http1().get(proxy.url(request))).await;
        eventually("the line is written", || read("access.log") == format!("{request}\n"));
        fs::rename(path("access.log"), path(file)).unwrap();
        proxy.signal(Signal::User1);
    }
    assert_eq!(["access.log.1", "access.log.2", "access.log"].map(read), ["/1\n", "/2\n", "/3\n"]);
}
