use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::uri::PathAndQuery;
use proptest::prelude::*;

use super::keys::LEVELS;
use super::*;
use crate::phase::{Action, Phase};

/// A folder with the files that `FULL` names.
static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    for file in ["plugin.wasm", "referer.wasm", "token.wasm", "limit.wasm", "filter.wasm", "cert.pem", "key.pem"] {
        std::fs::write(folder.path().join(file), "").unwrap();
    }
    folder
});

const FULL: &str = r#"
threads = 3
work_stealing = true
error_log = "warn"
access_log = { path = "logs/access.log", format = "${client_ip} ${status}" }
grace_period_ms = 500
client_timeout_ms = 700
keepalive_timeout_ms = 900
body_limit = "2MiB"
trusted_proxies = ["10.0.0.0/8", "::1"]
daemon = false

[admin]
listen = "127.0.0.1:9901"

[upstream.origin]
servers = [{ addr = "127.0.0.1:9001", weight = 2 }, { addr = "origin.example.cn:9002" }]
balance = "hash"
hash_key = "${client_ip}"
health_check = { path = "/healthz", interval_ms = 200 }

[[wasm_access_log]]
wasm_path = "plugin.wasm"

[[wasm_service]]
wasm_path = "filter.wasm"
vm_id = "shared"

[[server]]
name = ["www.Example.cn", "*.example.cn"]
listen = [
  { addr = "0.0.0.0:8080" },
  { addr = "0.0.0.0:8443", tls = { cert = "cert.pem", key = "key.pem" }, h2 = true },
]

[[server.local]]
path = "/api/"
proxy_pass = "origin"

[[server.local.wasm_access]]
name = "hotlink"
wasm = [
  { wasm_path = "referer.wasm", wasm_main_config = '''allow = ["example.cn"]''', on_ext1 = "goto:limit" },
  { wasm_path = "token.wasm", is_open = false },
]
[[server.local.wasm_access]]
name = "off"
wasm_path = "missing.wasm"
is_open = false
[[server.local.wasm_access]]
name = "limit"
wasm_path = "limit.wasm"
wasm_main_timeout_config = '''ms = 50'''
wasm_main_ext1_config = ""
on_failure = "open"
instance = "fresh"
recycle_after = 0
recycle_memory = "1MiB"
limits = { memory = "4MiB", cpu_ms = 5, wall_ms = 100 }
allow = { env = ["PATH"] }
on_ext1 = "status:429"
on_ext2 = "upstream:origin"
on_ext3 = "return"

[[server.local.proxy_wasm]]
name = "auth"
remote = { url = "https://plugins.example.cn/v1/auth.wasm", sha256 = "00000000000000000000000000000000000000000000000000000000000000ff", retries = 3, timeout_ms = 500 }
root_id = "auth"
vm_id = "shared"
configuration = '''{ "realm": "staff" }'''
vm_configuration = "vm"
failure_policy = "reload"
instances = 2
env = { A = "b" }
allow = { env = ["PATH"] }
allowed_capabilities = ["proxy_on_tick", "fd_write", "proxy_log", "proxy_log"]
limits = { memory = "4MiB", cpu_ms = 5, wall_ms = 100, buffer = "1KiB", callouts = 3 }
allow_on_headers_stop_iteration = true
[[server.local.proxy_wasm]]
wasm_path = "missing.wasm"
is_open = false
[[server.local.proxy_wasm]]
wasm_path = "filter.wasm"
instances = "request"

[[server.local]]
regex = "^/v[0-9]+/"
proxy_pass = "127.0.0.1:9003"
wasm_access_log = []

[[server.local]]
path = "/old/"
proxy_pass = "127.0.0.1:9003"

[[server.local]]
path = "/echo/"
echo = true

[[server.local]]
path = "/hello/"
respond = { status = 201, headers = { content-type = "text/plain" }, body = "hello\n" }
"#;

fn text(source: &str) -> Loaded {
    load_text(&FOLDER.path().join("phasegate.toml"), source.to_owned())
}

