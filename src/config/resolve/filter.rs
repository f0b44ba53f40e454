use std::collections::HashMap;
use std::time::Duration;

use toml::Spanned;

use super::Context;
use super::chain::{WALL, file_stem};
use crate::config::diagnostic::nearest;
use crate::config::model::{Code, FilterConfig, FilterLimits, FilterSpans, Instances, Remote, ServiceConfig};
use crate::config::{Diagnostic, Span, abi, schema};

const BUFFER: usize = 1 << 20;
const CALLOUTS: usize = 1000;
const RETRIES: u32 = 1;
const FETCH: Duration = Duration::from_secs(10);

impl Context<'_> {
    pub fn filters(&mut self, filters: Vec<schema::Filter>) -> Vec<FilterConfig> {
        filters.into_iter().filter_map(|filter| self.filter(filter)).collect()
    }

    pub fn services(&mut self, services: Vec<schema::Service>) -> Vec<ServiceConfig> {
        let service = |service: schema::Service| {
            let singleton = service.singleton.unwrap_or(true);
            if let Some(instances) = &service.filter.instances {
                self.check_instances(instances, singleton);
            }
            for key in service.filter.stream_keys.iter().chain(&service.filter.limits.stream_keys) {
                let message = format!("`{}` has no effect: a service has no streams", key.get_ref());
                self.error(Diagnostic::warning(key.span(), message).help("leave it out"));
            }
            Some(ServiceConfig { filter: self.filter(service.filter)?, singleton })
        };
        services.into_iter().filter_map(service).collect()
    }

    /// Those of a service.
    fn check_instances(&mut self, instances: &Spanned<Instances>, singleton: bool) {
        match instances.get_ref() {
            Instances::Request => {
                let message = "a service has no requests that could have a VM each";
                let help = "leave `instances` out for one VM; `singleton = false` makes as many as there are threads";
                self.error(Diagnostic::error(instances.span(), message).help(help));
            }
            Instances::Slots(2..) if singleton => {
                let message = "`instances` has no effect: this service is one VM";
                let help = "add `singleton = false`, or leave `instances` out";
                self.error(Diagnostic::warning(instances.span(), message).help(help));
            }
            Instances::Slots(_) => {}
        }
    }

    /// None for a filter that is switched off, or has no code.
    fn filter(&mut self, filter: schema::Filter) -> Option<FilterConfig> {
        self.check_code_keys(&filter);
        let allowed_capabilities = self.capabilities(filter.allowed_capabilities);
        let limits = self.filter_limits(&filter.limits);
        if !filter.is_open {
            return None;
        }
        let env = self.filter_environment(&filter.env, &filter.host_env);
        let (name, code, span) = self.code(filter.wasm_path, filter.remote)?;
        let (configuration, configuration_span) = text(filter.configuration, &span);
        let (vm_configuration, vm_configuration_span) = text(filter.vm_configuration, &span);
        Some(FilterConfig {
            name: filter.name.map_or(name, |name| name.0),
            code,
            root_id: filter.root_id.unwrap_or_default(),
            vm_id: filter.vm_id.unwrap_or_default(),
            configuration,
            vm_configuration,
            failure_policy: filter.failure_policy.unwrap_or_default(),
            instances: filter.instances.map_or(Instances::Slots(self.threads), Spanned::into_inner),
            env,
            allowed_capabilities,
            limits,
            allow_on_headers_stop_iteration: filter.allow_on_headers_stop_iteration,
            spans: FilterSpans {
                code: span,
                configuration: configuration_span,
                vm_configuration: vm_configuration_span,
            },
        })
    }

    fn check_code_keys(&mut self, filter: &schema::Filter) {
        match filter.code_keys.as_slice() {
            [] => {
                let missing = Diagnostic::error(filter.span.clone(), "the filter has neither `wasm_path` nor `remote`");
                let help = "add `wasm_path = \"filter.wasm\"`; a chain without filters is `proxy_wasm = []`";
                self.diagnostics.push_absent(missing.help(help));
            }
            [_, second, ..] => {
                let message = "the filter has both `wasm_path` and `remote`";
                self.error(Diagnostic::error(second.span(), message).help("keep one of the two"));
            }
            _ => {}
        }
    }

    /// The code with the name that it gives the filter, and where it is written.
    fn code(
        &mut self,
        wasm_path: Option<Spanned<String>>,
        remote: Option<schema::Remote>,
    ) -> Option<(String, Code, Span)> {
        if let Some(written) = wasm_path {
            let path = self.file("the filter", &written)?;
            return Some((file_stem(written.get_ref()), Code::Local(path), written.span()));
        }
        let schema::Remote { span, url, sha256, retries, timeout_ms } = remote?;
        let url = url?.0;
        let name = match file_stem(url.path()) {
            stem if stem.is_empty() => url.host().unwrap_or_default().to_owned(),
            stem => stem,
        };
        let remote = Remote {
            url: url.to_string(),
            sha256: sha256?.0,
            retries: retries.unwrap_or(RETRIES),
            timeout: timeout_ms.unwrap_or(FETCH),
        };
        Some((name, Code::Remote(remote), span))
    }

    /// What is written, and then what is taken over from the host.
    fn filter_environment(
        &mut self,
        written: &[(Spanned<String>, Spanned<crate::config::leaf::EnvValue>)],
        of_host: &[Spanned<String>],
    ) -> Vec<(String, String)> {
        let mut first: HashMap<&str, Span> = HashMap::new();
        let mut env = Vec::new();
        for (name, value) in written {
            if self.is_variable(name) {
                env.push((name.get_ref().clone(), value.get_ref().0.clone()));
            }
            first.insert(name.get_ref(), name.span());
        }
        for name in of_host {
            if let Some(other) = first.insert(name.get_ref(), name.span()) {
                let message = format!("the environment variable `{}` is given twice", name.get_ref());
                let later = if other.start > name.span().start { other } else { name.span() };
                self.error(Diagnostic::error(later, message).help("keep it in `env`, or in `allow.env`"));
            } else {
                env.extend(self.environment(name));
            }
        }
        env
    }

    /// Whether a variable can have this name.
    fn is_variable(&mut self, name: &Spanned<String>) -> bool {
        let text = name.get_ref();
        let valid = !text.is_empty() && !text.contains(['=', '\0']);
        if !valid {
            let message = format!("`{}` is not the name of an environment variable", text.escape_debug());
            let help = "write it as `env = { NAME = \"value\" }`, without `=` in the name";
            self.error(Diagnostic::error(name.span(), message).help(help));
        }
        valid
    }

    fn capabilities(&mut self, written: Vec<Spanned<String>>) -> Vec<String> {
        let mut known: Vec<_> = written.into_iter().filter_map(|name| self.capability(name)).collect();
        known.sort();
        known.dedup();
        known
    }

    fn capability(&mut self, name: Spanned<String>) -> Option<String> {
        if abi::names().any(|known| known == name.get_ref()) {
            return Some(name.into_inner());
        }
        let help = match nearest(name.get_ref(), abi::names()) {
            Some(known) => format!("did you mean `{known}`?"),
            None => "use names of the Proxy-Wasm ABI such as `proxy_log` and `proxy_on_tick`, and of WASI such as `fd_write`; \
                     an empty list allows everything"
                .to_owned(),
        };
        let message = format!("there is no capability `{}`", name.get_ref());
        self.error(Diagnostic::error(name.span(), message).help(help));
        None
    }

    fn filter_limits(&mut self, limits: &schema::FilterLimits) -> FilterLimits {
        let common = self.limits(None, &limits.common);
        FilterLimits {
            memory: common.memory,
            cpu: common.cpu,
            wall: common.wall.unwrap_or(WALL),
            buffer: limits.buffer.map_or(BUFFER, |size| size.0),
            callouts: limits.callouts.map_or(CALLOUTS, usize::from),
        }
    }
}

/// The text of a configuration, and where it is written.
fn text(config: Option<schema::EntryConfig>, code: &Span) -> (String, Span) {
    match config {
        Some(config) => (config.text, config.key),
        None => (String::new(), code.clone()),
    }
}
