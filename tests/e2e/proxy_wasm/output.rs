//! What filters write to their standard output becomes lines of the log.

use super::*;

fn prints() -> Guest {
    Guest::new()
        .on("_initialize", "(call $print 'wakes')")
        .on(
            "proxy_on_configure",
            "(if (local.get $a) (then (call $print 'does not ') (call $print 'start') (return (i32.const 0))))",
        )
        .on(
            "proxy_on_request_headers",
            "(call $print 'one\nand ') (call $print 'two') (if (call $header 'x-harm') (then unreachable))",
        )
}

/// The lines of a filter behind its name, in order.
fn said(proxy: &Proxy) -> Vec<(String, String)> {
    let log = proxy.log();
    let line = |line: &str| {
        line.split_once("filter=prints request=")?.1.split_once(' ').map(|(id, text)| (id.into(), text.into()))
    };
    log.lines().filter_map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_ends_with_its_callback() {
    let mut site = Site::new();
    filtered(&mut site, "/", "respond = { status = 200 }", "prints", &prints().path(), "instances = 1\n");
    let proxy = Proxy::start(&site.to_string());
    proxy.wait_for_log("filter= request=- wakes");
    let client = http1();
    for (harm, status) in [(false, 200), (true, 503)] {
        let before = said(&proxy).len();
        let request = client.get(proxy.url("/"));
        let request = if harm { request.header("x-harm", "1") } else { request };
        assert_eq!(send(request).await.status, status);
        eventually("all is there", || said(&proxy).len() >= before + 2 + usize::from(harm));
        let said = &said(&proxy)[before..];
        assert!(said[1..].iter().all(|(id, _)| *id == said[0].0), "{said:?}");
        assert_eq!((&*said[0].1, &*said[1].1), ("one", "and two"));
        assert!(said.get(2).is_none_or(|(_, failed)| failed.starts_with("failed: trap: ")), "{said:?}");
    }
}

#[test]
fn what_a_plugin_says_that_does_not_start_is_not_lost() {
    let mut site = Site::new();
    filtered(&mut site, "/", "echo = true", "prints", &prints().path(), "configuration = 'x'\n");
    let Output { code, stderr, .. } = check(&site.to_string());
    assert_eq!(code, Some(1));
    for line in ["wakes", "filter=prints request=- does not start"] {
        assert!(stderr.contains(line), "{stderr}");
    }
}