fn config(source: &str) -> Config {
    let loaded = text(source);
    assert_eq!(loaded.diagnostics.iter().count(), 0, "{}", loaded.diagnostics);
    loaded.config
}

fn in_folder(file: &str) -> PathBuf {
    FOLDER.path().join(file)
}

#[test]
fn everything_at_the_main_level() {
    let config = config(FULL);
    assert_eq!((config.threads, config.work_stealing), (3, true));
    assert_eq!(config.error_log, log::LevelFilter::Warn);
    let access_log = config.access_log.unwrap();
    assert_eq!(access_log.target, LogTarget::File(in_folder("logs/access.log")));
    assert_eq!(access_log.format.parts.len(), 3);
    assert_eq!(config.grace_period, Duration::from_millis(500));
    assert_eq!(config.body_limit, 2 << 20);
    assert_eq!(config.client_timeout, Duration::from_millis(700));
    assert_eq!(config.keepalive_timeout, Duration::from_millis(900));
    assert_eq!(config.trusted_proxies, ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    assert_eq!(config.admin, "127.0.0.1:9901".parse().ok());
}

#[test]
fn upstreams_by_name_and_by_address() {
    let config = config(FULL);
    let names: Vec<_> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    assert_eq!(names, ["origin", "127.0.0.1:9003"], "equal addresses share an upstream");
    let origin = &config.upstreams[0];
    assert_eq!(
        origin.servers[0],
        UpstreamServer { addr: "127.0.0.1:9001".into(), weight: NonZeroU16::new(2).unwrap(), place: Place::default() }
    );
    assert_eq!(
        origin.servers[1],
        UpstreamServer { addr: "origin.example.cn:9002".into(), weight: NonZeroU16::MIN, place: Place::default() }
    );
    assert_eq!(&FULL[origin.servers[1].place.0.clone()], "\"origin.example.cn:9002\"");
    assert_eq!(origin.balance, Balance::Hash);
    assert!(origin.hash_key.is_some());
    let check = origin.health_check.clone().unwrap();
    assert_eq!(
        (check.path.as_ref().map(PathAndQuery::as_str), check.interval),
        (Some("/healthz"), Duration::from_millis(200))
    );
}

#[test]
fn servers_and_locals() {
    let config = config(FULL);
    let server = &config.servers[0];
    let names = [HostPattern::Exact("www.example.cn".into()), HostPattern::Wildcard(".example.cn".into())];
    assert_eq!(server.names, names);
    assert_eq!(server.listen[0].addr, "0.0.0.0:8080".parse().unwrap());
    assert_eq!((&server.listen[0].tls, server.listen[0].h2), (&None, false));
    let tls = Tls { cert: in_folder("cert.pem"), key: in_folder("key.pem") };
    assert_eq!((&server.listen[1].tls, server.listen[1].h2), (&Some(tls), true));

    let locals = &server.locals;
    assert!(matches!(&locals[0].matcher, Match::Prefix(path) if path == "/api/"));
    assert!(matches!(&locals[1].matcher, Match::Regex(regex) if regex.is_match("/v12/x")));
    assert!(matches!(locals[0].handler, Some(Handler::ProxyPass(0))));
    assert!(matches!(locals[1].handler, Some(Handler::ProxyPass(1))));
    assert!(matches!(locals[2].handler, Some(Handler::ProxyPass(1))));
    assert!(matches!(locals[3].handler, Some(Handler::Echo)));
    let Some(Handler::Respond(respond)) = &locals[4].handler else { panic!("{:?}", locals[4].handler) };
    assert_eq!((respond.status.as_u16(), respond.body.as_str()), (201, "hello\n"));
    assert_eq!(respond.headers["content-type"], "text/plain");
}

#[test]
fn script_keys() {
    let config = config(FULL);
    let chain = config.servers[0].locals[0].chain(Phase::Access);
    let names: Vec<_> = chain.plugins.iter().map(|plugin| (plugin.name.as_str(), plugin.scripts.len())).collect();
    assert_eq!(names, [("hotlink", 1), ("off", 0), ("limit", 1)], "closed scripts leave, plugins stay in place");

    let referer = &chain.plugins[0].scripts[0];
    assert_eq!((referer.name.as_str(), &referer.wasm_path), ("referer", &in_folder("referer.wasm")));
    assert_eq!(referer.configs[0].as_deref(), Some("allow = [\"example.cn\"]"));
    assert_eq!(&FULL[referer.spans.wasm_path.clone()], "\"referer.wasm\"");
    assert_eq!(&FULL[referer.spans.configs[0].clone().unwrap()], "wasm_main_config");
    assert_eq!(referer.on_ext, [Action::Goto(2), Action::Ok, Action::Ok]);
    assert_eq!((referer.on_failure, referer.instance), (OnFailure::Close, Instance::Reuse));
    let limits = Limits { memory: 64 << 20, cpu: Duration::from_millis(50), wall: Some(Duration::from_secs(10)) };
    assert_eq!(referer.limits, limits);
    assert_eq!((referer.recycle_after, referer.recycle_memory), (Some(100_000), Some(32 << 20)));
    assert!(referer.env.is_empty());

    let limit = &chain.plugins[2].scripts[0];
    assert_eq!(limit.name, "limit");
    assert_eq!(limit.configs, [None, Some("ms = 50".into()), None, None, None], "an empty string is off");
    assert_eq!(limit.spans.configs[2], None);
    assert_eq!(limit.on_ext, [Action::Status(429), Action::Upstream("origin".into()), Action::Return]);
    assert_eq!((limit.on_failure, limit.instance), (OnFailure::Open, Instance::Fresh));
    let limits = Limits { memory: 4 << 20, cpu: Duration::from_millis(5), wall: Some(Duration::from_millis(100)) };
    assert_eq!(limit.limits, limits);
    assert_eq!((limit.recycle_after, limit.recycle_memory), (None, Some(1 << 20)));
    assert_eq!(limit.env, [("PATH".to_owned(), std::env::var("PATH").unwrap())]);
}

#[test]
fn a_chain_is_inherited_whole_replaced_whole_and_cleared() {
    let source = r#"
        wasm_access = [{ wasm_path = "plugin.wasm" }]
        wasm_serverless = [{ wasm_path = "plugin.wasm" }]
        wasm_access_log = [{ wasm_path = "plugin.wasm" }]
        [[server]]
        listen = [{ addr = "127.0.0.1:0" }]
        wasm_access = [{ wasm_path = "limit.wasm" }, { wasm_path = "token.wasm" }]
        [[server.local]]
        path = "/a"
        [[server.local]]
        path = "/b"
        wasm_access = []
        [[server]]
        listen = [{ addr = "127.0.0.1:0", tls = { cert = "cert.pem", key = "key.pem" } }]
        [[server.local]]
        path = "/"
    "#;
    let config = config(source);
    let [a, b] = config.servers[0].locals.as_slice() else { panic!() };
    let other = &config.servers[1].locals[0];
    let names = |local: &Local, phase| -> Vec<String> {
        local.chain(phase).plugins.iter().map(|plugin| plugin.name.clone()).collect()
    };
    assert_eq!(names(a, Phase::Access), ["limit", "token"]);
    assert!(names(b, Phase::Access).is_empty());
    assert_eq!(names(other, Phase::Access), ["plugin"]);
    for phase in [Phase::Serverless, Phase::AccessLog, Phase::HttpFilterHeaders] {
        assert!(Arc::ptr_eq(a.chain(phase), b.chain(phase)), "{phase}");
        assert!(Arc::ptr_eq(a.chain(phase), other.chain(phase)), "{phase}");
    }
    // What differs by phase.
    assert_eq!(other.chain(Phase::AccessLog).plugins[0].scripts[0].on_failure, OnFailure::Open);
    assert_eq!(other.chain(Phase::Serverless).plugins[0].scripts[0].limits.wall, None);
    assert!(other.handler.is_none());
}

#[test]
fn filters_with_all_their_keys_and_with_none() {
    let config = config(FULL);
    let [auth, plain] = config.servers[0].locals[0].filters.as_slice() else { panic!() };
    assert_eq!((auth.name.as_str(), auth.root_id.as_str(), auth.vm_id.as_str()), ("auth", "auth", "shared"));
    let mut sha256 = [0; 32];
    sha256[31] = 255;
    let url = "https://plugins.example.cn/v1/auth.wasm".to_owned();
    assert_eq!(auth.code, Code::Remote(Remote { url, sha256, retries: 3, timeout: Duration::from_millis(500) }));
    assert_eq!(auth.configuration, "{ \"realm\": \"staff\" }");
    assert_eq!(auth.vm_configuration, "vm");
    assert_eq!((auth.failure_policy, auth.instances), (FailurePolicy::Reload, Instances::Slots(2)));
    assert_eq!(auth.env, [("A", "b"), ("PATH", &std::env::var("PATH").unwrap())].map(|(k, v)| (k.into(), v.into())));
    assert_eq!(auth.allowed_capabilities, ["fd_write", "proxy_log", "proxy_on_tick"]);
    let (cpu, wall) = (Duration::from_millis(5), Duration::from_millis(100));
    assert_eq!(auth.limits, FilterLimits { memory: 4 << 20, cpu, wall, buffer: 1 << 10, callouts: 3 });
    assert!(auth.allow_on_headers_stop_iteration);
    assert!(FULL[auth.spans.code.clone()].contains("sha256"));
    assert_eq!(&FULL[auth.spans.vm_configuration.clone()], "vm_configuration");

    assert_eq!((plain.name.as_str(), &plain.code), ("filter", &Code::Local(in_folder("filter.wasm"))));
    assert_eq!((plain.configuration.as_str(), plain.vm_id.as_str()), ("", ""));
    assert_eq!((plain.failure_policy, plain.instances), (FailurePolicy::Closed, Instances::Request));
    assert!(plain.env.is_empty() && plain.allowed_capabilities.is_empty() && !plain.allow_on_headers_stop_iteration);
    let (cpu, wall) = (Duration::from_millis(50), Duration::from_secs(10));
    assert_eq!(plain.limits, FilterLimits { memory: 64 << 20, cpu, wall, buffer: 1 << 20, callouts: 1000 });
    assert_eq!(plain.spans.configuration, plain.spans.code);

    let [service] = config.services.as_slice() else { panic!() };
    assert!(service.singleton);
    assert_eq!((service.filter.vm_id.as_str(), service.filter.instances), ("shared", Instances::Slots(3)));
    assert!(config.files.contains(&in_folder("filter.wasm")), "it is watched");
}

#[test]
fn filters_are_inherited_whole_replaced_whole_and_cleared() {
    let source = r#"
        proxy_wasm = [{ wasm_path = "filter.wasm" }]
        [[server]]
        listen = [{ addr = "127.0.0.1:0" }]
        proxy_wasm = [{ wasm_path = "plugin.wasm" }, { wasm_path = "plugin.wasm" }]
        [[server.local]]
        path = "/inherits"
        echo = true
        [[server.local]]
        path = "/clears"
        echo = true
        proxy_wasm = []
        [[server]]
        listen = [{ addr = "127.0.0.1:0", tls = { cert = "cert.pem", key = "key.pem" } }]
        [[server.local]]
        path = "/inherits"
        echo = true
        [[server.local]]
        path = "/"
        echo = true
        proxy_wasm = [{ remote = { url = "http://a.cn", sha256 = "00000000000000000000000000000000000000000000000000000000000000ff" } }]
    "#;
    let config = config(source);
    let [first, second] = config.servers.as_slice() else { panic!() };
    let names = |filters: &[FilterConfig]| filters.iter().map(|filter| filter.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&first.filters), ["plugin", "plugin"]);
    assert!(Arc::ptr_eq(&first.filters, &first.locals[0].filters));
    assert!(first.locals[1].filters.is_empty());
    assert_eq!(names(&second.filters), ["filter"]);
    assert!(Arc::ptr_eq(&second.filters, &second.locals[0].filters));
    assert_eq!(names(&second.locals[1].filters), ["a.cn"]);
}

