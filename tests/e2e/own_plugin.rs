//! A plugin as a user writes it: a folder of its own, a few lines, `cargo build --target wasm32-wasip1`.

use std::fs;
use std::path::Path;

use super::support::*;

const SOURCE: &str = r#"
use phasegate_plugin::http::Response;
use phasegate_plugin::{Verdict, export, host};

export!(main: check);

fn check(config: Option<String>) -> Result<Verdict, String> {
    let token = config.ok_or("the configuration is the token")?;
    if host::in_get_header("x-token")?.as_deref() == Some(token.as_str()) {
        host::in_del_header("x-token")?;
        return Ok(Verdict::Ok);
    }
    host::out_set_response(&Response::new(401).text("a token, please\n"))?;
    Ok(Verdict::Return)
}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_from_outside_the_repository() {
    assert!(SOURCE.trim().lines().count() < 20);
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let manifest = format!(
        "[package]\nname = \"token\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\"]\n\
         [dependencies]\nphasegate-plugin = {{ path = '{}' }}\n",
        repository.join("crates/phasegate-plugin").display()
    );
    fs::create_dir(folder.path().join("src")).unwrap();
    fs::write(folder.path().join("src/lib.rs"), SOURCE).unwrap();
    fs::write(folder.path().join("Cargo.toml"), manifest).unwrap();
    // The versions that are on this machine already: the test needs no network.
    fs::copy(repository.join("wasm-plugins/Cargo.lock"), folder.path().join("Cargo.lock")).unwrap();

    // Beside the plugins of the repository, so that what all depend on is built once.
    let target = repository.join("wasm-plugins/target");
    let target_dir = format!("--target-dir={}", target.display());
    cargo(&["build", "--offline", "--target", "wasm32-wasip1", &target_dir], folder.path());
    // It links for the machine itself too, where its own tests run.
    cargo(&["build", "--offline", &target_dir], folder.path());
    fs::copy(target.join("wasm32-wasip1/debug/token.wasm"), folder.path().join("token.wasm")).unwrap();

    let origin = Origin::saying("hello").await;
    let module = folder.path().join("token.wasm");
    let proxy = Proxy::start(&format!("{}{}", proxy_to(origin.addr()), script("wasm_access", &module, "secret")));
    let refused = send(http1().get(proxy.url("/"))).await;
    assert_eq!((refused.status, refused.text().as_str()), (401, "a token, please\n"));
    let passed = send(http1().get(proxy.url("/")).header("x-token", "secret")).await;
    assert_eq!((passed.status, passed.text().as_str()), (200, "hello"));
    assert_eq!(origin.only().header("x-token"), None);
}
