//! WebSocket: through the proxy to an origin, and spoken by plugins on either side.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::support::*;

fn error(result: &Value) -> &str {
    result["err"].as_str().unwrap_or_else(|| panic!("no error: {result}"))
}

/// With HTTP/1.1 alone on offer, as WebSocket needs it.
async fn tls(authority: &Authority, proxy: &Proxy) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(proxy.tls_addr()).await.unwrap();
    let name = ServerName::try_from("a.example").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

fn listen_both(authority: &Authority) -> String {
    let tls = authority.issue("a.example").tls();
    format!("listen = [{{ addr = '127.0.0.1:0', h2 = true }}, {{ addr = '127.0.0.2:0', h2 = true, tls = {tls} }}]")
}

/// What any WebSocket server that sends everything back must do.
async fn is_an_echo<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(client: &mut WebSocket<S>) {
    for size in [0, 1, 125, 126, 127, 65535, 65536, 1 << 20] {
        client.echo(Message::text("x".repeat(size))).await;
        client.echo(Message::binary(bytes(size))).await;
    }
    client.echo(Message::text("你好 🦀")).await;
    client.send(Message::Ping("hello".into())).await;
    assert_eq!(client.receive().await, Some(Message::Pong("hello".into())));
}

mod proxied {
    use super::*;

