//! What a new snapshot changes, for people.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Snapshot;
use crate::config::{FailurePolicy, OnFailure};
use crate::wasm::{Filter, Plugin, Script, Service};

/// In what a snapshot differs from the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub scripts: Names,
    /// Of Proxy-Wasm, with services.
    pub filters: Names,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
}

impl Changes {
    /// Each snapshot is with its services.
    pub fn between(before: (&Snapshot, &[Service]), now: (&Snapshot, &[Service])) -> Changes {
        Changes { scripts: names(scripts(before.0), scripts(now.0)), filters: names(filters(before), filters(now)) }
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |what, Names { added, changed, removed }: &Names| {
            let kinds = [("changed", changed), ("added", added), ("removed", removed)];
            let kinds = kinds.into_iter().filter(|(_, names)| !names.is_empty());
            kinds.map(|(kind, names)| format!("{what} {kind}: {}", names.join(", "))).collect::<Vec<_>>()
        };
        let changes = [of("scripts", &self.scripts), of("filters", &self.filters)].concat();
        f.write_str(if changes.is_empty() { "scripts and filters as before" } else { "" })?;
        f.write_str(&changes.join("; "))
    }
}

/// Of a name there may be several.
type ByName<'s, T> = BTreeMap<&'s str, Vec<T>>;

/// With what its failure does.
struct ScriptEntry<'s>(&'s Arc<Script>, Option<OnFailure>);

impl PartialEq for ScriptEntry<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.is_same(other.0) && self.1 == other.1
    }
}

/// What a filter is beside its name; of a service, less.
#[derive(PartialEq)]
struct FilterEntry {
    plugin: *const Plugin,
    failure_policy: FailurePolicy,
    on_streams: Option<(bool, Duration, usize)>,
}

fn names<T: PartialEq>(before: ByName<'_, T>, now: ByName<'_, T>) -> Names {
    let mut names = Names::default();
    for (name, entries) in &now {
        match before.get(name) {
            None => names.added.push((*name).to_owned()),
            Some(others) if entries != others => names.changed.push((*name).to_owned()),
            Some(_) => {}
        }
    }
    let gone = before.keys().filter(|name| !now.contains_key(*name));
    names.removed = gone.map(|name| (*name).to_owned()).collect();
    names
}

fn scripts(snapshot: &Snapshot) -> ByName<'_, ScriptEntry<'_>> {
    let live = snapshot.scripts().map(|live| (&live.script, Some(live.on_failure)));
    let mut scripts = ByName::new();
    for (script, on_failure) in live.chain(snapshot.sessions.iter().map(|session| (session, None))) {
        scripts.entry(&*script.spec().name).or_default().push(ScriptEntry(script, on_failure));
    }
    scripts
}

fn filters<'s>((snapshot, services): (&'s Snapshot, &'s [Service])) -> ByName<'s, FilterEntry> {
    let filter = |filter: &Filter| FilterEntry {
        plugin: Arc::as_ptr(&filter.plugin),
        failure_policy: filter.failure_policy,
        on_streams: Some((filter.allow_stop_iteration, filter.longest_pause, filter.buffer)),
    };
    let service = |service: &Service| FilterEntry {
        plugin: Arc::as_ptr(&service.plugin),
        failure_policy: service.failure_policy,
        on_streams: None,
    };
    let mut filters = ByName::new();
    let on_streams = snapshot.filters().map(|on_streams| (&on_streams.plugin, filter(on_streams)));
    let services = services.iter().map(|alone| (&alone.plugin, service(alone)));
    for (plugin, entry) in on_streams.chain(services) {
        filters.entry(&*plugin.identity.name).or_default().push(entry);
    }
    filters
}