#[test]
fn the_cache_is_where_it_is_said_to_be() {
    let source = "[[server]]\nlisten = [{ addr = \"[::1]:0\" }]\n[[server.local]]\npath = \"/\"\necho = true";
    let cache = |line: &str| config(&format!("{line}\n{source}")).cache;
    assert_eq!(cache("cache = \"kept\""), Some(in_folder("kept")));
    assert_eq!(cache("cache = \"/var/cache/a\""), Some("/var/cache/a".into()));
    assert_eq!(cache("cache = \"\""), None);
    assert_eq!(cache(""), Config::empty(std::path::Path::new("")).cache);
}

#[test]
fn the_names_of_the_abi_are_there_once() {
    let names: Vec<_> = abi::names().collect();
    assert_eq!(names.len(), names.iter().collect::<std::collections::HashSet<_>>().len());
    assert!(abi::CALLBACKS.iter().all(|name| name.starts_with("proxy_")));
}

#[test]
fn defaults() {
    let source = "[[server]]\nlisten = [{ addr = \"[::1]:0\" }]\n[[server.local]]\npath = \"/\"\necho = true";
    let config = config(source);
    assert!(config.threads >= 1);
    assert!(!config.work_stealing);
    assert_eq!(config.error_log, log::LevelFilter::Info);
    assert!(config.access_log.is_none() && config.admin.is_none() && config.trusted_proxies.is_empty());
    assert_eq!((config.grace_period, config.body_limit), (Duration::from_secs(30), 1 << 20));
    let log = self::config(&format!("access_log.path = \"-\"\n{source}")).access_log.unwrap();
    assert_eq!(log.target, LogTarget::Stdout);
    assert!(log.format.parts.contains(&Part::Variable(crate::variables::Variable::ClientIp)));
}

