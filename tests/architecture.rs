//! Who may know whom (docs/architecture.md).

use std::fs;
use std::path::{Path, PathBuf};

/// A name, and the only rooms of `src` in which it may stand.
const RULES: &[(&str, &[&str])] = &[
    ("wasmtime", &["wasm"]),
    ("pingora", &["proxy", "server", "tls/mod.rs", "exchange", "facts", "observe/admin.rs"]),
    ("redis", &["capability/store", "capability/resp", "config/leaf.rs"]),
    ("crate::proxy", &["proxy", "server", "reload"]),
    ("crate::server", &["server", "cli"]),
    ("crate::snapshot", &["snapshot", "proxy", "server", "reload", "cli"]),
    (
        "crate::capability",
        &[
            "capability",
            "exchange",
            "wasm",
            "snapshot",
            "proxy/generation.rs",
            "proxy/upstream",
            "server",
            "reload",
            "cli",
        ],
    ),
    ("crate::wasm", &["wasm", "snapshot", "proxy", "server", "reload", "cli"]),
    ("crate::reload", &["reload", "server", "cli"]),
    ("notify", &["reload/watch.rs"]),
    ("crate::cli", &["main.rs"]),
];

#[test]
fn every_room_knows_only_what_it_may() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut broken = Vec::new();
    for file in files(&src) {
        let text = fs::read_to_string(&file).unwrap();
        let file = file.strip_prefix(&src).unwrap();
        if text.contains("crate::{") {
            broken.push(format!("src/{}: `crate::{{…}}` hides which rooms it names", file.display()));
        }
        for (name, rooms) in RULES {
            let allowed = rooms.iter().any(|room| file.starts_with(room));
            let named = text.lines().filter(|line| !line.trim_start().starts_with("//")).any(|line| names(line, name));
            if named && !allowed {
                broken.push(format!("src/{} names `{name}`", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// As a path: `wasmtime::Store`, `use pingora::…`, not as part of a longer word.
fn names(line: &str, name: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(name).any(|(at, _)| {
        let after = &line[at + name.len()..];
        !line[..at].ends_with(word) && ["::", "_proxy::", " as ", ";"].iter().any(|end| after.starts_with(end))
    })
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    assert!(!files.is_empty());
    files
}
