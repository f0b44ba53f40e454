//! HTTPS: certificates by name, HTTP/1.1 and HTTP/2, and files that are no good.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Version;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::support::*;

/// A server with a name and its certificate, that says what it knows of the connection.
fn secure(name: &str, files: &CertFiles) -> String {
    format!(
        "[[server]]\nname = ['{name}']\nlisten = [{{ addr = '127.0.0.1:0', tls = {}, h2 = true }}]\n\
         [[server.local]]\npath = '/'\nrespond = {{ status = 200, body = '{name}' }}\n",
        files.tls()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_chooses_the_certificate_and_the_server() {
    let authority = Authority::new();
    let config = secure("first.cn", &authority.issue("first.cn"))
        + &secure("*.example.cn", &authority.issue("*.example.cn"))
        + &secure("www.example.cn", &authority.issue("www.example.cn"));
    let log = "access_log = { path = 'stdout', format = '${ssl_domain} ${domain} ${scheme} ${local_protocol} end' }\n";
    let proxy = Proxy::start(&format!("{log}{config}"));
    let port = proxy.tls_addr().port();

    let names = ["first.cn", "www.example.cn", "img.example.cn"];
    for (h2, version) in [(false, Version::HTTP_11), (true, Version::HTTP_2)] {
        let client = https(&authority, &names, proxy.tls_addr());
        let client = if h2 { client } else { client.http1_only() };
        let client = client.build().unwrap();
        for (name, server) in names.into_iter().zip(["first.cn", "www.example.cn", "*.example.cn"]) {
            // The client trusts only a certificate for the name that it asks for.
            let answer = send(client.get(format!("https://{name}:{port}/"))).await;
            assert_eq!((answer.status, answer.text(), answer.version), (200, server.into(), version));
            proxy.wait_for_stdout(&format!("{name} {name} https https {version:?} end"));
        }
    }
}

/// A connection on which HTTP/2 is agreed on.
async fn agreed(authority: &Authority, addr: SocketAddr) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(addr).await.unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect("a.cn".try_into().unwrap(), stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    stream
}

async fn is_closed(stream: &mut TlsStream<TcpStream>) -> bool {
    matches!(soon("the end of the connection", stream.read(&mut [0; 1])).await, Ok(0) | Err(_))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_begin_http_2_is_not_waited_for() {
    let authority = Authority::new();
    let site = secure("a.cn", &authority.issue("a.cn"));
    let proxy = Proxy::start(&format!("keepalive_timeout_ms = 100\n{site}"));
    for says in [&b""[..], b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\nhost: a.cn\r\n\r\n"] {
        let mut client = agreed(&authority, proxy.tls_addr()).await;
        client.write_all(says).await.unwrap();
        assert!(is_closed(&mut client).await, "{says:?}");
    }

    let proxy = Proxy::start(&site);
    let mut client = agreed(&authority, proxy.tls_addr()).await;
    let start = Instant::now();
    assert_eq!(proxy.terminate().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(is_closed(&mut client).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_served_gets_the_first_certificate() {
    let authority = Authority::new();
    let config = secure("first.cn", &authority.issue("first.cn")) + &secure("second.cn", &authority.issue("second.cn"));
    let proxy = Proxy::start(&config);
    let url = format!("https://other.cn:{}/", proxy.tls_addr().port());

    let strict = https(&authority, &["other.cn"], proxy.tls_addr()).build().unwrap();
    let error = strict.get(&url).send().await.unwrap_err();
    assert!(format!("{error:?}").contains("NotValidForName"), "{error:?}");

    let careless = https(&authority, &["other.cn"], proxy.tls_addr()).danger_accept_invalid_certs(true);
    assert_eq!(send(careless.build().unwrap().get(&url)).await.text(), "first.cn");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_big_body_goes_through_tls() {
    let origin = Origin::start(|request| reply(200, request.body)).await;
    let authority = Authority::new();
    let config = secure("a.cn", &authority.issue("a.cn"))
        + &format!("[[server.local]]\npath = '/up'\nproxy_pass = '{}'\n", origin.addr())
        + &script("wasm_access", &guests::path("probe"), r#"[{"call": "in-body-read-exact"}]"#);
    let proxy = Proxy::start(&config);

    for client in
        [https(&authority, &["a.cn"], proxy.tls_addr()).http1_only(), https(&authority, &["a.cn"], proxy.tls_addr())]
    {
        let url = format!("https://a.cn:{}/up", proxy.tls_addr().port());
        let answer = send(client.build().unwrap().post(url).body(bytes(1 << 20))).await;
        assert_eq!((answer.status, fnv(&answer.body)), (200, fnv(&bytes(1 << 20))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_on_a_tls_listener_is_refused() {
    let authority = Authority::new();
    let proxy = Proxy::start(&secure("a.cn", &authority.issue("a.cn")));

    let mut client = Raw::connect(proxy.tls_addr()).await;
    client.send("GET / HTTP/1.1\r\nhost: a.cn\r\n\r\n").await;
    let said = client.read_to_end().await;
    assert!(!said.starts_with(b"HTTP/"), "{said:?}");

    let client = https(&authority, &["a.cn"], proxy.tls_addr()).build().unwrap();
    assert_eq!(send(client.get(format!("https://a.cn:{}/", proxy.tls_addr().port()))).await.status, 200);
}

#[test]
fn files_that_are_no_good_are_errors_of_the_configuration() {
    let authority = Authority::new();
    let (a, b) = (authority.issue("a.cn"), authority.issue("b.cn"));
    let garbage = a.cert.with_file_name("garbage.pem");
    fs::write(&garbage, "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n").unwrap();

    let (cut, sealed) = (a.cert.with_file_name("cut.pem"), a.cert.with_file_name("sealed.pem"));
    let whole = fs::read_to_string(&a.cert).unwrap();
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    fs::write(&sealed, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n").unwrap();
    let second = a.cert.with_file_name("second.pem");
    fs::write(&second, whole.clone() + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let joined = a.cert.with_file_name("joined.pem");
    let secret = fs::read_to_string(&a.key).unwrap();
    fs::write(&joined, secret.replace('\n', "")).unwrap();
    let old = a.cert.with_file_name("old.pem");
    let header = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n";
    fs::write(&old, format!("-----BEGIN RSA PRIVATE KEY-----\n{header}AAAA\n-----END RSA PRIVATE KEY-----\n")).unwrap();

    for (cert, key, named) in [
        (&cut, &a.key, vec!["`cert`: ", "cut.pem cannot be used: it is cut off: the line `-----END CERTIFICATE-----`"]),
        (&a.cert, &sealed, vec!["`key`: ", "sealed.pem cannot be used: it is encrypted"]),
        (&a.cert, &old, vec!["`key`: ", "old.pem cannot be used: it is encrypted"]),
        (&a.cert, &b.key, vec!["b.cn.key.pem does not belong to the certificate", "a.cn.cert.pem"]),
        (&garbage, &a.key, vec!["certificate 1 of ", "garbage.pem is not an X.509 certificate"]),
        (&second, &a.key, vec!["certificate 2 of ", "second.pem is not an X.509 certificate"]),
        (&a.cert, &joined, vec!["`key`: ", "joined.pem cannot be used: the line with `BEGIN` has more than its label"]),
        (&a.key, &a.key, vec!["`cert`: ", "a.cn.key.pem cannot be used: there is no certificate in it"]),
        (&a.cert, &a.cert, vec!["`key`: ", "a.cn.cert.pem cannot be used: there is a certificate in it"]),
    ] {
        let config = secure("a.cn", &CertFiles { cert: cert.clone(), key: key.clone() });
        for output in [check(&config), refused(&config)] {
            assert_eq!(output.code, Some(1));
            assert!(named.iter().all(|text| output.stderr.contains(text)), "{named:?} in {}", output.stderr);
            assert!(output.stderr.contains("phasegate.toml:3"), "{}", output.stderr);
            assert!(!output.stderr.contains(secret.lines().nth(1).unwrap()), "a key is no matter of the log");
        }
    }
}

#[test]
fn a_certificate_that_is_out_of_date_is_a_warning() {
    let authority = Authority::new();
    let files = authority.issue_until("old.cn", 2020);
    let output = check(&secure("old.cn", &files));
    assert_eq!(output.code, Some(0));
    assert!(output.stderr.contains("old.cn.cert.pem is not valid now, but from "), "{}", output.stderr);
}
