//! The real Envoy as the reference: the same guest with the same configuration, the same requests, and what came of them
//! compared: responses, what the origins received, and the lines that the guest logged.
//!
//! What Envoy does is recorded in `recorded/`, so that there is something to compare with where there is no Envoy. Where
//! there is one, the recording must be what it does; `UPDATE=1` records anew. `CASE=NAME` runs one case and prints it,
//! `SHOW=1` prints what differs (both with `-- --nocapture`).
//!
//! Phasegate must do the same, but for the differences that a case names with their reason. `recorded/*.open` lists cases
//! where that has not been achieved, or decided, yet.

#[path = "../e2e/support/mod.rs"]
mod support;

mod case;
mod cases;
mod peer;
mod reference;
mod seen;
mod subject;

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use case::{Case, Difference};
use futures::{StreamExt, stream};
use peer::Server;
use reference::{Envoy, Servers};
use subject::Subject;

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
            println!("--- Envoy\n{given}");
        } else if std::env::var_os("UPDATE").is_some() {
            fs::write(recording(group), &given).unwrap();
        }
        let recorded = fs::read_to_string(recording(group)).unwrap_or_default();
        let (mut wrong, _) = different("what is recorded", &recorded, "what Envoy does", &given);
        if !wrong.is_empty() && only.is_none() {
            // Whether an origin has seen a request that is cut off is a race, in Envoy too.
            let given = in_envoy(&binary, &cases).await;
            wrong = different("what is recorded", &recorded, "what Envoy does", &given).0;
        }
        assert!(wrong.is_empty(), "\n{wrong}");
    }
    let given = in_phasegate(&cases).await;
    if only.is_some() {
        println!("--- Phasegate\n{given}");
    }
    let recorded = fs::read_to_string(recording(group)).unwrap_or_default();
    let (wrong, names) =
        different("Envoy, but for the known differences", &expected(&recorded, &cases), "Phasegate", &given);
    if std::env::var_os("SHOW").is_some() {
        println!("{wrong}");
    }
    let open = recording(group).with_extension("open");
    if only.is_none() && std::env::var_os("UPDATE").is_some() {
        fs::write(&open, names.iter().map(|name| format!("{name}\n")).collect::<String>()).unwrap();
    }
    let open = fs::read_to_string(&open).unwrap_or_default();
    assert!(only.is_none() && names.iter().all(|name| open.lines().any(|open| open == name)), "\n{wrong}");
}

/// The recording with the known differences.
fn expected(recorded: &str, cases: &[Case]) -> String {
    let mut text = String::new();
    for (name, section) in sections(recorded) {
        let mut section = section.to_owned();
        for difference in cases.iter().filter(|case| case.name == name).flat_map(|case| &case.differences) {
            let Difference { reason, envoy, phasegate } = difference;
            assert!(section.contains(envoy), "{name}: Envoy does not do what differs ({reason}): {envoy:?}\n{section}");
            section = section.replace(envoy, phasegate);
        }
        let _ = write!(text, "=== {name}\n{section}");
    }
    text
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

/// All cases in one Phasegate.
async fn in_phasegate(cases: &[Case]) -> String {
    let mut with_servers = Vec::new();
    for case in cases {
        with_servers.push((case, servers(case).await));
    }
    let subject = &Subject::start(&with_servers);
    let observed = with_servers.iter().map(|(case, servers)| async move {
        let seen = observe(case, servers, subject.addr(), || subject.lines(case)).await;
        // What Envoy does not survive: it is enough that the next case finds somebody there.
        if case.crashes { String::new() } else { seen }
    });
    let text: Vec<_> = stream::iter(observed).buffered(AT_ONCE).collect().await;
    if std::env::var_os("CASE").is_some() {
        println!("{}", subject.log());
    }
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
            for received in server.take().iter().filter(|_| !case.ends_under_way) {
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
        let (ended, patience) = (created > 0 && created <= deleted, if created > 0 { 1000 } else { 400 });
        let rest = if ended { 30 } else { patience };
        if (said && quiet.elapsed() > Duration::from_millis(rest)) || Instant::now() > deadline {
            return last;
        }
    }
}

/// The cases that differ, with their texts, and by their names.
fn different(expected_name: &str, expected: &str, given_name: &str, given: &str) -> (String, Vec<String>) {
    let (expected, given) = (sections(expected), sections(given));
    let (mut wrong, mut names) = (String::new(), Vec::new());
    for (name, text) in &given {
        let expected = expected.iter().find(|(other, _)| other == name).map_or("not recorded\n", |(_, text)| *text);
        if expected != *text {
            let _ = writeln!(wrong, "=== {name}\n--- {expected_name}\n{expected}+++ {given_name}\n{text}");
            names.push((*name).to_owned());
        }
    }
    (wrong, names)
}

/// The cases of a recording.
fn sections(text: &str) -> Vec<(&str, &str)> {
    text.split("=== ").skip(1).map(|section| section.split_once('\n').unwrap_or((section, ""))).collect()
}