#[test]
fn what_is_right_is_resolved_beside_errors() {
    let loaded = text(&FULL.replace("status:429", "status:x").replace("threads = 3", "threads ="));
    assert_eq!(loaded.diagnostics.error_count(), 2, "{}", loaded.diagnostics);
    assert_eq!(loaded.config.servers[0].locals.len(), 5);
    assert_eq!(loaded.config.servers[0].locals[0].chain(Phase::Access).plugins.len(), 3);
}

/// With so little, no instance could be made to try the module: a second error, about the module.
#[test]
fn too_little_memory_is_reported_once() {
    let loaded = text(&FULL.replace("memory = \"4MiB\", cpu_ms = 5, wall_ms = 100 }", "memory = \"1KiB\" }"));
    assert_eq!(loaded.diagnostics.error_count(), 1, "{}", loaded.diagnostics);
    assert_eq!(loaded.config.servers[0].locals[0].chain(Phase::Access).plugins[2].scripts[0].limits.memory, 64 << 20);
}

/// The line of each chain that no local runs, and what its message says about the others.
fn unused(source: &str) -> Vec<String> {
    let loaded = text(source);
    let of = |diagnostic: &Diagnostic| {
        let line = 1 + source[..diagnostic.span.start].matches('\n').count();
        let others = diagnostic.message.strip_prefix("no local runs this chain: ").expect(&diagnostic.message);
        let others = others.split_once(" again in ").and_then(|(_, rest)| rest.split_once(", which")).unwrap().0;
        format!("{line}: {others}")
    };
    loaded.diagnostics.iter().map(of).collect()
}

