use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use pingora::services::background::BackgroundService;

use super::*;

fn spec(balance: Balance, servers: &[(&str, u16)]) -> config::Upstream {
    let place = config::Place::default;
    let server = |(addr, weight): &(&str, u16)| config::UpstreamServer {
        addr: addr.to_string(),
        weight: NonZeroU16::new(*weight).unwrap(),
        place: place(),
    };
    let servers = servers.iter().map(server).collect();
    config::Upstream {
        name: "origin".into(),
        servers,
        balance,
        hash_key: None,
        health_check: None,
        tls: None,
        h2: false,
        timeouts: Timeouts::default(),
    }
}

fn upstream(balance: Balance, servers: &[(&str, u16)]) -> Arc<Upstream> {
    Upstream::build(&spec(balance, servers), None).unwrap().0
}

/// How many of `n` selections, each let go at once, went to each port.
fn counts(upstream: &Upstream, n: usize) -> HashMap<u16, usize> {
    let mut counts = HashMap::new();
    for _ in 0..n {
        *counts.entry(upstream.select(b"", &[]).unwrap().addr.port()).or_default() += 1;
    }
    counts
}

fn set_healthy(upstream: &Upstream, port: u16, healthy: bool) {
    upstream.servers.iter().find(|server| server.addr.port() == port).unwrap().healthy.store(healthy, Relaxed);
}

const THREE: [(&str, u16); 3] = [("127.0.0.1:1", 3), ("127.0.0.1:2", 1), ("127.0.0.1:3", 1)];

#[test]
fn a_single_server_is_always_selected() {
    for balance in [Balance::RoundRobin, Balance::Random, Balance::LeastConn, Balance::Hash] {
        let upstream = upstream(balance, &[("localhost:80", 1)]);
        let selected = upstream.select(b"key", &[]).unwrap();
        assert_eq!((selected.addr.port(), &*selected.host), (80, "localhost"));
        assert_eq!((upstream.name().as_ref(), upstream.balancer()), ("origin", balance.name()));
    }
}

#[test]
fn host_keeps_the_brackets_of_an_ipv6_address() {
    let selected = upstream(Balance::RoundRobin, &[("[::1]:80", 1)]).select(b"", &[]).unwrap();
    assert_eq!((selected.addr.to_string().as_str(), &*selected.host), ("[::1]:80", "[::1]"));
}

#[test]
fn round_robin_is_exact_by_weight() {
    let counts = counts(&upstream(Balance::RoundRobin, &THREE), 500);
    assert_eq!(counts, HashMap::from([(1, 300), (2, 100), (3, 100)]));
}

#[test]
fn random_follows_the_weights() {
    let counts = counts(&upstream(Balance::Random, &THREE), 10_000);
    // 6000 expected; the standard deviation is 49.
    assert!((5_500..6_500).contains(&counts[&1]), "{counts:?}");
    assert_eq!(counts.len(), 3);
}

#[test]
fn the_same_address_twice_adds_up() {
    let upstream = upstream(Balance::RoundRobin, &[("127.0.0.1:1", 1), ("127.0.0.1:2", 1), ("127.0.0.1:1", 2)]);
    assert_eq!(counts(&upstream, 400), HashMap::from([(1, 300), (2, 100)]));
}

#[test]
fn hash_sticks_and_moves_only_the_keys_of_the_server_that_left() {
    let upstream = upstream(Balance::Hash, &THREE);
    let select = |key: usize| upstream.select(&key.to_le_bytes(), &[]).unwrap().addr.port();
    let before: Vec<_> = (0..1000).map(select).collect();
    assert_eq!(before, (0..1000).map(select).collect::<Vec<_>>());
    for port in 1..=3 {
        assert!(before.contains(&port));
    }

    set_healthy(&upstream, 2, false);
    for (key, port) in before.into_iter().enumerate() {
        match port {
            2 => assert_ne!(select(key), 2),
            _ => assert_eq!(select(key), port),
        }
    }
}

#[test]
fn least_conn_fills_by_weight_and_forgets_what_was_dropped() {
    let upstream = upstream(Balance::LeastConn, &THREE);
    let mut held: Vec<_> = (0..50).map(|_| upstream.select(b"", &[]).unwrap()).collect();
    let on = |held: &[Selected], port| held.iter().filter(|selected| selected.addr.port() == port).count();
    assert_eq!((on(&held, 1), on(&held, 2), on(&held, 3)), (30, 10, 10));

    held.retain(|selected| selected.addr.port() != 2);
    let next: Vec<_> = (0..9).map(|_| upstream.select(b"", &[]).unwrap()).collect();
    assert_eq!(on(&next, 2), 9);

    drop((held, next));
    assert!(upstream.servers.iter().all(|server| server.active.load(Relaxed) == 0));
}

