//! What is wrong with the new one, or cannot be applied, leaves the old one as it is, and is told.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_the_old_one_stays() {
    let good = Module::new("aaaaaaaa");
    let half = module("bbbbbbbb");
    let half = &half[..half.len() / 2];
    let config = |keys: &str| marked(&good.path(), "new") + keys;
    let path = |path: &Path| marked(path, "new");
    let no_module = Module::new("aaaaaaaa");
    fs::remove_file(no_module.path()).unwrap();
    let cases: [(&str, String, Option<&[u8]>, &str); 7] = [
        ("syntax", config("this is no TOML"), None, "syntax error"),
        ("unknown key", config("no_such_key = 1"), None, "unknown key `no_such_key`"),
        ("missing module", path(&no_module.path()), None, "cannot read the module"),
        ("half-written module", config(""), Some(half), "the module mark.wasm is damaged"),
        ("empty module", config(""), Some(b""), "the module mark.wasm is not a plugin: found an empty file"),
        ("not a plugin", path(&guests::path("bare")), None, "the module bare.wasm is not a plugin"),
        ("trial", config("limits = { memory = '64KiB' }"), None, "failed while it was instantiated"),
    ];
    let proxy = Proxy::start(&marked(&good.path(), "old"));
    let mut failed = 0.0;
    for (what, config, module, message) in &cases {
        if let Some(module) = module {
            fs::write(good.path(), module).unwrap();
        }
        proxy.configure(config);
        let (status, report) = reload(&proxy);
        assert_eq!((status, &report["generation"]), (400, &1.into()), "{what}: {report}");
        let error = report["error"].as_str().unwrap();
        assert!(error.contains(message), "{what}: {report}");
        assert!(
            error.contains("phasegate.toml:") && !error.contains("wasm_path ="),
            "without lines of the file: {error}"
        );
        let line = proxy.wait_for_log(message);
        assert!(line.starts_with("    "), "{what}: {line}");
        failed += 1.0;
        assert_eq!(attempts(&proxy, "failed"), failed, "{what}");
        assert_eq!(served(&proxy).await, "old aaaaaaaa", "{what}");
        good.write("aaaaaaaa");
    }
    proxy.wait_for_log("reload by POST /reload failed, generation 1 stays:");
    let found = |name: &str| proxy.metric(name);
    assert_eq!((found("phasegate_config_generation"), found("phasegate_snapshots")), (1.0, 1.0));
    assert_eq!(found("phasegate_instances"), 2.0, "trial instances are gone");

    fs::remove_file(proxy.folder().join("phasegate.toml")).unwrap();
    let (status, report) = reload(&proxy);
    assert_eq!(status, 400);
    assert!(report["error"].as_str().unwrap().contains("cannot read the configuration file"), "{report}");
    assert_eq!(served(&proxy).await, "old aaaaaaaa");

    proxy.configure(&marked(&good.path(), "new"));
    assert_eq!(reload(&proxy).0, 200);
    assert_eq!(served(&proxy).await, "new aaaaaaaa");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_written_file_is_tried_again_when_it_is_whole() {
    let good = Module::new("aaaaaaaa");
    let proxy = Proxy::start(&format!("watch = true\n{}", marked(&good.path(), "v1")));
    let next = module("bbbbbbbb");
    fs::write(good.path(), &next[..next.len() / 3]).unwrap();
    proxy.wait_for_log("reload by file change failed, generation 1 stays:");
    assert_eq!(served(&proxy).await, "v1 aaaaaaaa");
    fs::write(good.path(), &next).unwrap();
    wait_for(&proxy, "v1 bbbbbbbb").await;

    // A configuration that is ahead of its module.
    let later = good.folder.path().join("later/plugins/mark.wasm");
    proxy.configure(&format!("watch = true\n{}", marked(&later, "v2")));
    proxy.wait_for_log("cannot read the module");
    fs::create_dir_all(later.parent().unwrap()).unwrap();
    fs::write(&later, module("cccccccc")).unwrap();
    wait_for(&proxy, "v2 cccccccc").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_restart_can_change_is_refused_by_name() {
    let module = Module::new("aaaaaaaa");
    let origin = Origin::saying("hello").await;
    let upstream = |interval: u32| {
        format!(
            "[upstream.web]\nservers = [{{ addr = '{}' }}]\nhealth_check = {{ interval_ms = {interval} }}\n",
            origin.addr()
        )
    };
    let config = |keys: &str, upstream: &str| format!("{keys}\n{upstream}{}", marked(&module.path(), "v1"));
    let proxy = Proxy::start(&config("", &upstream(1000)));
    let other = |listen: &str| format!("[[server]]\nlisten = [{listen}]\n[[server.local]]\npath = '/'\necho = true\n");
    let cases = [
        (config("threads = 7", &upstream(1000)), vec!["threads"]),
        (
            config("work_stealing = true\ngrace_period_ms = 7", &upstream(1000)),
            vec!["work_stealing", "grace_period_ms"],
        ),
        (config("network = { max_callouts = 7 }", &upstream(1000)), vec!["network"]),
        (config("store = { size = '1MiB' }", &upstream(1000)), vec!["store"]),
        (config("error_log = 'debug'", &upstream(1000)), vec!["error_log"]),
        (config("access_log = { path = 'stdout' }", &upstream(1000)), vec!["access_log.path"]),
        (config("", &upstream(2000)), vec!["upstream.web"]),
        (config("", ""), vec!["upstream.web"]),
        (config("", &upstream(1000)) + &other("{ addr = '127.0.0.1:1' }"), vec!["server.listen (127.0.0.1:1)"]),
        (config("", &upstream(1000)).replace(", h2 = true", ""), vec!["server.listen (127.0.0.1:0)"]),
    ];
    for (count, (config, keys)) in cases.iter().enumerate() {
        // Nothing of it is applied.
        proxy.configure(&config.replace("v1", "v2"));
        let (status, report) = reload(&proxy);
        assert_eq!((status, &report["keys"]), (409, &keys.clone().into()), "{report}");
        assert_eq!(attempts(&proxy, "refused"), (count + 1) as f64);
        assert_eq!(served(&proxy).await, "v1 aaaaaaaa");
    }
    proxy.wait_for_log(
        "reload by POST /reload refused, generation 1 stays: `work_stealing`, `grace_period_ms` cannot change while \
         the proxy runs: restart to apply",
    );
    let admin = proxy.folder().join("phasegate.toml");
    fs::write(admin, config("", &upstream(1000)) + "[admin]\nlisten = '127.0.0.1:1'\n").unwrap();
    assert_eq!(reload(&proxy).1["keys"], serde_json::json!(["admin.listen"]));
}

/// They are read once, when the process starts.
#[tokio::test(flavor = "multi_thread")]
async fn other_authorities_in_the_same_file_are_refused() {
    let module = Module::new("aaaaaaaa");
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, Authority::new().pem()).unwrap();
    let config = format!("network = {{ ca = '{}' }}\n{}", ca.display(), marked(&module.path(), "v1"));
    let proxy = Proxy::start(&config);
    assert_eq!(reload(&proxy).0, 200);
    for content in [Authority::new().pem(), "rubbish".to_owned()] {
        fs::write(&ca, content).unwrap();
        let (status, report) = reload(&proxy);
        assert_eq!((status, &report["keys"]), (409, &serde_json::json!(["network.ca"])), "{report}");
    }
}
