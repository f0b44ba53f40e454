use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, StatusCode};
use regex::Regex;
use toml::Spanned;

use super::Context;
use super::chain::Level;
use crate::config::diagnostic::quoted;
use crate::config::model::{Handler, HostPattern, Listen, Local, Match, Respond, Server, Tls};
use crate::config::{Diagnostic, Span, schema};
use crate::path::normal_prefix;

/// Headers that say where the body ends and how the connection goes on: the proxy writes them.
const OF_THE_CONNECTION: [&str; 7] =
    ["connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// What the servers so far listen on.
#[derive(Default)]
struct Listeners {
    /// Whether with TLS.
    tls: HashMap<SocketAddr, bool>,
    names: HashSet<(SocketAddr, bool, HostPattern)>,
    /// They have a default server.
    addresses: HashSet<(SocketAddr, bool)>,
}

impl Context<'_> {
    pub fn servers(&mut self, servers: Vec<schema::Server>, above: &Level) -> Vec<Server> {
        let mut listeners = Listeners::default();
        servers.into_iter().map(|server| self.server(server, above, &mut listeners)).collect()
    }

    fn server(&mut self, server: schema::Server, above: &Level, listeners: &mut Listeners) -> Server {
        if server.listen.is_none() {
            let missing = Diagnostic::error(server.span.clone(), "the server listens nowhere");
            self.diagnostics.push_absent(missing.help("add `listen = [{ addr = \"0.0.0.0:8080\" }]`"));
        }
        let listen: Vec<_> = server.listen.unwrap_or_default().into_iter().filter_map(|l| self.listen(l)).collect();
        self.check_listeners(&listen, listeners);
        self.check_default(&server.span, &listen, server.names.is_some(), listeners);
        let names = server.names.unwrap_or_default();
        self.check_names(&listen, &names, listeners);
        let level = self.level(server.chains, above);
        let locals = server.locals.unwrap_or_default();
        if locals.is_empty() && !level.serverless {
            let message = "the server has no locals, so that it answers every request with 404";
            let help = "add a `[[server.local]]` with `path = \"/\"`";
            self.diagnostics.push_absent(Diagnostic::warning(server.span.clone(), message).help(help));
        }
        self.check_matchers(&locals);
        Server {
            names: names.into_iter().map(Spanned::into_inner).collect(),
            listen,
            locals: locals.into_iter().filter_map(|local| self.local(local, &level)).collect(),
            chains: level.chains,
            filters: level.filters,
        }
    }

    fn listen(&mut self, listen: schema::Listen) -> Option<Listen> {
        let tls = listen.tls.map(|tls| {
            let cert = tls.cert.and_then(|cert| self.file("the certificate", &cert));
            let key = tls.key.and_then(|key| self.file("the private key", &key));
            cert.zip(key).map(|(cert, key)| Tls { cert, key })
        });
        let addr = listen.addr?;
        let tls = match tls {
            Some(tls) => Some(tls?),
            None => None,
        };
        Some(Listen { addr: *addr.get_ref(), tls, h2: listen.h2.unwrap_or(false), span: addr.span() })
    }

    fn check_listeners(&mut self, listen: &[Listen], listeners: &mut Listeners) {
        for Listen { addr, tls, span, .. } in listen.iter().filter(|listen| listen.addr.port() != 0) {
            let tls = tls.is_some();
            if *listeners.tls.entry(*addr).or_insert(tls) == tls {
                continue;
            }
            let (this, other) = if tls { ("with", "without") } else { ("without", "with") };
            let message = format!("{addr} is listened on {this} TLS here and {other} TLS before");
            self.error(Diagnostic::error(span.clone(), message).help("use another port for one of the two"));
        }
    }

    /// A server without a name is chosen only where it is the first to listen.
    fn check_default(&mut self, server: &Span, listen: &[Listen], named: bool, listeners: &mut Listeners) {
        let first = |listen: &&Listen| listeners.addresses.insert((listen.addr, listen.tls.is_some()));
        let first = listen.iter().filter(first).count();
        if first == 0 && !listen.is_empty() && !named {
            let message = "the server is never chosen: it has no name, and is the first on none of its addresses";
            let help = "add `name = [\"www.example.cn\"]`";
            self.diagnostics.push_absent(Diagnostic::warning(server.clone(), message).help(help));
        }
    }

    fn check_names(&mut self, listen: &[Listen], names: &[Spanned<HostPattern>], listeners: &mut Listeners) {
        for name in names {
            let taken =
                |listen: &&Listen| !listeners.names.insert((listen.addr, listen.tls.is_some(), name.get_ref().clone()));
            // Every address has to be entered, hence no `find`.
            let taken: Vec<_> = listen.iter().filter(taken).collect();
            if let Some(listen) = taken.first() {
                let message = format!("this name is already taken on {}", listen.addr);
                let help = "a name stands for one server: remove it here or there";
                self.error(Diagnostic::error(name.span(), message).help(help));
            }
        }
    }

    /// Two locals that match the same, and locals that never match.
    fn check_matchers(&mut self, locals: &[schema::Local]) {
        let all = locals.iter().any(|local| local.path.as_ref().is_some_and(|path| path.get_ref().0 == "/"));
        let mut seen = HashSet::new();
        for local in locals {
            let path = local.path.as_ref().map(|path| (path.span(), path.get_ref().0.as_str()));
            let regex = local.regex.as_ref().map(|regex| (regex.span(), regex.get_ref().as_str()));
            for ((span, text), key) in path.into_iter().map(|p| (p, "path")).chain(regex.clone().map(|r| (r, "regex")))
            {
                if !seen.insert((key, text)) {
                    let message = format!("this server has another local with `{key} = \"{text}\"`");
                    self.error(Diagnostic::error(span, message).help("merge the two, or change one"));
                }
            }
            if let Some((span, _)) = regex.filter(|_| all && local.path.is_none()) {
                let message = "this local never matches: the server has `path = \"/\"`, and prefixes go before regexes";
                let help = "make the `path = \"/\"` a `regex` as well, and put it last";
                self.error(Diagnostic::warning(span, message).help(help));
            }
        }
    }

    fn local(&mut self, local: schema::Local, above: &Level) -> Option<Local> {
        let level = self.level(local.chains, above);
        match local.handler_keys.as_slice() {
            [] if !level.serverless => {
                let message = "the local has nothing that answers a request";
                let help = "add `proxy_pass`, `respond`, `echo = true` or a `[[server.local.wasm_serverless]]`";
                self.diagnostics.push_absent(Diagnostic::error(local.span.clone(), message).help(help));
            }
            [first, second, ..] => {
                let message = format!("`{}` and `{}` in one local", first.get_ref(), second.get_ref());
                self.error(Diagnostic::error(second.span(), message).help("keep one of the two"));
            }
            _ => {}
        }
        let proxy_pass = local.proxy_pass.and_then(|target| self.proxy_pass(&target)).map(Handler::ProxyPass);
        let respond = local.respond.map(|respond| Handler::Respond(self.respond(respond)));
        let handler = proxy_pass.or(respond).or(local.echo.then_some(Handler::Echo));
        match local.matcher_keys.as_slice() {
            [] => {
                let missing = Diagnostic::error(local.span, "the local has neither `path` nor `regex`");
                self.diagnostics.push_absent(missing.help("add `path = \"/\"`"));
            }
            [_, second, ..] => {
                let message = "the local has both `path` and `regex`";
                self.error(Diagnostic::error(second.span(), message).help("keep one of the two"));
            }
            _ => {}
        }
        if let Some(path) = &local.path {
            self.check_path(&path.span(), &path.get_ref().0);
        }
        let prefix = local.path.map(|path| Match::Prefix(path.into_inner().0));
        let regex = local.regex.and_then(|regex| self.regex(&regex)).map(Match::Regex);
        Some(Local { matcher: prefix.or(regex)?, handler, chains: level.chains, filters: level.filters })
    }

    /// Requests are routed by their normal path: in another spelling, what is for the route would not run for anything.
    fn check_path(&mut self, span: &Span, path: &str) {
        if let Some(at) = path.find(['?', '#']) {
            let message = format!("this local never matches: `{}` is no part of a path", &path[at..=at]);
            let shorter = normal_prefix(&path[..at]);
            let help = format!("a path has no query and no fragment: write `path = {}`", quoted(&shorter));
            self.error(Diagnostic::error(span.clone(), message).help(help));
            return;
        }
        let normal = normal_prefix(path);
        if normal == path {
            return;
        }
        let message =
            "this local never matches: requests are routed by their path decoded, and without `//`, `.` and `..`";
        let help = match normal_prefix(&normal) == normal {
            true => format!("write `path = {}`", quoted(&normal)),
            // It would be decoded once more.
            false => format!("write it as a regex: `regex = {}`", quoted(&format!("^{}", regex::escape(&normal)))),
        };
        self.error(Diagnostic::error(span.clone(), message).help(help));
    }

    fn regex(&mut self, text: &Spanned<String>) -> Option<Regex> {
        match Regex::new(text.get_ref()) {
            Ok(regex) => Some(regex),
            Err(error) => {
                // Over several lines, a picture of the place and then the reason.
                let text_of = error.to_string();
                let reason = text_of.lines().last().unwrap_or_default().trim_start_matches("error: ");
                let help = "put a `\\` before a character that stands for itself; in '…' a `\\` needs no other";
                self.error(Diagnostic::error(text.span(), format!("bad regex: {reason}")).help(help));
                None
            }
        }
    }

    fn respond(&mut self, respond: schema::Respond) -> Respond {
        let mut headers = HeaderMap::new();
        for (name, value) in respond.headers {
            match HeaderName::from_bytes(name.get_ref().as_bytes()) {
                Ok(header) if OF_THE_CONNECTION.contains(&header.as_str()) => {
                    let message = format!("`{header}` belongs to the connection, which is not for `respond` to say");
                    let help = "remove it: the proxy itself says where the body ends and how the connection goes on";
                    self.error(Diagnostic::error(name.span(), message).help(help));
                }
                Ok(name) => drop(headers.append(name, value.into_inner())),
                Err(_) => {
                    let message = format!("`{}` is not the name of a header", name.get_ref());
                    let help = "use letters, digits and `-`: `content-type = \"text/plain\"`";
                    self.error(Diagnostic::error(name.span(), message).help(help));
                }
            }
        }
        Respond { status: respond.status.unwrap_or(StatusCode::OK), headers, body: respond.body.unwrap_or_default() }
    }
}
