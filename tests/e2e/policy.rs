//! `allow.net`: where plugins may connect to, and what they are told when they may not.

use serde_json::{Value, json};

use super::support::*;

/// What a call over this transport gives with this `allow.net`: none when it was permitted, whatever came of it.
struct Case {
    net: &'static str,
    host: &'static str,
    /// With `PORT` for the port.
    denied: Option<&'static str>,
}

const fn case(net: &'static str, host: &'static str, denied: Option<&'static str>) -> Case {
    Case { net, host, denied }
}

const CASES: &[Case] = &[
    case("", "127.0.0.1", Some("127.0.0.1:PORT: add net = [\"127.0.0.1:PORT\"] to")),
    case("", "[::1]", Some("[::1]:PORT: add net = [\"[::1]:PORT\"] to")),
    // Not even looked up.
    case("", "localhost", Some("for which the name is not enough): add net = [\"127.0.0.1:PORT\", \"[::1]:PORT\"] to")),
    case(
        "'api.example.cn'",
        "localhost",
        Some("for which the name is not enough): add net = [\"127.0.0.1:PORT\", \"[::1]:PORT\"] to"),
    ),
    // A name that leads into the machine.
    case("'localhost'", "localhost", Some("address, for which the name is not enough): add net = [\"")),
    case("'localhost:PORT'", "LOCALHOST", Some("address, for which the name is not enough): add net = [\"")),
    case("'localhost', '127.0.0.0/8', '[::1]'", "localhost", None),
    // Of its addresses only this one is permitted.
    case("'127.0.0.1'", "localhost", None),
    case("'127.0.0.0/8'", "localhost.", None),
    case("'127.0.0.0/8'", "127.0.0.1", None),
    case("'127.0.0.0/8:PORT'", "127.0.0.1", None),
    case("'127.0.0.0/8:1-65535'", "127.0.0.1", None),
    case("'127.0.0.0/8:1'", "127.0.0.1", Some("127.0.0.1:PORT: add")),
    case("'10.0.0.0/8', '[::/0]'", "127.0.0.1", Some("127.0.0.1:PORT: add")),
    case("'10.0.0.0/8'", "localhost", Some("localhost:PORT (")),
    case("'127.0.0.0/8'", "[::ffff:127.0.0.1]", None),
    case("'10.0.0.0/8'", "[::ffff:127.0.0.1]", Some("127.0.0.1:PORT: add net = [\"127.0.0.1:PORT\"] to")),
    case("'[::1]'", "[::1]", None),
    case("'[::/64]:PORT'", "[::1]", None),
    case("'[2001:db8::/32]'", "[::1]", Some("[::1]:PORT: add")),
    case(
        "'*.localhost'",
        "localhost",
        Some("for which the name is not enough): add net = [\"127.0.0.1:PORT\", \"[::1]:PORT\"] to"),
    ),
    // Other ways to write 127.0.0.1, which resolvers know.
    case("'10.0.0.0/8'", "127.1", Some("127.1:PORT (127.0.0.1, a loopback")),
    case("'10.0.0.0/8'", "2130706433", Some("2130706433:PORT (127.0.0.1, a loopback")),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_holds_for_every_transport() {
    let authority = Authority::new();
    let files = authority.issue("localhost");
    let ok = |_: Received| reply(200, "");
    let plain = Origin::start(ok).await;
    let tls = SecureOrigin::tls(&files, &["h2"], ok).await;
    let quic = SecureOrigin::quic(&files, ok).await;
    let transports = [
        ("tcp", "http", plain.addr().port()),
        ("ssl", "https", tls.addr().port()),
        ("quic", "https", quic.addr().port()),
    ];
    let mut site = Site::with(&authority.network());
    for (typ, scheme, port) in transports {
        for (index, case) in CASES.iter().enumerate() {
            let uri = format!("{scheme}://{}:{port}/{index}", case.host);
            let call = json!(["handle-http", typ, { "method": "get", "uri": uri }, 2000]);
            let net = case.net.replace("PORT", &port.to_string());
            let script = serve("caller", &[call]).key(format!("allow = {{ net = [{net}] }}"));
            site.route(&format!("/{typ}/{index}/"), "").script("wasm_serverless", script);
        }
    }
    let proxy = Proxy::start(&site.to_string());
    for (typ, _, port) in transports {
        for (index, case) in CASES.iter().enumerate() {
            let answer = send(http1().get(proxy.url(&format!("/{typ}/{index}/")))).await;
            let result = &answer.json()[0];
            let error = result["err"].as_str().unwrap_or_default();
            let Case { net, host, denied } = case;
            match denied {
                Some(text) => {
                    let text = text.replace("PORT", &port.to_string());
                    assert!(error.starts_with("allow.net does not permit"), "{typ} {host} with {net}: {result}");
                    assert!(error.contains(&text), "{typ} {host} with {net}: {result}");
                }
                None => assert!(!error.contains("allow.net"), "{typ} {host} with {net}: {result}"),
            }
        }
    }
    for (received, typ) in [(plain.received(), "tcp"), (tls.received(), "ssl"), (quic.received(), "quic")] {
        let reached: Vec<usize> = received.iter().map(|request| request.uri[1..].parse().unwrap()).collect();
        assert!(reached.iter().all(|index| CASES[*index].denied.is_none()), "{typ} {reached:?}");
        // With TLS the certificate is for one name.
        let by_name = CASES.iter().filter(|case| case.denied.is_none() && case.host.starts_with("localhost")).count();
        assert!(reached.len() >= by_name, "{typ} {reached:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_another_script_is_none_of_ones_own() {
    let origin = Origin::saying("hello").await;
    let port = origin.addr().port();
    let call = json!(["handle-http", "tcp", { "method": "get", "uri": format!("http://localhost:{port}/") }, 5000]);
    let mut site = Site::new();
    for (path, net) in [
        ("/open", "'127.0.0.0/8'".to_owned()),
        ("/denied", String::new()),
        ("/named", format!("'localhost:{port}'")),
        ("/other", "'127.0.0.1:1', '10.0.0.0/8'".to_owned()),
        ("/same", format!("'127.0.0.1:{port}'")),
    ] {
        let script = serve("caller", std::slice::from_ref(&call)).key(format!("allow = {{ net = [{net}] }}"));
        site.route(path, "").script("wasm_serverless", script);
    }
    let proxy = Proxy::start(&site.to_string());
    for (path, ok) in [("/open", true), ("/denied", false), ("/named", false), ("/other", false), ("/same", true)] {
        let result: Value = send(http1().get(proxy.url(path))).await.json();
        assert_eq!(result[0]["ok"]["body"] == "hello", ok, "{path} {result}");
    }
    let connections: Vec<_> = origin.received().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 0], "the second time the connection was there");
}
