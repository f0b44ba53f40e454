//! Every key of the configuration file, by the table it stands in, each with an example.

/// A kind of table.
pub struct Level {
    /// As messages call it.
    pub name: &'static str,
    /// Where to write such a table, when that is not its name.
    pub place: &'static str,
    pub keys: &'static [Key],
    /// Levels whose keys may stand here too.
    pub also: &'static [&'static Level],
}

pub struct Key {
    pub name: &'static str,
    /// What a help line shows.
    pub example: &'static str,
}

const fn key(name: &'static str, example: &'static str) -> Key {
    Key { name, example }
}

const fn level(name: &'static str, keys: &'static [Key]) -> Level {
    Level { name, place: name, keys, also: &[] }
}

impl Level {
    pub fn keys(&self) -> impl Iterator<Item = &'static Key> {
        self.keys.iter().chain(self.also.iter().flat_map(|level| level.keys))
    }

    /// Among those that may stand here.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.name == name)
    }
}

/// All levels, to find out where a misplaced key belongs.
pub static LEVELS: [&Level; 25] = [
    &MAIN,
    &PHASES,
    &ACCESS_LOG,
    &ADMIN,
    &NETWORK,
    &STORE,
    &UPSTREAM,
    &UPSTREAM_SERVER,
    &UPSTREAM_TLS,
    &HEALTH_CHECK,
    &SERVER,
    &LISTEN,
    &TLS,
    &LOCAL,
    &RESPOND,
    &PLUGIN,
    &SCRIPT,
    &SESSION,
    &FILTER,
    &FILTER_LIMITS,
    &FILTER_ALLOW,
    &REMOTE,
    &SERVICE,
    &LIMITS,
    &ALLOW,
];

pub static MAIN: Level = Level {
    name: "the main level",
    place: "the main level: above the first `[table]` of the file",
    keys: &[
        key("threads", "threads = 2"),
        key("work_stealing", "work_stealing = false"),
        key("watch", "watch = true"),
        key("error_log", "error_log = \"info\""),
        key("access_log", "access_log = { path = \"logs/access.log\" }"),
        key("grace_period_ms", "grace_period_ms = 30000"),
        key("client_timeout_ms", "client_timeout_ms = 60000"),
        key("keepalive_timeout_ms", "keepalive_timeout_ms = 75000"),
        key("body_limit", "body_limit = \"1MiB\""),
        key("trusted_proxies", "trusted_proxies = [\"10.0.0.0/8\"]"),
        key("daemon", "daemon = false"),
        key("cache", "cache = \"/var/cache/phasegate\""),
        key("admin", "admin = { listen = \"127.0.0.1:9901\" }"),
        key("network", "network = { ca = \"ca.pem\" }"),
        key("store", "store = { size = \"64MiB\" }"),
        key("upstream", "upstream.origin = { servers = [{ addr = \"127.0.0.1:9001\" }] }"),
        key("wasm_session", "[[wasm_session]]"),
        key("wasm_service", "[[wasm_service]]"),
        PROXY_WASM,
        key("server", "[[server]]"),
    ],
    also: &[&PHASES],
};

/// Every one of the three levels can set its filters.
const PROXY_WASM: Key = key("proxy_wasm", "proxy_wasm = [{ wasm_path = \"filter.wasm\" }]");

/// The chains that every one of the three levels can set.
static PHASES: Level = level(
    "a phase",
    &[
        key("wasm_access", "wasm_access = [{ wasm_path = \"plugin.wasm\" }]"),
        key("wasm_serverless", "wasm_serverless = [{ wasm_path = \"plugin.wasm\" }]"),
        key("wasm_http_in_headers", "wasm_http_in_headers = [{ wasm_path = \"plugin.wasm\" }]"),
        key("wasm_http_filter_headers_pre", "wasm_http_filter_headers_pre = [{ wasm_path = \"plugin.wasm\" }]"),
        key("wasm_http_filter_headers", "wasm_http_filter_headers = [{ wasm_path = \"plugin.wasm\" }]"),
        key("wasm_access_log", "wasm_access_log = [{ wasm_path = \"plugin.wasm\" }]"),
    ],
);

pub static ACCESS_LOG: Level = level(
    "`access_log`",
    &[
        key("path", "path = \"logs/access.log\""),
        key("format", "format = \"${client_ip} ${http_request_uri} ${status}\""),
    ],
);

