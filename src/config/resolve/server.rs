use std::collections::HashSet;
use std::net::SocketAddr;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, StatusCode};
use regex::Regex;
use toml::Spanned;

use super::Context;
use super::chain::Level;
use super::listen::Listeners;
use crate::config::diagnostic::quoted;
use crate::config::model::{Handler, Local, Match, Respond, Server};
use crate::config::{Diagnostic, Span, schema};
use crate::headers::{has_body, is_of_connection};
use crate::path::normal_prefix;
use crate::phase::Phase;

impl Context<'_> {
    pub fn servers(
        &mut self,
        servers: Vec<schema::Server>,
        above: &Level,
        admin: Option<&Spanned<SocketAddr>>,
    ) -> Vec<Server> {
        let mut listeners = Listeners::default();
        let servers = servers.into_iter().map(|server| self.server(server, above, &mut listeners)).collect();
        if let Some(admin) = admin {
            self.check_admin(admin, &listeners);
        }
        servers
    }

    fn server(&mut self, server: schema::Server, above: &Level, listeners: &mut Listeners) -> Server {
        if server.listen.is_none() {
            let missing = Diagnostic::error(server.span.clone(), "the server listens nowhere");
            self.diagnostics.push_absent(missing.help("write `listen = [{ addr = \"0.0.0.0:8080\" }]`"));
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
        self.check_choices(&local);
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
        let proxy_pass = local.proxy_pass.and_then(|target| self.upstream_for(&target)).map(Handler::ProxyPass);
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
        let matcher = prefix.or(regex)?;
        let name = local.name.unwrap_or_else(|| matcher.as_str().to_owned());
        Some(Local { name, matcher, handler, chains: level.chains, filters: level.filters })
    }

    /// A plugin of the local itself that chooses the upstream, where none is asked.
    fn check_choices(&mut self, local: &schema::Local) {
        let Some(handler) = local.handler_keys.first().map(Spanned::get_ref).filter(|key| **key != "proxy_pass") else {
            return;
        };
        let plugins = local.chains.phases[Phase::Access as usize].iter().flatten();
        let scripts = plugins.flat_map(|plugin| &plugin.scripts).filter(|script| script.is_open);
        let choices = scripts.flat_map(|script| script.on_ext.iter().flatten());
        for choice in choices.filter(|choice| choice.get_ref().starts_with("upstream:")) {
            let message =
                format!("`{}` has no effect: `{handler}` answers the requests of this local", choice.get_ref());
            let help = "give the local a `proxy_pass`: the verdict chooses another upstream in its place";
            self.error(Diagnostic::warning(choice.span(), message).help(help));
        }
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
            self.check_star(span, path);
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

    /// A path is no pattern.
    fn check_star(&mut self, span: &Span, path: &str) {
        let Some(at) = path.find('*') else { return };
        let help = match path[at..].trim_matches('*').is_empty() {
            true => format!("a path is for all that begins with it: write `path = {}`", quoted(&path[..at])),
            false => {
                let pattern = format!("^{}", regex::escape(path).replace(r"\*", "[^/]*"));
                format!("write a regex instead: `regex = {}`", quoted(&pattern))
            }
        };
        self.error(Diagnostic::warning(span.clone(), "the `*` in this path stands for itself").help(help));
    }

    fn regex(&mut self, text: &Spanned<String>) -> Option<Regex> {
        match Regex::new(text.get_ref()) {
            Ok(regex) => Some(regex),
            Err(error) => {
                // Over several lines, a picture of the place and then the reason.
                let text_of = error.to_string();
                let reason = text_of.lines().last().unwrap_or_default().trim_start_matches("error: ");
                let help = match reason {
                    _ if reason.starts_with("look-around") || reason.starts_with("backreferences") => {
                        "write it without: a local of its own with a `path`, or a regex above this one, takes requests out"
                    }
                    _ if reason.contains("size limit") => {
                        "make it smaller: large counts such as `{1000}` multiply its size"
                    }
                    _ => "put a `\\` before a character that stands for itself; in '…' a `\\` needs no other",
                };
                self.error(Diagnostic::error(text.span(), format!("bad regex: {reason}")).help(help));
                None
            }
        }
    }

    fn respond(&mut self, respond: schema::Respond) -> Respond {
        let mut headers = HeaderMap::new();
        for (name, value) in respond.headers {
            match HeaderName::from_bytes(name.get_ref().as_bytes()) {
                Ok(header) if header == CONTENT_LENGTH || is_of_connection(&header) => {
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
        let status = respond.status.unwrap_or(StatusCode::OK);
        if let Some(body) = respond.body.as_ref().filter(|body| !body.get_ref().is_empty() && !has_body(status)) {
            let message = format!("a response with status {} has no body", status.as_u16());
            let help = "remove `body`, or write another status, such as 200";
            self.error(Diagnostic::error(body.span(), message).help(help));
        }
        Respond { status, headers, body: respond.body.map(Spanned::into_inner).unwrap_or_default() }
    }
}
