use super::Context;
use crate::config::{Diagnostic, Span, schema};
use crate::phase::Phase;

impl Context<'_> {
    /// Chains that no local runs, because each has one of its own: what was meant to guard them guards nothing.
    pub fn warn_of_unused_chains(&mut self, main: &schema::Main) {
        let servers = || main.servers.iter().flatten();
        for name in schema::Chains::names() {
            for server in servers() {
                self.warn_if_replaced(&server.chains, name, replaced_in(server, name));
            }
            let replaced = servers().map(|server| match server.chains.key(name) {
                Some(key) => Some(vec![key]),
                None => replaced_in(server, name),
            });
            let replaced = replaced.collect::<Option<Vec<_>>>();
            self.warn_if_replaced(&main.chains, name, replaced.map(|keys| keys.concat()));
        }
    }

    /// Warns of the chain with this name, if it has something to run, and these replace it.
    fn warn_if_replaced(&mut self, chains: &schema::Chains, name: &str, by: Option<Vec<Span>>) {
        let Some(key) = chains.key(name).filter(|_| runs(chains, name)) else { return };
        let Some(by) = by.filter(|by| !by.is_empty()) else { return };
        let lines: Vec<_> = by.iter().map(|key| self.diagnostics.line(key).to_string()).collect();
        let (last, others) = lines.split_last().expect("there is one");
        let lines = match others.is_empty() {
            true => format!("line {last}"),
            false => format!("lines {} and {last}", others.join(", ")),
        };
        let message = format!("no local runs this chain: `{name}` is set again in {lines}, which replaces it");
        let help = "a level that sets a chain inherits nothing: write all that shall run into each of them";
        self.diagnostics.push_absent(Diagnostic::warning(key, message).help(help));
    }
}

/// What replaces a chain of the server, or of the level above, in all of its locals; none when something is left that runs
/// it. What ends with 404 because no local is for it is not what chains are written for, but for `wasm_serverless`.
fn replaced_in(server: &schema::Server, name: &str) -> Option<Vec<Span>> {
    let locals = server.locals.as_deref().filter(|locals| !locals.is_empty())?;
    let all = |local: &schema::Local| local.path.as_ref().is_some_and(|path| path.get_ref().0 == "/");
    if name == Phase::Serverless.directive() && !locals.iter().any(all) {
        return None;
    }
    locals.iter().map(|local| local.chains.key(name)).collect()
}

/// Whether the chain with this name has anything that is on.
fn runs(chains: &schema::Chains, name: &str) -> bool {
    let plugins = Phase::ALL.into_iter().position(|phase| phase.directive() == name);
    match plugins {
        Some(phase) => {
            let mut scripts = chains.phases[phase].iter().flatten().flat_map(|plugin| &plugin.scripts);
            scripts.any(|script| script.is_open)
        }
        None => chains.filters.iter().flatten().any(|filter| filter.is_open),
    }
}
