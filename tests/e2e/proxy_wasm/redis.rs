//! Commands for Redis, which Higress has added to the ABI: a filter sends them, and a real server answers.

use std::net::SocketAddr;

use serde_json::json;
use tokio::net::TcpListener;

use super::*;

/// As filters of Higress make it of what they are configured with.
const CLUSTER: &str = "outbound|6379||redis.static";

/// A site with that cluster.
fn site(main: &str, addr: SocketAddr) -> Site {
    Site::with(&format!("{main}\n[upstream.\"{CLUSTER}\"]\nservers = [{{ addr = '{addr}' }}]\n"))
}

/// A route whose filter comes to Redis in this way; without a user it does not say how.
fn route(site: &mut Site, path: &str, cluster: &str, login: Option<(&str, &str)>, timeout_ms: u32) {
    let configuration = json!({
        "cluster": cluster,
        "username": login.map(|(username, _)| username),
        "password": login.map_or("", |(_, password)| password),
        "timeout_ms": timeout_ms,
        "command": ["PING"],
    });
    let keys = format!("configuration = '{configuration}'\n");
    filtered(site, path, "echo = true", &format!("redis{}", path.replace('/', "-")), &guests::path("pw_redis"), &keys);
}

/// What the filter of a route has made of a command, a header of the request.
async fn ask(proxy: &Proxy, path: &str, header: &'static str, command: &str) -> String {
    let answer = send(http1().get(proxy.url(path)).header(header, command)).await;
    assert_eq!(answer.status, 200, "{}", proxy.log());
    let headers = answer.json()["headers"].as_array().unwrap().clone();
    let shown = headers.iter().find(|header| header[0] == "x-redis");
    shown.and_then(|header| header[1].as_str()).unwrap_or_else(|| panic!("{headers:?}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_gets_the_replies_of_the_server() {
    let Some(redis) = RedisServer::start() else { return };
    let port = RedisPort::open(&redis, None).await;
    let mut site = site("threads = 1", port.addr);
    route(&mut site, "/", CLUSTER, Some(("", "")), 10_000);
    let proxy = Proxy::start(&site.to_string());
    assert!(proxy.log().contains("proxy_redis_init: 0"), "{}", proxy.log());
    for (command, reply) in [
        ("PING", "+PONG"),
        ("SET a 1", "+OK"),
        ("GET a", "$1 1"),
        ("GET nothing", "$-1"),
        ("INCRBY a -5", ":-4"),
        ("RPUSH list x y", ":2"),
        ("LRANGE list 0 -1", "*2 $1 x $1 y"),
        ("LRANGE none 0 -1", "*0"),
        ("HSET h f v", ":1"),
        ("HGETALL h", "*2 $1 f $1 v"),
        ("ZADD z 1.5 m", ":1"),
        ("ZSCORE z m", "$3 1.5"),
        ("EVAL return{1,'two',{false}} 0", "*3 :1 $3 two *1 $-1"),
        ("INCR list", "-WRONGTYPE Operation against a key holding the wrong kind of value"),
    ] {
        assert_eq!(ask(&proxy, "/", "x-command", command).await, reply, "{command}");
    }
    assert!(ask(&proxy, "/", "x-command", "NOTHING of this").await.starts_with("-ERR unknown command"));
    for command in ["SELECT 3", "multi", "HELLO 3", "BLPOP list 0"] {
        assert_eq!(ask(&proxy, "/", "x-command", command).await, "refused 10", "{command}");
    }
    proxy.wait_for_log("proxy_redis_call: SELECT is about a connection, which the plugin shares with others");
    let before = port.connections();
    let together = (0..50).map(|_| ask(&proxy, "/", "x-command", "INCR together"));
    futures::future::join_all(together).await;
    assert_eq!(ask(&proxy, "/", "x-command", "GET together").await, "$2 50");
    assert_eq!((before, port.connections()), (1, 1), "one connection for all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_comes_with_its_own_login() {
    let Some(redis) = RedisServer::start() else { return };
    assert_eq!(redis.ask("ACL SETUSER alice on >secret ~* +@all"), "+OK");
    let port = RedisPort::open(&redis, None).await;
    let mut site = site("", port.addr);
    route(&mut site, "/unsaid", CLUSTER, None, 0);
    route(&mut site, "/alice", CLUSTER, Some(("alice", "secret")), 10_000);
    route(&mut site, "/wrong", CLUSTER, Some(("alice", "guess")), 10_000);
    let third = format!("{CLUSTER}?db=3&buffer_flush_timeout=1&max_buffer_size_before_flush=1024");
    route(&mut site, "/third", &third, Some(("", "")), 10_000);
    route(&mut site, "/hundredth", &format!("{CLUSTER}?db=100"), Some(("", "")), 10_000);
    route(&mut site, "/no-number", &format!("{CLUSTER}?db=x"), Some(("", "")), 10_000);
    let proxy = Proxy::start(&site.to_string());
    for (path, command, reply) in [
        ("/unsaid", "ACL WHOAMI", "$7 default"),
        ("/alice", "ACL WHOAMI", "$5 alice"),
        ("/alice", "SET a 1", "+OK"),
        ("/third", "SET a 3", "+OK"),
        ("/unsaid", "GET a", "$1 1"),
        ("/third", "GET a", "$1 3"),
        ("/hundredth", "PING", "-ERR DB index is out of range"),
        ("/no-number", "GET a", "$1 1"),
    ] {
        assert_eq!(ask(&proxy, path, "x-command", command).await, reply, "{path} {command}");
    }
    let refused = ask(&proxy, "/wrong", "x-command", "PING").await;
    assert!(refused.starts_with("-WRONGPASS"), "{refused}");
    let log = proxy.log();
    assert!(log.contains("proxy_redis_init: 2"), "the database is no number: {log}");
    assert!(!log.contains("secret") && !log.contains("guess"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_is_told_and_comes_back() {
    let Some(mut redis) = RedisServer::start() else { return };
    let port = RedisPort::open(&redis, None).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut site = site(
        &format!("threads = 1\n[upstream.silent]\nservers = [{{ addr = '{}' }}]", silent.local_addr().unwrap()),
        port.addr,
    );
    route(&mut site, "/", CLUSTER, Some(("", "")), 10_000);
    route(&mut site, "/silent", "silent", Some(("", "")), 50);
    route(&mut site, "/nobody", "nobody", Some(("", "")), 50);
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(ask(&proxy, "/", "x-command", "SET a 1").await, "+OK");
    redis.stop();
    for _ in 0..3 {
        assert_eq!(ask(&proxy, "/", "x-command", "GET a").await, "status 1 size 0");
    }
    proxy.wait_for_log("filter=redis- request=- proxy_redis_call: ");
    assert!(redis.go());
    assert_eq!(ask(&proxy, "/", "x-command", "GET a").await, "$-1");
    assert_eq!(ask(&proxy, "/silent", "x-command", "PING").await, "status 1 size 0");
    assert_eq!(ask(&proxy, "/nobody", "x-command", "PING").await, "refused 2");
    let log = proxy.log();
    assert!(log.contains("proxy_redis_init: there is no [upstream.nobody]"), "{log}");
    for query in ["PING\r\n", "", "*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n", "*1\r\n$4\r\nPIN"] {
        assert_eq!(ask(&proxy, "/", "x-query", &json!(query).to_string()).await, "refused 10", "{query}");
    }
    proxy.wait_for_log("the query is not one command");
    assert_eq!(ask(&proxy, "/", "x-query", &json!("*1\r\n$4\r\nPING\r\n").to_string()).await, "+PONG");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_reached_is_passed_over() {
    let Some(redis) = RedisServer::start() else { return };
    let port = RedisPort::open(&redis, None).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let servers = format!("[upstream.two]\nservers = [{{ addr = '{gone}' }}, {{ addr = '{}' }}]\n", port.addr);
    let mut site = Site::with(&servers);
    route(&mut site, "/", "two", Some(("", "")), 10_000);
    let proxy = Proxy::start(&site.to_string());
    for _ in 0..4 {
        assert_eq!(ask(&proxy, "/", "x-command", "PING").await, "+PONG");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_that_of_the_upstream() {
    let Some(redis) = RedisServer::start() else { return };
    let authority = Authority::new();
    let port = RedisPort::open(&redis, Some(&authority.issue("redis.test"))).await;
    let upstream = |name: &str, sni: &str| {
        format!("[upstream.{name}]\nservers = [{{ addr = '{}' }}]\ntls = {{ sni = '{sni}' }}\n", port.addr)
    };
    let main = format!("{}{}{}", authority.network(), upstream("right", "redis.test"), upstream("other", "other.test"));
    let mut site = Site::with(&main);
    route(&mut site, "/right", "right", Some(("", "")), 10_000);
    route(&mut site, "/other", "other", Some(("", "")), 10_000);
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(ask(&proxy, "/right", "x-command", "PING").await, "+PONG");
    assert_eq!(ask(&proxy, "/other", "x-command", "PING").await, "status 1 size 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_for_each_request_does_not_connect_for_each() {
    let Some(redis) = RedisServer::start() else { return };
    let port = RedisPort::open(&redis, None).await;
    let mut site = site("threads = 1", port.addr);
    let configuration = json!({ "cluster": CLUSTER, "username": "", "command": ["PING"] });
    let keys = format!("configuration = '{configuration}'\ninstances = 'request'\n");
    filtered(&mut site, "/", "echo = true", "each", &guests::path("pw_redis"), &keys);
    let proxy = Proxy::start(&site.to_string());
    for _ in 0..5 {
        assert_eq!(ask(&proxy, "/", "x-command", "PING").await, "+PONG");
    }
    assert_eq!(port.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_permitted_is_not_done() {
    let Some(redis) = RedisServer::start() else { return };
    let port = RedisPort::open(&redis, None).await;
    let mut site = site("", port.addr);
    let configuration = json!({ "cluster": CLUSTER, "command": ["PING"] });
    let capabilities = "'proxy_log', 'proxy_on_context_create', 'proxy_on_vm_start', 'proxy_on_configure', \
                        'proxy_on_request_headers', 'proxy_get_buffer_bytes', 'proxy_get_header_map_value', \
                        'proxy_replace_header_map_value'";
    let keys = format!("configuration = '{configuration}'\nallowed_capabilities = [{capabilities}]\n");
    filtered(&mut site, "/", "echo = true", "denied", &guests::path("pw_redis"), &keys);
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(ask(&proxy, "/", "x-command", "PING").await, "refused 10");
    proxy.wait_for_log("`proxy_redis_call` is not in allowed_capabilities");
    assert_eq!(port.connections(), 0);
}
