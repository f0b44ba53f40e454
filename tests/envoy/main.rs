//! The real Envoy as the reference: the same guest with the same configuration, the same requests, and what came of them
//! compared: responses, what the origins received, and the lines that the guest logged.
//!
//! What Envoy does is recorded in `recorded/`, so that there is something to compare with where there is no Envoy. Where
//! there is one, the recording must be what it does; `UPDATE=1` records anew. `CASE=NAME` runs one case and prints it.

#[path = "../e2e/support/mod.rs"]
mod support;

mod case;
mod cases;
mod peer;
mod reference;
mod seen;

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use case::Case;
use futures::{StreamExt, stream};
use peer::Server;
use reference::{Envoy, Servers};

/// Cases that run beside each other: most of their time is waiting.
const AT_ONCE: usize = 12;

/// Compares all cases of a group.
async fn compare(group: &str, cases: Vec<Case>) {
    let only = std::env::var("CASE").ok();
    let cases: Vec<_> = cases.into_iter().filter(|case| only.as_ref().is_none_or(|only| only == case.name)).collect();
    if cases.is_empty() {
        return;
    }
    if let Some(binary) = reference::binary() {
        let given = in_envoy(&binary, &cases).await;
        if only.is_some() {
            println!("{given}");
            return;
        }
        if std::env::var_os("UPDATE").is_some() {
            fs::write(recording(group), &given).unwrap();
        }
        let recorded = fs::read_to_string(recording(group)).unwrap_or_default();
        assert_same("what is recorded", &recorded, "what Envoy does", &given);
    }
}

fn recording(group: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/envoy/recorded").join(group).with_extension("txt")
}

/// All cases in one Envoy; what came of them.
async fn in_envoy(binary: &Path, cases: &[Case]) -> String {
    let mut with_servers = Vec::new();
    for case in cases.iter().filter(|case| !case.crashes) {
        with_servers.push((case, servers(case).await));
    }
    let envoy = Envoy::start(binary, &with_servers).await.unwrap_or_else(|log| panic!("Envoy does not start: {log}"));
    let envoy = &envoy;
    let observed = with_servers
        .iter()
        .zip(&envoy.listeners)
        .map(|((case, servers), addr)| async move { observe(case, servers, *addr, || envoy.lines(case)).await });
    let text: Vec<_> = stream::iter(observed).buffered(AT_ONCE).collect().await;
    let log = envoy.log();
    if std::env::var_os("CASE").is_some() {
        println!("{log}");
    }
    // It ends the process, with all that was tried after it: such a case cannot be here.
    let crash = log.find("Caught ").map_or("", |start| &log[start..]);
    let lost = text.iter().find(|text| text.contains("no connection")).map_or("", String::as_str);
    assert!(
        crash.is_empty(),
        "{lost}Envoy has crashed: {crash}\n{}",
        &log[log.len().saturating_sub(crash.len() + 2000)..]
    );
    text.concat()
}

async fn servers(case: &Case) -> Servers {
    let mut servers = Vec::new();
    for origin in &case.origins {
        servers.push(Server::start(origin).await);
    }
    servers
}

/// Sends the requests of a case; all that is seen of it.
async fn observe(case: &Case, servers: &Servers, addr: SocketAddr, lines: impl Fn() -> Vec<String>) -> String {
    let mut text = format!("=== {}\n", case.name);
    let started = lines();
    let mut once = Vec::new();
    for line in &started {
        // Each VM says it.
        if !once.contains(line) {
            once.push(line.clone());
        }
    }
    let plain = ["on_context_create(0)", "on_vm_start(0)", "on_configure("];
    if !once.iter().all(|line| plain.iter().any(|plain| line.contains(plain))) {
        text += "start\n";
        seen::render_log(&once, case.unordered, &mut text);
    }
    let mut done = started.len();
    for request in case.requests() {
        tokio::time::sleep(request.after).await;
        let answer = peer::ask(addr, &format!("{}.test", case.name), &request).await;
        let version = if request.h2 { "HTTP/2" } else { "HTTP/1.1" };
        let _ = writeln!(text, "{} {} {version}", request.method, request.path);
        answer.render(&mut text, "  ");
        let all = settled(case, done, &lines).await;
        for (origin, server) in case.origins.iter().zip(servers) {
            for received in server.take() {
                let _ = writeln!(text, "  {} received", origin.name);
                received.render(&mut text, "    ");
            }
        }
        text += "log\n";
        seen::render_log(&all[done..], case.unordered, &mut text);
        done = all.len();
    }
    text
}

/// The log when nothing more comes for a request.
async fn settled(case: &Case, from: usize, lines: &impl Fn() -> Vec<String>) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut quiet = Instant::now();
    let mut last = lines();
    loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = lines();
        if now.len() != last.len() {
            quiet = Instant::now();
            last = now;
        }
        let new = &last[from..];
        let said = case.waits_for.is_none_or(|text| new.iter().any(|line| line.contains(text)));
        let created = new.iter().filter(|line| line.contains("on_context_create(")).count();
        let deleted = new.iter().filter(|line| line.contains("on_delete()")).count();
        let (ended, patience) = (created > 0 && created <= deleted, if created > 0 { 1000 } else { 150 });
        let rest = if ended { 30 } else { patience };
        if (said && quiet.elapsed() > Duration::from_millis(rest)) || Instant::now() > deadline {
            return last;
        }
    }
}

/// Fails with the lines that differ.
#[track_caller]
fn assert_same(expected_name: &str, expected: &str, given_name: &str, given: &str) {
    let (expected, given) = (sections(expected), sections(given));
    let mut wrong = String::new();
    for (name, text) in &given {
        match expected.iter().find(|(other, _)| other == name) {
            Some((_, expected)) if expected == text => {}
            Some((_, expected)) => {
                let _ = writeln!(wrong, "=== {name}\n--- {expected_name}\n{expected}+++ {given_name}\n{text}");
            }
            None => {
                let _ = writeln!(wrong, "=== {name}: not recorded");
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// The cases of a recording.
fn sections(text: &str) -> Vec<(&str, &str)> {
    text.split("=== ").skip(1).map(|section| section.split_once('\n').unwrap_or((section, ""))).collect()
}
