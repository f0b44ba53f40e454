//! Phasegate, configured with the same cases.

use std::fmt::Write;
use std::net::SocketAddr;

use super::case::{Case, Filter};
use super::reference::{Servers, name};
use crate::support::{LISTEN, Proxy};

pub struct Subject(Proxy);

impl Subject {
    /// Starts it with a server for each case, on one listener: they are told apart by the host.
    pub fn start(cases: &[(&Case, Servers)]) -> Subject {
        // One VM for each filter, as in an Envoy with one worker.
        let mut config = "threads = 1\n".to_owned();
        for (case, servers) in cases {
            for (origin, server) in case.origins.iter().zip(servers) {
                let (cluster, addr, h2) = (case.cluster(origin), server.addr, origin.h2);
                let _ = writeln!(config, "[upstream.{cluster}]\nservers = [{{ addr = \"{addr}\" }}]\nh2 = {h2}");
            }
        }
        for (case, _) in cases {
            // The other name is one that a filter gives a request.
            let name = case.name;
            let _ = writeln!(config, "[[server]]\nname = [\"{name}.test\", \"other.{name}.test\"]\n{LISTEN}");
            let _ = writeln!(config, "[[server.local]]\npath = \"/\"\nproxy_pass = \"{}-origin\"", case.name);
            for (place, filter) in case.filters.iter().enumerate() {
                write_filter(&mut config, case, place, filter);
            }
        }
        Subject(Proxy::start(&config))
    }

    pub fn addr(&self) -> SocketAddr {
        self.0.addr()
    }

    /// The lines that the filters of this case have written so far.
    pub fn lines(&self, case: &Case) -> Vec<String> {
        let own: Vec<_> = (0..case.filters.len()).map(|place| format!("filter={} ", name(case, place))).collect();
        let mut lines = Vec::new();
        for line in self.0.log().lines() {
            let Some(rest) = own.iter().find_map(|own| Some(line.split_once(own)?.1)) else { continue };
            // The request's id; none where it is no line of the guest.
            let Some((_, text)) = rest.strip_prefix("request=").and_then(|rest| rest.split_once(' ')) else { continue };
            // Envoy names the filter only in the first line of what a guest says; a panic says two.
            let second = lines.last().is_some_and(|last: &String| last.starts_with("panicked at"));
            // What the host says of the guest.
            let is_own = ["failed: ", "proxy_send_local_response: "].iter().any(|start| text.starts_with(start))
                || text.contains(": there is no [upstream.");
            if !is_own && !second {
                lines.push(text.to_owned());
            }
        }
        lines
    }

    pub fn log(&self) -> String {
        self.0.log()
    }
}

fn write_filter(config: &mut String, case: &Case, place: usize, filter: &Filter) {
    let environment: Vec<_> = filter.environment.iter().map(|(name, value)| format!("{name} = \"{value}\"")).collect();
    let _ = writeln!(
        config,
        "[[server.local.proxy_wasm]]\nname = \"{}\"\nwasm_path = '{}'\nroot_id = \"{}\"\nvm_id = \"{}\"\n\
         configuration = '''{}'''\nvm_configuration = '''{}'''\nfailure_policy = \"{}\"\n\
         allowed_capabilities = {:?}\nenv = {{ {} }}\nallow_on_headers_stop_iteration = {}\n",
        name(case, place),
        filter.module.display(),
        filter.root_id,
        filter.vm_id.unwrap_or(case.name),
        case.resolved(&filter.configuration),
        case.resolved(&filter.vm_configuration),
        filter.failure_policy,
        filter.allowed_capabilities,
        environment.join(", "),
        filter.allow_on_headers_stop_iteration,
    );
    if let Some(limit) = case.buffer_limit {
        let _ = writeln!(config, "limits = {{ buffer = \"{limit}B\" }}");
    }
}
