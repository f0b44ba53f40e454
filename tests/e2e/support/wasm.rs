//! The plugins and test guests, built once by each test process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// `tests/guests`: see the README there.
pub mod guests {
    use super::*;

    /// The module of a guest.
    pub fn path(name: &str) -> PathBuf {
        static BUILT: OnceLock<PathBuf> = OnceLock::new();
        module(BUILT.get_or_init(|| build("tests/guests")), name)
    }
}

/// `wasm-plugins`: the plugins that come with the proxy.
pub mod plugins {
    use super::*;

    /// The module of a plugin.
    pub fn path(name: &str) -> PathBuf {
        static BUILT: OnceLock<PathBuf> = OnceLock::new();
        module(BUILT.get_or_init(|| build("wasm-plugins")), name)
    }
}

fn module(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name).with_extension("wasm");
    assert!(path.exists(), "there is no {}", path.display());
    path
}

/// Builds a workspace for the target of plugins; the folder of its modules.
fn build(workspace: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(workspace);
    cargo(&["build", "--quiet", "--release", "--target", "wasm32-wasip1"], &folder);
    folder.join("target/wasm32-wasip1/release")
}

/// Runs cargo in a folder.
pub fn cargo(arguments: &[&str], folder: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(folder);
    // What the cargo that runs this test was told is about the proxy.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_about_the_outer_build) {
            command.env_remove(name);
        }
    }
    let output = command.output().unwrap_or_else(|error| panic!("cargo cannot be started: {error}"));
    assert!(
        output.status.success(),
        "{} does not build (is the target there? `rustup target add wasm32-wasip1`):\n{}",
        folder.display(),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn is_about_the_outer_build(variable: &str) -> bool {
    let whole = ["RUSTFLAGS", "RUSTDOCFLAGS", "RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_INCREMENTAL"];
    let start = ["CARGO_TARGET_", "CARGO_BUILD_", "CARGO_ENCODED_", "CARGO_PROFILE_", "CARGO_PKG_", "CARGO_MANIFEST_"];
    whole.contains(&variable) || start.iter().any(|start| variable.starts_with(start))
}