#[test]
fn a_chain_that_all_locals_replace_is_reported() {
    const CHAIN: &str = "wasm_access = [{ wasm_path = \"plugin.wasm\" }]";
    const OFF: &str = "wasm_access = [{ wasm_path = \"plugin.wasm\", is_open = false }]";
    const NONE: &str = "wasm_access = []";
    const LATE: &str = "wasm_serverless = [{ wasm_path = \"plugin.wasm\" }]";
    for (main, server, first, second, expected) in [
        (CHAIN, "", "", "", [].as_slice()),
        (CHAIN, "", CHAIN, "", &[]),
        (CHAIN, "", CHAIN, CHAIN, &["1: lines 7 and 11"]),
        (CHAIN, "", CHAIN, NONE, &["1: lines 7 and 11"]),
        ("", CHAIN, CHAIN, CHAIN, &["3: lines 7 and 11"]),
        (CHAIN, CHAIN, "", "", &["1: line 3"]),
        (CHAIN, CHAIN, CHAIN, CHAIN, &["1: line 3", "3: lines 7 and 11"]),
        (OFF, OFF, CHAIN, CHAIN, &[]),
        (NONE, NONE, CHAIN, CHAIN, &[]),
        ("", LATE, LATE, LATE, &[]),
        (LATE, LATE, "", "", &["1: line 3"]),
    ] {
        let source = format!(
            "{main}\n[[server]]\n{server}\nlisten = [{{ addr = \"[::1]:0\" }}]\n\
             [[server.local]]\npath = \"/a\"\n{first}\necho = true\n\
             [[server.local]]\npath = \"/b\"\n{second}\necho = true\n"
        );
        assert_eq!(unused(&source), expected, "{source}");
    }
    let all =
        format!("[[server]]\n{LATE}\nlisten = [{{ addr = \"[::1]:0\" }}]\n[[server.local]]\npath = \"/\"\n{LATE}\n");
    assert_eq!(unused(&all), ["2: line 6"]);
}

