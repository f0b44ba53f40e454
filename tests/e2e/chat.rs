//! The plugin `chat`: WebSocket clients that meet in a named session.

use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::support::*;

/// A room, and the way in. What the keys of `talk` and `room` are beside their roles.
fn chat(room: &str, talk: &str) -> Proxy {
    let module = plugins::path("chat").display().to_string();
    let room = format!(
        "[[wasm_session]]\nname = 'lobby'\nwasm_path = '{module}'\nwasm_main_config = '''role = 'room'\n{room}'''"
    );
    let mut site = Site::with(&room);
    let talk = Script::plugin("chat")
        .main(format!("role = 'talk'\n{talk}"))
        .key("wasm_main_ext1_config = '''role = 'listen'\npatience_ms = 200'''");
    site.route("/chat", "").script("wasm_serverless", talk);
    Proxy::start(&site.to_string())
}

async fn enter(proxy: &Proxy, name: &str) -> WebSocket<TcpStream> {
    WebSocket::connect(proxy.addr(), &format!("/chat?name={name}"), &[]).await
}

/// The next line that this client gets.
async fn hears(client: &mut WebSocket<TcpStream>, line: &str) {
    assert_eq!(client.receive().await, Some(Message::text(line)));
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_hears_everybody() {
    let proxy = chat("", "");
    let mut ann = enter(&proxy, "ann").await;
    hears(&mut ann, "* ann has come").await;
    let mut bob = enter(&proxy, "bob%20b").await;
    for client in [&mut ann, &mut bob] {
        hears(client, "* bob b has come").await;
    }
    ann.send_text("good morning").await;
    bob.send_text("\u{1f44b} ann").await;
    let mut lines = Vec::new();
    for client in [&mut ann, &mut bob] {
        lines.push([client.receive().await.unwrap(), client.receive().await.unwrap()]);
    }
    assert_eq!(lines[0], lines[1], "in the same order");
    lines[0].sort_by_key(|line| line.to_string());
    assert_eq!(lines[0], [Message::text("ann: good morning"), Message::text("bob b: \u{1f44b} ann")]);

    // One says so, the other just goes.
    let mut eve = enter(&proxy, "eve").await;
    hears(&mut eve, "* eve has come").await;
    ann.close(1000, "").await;
    hears(&mut eve, "* ann has left").await;
    drop(bob);
    hears(&mut eve, "* bob b has left").await;
    eve.close(1000, "").await;

    proxy.wait_until_idle();
    // Of the room itself.
    proxy.wait_for_metric("phasegate_mailboxes", 1.0);
    proxy.wait_for_metric("phasegate_sockets", 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_is_told_why() {
    let proxy = chat("most_members = 1", "longest = 10");
    for (path, status, text) in [
        ("/chat", 400, "say who you are: ?name=ann\n"),
        ("/chat?name=", 400, "say who you are: ?name=ann\n"),
        ("/chat?name=ann", 426, "this is a WebSocket\n"),
    ] {
        let answer = send(http1().get(proxy.url(path))).await;
        assert_eq!((answer.status, answer.text().as_str()), (status, text), "{path}");
    }
    let mut ann = enter(&proxy, "ann").await;
    hears(&mut ann, "* ann has come").await;
    let mut bob = enter(&proxy, "bob").await;
    assert_eq!(bob.closed().await, (1013, "the room is full".to_owned()));
    ann.send_text("this is more than ten bytes").await;
    assert_eq!(ann.closed().await, (1009, "this line is too long".to_owned()));
    // Her run tells the room that she has left before it ends.
    proxy.wait_until_idle();
    let mut bob = enter(&proxy, "bob").await;
    hears(&mut bob, "* bob has come").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_that_are_mixed_up_are_explained() {
    let proxy = chat("", "loudest = 1");
    let answer = send(http1().get(proxy.url("/chat?name=ann"))).await;
    assert_eq!(answer.status, 500);
    let line = proxy.wait_for_log("script=chat phase=wasm_serverless request=");
    assert!(line.contains("unknown field `loudest`"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_cannot_be_forged() {
    let proxy = chat("", "");
    let mut ann = enter(&proxy, "ann").await;
    hears(&mut ann, "* ann has come").await;
    ann.send_text("hi\n* bob has left\u{2028}\tbye\r").await;
    hears(&mut ann, "ann: hi * bob has left  bye ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_listen_is_turned_out() {
    let proxy = chat("", "longest = 100000");
    let mut deaf = enter(&proxy, "deaf").await;
    hears(&mut deaf, "* deaf has come").await;
    let mut ann = enter(&proxy, "ann").await;
    hears(&mut ann, "* ann has come").await;

    // Until all that is between the proxy and the deaf one is full.
    let line = "x".repeat(90_000);
    let mut lines = 0;
    loop {
        lines += 1;
        assert!(lines < 1000, "deaf is still there");
        ann.send_text(&line).await;
        match ann.receive().await.expect("a line") {
            message if message == Message::text("* deaf has left") => break,
            message => assert_eq!(message.len(), line.len() + 5),
        }
    }
    hears(&mut ann, &format!("ann: {line}")).await;
    // What is on the way still comes, and then the end.
    while let Some(message) = deaf.receive().await {
        assert!(message.is_close() || message.len() < 100_000);
    }
    ann.send_text("alone").await;
    hears(&mut ann, "ann: alone").await;
    ann.close(1000, "").await;
    proxy.wait_until_idle();
    proxy.wait_for_metric("phasegate_mailboxes", 1.0);
    proxy.wait_for_metric("phasegate_sockets", 0.0);
}
