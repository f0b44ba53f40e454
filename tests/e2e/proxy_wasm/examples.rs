//! The examples of the Rust SDK: what the comparison with Envoy does not see.

use std::time::Duration;

use super::*;

fn site(origin: std::net::SocketAddr, filters: &[(&str, &str)]) -> Site {
    let mut site = Site::new();
    for (guest, keys) in filters {
        let handler = format!("proxy_pass = \"{origin}\"");
        filtered(&mut site, &format!("/{guest}"), &handler, guest, &guests::path(guest), keys);
    }
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn hello_world_greets_once_a_vm_and_ticks() {
    let service = format!(
        "[[wasm_service]]\nname = \"hello\"\nwasm_path = '{}'\nvm_configuration = \"50\"\n",
        guests::path("pw_hello_world").display()
    );
    let mut site = Site::with(&service);
    site.answered("/");
    let proxy = Proxy::start(&site.to_string());
    eventually("it ticks", || proxy.log().matches("your lucky number is").count() >= 2);
    assert_eq!(proxy.log().matches("Hello, World!").count(), 1, "{}", proxy.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn http_headers_completes_once_whatever_ends_the_request() {
    let origin = Origin::start_async(|request| async move {
        if request.uri.ends_with("/never") {
            std::future::pending::<()>().await;
        }
        reply(200, "hello")
    })
    .await;
    let proxy = Proxy::start(&site(origin.addr(), &[("pw_http_headers", "")]).to_string());
    let completed = |count: usize| {
        eventually("all are completed", || proxy.log().matches("completed.").count() == count);
    };
    send(http1().get(proxy.url("/pw_http_headers"))).await;
    completed(1);
    // The client leaves.
    let left = http1().get(proxy.url("/pw_http_headers/never")).timeout(Duration::from_millis(200)).send().await;
    assert!(left.is_err());
    proxy.wait_until_idle();
    completed(2);
}

/// A body of another length on a connection that goes on.
#[tokio::test(flavor = "multi_thread")]
async fn http_body_leaves_the_connection_in_order() {
    let origin = Origin::saying("this is secret").await;
    let proxy = Proxy::start(&site(origin.addr(), &[("pw_http_body", "")]).to_string());
    let mut client = Raw::connect(proxy.addr()).await;
    for _ in 0..3 {
        client.send("GET /pw_http_body HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let response = client.read_response().await;
        assert_eq!(response.text(), "Original message body (14 bytes) redacted.\n");
        assert_ne!(response.header("content-length"), Some("14"), "{response:?}");
    }
}

/// Who waits for an answer, and is gone before it comes, leaves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn http_auth_random_forgets_who_has_left() {
    let origin = Origin::saying("hello").await;
    let auth = Origin::start_async(|_| async { std::future::pending().await }).await;
    let mut config = site(origin.addr(), &[("pw_http_auth_random", "")]).to_string();
    config.insert_str(0, &format!("[upstream.httpbin]\nservers = [{{ addr = \"{}\" }}]\n", auth.addr()));
    let proxy = Proxy::start(&config);
    for _ in 0..20 {
        let left = http1().get(proxy.url("/pw_http_auth_random")).timeout(Duration::from_millis(50)).send().await;
        assert!(left.is_err());
    }
    proxy.wait_until_idle();
    assert!(origin.received().is_empty(), "nobody was granted access");
    let denied = send(http1().get(proxy.url("/pw_http_auth_random"))).await;
    assert_eq!((denied.status, denied.text()), (403, "Access forbidden.\n".into()));
    assert_eq!(denied.headers.get_all("powered-by").iter().count(), 1);
}

/// Ten configurations of one module.
#[tokio::test(flavor = "multi_thread")]
async fn http_config_by_route() {
    let origin = Origin::saying("hello").await;
    let mut site = Site::new();
    for number in 0..10 {
        let (handler, keys) =
            (format!("proxy_pass = \"{}\"", origin.addr()), format!("configuration = \"value {number}\""));
        filtered(
            &mut site,
            &format!("/{number}"),
            &handler,
            &format!("config-{number}"),
            &guests::path("pw_http_config"),
            &keys,
        );
    }
    let proxy = Proxy::start(&site.to_string());
    for number in 0..10 {
        let answer = send(http1().get(proxy.url(&format!("/{number}")))).await;
        assert_eq!(answer.header("custom-header"), Some(format!("value {number}").as_str()));
    }
}