    /// Every phase has a script, and reads or edits what it can.
    fn busy(site: &mut Site, origin: std::net::SocketAddr) {
        let add = |function: &str, name: &str| probe("probe", name, &[json!([function, "x-sent", name])]);
        site.proxied("/", origin)
            .script("wasm_access", probe("probe", "access", &[json!(["in-body-read-exact"])]))
            .script("wasm_http_in_headers", add("in-set-header", "in"))
            .script("wasm_http_filter_headers_pre", add("out-add-header", "pre"))
            .script(
                "wasm_http_filter_headers",
                probe(
                    "probe",
                    "filter",
                    &[
                        json!(["out-add-header", "x-sent", "filter"]),
                        json!(["out-set-status", 200]),
                        json!(["out-get-status"]),
                    ],
                ),
            )
            .script("wasm_access_log", probe("probe", "log", &[json!(["out-get-status"])]));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn messages_pass_both_ways_with_scripts_in_every_phase() {
        let origin = WebSocketOrigin::start().await;
        let authority = Authority::new();
        let log = "access_log = { path = 'access.log', format = '${status} ${http_request_path}' }";
        let mut site = Site::with(log);
        site.listen(listen_both(&authority));
        busy(&mut site, origin.addr());
        let proxy = Proxy::start(&site.to_string());

        let mut plain = WebSocket::connect(proxy.addr(), "/chat", &[("sec-websocket-protocol", "chat")]).await;
        assert_eq!((plain.header("x-seen"), plain.header("sec-websocket-protocol")), (Some("in"), Some("chat")));
        let added: Vec<_> = plain.answer.headers().get_all("x-sent").iter().collect();
        assert_eq!(added, ["pre", "filter"], "101 is a response like any other");
        is_an_echo(&mut plain).await;
        plain.echo(Message::binary(bytes(5 << 20))).await;
        plain.close(4001, "done").await;
        assert_eq!(plain.closed().await, (4001, "done".into()));

        let mut secure = WebSocket::over(tls(&authority, &proxy).await, "/tls", &[]).await.unwrap();
        is_an_echo(&mut secure).await;
        secure.send_text("close 4002").await;
        assert_eq!(secure.closed().await, (4002, "as asked".into()));

        proxy.wait_until_idle();
        assert_eq!(results(&proxy, "access")[0]["ok"]["len"], 0);
        let given = results(&proxy, "filter");
        assert_eq!(error(&given[1]), "101 switches protocols: its status cannot be changed");
        assert_eq!(given[2], json!({ "ok": 101 }));
        assert_eq!(results(&proxy, "log"), [json!({ "ok": 101 })]);
        eventually("the access log", || {
            let lines = std::fs::read_to_string(proxy.folder().join("access.log")).unwrap();
            lines == "101 /chat\n101 /tls\n"
        });
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_body_that_was_read_does_not_get_in_the_way() {
        // An upgrade with a body is odd, but allowed.
        let origin = RawOrigin::start(|mut client, _| async move {
            let request = client.read_request().await.unwrap();
            assert_eq!(request.text(), "hello");
            client.send("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n").await;
            let said = client.read_exact(4).await;
            client.send(said).await;
        })
        .await;
        let mut site = Site::new();
        site.proxied("/", origin.addr())
            .script("wasm_access", probe("probe", "access", &[json!(["in-body-read-exact"])]));
        let proxy = Proxy::start(&site.to_string());
        let mut client = Raw::connect(proxy.addr()).await;
        let head =
            "GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\ncontent-length: 5\r\n\r\n";
        client.send(format!("{head}hello")).await;
        assert_eq!(client.read_response().await.status(), 101);
        client.send("ping").await;
        assert_eq!(client.read_to_end().await, b"ping");
        proxy.wait_until_idle();
        assert_eq!(results(&proxy, "access")[0]["ok"]["len"], 5);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_refusal_passes() {
        let origin = Origin::start(|_| reply(403, "no")).await;
        let proxy = Proxy::start(&proxy_to(origin.addr()));
        let stream = TcpStream::connect(proxy.addr()).await.unwrap();
        match WebSocket::over(stream, "/", &[]).await.map(|_| ()) {
            Err(Error::Http(answer)) => assert_eq!(answer.status(), 403),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn either_end_may_just_go() {
        let origin = RawOrigin::start(|mut client, connection| async move {
            let request = client.read_request().await.unwrap();
            let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(
                request.header("sec-websocket-key").unwrap().as_bytes(),
            );
            let head = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n";
            client.send(format!("{head}sec-websocket-accept: {accept}\r\n\r\n")).await;
            if connection == 0 {
                client.reset();
            } else {
                client.read_to_end().await;
            }
        })
        .await;
        let proxy = Proxy::start(&proxy_to(origin.addr()));
        let mut left = WebSocket::connect(proxy.addr(), "/", &[]).await;
        assert_eq!(left.receive().await, None, "no response is written into the open connection");
        let leaving = WebSocket::connect(proxy.addr(), "/", &[]).await;
        drop(leaving);
        proxy.wait_until_idle();
        proxy.wait_for_metric("phasegate_requests_total{status=\"1xx\"}", 2.0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_connection_in_flight_has_the_grace_period() {
        let origin = WebSocketOrigin::start().await;
        let proxy = Proxy::start(&proxy_to(origin.addr()));
        let mut client = WebSocket::connect(proxy.addr(), "/", &[]).await;
        client.echo(Message::text("before")).await;
        proxy.signal(Signal::Terminate);
        proxy.wait_for_log("shutting down");
        tokio::time::sleep(Duration::from_millis(200)).await;
        client.echo(Message::text("after")).await;
        client.close(1000, "").await;
        assert_eq!(client.closed().await.0, 1000);
        assert_eq!(proxy.wait_for_exit().code(), Some(0));
    }
}

mod server {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_plugin_speaks_with_the_client() {
        let authority = Authority::new();
        let mut site = serverless(streaming("websocket"));
        site.listen(listen_both(&authority));
        let proxy = Proxy::start(&site.to_string());

        let mut plain = WebSocket::connect(proxy.addr(), "/", &[]).await;
        is_an_echo(&mut plain).await;
        plain.close(4001, "bye").await;
        assert_eq!(plain.closed().await, (4001, "bye".into()));
        proxy.wait_for_log(r#"websocket: Ok(Some((4001, "bye")))"#);

        let mut secure = WebSocket::over(tls(&authority, &proxy).await, "/", &[]).await.unwrap();
        is_an_echo(&mut secure).await;
        secure.send(Message::Close(None)).await;
        assert_eq!(secure.closed().await.0, 1005);
        proxy.wait_for_log(r#"websocket: Ok(Some((1005, "")))"#);
        assert_released(&proxy);
        assert_eq!(proxy.metric("phasegate_requests_total{status=\"1xx\"}"), 2.0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_head_of_the_upgrade_is_the_plugins() {
        let headers = json!([["sec-websocket-protocol", "chat"], ["x-a", "1"]]);
        let calls = [
            json!(["out-set-response", { "status": 200, "headers": headers }]),
            json!(["websocket/socket-write", 0, { "text": "hello" }, 1000]),
            json!(["websocket/socket-ping", 0, "are you there", 1000]),
            json!(["websocket/socket-ping", 0, "x".repeat(126), 1000]),
            json!(["websocket/socket-flush", 0, 1000]),
            json!(["socket-read", 0, 1, 10]),
            json!(["websocket/socket-read", 0, 20]),
            json!(["websocket/socket-close-code", 0]),
            json!(["websocket/socket-close-with", 0, 1005, "", 10]),
            json!(["websocket/socket-close-with", 0, 4000, "x".repeat(124), 10]),
            json!(["websocket/socket-close-with", 0, 4000, "good reasons", 60000]),
            json!(["websocket/socket-read", 0, 20]),
            json!(["out-response", { "status": 200 }]),
        ];
        let mut site = serverless(probe("probe", "calls", &calls));
        site.script(
            "wasm_http_filter_headers",
            probe("probe", "filter", &[json!(["out-add-header", "x-filter", "1"])]),
        );
        let proxy = Proxy::start(&site.to_string());
        let mut client = WebSocket::connect(proxy.addr(), "/", &[("sec-websocket-protocol", "chat")]).await;
        assert_eq!(client.header("sec-websocket-protocol"), Some("chat"));
        assert_eq!((client.header("x-a"), client.header("x-filter")), (Some("1"), Some("1")));
        assert_eq!((client.header("connection"), client.header("date")), (Some("upgrade"), None));
        assert_eq!(client.receive().await, Some(Message::text("hello")));
        assert_eq!(client.receive().await, Some(Message::Ping("are you there".into())));
        assert_eq!(client.closed().await, (4000, "good reasons".into()));
        let given = results(&proxy, "calls");
        assert_eq!([&given[1], &given[2], &given[4], &given[10]], [&json!({ "ok": null }); 4]);
        assert_eq!(error(&given[3]), "socket 0: a ping has at most 125 bytes, not 126");
        assert_eq!(error(&given[5]), "socket 0 speaks WebSocket: use the functions of wasm-websocket");
        assert_eq!(error(&given[6]), "socket 0: not done within 20 ms");
        assert_eq!(given[7], json!({ "ok": null }));
        assert!(error(&given[8]).starts_with("1005 is no code for a close frame"), "{}", given[8]);
        assert!(error(&given[9]).starts_with("the reason of a close frame has at most 123 bytes"), "{}", given[9]);
        assert_eq!(error(&given[11]), "there is no open socket 0");
        assert_eq!(error(&given[12]), "a response was already sent");
        assert_released(&proxy);
    }

    /// A frame of a client, masked with zeros.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..126 => frame.push(0x80 | length as u8),
            length @ 126..65536 => {
                frame.push(0x80 | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            length => {
                frame.push(0x80 | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        frame
    }

    const TEXT: u8 = 1;
    const BINARY: u8 = 2;
    const CLOSE: u8 = 8;
    const PING: u8 = 9;
    const FINAL: u8 = 0x80;

    /// What comes back for these bytes, to the end of the connection.
    async fn exchange(proxy: &Proxy, sent: &[u8]) -> Vec<u8> {
        let client = WebSocket::connect(proxy.addr(), "/", &[]).await;
        let mut stream = client.stream.into_inner();
        let (mut reader, mut writer) = stream.split();
        let mut received = Vec::new();
        // It may be closed before all is sent.
        let (_, read) =
            soon("the end", async { tokio::join!(writer.write_all(sent), reader.read_to_end(&mut received)) }).await;
        read.unwrap();
        received
    }

    fn close(code: u16) -> Vec<u8> {
        [&[FINAL | CLOSE, 2][..], &code.to_be_bytes()].concat()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_protocol_is_kept() {
        let proxy = start_streaming("websocket");
        let goodbye = frame(FINAL | CLOSE, &1000_u16.to_be_bytes());
        let text = |text: &str| [&[FINAL | TEXT, text.len() as u8], text.as_bytes()].concat();

        // Fragments, with a ping between them, byte by byte or not.
        let fragments = [
            frame(TEXT, "你".as_bytes()).as_slice(),
            &frame(FINAL | PING, b"p"),
            &frame(0, &[0xe5, 0xa5]),
            &frame(FINAL, &[0xbd]),
            &goodbye,
        ]
        .concat();
        let answer = exchange(&proxy, &fragments).await;
        let expected = [&[FINAL | 10, 1, b'p'][..], &text("你好"), &close(1000)].concat();
        assert_eq!(answer, expected);

        for (what, sent, code) in [
            ("invalid UTF-8", frame(FINAL | TEXT, &[0xff]), 1007),
            ("UTF-8 cut off", frame(FINAL | TEXT, &[0xe4, 0xbd]), 1007),
            ("too large a frame", frame(FINAL | BINARY, &vec![0; (1 << 20) + 1]), 1009),
            ("too large in all", [frame(BINARY, &vec![0; 1 << 20]), frame(FINAL, &[0])].concat(), 1009),
            ("not masked", vec![FINAL | TEXT, 1, b'x'], 1002),
            ("a reserved bit", frame(FINAL | 0x40 | TEXT, b"x"), 1002),
            ("an unknown opcode", frame(FINAL | 3, b"x"), 1002),
            ("a fragmented ping", frame(PING, b"x"), 1002),
            ("a continuation of nothing", frame(FINAL, b"x"), 1002),
            ("a close code that is none", frame(FINAL | CLOSE, &999_u16.to_be_bytes()), 1002),
        ] {
            let answer = exchange(&proxy, &sent).await;
            assert!(answer.starts_with(&close(code)[..1]) && answer[2..4] == code.to_be_bytes(), "{what}: {answer:?}");
        }
        assert_released(&proxy);
        assert!(!proxy.log().contains("failed"), "{}", proxy.log());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_end_of_the_run_is_that_of_the_connection() {
        for (config, code) in [
            ("websocket-write x", 1000),
            ("websocket-write x;trap", 1011),
            ("websocket-write x;fail", 1011),
            ("websocket-write x;websocket-close 4000 why", 4000),
        ] {
            let proxy = start_streaming(config);
            let mut client = WebSocket::connect(proxy.addr(), "/", &[]).await;
            assert_eq!(client.receive().await, Some(Message::text("x")));
            assert_eq!(client.closed().await.0, code, "{config}");
            assert_released(&proxy);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_that_just_goes_is_noticed() {
        let proxy = start_streaming("websocket");
        let mut client = WebSocket::connect(proxy.addr(), "/", &[]).await;
        client.echo(Message::text("x")).await;
        drop(client);
        proxy.wait_for_log("websocket: socket 0: ");
        assert_released(&proxy);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_no_upgrade_is_refused() {
        let calls = [json!(["websocket/socket-read", 0, 10]), json!(["out-set-response", { "status": 426 }])];
        let proxy = Proxy::start(&serverless(probe("probe", "calls", &calls)).to_string());
        assert_eq!(send(http1().get(proxy.url("/"))).await.status, 426);
        let no = "the request is none for an upgrade to WebSocket: ";
        assert_eq!(
            error(&results(&proxy, "calls")[0]),
            format!("{no}it does not have `upgrade: websocket` and `connection: upgrade`")
        );

        let proxy = Proxy::start(&serverless(probe("probe", "calls", &calls)).to_string());
        assert_eq!(send(http2().get(proxy.url("/"))).await.status, 426);
        assert_eq!(error(&results(&proxy, "calls")[0]), format!("{no}WebSocket needs HTTP/1.1, this is HTTP/2"));

        // A stream it is already.
        let calls = [json!(["socket-read", 0, 1, 0]), json!(["websocket/socket-read", 0, 10])];
        let proxy = Proxy::start(&serverless(probe("probe", "calls", &calls)).to_string());
        send(http1().get(proxy.url("/"))).await;
        assert_eq!(error(&results(&proxy, "calls")[1]), "socket 0 is a plain stream: use the functions of wasm-socket");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn entry_points_read_and_write_at_the_same_time() {
        let script = streaming("websocket")
            .key("wasm_main_ext1_config = 'websocket-write 0;sleep 50;websocket-write 1;sleep 600000'");
        let proxy = Proxy::start(&serverless(script).to_string());
        let mut client = WebSocket::connect(proxy.addr(), "/", &[]).await;
        assert_eq!(client.receive().await, Some(Message::text("0")));
        assert_eq!(client.receive().await, Some(Message::text("1")));
        client.echo(Message::text("x")).await;
        client.close(1000, "").await;
        assert_eq!(client.closed().await.0, 1000);
        assert_released(&proxy);
    }
}

mod client {
    use super::*;

    /// The results of calls in `wasm_access`; `allow` is what the script may connect to.
    async fn calls(network: &str, allow: &str, calls: &[Value]) -> (Vec<Value>, Proxy) {
        let origin = Origin::saying("hello").await;
        let mut site = Site::with(network);
        let script = probe("probe", "calls", calls).key(format!("allow = {{ net = ['{allow}'] }}"));
        site.proxied("/", origin.addr()).script("wasm_access", script);
        let proxy = Proxy::start(&site.to_string());
        assert_eq!(send(http1().get(proxy.url("/"))).await.text(), "hello");
        (results(&proxy, "calls"), proxy)
    }

    fn request(uri: &str, headers: Value) -> Value {
        json!({ "method": "get", "uri": uri, "headers": headers, "params": [["a", "b c"]] })
    }

    fn conversation(kind: &str, uri: &str) -> Vec<Value> {
        let headers = json!([["sec-websocket-protocol", "chat"], ["x-sent", "1"]]);
        vec![
            json!(["websocket/socket-connect", kind, request(uri, headers), 60000]),
            json!(["websocket/socket-write", "$0", { "text": "hello" }, 60000]),
            json!(["websocket/socket-read", "$0", 60000]),
            json!(["websocket/socket-write", "$0", { "binary": "bytes" }, 60000]),
            json!(["websocket/socket-read", "$0", 60000]),
            json!(["websocket/socket-read", "$0", 10]),
            json!(["socket-read", "$0", 10, 10]),
            json!(["websocket/socket-write", "$0", { "text": "close 4005" }, 60000]),
            json!(["websocket/socket-read", "$0", 60000]),
            json!(["websocket/socket-close-code", "$0"]),
            json!(["websocket/socket-write", "$0", { "text": "late" }, 60000]),
            json!(["websocket/socket-close", "$0", 60000]),
            json!(["websocket/socket-close", "$0", 60000]),
            json!(["websocket/socket-connect", kind, request(uri, json!([])), 60000]),
            json!(["websocket/socket-close", "$13", 60000]),
            json!(["websocket/socket-connect", kind, request(uri, json!([])), 60000]),
        ]
    }

    #[track_caller]
    fn assert_conversed(given: &[Value]) {
        assert!(given[0]["ok"].as_u64().unwrap() > 0);
        assert_eq!(given[2], json!({ "ok": { "text": "hello" } }));
        assert_eq!(given[4], json!({ "ok": { "binary": "bytes" } }));
        assert!(error(&given[5]).ends_with("not done within 10 ms"));
        assert!(error(&given[6]).ends_with("speaks WebSocket: use the functions of wasm-websocket"));
        assert_eq!(given[8], json!({ "ok": null }), "the peer has closed");
        assert_eq!(given[9], json!({ "ok": [4005, "as asked"] }));
        assert!(error(&given[10]).ends_with("the connection is closed"), "{}", given[10]);
        assert_eq!(given[11], json!({ "ok": null }));
        assert!(error(&given[12]).starts_with("there is no open socket"));
        assert_eq!(given[14], json!({ "ok": null }));
        assert!(given[15]["ok"].is_u64());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_plugin_speaks_with_an_origin() {
        let origin = WebSocketOrigin::start().await;
        let addr = origin.addr().to_string();
        for scheme in ["ws", "http"] {
            let (given, proxy) = calls("", &addr, &conversation("tcp", &format!("{scheme}://{addr}/x"))).await;
            assert_conversed(&given);
            assert_released(&proxy);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn over_tls_the_name_is_verified() {
        let authority = Authority::new();
        let files = authority.issue("localhost");
        let acceptor = TlsAcceptor::from(Arc::new(files.server(&[])));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve_websocket(stream).await;
                    }
                });
            }
        });
        let network = authority.network();
        let allow = format!("127.0.0.0/8:{port}");
        let (given, _) = calls(&network, &allow, &conversation("ssl", &format!("wss://localhost:{port}/x"))).await;
        assert_conversed(&given);
        let wrong =
            json!(["websocket/socket-connect", "ssl", request(&format!("wss://127.0.0.1:{port}/"), json!([])), 60000]);
        let (given, _) = calls(&network, &allow, &[wrong]).await;
        assert!(error(&given[0]).starts_with(&format!("TLS with 127.0.0.1:{port} failed: ")), "{}", given[0]);
        task.abort();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_cannot_be_is_explained() {
        let origin = Origin::start(|_| reply(403, "no")).await;
        let addr = origin.addr().to_string();
        let uri = format!("ws://{addr}/");
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent_addr = silent.local_addr().unwrap();
        let connect = |kind: &str, uri: &str, headers: Value| {
            json!(["websocket/socket-connect", kind, request(uri, headers), 300])
        };
        let post = json!({ "method": "post", "uri": uri, "headers": [], "params": [] });
        let allow = format!("{addr}', '{silent_addr}");
        let (given, proxy) = calls(
            "",
            &allow,
            &[
                connect("tcp", &uri, json!([])),
                connect("ssl", &uri, json!([])),
                connect("tcp", &format!("wss://{addr}/"), json!([])),
                connect("quic", &uri, json!([])),
                connect("tcp", "/path", json!([])),
                connect("tcp", "ftp://a/", json!([])),
                connect("tcp", &format!("ws://user:word@{addr}/"), json!([])),
                connect("tcp", &uri, json!([["keep-alive", "x"]])),
                connect("tcp", &uri, json!([["upgrade", "x"]])),
                connect("tcp", &uri, json!([["a b", "x"]])),
                connect("tcp", &uri, json!([["a", "x\r\ny"]])),
                connect("tcp", &uri, json!([["host", "a b"]])),
                connect("tcp", &uri, Value::from(vec![json!(["x-a", ""]); 5000])),
                connect("tcp", &format!("{uri}ä"), json!([])),
                connect("tcp", "ws://127.0.0.1:1/", json!([])),
                connect("tcp", &format!("ws://{silent_addr}/"), json!([])),
                json!(["websocket/socket-connect", "tcp", post, 300]),
            ],
        )
        .await;
        let expected = [
            format!("{addr}: the server has not switched to WebSocket: it answered 403 Forbidden"),
            format!("{uri}: the socket type tcp goes with ws://, and ssl with wss://"),
            format!("wss://{addr}/: the socket type tcp goes with ws://, and ssl with wss://"),
            "WebSocket over QUIC is not possible: use the socket type ssl".into(),
            "`/path` is not an absolute URI such as `ws://host/path` or `wss://host/path`".into(),
            "`ftp://a/` is not an absolute URI such as `ws://host/path` or `wss://host/path`".into(),
            format!("`ws://user:word@{addr}/` is not an absolute URI such as `ws://host/path` or `wss://host/path`"),
            "`keep-alive` is not a valid header for the request of an upgrade".into(),
            "`upgrade` is not a valid header for the request of an upgrade".into(),
            "`a b` is not a valid header name (RFC 9110, section 5.1)".into(),
            "the value of `a` is not a valid header value (RFC 9110, section 5.5)".into(),
            "`host` is not a valid header for the request of an upgrade".into(),
            "there are too many headers: a message has 4096 at the most".into(),
            format!("`{uri}ä` is not an absolute URI such as `ws://host/path` or `wss://host/path`"),
            "allow.net does not permit 127.0.0.1:1: add net = [\"127.0.0.1:1\"] to `allow` of this script".into(),
            format!("{silent_addr}: not connected within 300 ms"),
            "the request of an upgrade is a GET without a body (RFC 6455, section 4.1)".into(),
        ];
        for (result, expected) in given.iter().zip(expected) {
            assert_eq!(error(result), expected);
        }
        let received = origin.only();
        assert_eq!((received.uri.as_str(), received.header("upgrade")), ("/?a=b+c", Some("websocket")));
        assert_released(&proxy);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_uri_makes_a_valid_request() {
        let origin = Origin::start(|_| reply(403, "no")).await;
        let addr = origin.addr().to_string();
        let connects: Vec<_> = ["", "?x=1", "/p?", "/p?x=1#fragment"]
            .map(|rest| request(&format!("ws://{addr}{rest}"), json!([])))
            .map(|request| json!(["websocket/socket-connect", "tcp", request, 60000]))
            .into();
        let (given, _) = calls("", &addr, &connects).await;
        assert!(given.iter().all(|result| error(result).ends_with("it answered 403 Forbidden")), "{given:?}");
        let received: Vec<_> = origin.received().into_iter().map(|request| request.uri).collect();
        assert_eq!(received, ["/?a=b+c", "/?x=1&a=b+c", "/p?a=b+c", "/p?x=1&a=b+c"]);
    }
}
