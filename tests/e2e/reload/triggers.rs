//! What makes the proxy look at its files: a signal, the admin endpoint, a change of a file.

use std::os::unix::fs::symlink;
use std::time::Instant;

use super::*;

/// What is written, and how it gets to its place.
type Write = fn(&Path, &[u8]);

fn in_place(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
}

/// As editors and build tools do it.
fn rename_over(path: &Path, content: &[u8]) {
    let other = path.with_extension("tmp");
    fs::write(&other, content).unwrap();
    fs::rename(&other, path).unwrap();
}

fn remove_and_write(path: &Path, content: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, content).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_loads_it_anew() {
    let module = Module::new("aaaaaaaa");
    let proxy = Proxy::start(&marked(&module.path(), "v1"));
    assert_eq!(served(&proxy).await, "v1 aaaaaaaa");
    assert_eq!((proxy.metric("phasegate_config_generation"), proxy.metric("phasegate_snapshots")), (1.0, 1.0));

    proxy.configure(&marked(&module.path(), "v2"));
    module.write("bbbbbbbb");
    assert_eq!(served(&proxy).await, "v1 aaaaaaaa", "nobody has asked for it");
    proxy.signal(Signal::HangUp);
    wait_for(&proxy, "v2 bbbbbbbb").await;
    proxy.wait_for_log("reload by SIGHUP: generation 2 in ");
    proxy.wait_for_metric("phasegate_snapshots", 1.0);
    assert_eq!((proxy.metric("phasegate_config_generation"), attempts(&proxy, "ok")), (2.0, 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_endpoint_says_what_has_changed() {
    let module = Module::new("aaaaaaaa");
    let config = |text: &str, more: &str| marked(&module.path(), text) + more;
    let proxy = Proxy::start(&config("v1", ""));

    let verdict = script("wasm_access_log", &guests::path("verdict"), "ok");
    proxy.configure(&config("v2", &verdict));
    let (status, report) = reload(&proxy);
    assert_eq!((status, &report["generation"]), (200, &2.into()), "{report}");
    assert_eq!(report["scripts"], serde_json::json!({ "changed": ["mark"], "added": ["verdict"], "removed": [] }));
    assert_eq!(served(&proxy).await, "v2 aaaaaaaa");
    proxy.wait_for_log("scripts changed: mark; scripts added: verdict");

    proxy.configure(&config("v2", ""));
    module.write("bbbbbbbb");
    let (_, report) = reload(&proxy);
    assert_eq!(report["scripts"], serde_json::json!({ "changed": ["mark"], "added": [], "removed": ["verdict"] }));

    // A request for it is always followed.
    let (status, report) = reload(&proxy);
    assert_eq!((status, &report["generation"]), (200, &4.into()));
    assert_eq!(report["scripts"], serde_json::json!({ "changed": [], "added": [], "removed": [] }));
    proxy.wait_for_log("generation 4 in ");
    proxy.wait_for_log("scripts and filters as before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_file_is_seen_however_it_is_made() {
    let marks = Module::new("aaaaaaaa");
    let config = |text: &str| format!("watch = true\n{}", marked(&marks.path(), text));
    let proxy = Proxy::start(&config("v0"));
    let file = proxy.folder().join("phasegate.toml");
    let admin = "\n[admin]\nlisten = \"127.0.0.1:0\"\n";
    let ways: [(&str, Write); 3] = [("inplace1", in_place), ("renamed1", rename_over), ("removed1", remove_and_write)];
    let mut text = "v0".to_owned();
    for (way, write) in ways {
        write(&marks.path(), &module(way));
        wait_for(&proxy, &format!("{text} {way}")).await;
        text = way.to_owned();
        write(&file, format!("{}{admin}", config(&text)).as_bytes());
        wait_for(&proxy, &format!("{text} {way}")).await;
    }
    proxy.wait_for_log("reload by file change: generation 2 in ");
}

/// As Kubernetes does it with a ConfigMap: the files are links through a link to a folder, which is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_leads_elsewhere_is_seen() {
    let start = Module::new("aaaaaaaa");
    let proxy = Proxy::start(&format!("watch = true\n{}", marked(&start.path(), "start")));
    let root = proxy.folder().to_owned();
    let version = |name: &str| {
        let folder = root.join(format!("..{name}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("mark.wasm"), module(&format!("module{name}"))).unwrap();
        let config = format!("watch = true\n{}", marked(Path::new("mark.wasm"), name));
        fs::write(folder.join("phasegate.toml"), format!("{config}\n[admin]\nlisten = \"127.0.0.1:0\"\n")).unwrap();
    };
    let lead_to = |name: &str| {
        symlink(format!("..{name}"), root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    };
    version("v1");
    lead_to("v1");
    symlink("..data/mark.wasm", root.join("mark.wasm")).unwrap();
    symlink("..data/phasegate.toml", root.join("link")).unwrap();
    fs::rename(root.join("link"), root.join("phasegate.toml")).unwrap();
    wait_for(&proxy, "v1 modulev1").await;
    version("v2");
    lead_to("v2");
    wait_for(&proxy, "v2 modulev2").await;
    version("v3");
    lead_to("v3");
    fs::remove_dir_all(root.join("..v2")).unwrap();
    wait_for(&proxy, "v3 modulev3").await;
    assert_eq!(attempts(&proxy, "failed"), 0.0, "{}", proxy.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_replaced_is_seen() {
    let root = tempfile::tempdir().unwrap();
    let folder = |name: &str| root.path().join(name);
    let fill = |name: &str, mark: &str| {
        fs::create_dir(folder(name)).unwrap();
        fs::write(folder(name).join("mark.wasm"), module(mark)).unwrap();
    };
    fill("plugins", "aaaaaaaa");
    let config = format!("watch = true\n{}", marked(&folder("plugins").join("mark.wasm"), "v"));
    let proxy = Proxy::start(&config);
    for mark in ["bbbbbbbb", "cccccccc"] {
        fill("new", mark);
        fs::rename(folder("plugins"), folder(&format!("before-{mark}"))).unwrap();
        fs::rename(folder("new"), folder("plugins")).unwrap();
        wait_for(&proxy, &format!("v {mark}")).await;
    }
    // Gone, and there again after it was missed.
    fs::remove_dir_all(folder("plugins")).unwrap();
    eventually("the reload fails", || attempts(&proxy, "failed") > 0.0);
    assert_eq!(served(&proxy).await, "v cccccccc");
    fill("plugins", "dddddddd");
    wait_for(&proxy, "v dddddddd").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_for_nothing() {
    let marks = Module::new("aaaaaaaa");
    let config = format!("watch = true\n{}", marked(&marks.path(), "v1"));
    let proxy = Proxy::start(&config);

    // Other files in the same folders, and files that are only read.
    for n in 0..50 {
        fs::write(proxy.folder().join("other"), format!("{n}")).unwrap();
        fs::write(marks.folder.path().join("other.wasm"), format!("{n}")).unwrap();
        fs::read(marks.path()).unwrap();
    }
    // The same content again, and a burst of it.
    let begun = Instant::now();
    for _ in 0..50 {
        marks.write("aaaaaaaa");
        proxy.configure(&config);
    }
    let mut writing = begun.elapsed();
    proxy.wait_for_metric("phasegate_reloads_total{result=\"unchanged\"}", 1.0);
    // Many changes at once are one.
    let begun = Instant::now();
    for n in 0..100 {
        marks.write(&format!("{n:08}"));
    }
    writing += begun.elapsed();
    wait_for(&proxy, "v1 00000099").await;
    let ok = attempts(&proxy, "ok");
    // On a machine that is busy with other things a burst may take a rest, for longer than files are waited for.
    let rests = (writing.as_secs_f64() / 0.075).floor();
    assert!(ok <= 3.0 + rests, "{ok} reloads for one burst");
    assert!(attempts(&proxy, "unchanged") + attempts(&proxy, "failed") <= 4.0 + rests, "{}", proxy.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_can_be_switched_on_and_off() {
    let marks = Module::new("aaaaaaaa");
    let config = |watch: bool, text: &str| format!("watch = {watch}\n{}", marked(&marks.path(), text));
    let proxy = Proxy::start(&config(false, "v1"));
    proxy.configure(&config(true, "v2"));
    assert_eq!(reload(&proxy).0, 200);
    marks.write("bbbbbbbb");
    wait_for(&proxy, "v2 bbbbbbbb").await;

    proxy.configure(&config(false, "v3"));
    wait_for(&proxy, "v3 bbbbbbbb").await;
    let generation = proxy.metric("phasegate_config_generation");
    marks.write("cccccccc");
    // A request takes longer than the file's event would.
    assert_eq!(reload(&proxy).1["generation"], generation + 1.0);
    assert_eq!(served(&proxy).await, "v3 cccccccc");
}
