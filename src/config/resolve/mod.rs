//! What the user typed → what the program runs on.

mod chain;
mod filter;
mod listen;
mod server;
mod session;
mod store;
mod unused;
mod upstream;

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::model::{AccessLog, Ca, Config, LogTarget, Network, Place};
use super::{Diagnostic, Diagnostics, Template, schema};
use crate::file;
use chain::Level;
use upstream::Upstreams;

/// Of an access log without `format`.
const ACCESS_LOG_FORMAT: &str = "${local_time} ${client_ip} ${domain} \"${http_request_method} ${http_request_uri} \
    ${http_request_version}\" ${status} ${client_bytes_sent} ${session_time} ${upstream_addr} ${request_id}";

/// Resolves what can be resolved; the rest is in the diagnostics.
pub fn resolve(main: schema::Main, path: &Path, diagnostics: &mut Diagnostics) -> Config {
    let defaults = Config::empty(path);
    let directory = path.parent().unwrap_or(Path::new("")).to_owned();
    let threads = main.threads.map_or(defaults.threads, |threads| threads.0);
    let mut cx = Context { directory, threads, diagnostics, upstreams: Upstreams::default(), files: Vec::new() };
    cx.warn_of_unused_chains(&main);
    cx.declare_upstreams(main.upstreams);
    let level = cx.level(main.chains, &Level::default());
    if main.servers.is_none() {
        let help = "add a `[[server]]` with `listen = [{ addr = \"0.0.0.0:8080\" }]` and a `[[server.local]]`";
        cx.diagnostics.push_absent(Diagnostic::error(0..0, "there is no server").help(help));
    }
    let sessions = cx.sessions(main.sessions);
    let services = cx.services(main.services);
    let servers = cx.servers(main.servers.unwrap_or_default(), &level, main.admin.as_ref());
    Config {
        threads,
        work_stealing: main.work_stealing.unwrap_or(defaults.work_stealing),
        watch: main.watch.unwrap_or(defaults.watch),
        error_log: main.error_log.unwrap_or(defaults.error_log),
        access_log: main.access_log.and_then(|log| cx.access_log(log)),
        grace_period: main.grace_period_ms.map_or(defaults.grace_period, Duration::from_millis),
        keepalive_timeout: main.keepalive_timeout_ms.unwrap_or(defaults.keepalive_timeout),
        client_timeout: main.client_timeout_ms.unwrap_or(defaults.client_timeout),
        body_limit: main.body_limit.map_or(defaults.body_limit, |size| size.0),
        trusted_proxies: main.trusted_proxies,
        cache: main.cache.map_or(defaults.cache, |path| cx.cache(&path)),
        admin: main.admin.map(Spanned::into_inner),
        network: cx.network(main.network.unwrap_or_default()),
        store: main.store.map_or(defaults.store, |store| cx.store(store)),
        upstreams: cx.upstreams.into_list(),
        sessions,
        services,
        servers,
        files: cx.files,
        ..defaults
    }
}

/// Bytes of the name of a file (`NAME_MAX` of Linux).
const LONGEST_NAME: usize = 255;

/// What every part of the resolution needs.
struct Context<'d> {
    /// What relative paths are relative to.
    directory: PathBuf,
    /// Worker threads.
    threads: usize,
    diagnostics: &'d mut Diagnostics,
    upstreams: Upstreams,
    /// All that was asked for with `file`.
    files: Vec<PathBuf>,
}

impl Context<'_> {
    fn error(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    fn access_log(&mut self, log: schema::AccessLog) -> Option<AccessLog> {
        let default = || Spanned::new(0..0, ACCESS_LOG_FORMAT.to_owned());
        let format = self.template(&log.format.unwrap_or_else(default))?;
        let path = log.path?;
        let target = match path.get_ref().as_str() {
            "stdout" | "-" => LogTarget::Stdout,
            file => LogTarget::File(self.directory.join(file)),
        };
        if let LogTarget::File(file) = &target {
            self.check_log_file(&path, file);
        }
        Some(AccessLog { target, format })
    }

    /// The file need not be there, nor the folders above it; but what is there must not be in the way.
    fn check_log_file(&mut self, written: &Spanned<String>, file: &Path) {
        let text = written.get_ref();
        let message = if text.is_empty() {
            "the `path` of the access log is empty".to_owned()
        } else if text.contains('\0') || text.split('/').any(|name| name.len() > LONGEST_NAME) {
            format!("no file has the name of the access log: it has a NUL, or more than {LONGEST_NAME} bytes")
        } else if text.ends_with('/') || file.is_dir() {
            format!("the access log cannot be written to `{text}`: it is a folder")
        } else if let Some(above) =
            file.ancestors().skip(1).find(|above| above.exists()).filter(|above| !above.is_dir())
        {
            format!("the access log cannot be written to `{text}`: {} is no folder", above.display())
        } else {
            return;
        };
        let help = "name a file, such as `path = \"logs/access.log\"`, or `\"stdout\"`";
        self.error(Diagnostic::error(written.span(), message).help(help));
    }

    /// Where to keep what can be made anew; an empty path switches it off.
    fn cache(&self, path: &str) -> Option<PathBuf> {
        (!path.is_empty()).then(|| self.directory.join(path))
    }

    fn network(&mut self, network: schema::Network) -> Network {
        let defaults = Network::default();
        let ca =
            network.ca.and_then(|ca| Some(Ca { path: self.file("the certificates", &ca)?, place: Place(ca.span()) }));
        Network {
            ca,
            body_limit: network.body_limit.map_or(defaults.body_limit, |size| size.0),
            max_callouts: network.max_callouts.map_or(defaults.max_callouts, usize::from),
        }
    }

    fn template(&mut self, text: &Spanned<String>) -> Option<Template> {
        let errors = match Template::parse(text.get_ref()) {
            Ok(template) => return Some(template),
            Err(errors) => errors,
        };
        for error in errors {
            let span = self.diagnostics.inside(&text.span(), text.get_ref(), error.at());
            self.error(Diagnostic::error(span, error.to_string()).help(error.help()));
        }
        None
    }

    /// The path of a file that must be there and readable.
    fn file(&mut self, what: &str, written: &Spanned<String>) -> Option<PathBuf> {
        let path = self.directory.join(written.get_ref());
        self.files.push(path.clone());
        let Err(error) = file::open(&path) else { return Some(path) };
        let message = format!("cannot read {what} `{}`: {error}", written.get_ref());
        let help = match with_other_dashes(written.get_ref()).filter(|other| self.directory.join(other).is_file()) {
            Some(other) => format!("did you mean `{other}`? Cargo writes `_` for `-`"),
            None if Path::new(written.get_ref()).is_absolute() => {
                "check the path, and the permissions of the file and of the folders above it".to_owned()
            }
            None => format!("paths are relative to the configuration file; it was looked for at {}", path.display()),
        };
        self.error(Diagnostic::error(written.span(), message).help(help));
        None
    }
}

/// The path with `_` for each `-` in the name of the file.
fn with_other_dashes(path: &str) -> Option<String> {
    let (folder, name) = path.split_at(path.rfind('/').map_or(0, |slash| slash + 1));
    name.contains('-').then(|| format!("{folder}{}", name.replace('-', "_")))
}