#[test]
fn idle_least_conn_takes_turns_by_weight() {
    assert_eq!(counts(&upstream(Balance::LeastConn, &THREE), 500), HashMap::from([(1, 300), (2, 100), (3, 100)]));
}

#[test]
fn unhealthy_servers_are_passed_over() {
    for balance in [Balance::RoundRobin, Balance::Random, Balance::LeastConn, Balance::Hash] {
        let upstream = upstream(balance, &THREE);
        set_healthy(&upstream, 1, false);
        set_healthy(&upstream, 2, false);
        assert_eq!(counts(&upstream, 100), HashMap::from([(3, 100)]));
        set_healthy(&upstream, 3, false);
        assert!(upstream.select(b"", &[]).is_none());
    }
}

#[test]
fn servers_that_have_failed_a_request_are_passed_over() {
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    for balance in [Balance::RoundRobin, Balance::Random, Balance::LeastConn, Balance::Hash] {
        // The one that is left hardly ever comes up in the order of the selection.
        let upstream = upstream(balance, &[("127.0.0.1:1", 1000), ("127.0.0.1:2", 1000), ("127.0.0.1:3", 1)]);
        for key in 0..100_u32 {
            let mut failed = Vec::new();
            while let Some(selected) = upstream.select(&key.to_le_bytes(), &failed) {
                assert!(!failed.contains(&selected.addr), "{balance:?}");
                failed.push(selected.addr);
                assert_eq!(upstream.has_other(&failed), failed.len() < 3, "{balance:?}");
            }
            failed.sort();
            assert_eq!(failed, [address(1), address(2), address(3)], "{balance:?}");
        }
        set_healthy(&upstream, 3, false);
        assert!(!upstream.has_other(&[address(1), address(2)]), "{balance:?}");
        assert!(upstream.select(b"", &[address(1), address(2)]).is_none(), "{balance:?}");
    }
    assert!(upstream(Balance::Hash, &[("127.0.0.1:1", 1)]).select(b"", &[address(1)]).is_none());
}

#[test]
fn a_connection_is_not_kept_for_ever() {
    let upstream = upstream(Balance::RoundRobin, &THREE);
    let peer = upstream.peer(&upstream.select(b"", &[]).unwrap());
    assert_eq!(peer.options.idle_timeout, Some(Duration::from_secs(60)));
}

#[test]
fn an_error_names_the_upstream_and_the_address() {
    let error = Upstream::build(&spec(Balance::RoundRobin, &[("127.0.0.1", 1)]), None).err().unwrap();
    assert!(error.to_string().starts_with("upstream `origin`: cannot resolve `127.0.0.1`: "));
}

/// An upstream of this one server whose health checks run on a thread until the sender is dropped.
fn checked(addr: SocketAddr, path: Option<&str>) -> (Arc<Upstream>, tokio::sync::watch::Sender<bool>) {
    let health_check =
        config::HealthCheck { path: path.map(|path| path.parse().unwrap()), interval: Duration::from_millis(5) };
    let spec =
        config::Upstream { health_check: Some(health_check), ..spec(Balance::RoundRobin, &[(&addr.to_string(), 1)]) };
    let (upstream, service) = Upstream::build(&spec, None).unwrap();
    let (shutdown, watch) = tokio::sync::watch::channel(false);
    let checks = service.unwrap().task();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(checks.start(watch));
    });
    (upstream, shutdown)
}

fn becomes(upstream: &Upstream, healthy: bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while upstream.select(b"", &[]).is_some() != healthy {
        assert!(Instant::now() < deadline, "never became {}", if healthy { "healthy" } else { "unhealthy" });
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_tcp_check_sees_a_server_go_and_come_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (upstream, _shutdown) = checked(addr, None);
    becomes(&upstream, true);
    drop(listener);
    becomes(&upstream, false);
    let _listener = TcpListener::bind(addr).unwrap();
    becomes(&upstream, true);
}

#[test]
fn an_http_check_wants_200() {
    static STATUS: AtomicUsize = AtomicUsize::new(200);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (requests, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).unwrap_or(0);
            let _ = requests.send(String::from_utf8_lossy(&request[..read]).into_owned());
            let status = STATUS.load(Relaxed);
            let _ = write!(stream, "HTTP/1.1 {status} Some\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    let (upstream, _shutdown) = checked(addr, Some("/healthz?deep=1"));
    let request = seen.recv_timeout(Duration::from_secs(20)).unwrap().to_ascii_lowercase();
    assert!(request.starts_with("get /healthz?deep=1 http/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("\r\nhost: {addr}\r\n")), "{request}");
    becomes(&upstream, true);
    STATUS.store(503, Relaxed);
    becomes(&upstream, false);
    STATUS.store(200, Relaxed);
    becomes(&upstream, true);
}