pub static ADMIN: Level = level("`[admin]`", &[key("listen", "listen = \"127.0.0.1:9901\"")]);

pub static NETWORK: Level = level(
    "`[network]`",
    &[
        key("ca", "ca = \"ca.pem\""),
        key("body_limit", "body_limit = \"1MiB\""),
        key("max_callouts", "max_callouts = 1000"),
    ],
);

pub static STORE: Level = level(
    "`[store]`",
    &[
        key("kind", "kind = \"redis\""),
        key("size", "size = \"64MiB\""),
        key("url", "url = \"redis://127.0.0.1:6379\""),
        key("prefix", "prefix = \"phasegate:\""),
        key("timeout_ms", "timeout_ms = 1000"),
    ],
);

pub static UPSTREAM: Level = level(
    "an `[upstream.NAME]`",
    &[
        key("servers", "servers = [{ addr = \"127.0.0.1:9001\" }]"),
        key("balance", "balance = \"round_robin\""),
        key("hash_key", "hash_key = \"${client_ip}\""),
        key("health_check", "health_check = { path = \"/healthz\", interval_ms = 1000 }"),
        key("tls", "tls = { sni = \"origin.example.cn\", verify = true }"),
        key("h2", "h2 = true"),
        key("connect_timeout_ms", "connect_timeout_ms = 10000"),
        key("silence_timeout_ms", "silence_timeout_ms = 60000"),
    ],
);

pub static UPSTREAM_SERVER: Level =
    level("an entry of `servers`", &[key("addr", "addr = \"127.0.0.1:9001\""), key("weight", "weight = 2")]);

pub static UPSTREAM_TLS: Level =
    level("`tls` of an upstream", &[key("sni", "sni = \"origin.example.cn\""), key("verify", "verify = false")]);

pub static HEALTH_CHECK: Level =
    level("`health_check`", &[key("path", "path = \"/healthz\""), key("interval_ms", "interval_ms = 1000")]);

pub static SERVER: Level = Level {
    name: "a `[[server]]`",
    place: "a `[[server]]`",
    keys: &[
        key("name", "name = [\"www.example.cn\", \"*.example.cn\"]"),
        key("listen", "listen = [{ addr = \"0.0.0.0:8080\" }]"),
        key("local", "[[server.local]]"),
        PROXY_WASM,
    ],
    also: &[&PHASES],
};

pub static LISTEN: Level = level(
    "an entry of `listen`",
    &[
        key("addr", "addr = \"0.0.0.0:8080\""),
        key("tls", "tls = { cert = \"cert.pem\", key = \"key.pem\" }"),
        key("h2", "h2 = true"),
    ],
);

pub static TLS: Level =
    level("`tls` of `listen`", &[key("cert", "cert = \"cert.pem\""), key("key", "key = \"key.pem\"")]);

pub static LOCAL: Level = Level {
    name: "a `[[server.local]]`",
    place: "a `[[server.local]]`",
    keys: &[
        key("name", "name = \"api\""),
        key("path", "path = \"/api/\""),
        key("regex", "regex = \"^/v[0-9]+/\""),
        key("proxy_pass", "proxy_pass = \"127.0.0.1:9001\""),
        key("respond", "respond = { status = 200, body = \"hello\" }"),
        key("echo", "echo = true"),
        PROXY_WASM,
    ],
    also: &[&PHASES],
};

pub static RESPOND: Level = level(
    "`respond`",
    &[
        key("status", "status = 200"),
        key("headers", "headers = { content-type = \"text/plain\" }"),
        key("body", "body = \"hello\""),
    ],
);

pub static PLUGIN: Level = Level {
    name: "a plugin",
    place: A_PLUGIN,
    keys: &[key("wasm", "wasm = [{ wasm_path = \"plugin.wasm\" }]")],
    also: &[&SCRIPT],
};

const A_PLUGIN: &str = "a plugin, such as `[[server.local.wasm_access]]`";

