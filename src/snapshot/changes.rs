//! What a new snapshot changes, for people.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::Snapshot;
use crate::config::OnFailure;
use crate::wasm::Script;

/// Names of scripts in which a snapshot differs from the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScriptChanges {
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
}

/// Of a name there may be several, each with what its failure does.
type ByName<'s> = BTreeMap<&'s str, Vec<Entry<'s>>>;
type Entry<'s> = (&'s Arc<Script>, Option<OnFailure>);

impl ScriptChanges {
    pub fn between(before: &Snapshot, now: &Snapshot) -> ScriptChanges {
        let (before, now) = (by_name(before), by_name(now));
        let mut changes = ScriptChanges::default();
        for (name, scripts) in &now {
            match before.get(name) {
                None => changes.added.push((*name).to_owned()),
                Some(others) if !are_same(scripts, others) => changes.changed.push((*name).to_owned()),
                Some(_) => {}
            }
        }
        let gone = before.keys().filter(|name| !now.contains_key(*name));
        changes.removed = gone.map(|name| (*name).to_owned()).collect();
        changes
    }
}

impl fmt::Display for ScriptChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [("changed", &self.changed), ("added", &self.added), ("removed", &self.removed)];
        let kinds = kinds.iter().filter(|(_, names)| !names.is_empty());
        let kinds: Vec<_> = kinds.map(|(kind, names)| format!("scripts {kind}: {}", names.join(", "))).collect();
        f.write_str(if kinds.is_empty() { "scripts as before" } else { "" })?;
        f.write_str(&kinds.join("; "))
    }
}

fn by_name(snapshot: &Snapshot) -> ByName<'_> {
    let live = snapshot.scripts().map(|live| (&live.script, Some(live.on_failure)));
    let mut scripts = ByName::new();
    for (script, on_failure) in live.chain(snapshot.sessions.iter().map(|session| (session, None))) {
        scripts.entry(&*script.spec().name).or_default().push((script, on_failure));
    }
    scripts
}

fn are_same(scripts: &[Entry<'_>], others: &[Entry<'_>]) -> bool {
    let same = |((script, on_failure), (other, others_on_failure)): (&Entry<'_>, &Entry<'_>)| {
        script.is_same(other) && on_failure == others_on_failure
    };
    scripts.len() == others.len() && scripts.iter().zip(others).all(same)
}
