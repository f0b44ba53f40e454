use std::collections::HashSet;

use super::Context;
use crate::config::model::{Instance, OnFailure, ScriptConfig, ScriptSpans};
use crate::config::{Diagnostic, schema};
use crate::phase::Action;

impl Context<'_> {
    /// The named sessions of which there is enough to run them.
    pub fn sessions(&mut self, sessions: Vec<schema::Session>) -> Vec<ScriptConfig> {
        let mut names = HashSet::new();
        sessions.into_iter().filter_map(|session| self.session(session, &mut names)).collect()
    }

    fn session(&mut self, session: schema::Session, names: &mut HashSet<String>) -> Option<ScriptConfig> {
        if let Some(name) = &session.name
            && !names.insert(name.get_ref().0.clone())
        {
            let message = format!("two sessions named `{}`", name.get_ref().0);
            let help = "a name stands for one session in the process: give one of them another";
            self.error(Diagnostic::error(name.span(), message).help(help));
        }
        let limits = self.limits(None, &session.limits);
        let env = session.allow.env.iter().filter_map(|name| self.environment(name)).collect();
        let written = session.wasm_path?;
        let wasm_path = self.file("the module", &written)?;
        let (key, text) = session.main_config.map(|config| (config.key, config.text)).unzip();
        Some(ScriptConfig {
            name: session.name?.into_inner().0,
            wasm_path,
            configs: [text, None, None, None, None],
            on_failure: OnFailure::Open,
            // One run is as long as the session.
            instance: Instance::Fresh,
            limits,
            recycle_after: None,
            recycle_memory: None,
            env,
            net: session.allow.net,
            on_ext: [Action::Ok, Action::Ok, Action::Ok],
            spans: ScriptSpans { wasm_path: written.span(), configs: [key, None, None, None, None] },
        })
    }
}
