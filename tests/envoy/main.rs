//! The real Envoy as the reference: the same guest with the same configuration, the same requests, and what came of them
//! compared: responses, what the origins received, and the lines that the guest logged.
//!
//! What Envoy does is recorded in `recorded/`, so that there is something to compare with where there is no Envoy. Where
//! there is one, the recording must be what it does; `UPDATE=1` records anew. `CASE=NAME` runs one case and prints it,
//! `SHOW=1` prints what differs (both with `-- --nocapture`).
//!
//! Phasegate must do the same, but for differences that have a reason, each of them a row of docs/proxy-wasm.md: rules, which
//! hold for all cases, and those of a case that names its reasons. What differs there, to the letter, is kept in
//! `recorded/*.differs` (`UPDATE=1` writes that anew, too).

#[path = "../e2e/support/mod.rs"]
mod support;

mod case;
mod cases;
mod coverage;
mod delta;
mod peer;
mod reason;
mod reference;
mod rules;
mod seen;
mod subject;

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use case::Case;
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
        let wrong = different("what is recorded", &recorded, "what Envoy does", &given);
        assert!(wrong.is_empty(), "\n{wrong}");
    }
    let given = in_phasegate(&cases).await;
    if only.is_some() {
        println!("--- Phasegate\n{given}");
    }
    let recorded = fs::read_to_string(recording(group)).unwrap_or_default();
    let differ = deltas(&recorded, &given, &cases);
    let with_reason: Vec<_> = differ.iter().filter(|(case, _)| reason::is_known(case.name)).collect();
    if only.is_none() && std::env::var_os("UPDATE").is_some() {
        let text: String = with_reason.iter().map(|(case, delta)| format!("=== {}\n{delta}", case.name)).collect();
        fs::write(differences(group), text).unwrap();
    }
    let known = fs::read_to_string(differences(group)).unwrap_or_default();
    let known = sections(&known);
    let mut wrong = String::new();
    for (case, delta) in &differ {
        let known = known.iter().find(|(name, _)| *name == case.name).map_or("", |(_, delta)| *delta);
        // Nothing may differ without a reason, nor have a reason and not differ.
        if *delta != known || (known.is_empty() == reason::is_known(case.name)) {
            let _ = writeln!(
                wrong,
                "=== {}\n--- known, from Envoy (-) to Phasegate (+)\n{known}--- found\n{delta}",
                case.name
            );
        }
    }
    if std::env::var_os("SHOW").is_some() {
        println!("{wrong}");
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// What differs in each case, beyond the rules.
fn deltas<'a>(recorded: &str, given: &str, cases: &'a [Case]) -> Vec<(&'a Case, String)> {
    let (recorded, given) = (sections(recorded), sections(given));
    let of = |sections: &[(&str, &str)], name| -> Option<String> {
        sections.iter().find(|(other, _)| *other == name).map(|(_, text)| (*text).to_owned())
    };
    let compared = cases.iter().filter(|case| case.crashes.is_none()).map(|case| {
        let envoy = of(&recorded, case.name).unwrap_or_else(|| panic!("{} is not recorded", case.name));
        let phasegate = of(&given, case.name).unwrap_or_default();
        (case, delta::delta(&rules::apply(&envoy).0, &rules::plain(&phasegate)))
    });
    compared.collect()
}

/// Where it is kept what differs in a group.
fn differences(group: &str) -> PathBuf {
    recording(group).with_extension("differs")
}

fn recording(group: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/envoy/recorded").join(group).with_extension("txt")
}

/// All cases in one Envoy; what came of them.
async fn in_envoy(binary: &Path, cases: &[Case]) -> String {
    let mut with_servers = Vec::new();
    for case in cases.iter().filter(|case| case.crashes.is_none()) {
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
        if case.crashes.is_some() { String::new() } else { seen }
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
    let requests = case.requests();
    // Where a case waits before its first request, what starts has that time too.
    tokio::time::sleep(requests.first().map(|request| request.after).unwrap_or_default()).await;
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
    for request in requests {
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

/// The cases that differ, with their texts.
fn different(expected_name: &str, expected: &str, given_name: &str, given: &str) -> String {
    let (expected, given) = (sections(expected), sections(given));
    let mut wrong = String::new();
    for (name, text) in &given {
        let expected = expected.iter().find(|(other, _)| other == name).map_or("not recorded\n", |(_, text)| *text);
        if expected != *text {
            let _ = writeln!(wrong, "=== {name}\n--- {expected_name}\n{expected}+++ {given_name}\n{text}");
        }
    }
    wrong
}

/// The cases of a recording.
fn sections(text: &str) -> Vec<(&str, &str)> {
    text.split("=== ").skip(1).map(|section| section.split_once('\n').unwrap_or((section, ""))).collect()
}