pub static SCRIPT: Level = Level {
    name: "a script",
    place: A_PLUGIN,
    keys: &[
        key("name", "name = \"limit\""),
        key("wasm_path", "wasm_path = \"plugin.wasm\""),
        key("wasm_main_config", "wasm_main_config = '''rps = 100'''"),
        key("wasm_main_timeout_config", "wasm_main_timeout_config = '''ms = 50'''"),
        key("wasm_main_ext1_config", "wasm_main_ext1_config = '''text'''"),
        key("wasm_main_ext2_config", "wasm_main_ext2_config = '''text'''"),
        key("wasm_main_ext3_config", "wasm_main_ext3_config = '''text'''"),
        key("is_open", "is_open = false"),
        key("on_failure", "on_failure = \"close\""),
        key("instance", "instance = \"reuse\""),
        key("recycle_after", "recycle_after = 100000"),
        key("recycle_memory", "recycle_memory = \"32MiB\""),
        key("limits", "limits = { memory = \"64MiB\", cpu_ms = 50, wall_ms = 10000 }"),
        key("allow", "allow = { env = [\"NAME\"] }"),
        key("on_ext1", "on_ext1 = \"break\""),
        key("on_ext2", "on_ext2 = \"finish\""),
        key("on_ext3", "on_ext3 = \"status:429\""),
    ],
    also: &[],
};

pub static SESSION: Level = level(
    "a `[[wasm_session]]`",
    &[
        key("name", "name = \"chat\""),
        key("wasm_path", "wasm_path = \"plugin.wasm\""),
        key("wasm_main_config", "wasm_main_config = '''rooms = 100'''"),
        key("limits", "limits = { memory = \"64MiB\", cpu_ms = 50 }"),
        key("allow", "allow = { env = [\"NAME\"] }"),
    ],
);

pub static FILTER: Level = Level {
    name: "a filter",
    place: "a filter, such as `[[server.local.proxy_wasm]]`",
    keys: &[
        key("name", "name = \"auth\""),
        key("wasm_path", "wasm_path = \"filter.wasm\""),
        key("remote", "remote = { url = \"https://plugins.example.cn/auth.wasm\", sha256 = \"…\" }"),
        key("root_id", "root_id = \"auth\""),
        key("vm_id", "vm_id = \"auth\""),
        key("configuration", "configuration = '''{ \"realm\": \"staff\" }'''"),
        key("vm_configuration", "vm_configuration = '''text'''"),
        key("failure_policy", "failure_policy = \"closed\""),
        key("instances", "instances = 2"),
        key("env", "env = { NAME = \"value\" }"),
        key("allowed_capabilities", "allowed_capabilities = [\"proxy_log\", \"proxy_on_request_headers\"]"),
        key(
            "limits",
            "limits = { memory = \"64MiB\", cpu_ms = 50, wall_ms = 10000, buffer = \"1MiB\", callouts = 1000 }",
        ),
        key("allow", "allow = { env = [\"NAME\"] }"),
        key("allow_on_headers_stop_iteration", "allow_on_headers_stop_iteration = true"),
        key("is_open", "is_open = false"),
    ],
    also: &[],
};

pub static FILTER_LIMITS: Level = Level {
    name: "`limits` of a filter",
    place: "`limits` of a filter",
    keys: &[key("buffer", "buffer = \"1MiB\""), key("callouts", "callouts = 1000")],
    also: &[&LIMITS],
};

pub static FILTER_ALLOW: Level = level("`allow` of a filter", &[key("env", "env = [\"NAME\"]")]);

pub static REMOTE: Level = level(
    "`remote`",
    &[
        key("url", "url = \"https://plugins.example.cn/auth.wasm\""),
        key("sha256", "sha256 = \"64 hexadecimal digits, as sha256sum prints them\""),
        key("retries", "retries = 1"),
        key("timeout_ms", "timeout_ms = 10000"),
    ],
);

pub static SERVICE: Level = Level {
    name: "a `[[wasm_service]]`",
    place: "a `[[wasm_service]]`",
    keys: &[key("singleton", "singleton = false")],
    also: &[&FILTER],
};

pub static LIMITS: Level = level(
    "`limits`",
    &[key("memory", "memory = \"64MiB\""), key("cpu_ms", "cpu_ms = 50"), key("wall_ms", "wall_ms = 10000")],
);

pub static ALLOW: Level = Level {
    name: "`allow`",
    place: "`allow` of a script",
    keys: &[
        key("env", "env = [\"NAME\"]"),
        key(
            "net",
            "net = [\"api.example.cn:443\", \"*.example.cn\", \"10.0.0.0/8:8000-8999\", \"[2001:db8::/32]:443\"]",
        ),
    ],
    also: &[],
};
