//! Compiled modules are kept for the next start.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::support::*;

/// Plugins that differ in nothing but a custom section, which makes each another module.
fn write_plugins(folder: &Path, count: u8) -> Vec<PathBuf> {
    let plugin = fs::read(guests::path("verdict")).unwrap();
    let variant = |number: u8| {
        let path = folder.join(format!("plugin-{number}.wasm"));
        fs::write(&path, [&plugin[..], &[0, 2, 1, number]].concat()).unwrap();
        path
    };
    (0..count).map(variant).collect()
}

fn config(cache: &Path, plugins: &[PathBuf]) -> String {
    let scripts: String = plugins.iter().map(|plugin| script("wasm_access", plugin, "ok")).collect();
    let route = "path = \"/\"\nrespond = { status = 200, body = \"hello\" }";
    format!("cache = '{}'\n{}{scripts}", cache.display(), server(route))
}

/// The compiled modules, each with the number of its file: one that is written anew has another.
fn kept(cache: &Path) -> Vec<(PathBuf, u64)> {
    let compilers = fs::read_dir(cache.join("compiled/modules")).unwrap();
    let files = compilers.flat_map(|compiler| fs::read_dir(compiler.unwrap().path()).unwrap());
    let files = files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_none());
    let mut files: Vec<_> = files.map(|path| (path.clone(), path.metadata().unwrap().ino())).collect();
    files.sort();
    files
}

async fn serves(config: &str) {
    let proxy = Proxy::start(config);
    assert_eq!(send(http1().get(proxy.url("/"))).await.text(), "hello");
}

#[tokio::test]
async fn a_restart_takes_its_modules_from_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let config = config(&cache, &write_plugins(folder.path(), 3));
    serves(&config).await;
    let first = kept(&cache);
    assert_eq!(first.len(), 3);
    assert_eq!(fs::metadata(&cache).unwrap().mode() & 0o777, 0o700, "it is nobody else's");
    serves(&config).await;
    assert_eq!(kept(&cache), first, "nothing is compiled again");

    for (path, _) in &first {
        fs::write(path, "damaged").unwrap();
    }
    serves(&config).await;
    assert!(first.iter().all(|(path, _)| fs::read(path).unwrap() != b"damaged"), "all is compiled again");
}

#[tokio::test]
async fn a_folder_that_is_of_no_use_is_told_and_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("file");
    fs::write(&cache, "").unwrap();
    let proxy = Proxy::start(&config(&cache, &write_plugins(folder.path(), 1)));
    assert_eq!(send(http1().get(proxy.url("/"))).await.text(), "hello");
    proxy.wait_for_log(&format!("compiled modules are not kept for the next start in {}: ", cache.display()));
}