#[test]
fn a_file_that_is_not_utf8() {
    let path = in_folder("latin1.toml");
    std::fs::write(&path, b"threads = 2\nerror_log = \"caf\xe9\"\n").unwrap();
    let diagnostics = load(&path).diagnostics;
    assert!(diagnostics.to_string().contains("latin1.toml:2:17"), "{diagnostics}");
}

#[test]
fn windows_line_ends() {
    config(&FULL.replace('\n', "\r\n"));
    let diagnostics = text(&FULL.replace("threads = 3", "treads = 3").replace('\n', "\r\n")).diagnostics;
    assert!(diagnostics.to_string().contains("2 │ treads = 3\n"), "{diagnostics}");
}

#[test]
fn the_examples_of_the_keys_are_right() {
    let directives: Vec<_> = Phase::ALL.iter().map(|phase| phase.directive()).collect();
    assert_eq!(LEVELS[1].keys().map(|key| key.name).collect::<Vec<_>>(), directives);
    for level in LEVELS {
        for key in level.keys() {
            let example = key.example;
            toml::de::DeTable::parse(example).unwrap_or_else(|error| panic!("{example}: {error}"));
            assert!(example.trim_start_matches("[[").contains(key.name), "{example}");
        }
    }
}

/// A byte, a line or a piece of a line of `FULL` changed.
fn mutated() -> impl Strategy<Value = String> {
    let lines = FULL.lines().count();
    let byte = (0..FULL.len(), any::<u8>()).prop_map(|(at, byte)| {
        let mut bytes = FULL.as_bytes().to_vec();
        bytes[at] = byte;
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let cut = (0..FULL.len(), 0..40usize, "[\\[\\]{}\"'=., \n\u{e9}a-z0-9$]{0,6}").prop_map(|(at, length, text)| {
        let end = (at + length).min(FULL.len());
        format!("{}{text}{}", &FULL[..at], &FULL[end..])
    });
    let line = (0..lines, 0..lines, 0..3usize).prop_map(|(from, to, copies)| {
        let mut all: Vec<_> = FULL.lines().collect();
        let line = all.remove(from);
        let to = to.min(all.len());
        all.splice(to..to, std::iter::repeat_n(line, copies));
        all.join("\n")
    });
    prop_oneof![byte, cut, line]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_mutation_panics_or_points_outside_of_the_file(source in mutated()) {
        let loaded = text(&source);
        for diagnostic in loaded.diagnostics.iter() {
            prop_assert!(diagnostic.span.start <= diagnostic.span.end, "{diagnostic:?}");
            prop_assert!(diagnostic.span.end <= source.len(), "{diagnostic:?}");
        }
        let text = loaded.diagnostics.to_string();
        let shown = text.matches("phasegate.toml:").count();
        prop_assert_eq!(shown, loaded.diagnostics.iter().count(), "each is shown with its place:\n{}", text);
    }
}
