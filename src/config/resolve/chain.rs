use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use super::Context;
use crate::config::diagnostic::nearest;
use crate::config::leaf::{Name, Size, final_status};
use crate::config::model::{
    ChainConfig, Chains, FilterConfig, Limits, OnFailure, PluginConfig, ScriptConfig, ScriptSpans,
};
use crate::config::{Diagnostic, Span, schema};
use crate::phase::{Action, Phase};

const MEMORY: usize = 64 << 20;
/// One page of WebAssembly memory: with less no module can start.
const LEAST_MEMORY: usize = 64 << 10;
const CPU: Duration = Duration::from_millis(50);
pub const WALL: Duration = Duration::from_secs(10);
const RECYCLE_AFTER: u64 = 100_000;

/// What a level hands down.
#[derive(Default)]
pub struct Level {
    pub chains: Chains,
    pub filters: Arc<Vec<FilterConfig>>,
    /// Whether `wasm_serverless` has a script that is on.
    pub serverless: bool,
}

/// The place of a plugin in its chain, to resolve what `on_extN` names.
struct Place<'c> {
    phase: Phase,
    /// Of all plugins of the chain.
    names: &'c [Option<Spanned<String>>],
    position: usize,
}

impl Context<'_> {
    /// The chains of a level: its own, and where it sets none those of the level above.
    pub fn level(&mut self, chains: schema::Chains, above: &Level) -> Level {
        let schema::Chains { phases, filters, .. } = chains;
        let serverless = phases[Phase::Serverless as usize].as_deref().map_or(above.serverless, has_script);
        let mut inherited = above.chains.iter().zip(Phase::ALL);
        let chains = phases.map(|own| {
            let (above, phase) = inherited.next()?;
            Some(own.map_or_else(|| above.clone(), |plugins| Arc::new(self.chain(phase, plugins))))
        });
        let filters = filters.map_or_else(|| above.filters.clone(), |filters| Arc::new(self.filters(filters)));
        Level { chains: chains.map(Option::unwrap_or_default), filters, serverless }
    }

    fn chain(&mut self, phase: Phase, plugins: Vec<schema::Plugin>) -> ChainConfig {
        let names: Vec<_> = plugins.iter().map(plugin_name).collect();
        self.check_unique(&plugins, &names);
        let mut chain = ChainConfig::default();
        for (position, plugin) in plugins.into_iter().enumerate() {
            let place = Place { phase, names: &names, position };
            let scripts = plugin.scripts.into_iter().filter_map(|script| self.script(&place, script)).collect();
            let name = names[position].as_ref().map(|name| name.get_ref().clone()).unwrap_or_default();
            chain.plugins.push(PluginConfig { name, scripts });
        }
        chain
    }

    fn check_unique(&mut self, plugins: &[schema::Plugin], names: &[Option<Spanned<String>>]) {
        let mut seen = HashSet::new();
        for (plugin, name) in plugins.iter().zip(names) {
            let Some(name) = name else { continue };
            if seen.insert(name.get_ref()) {
                continue;
            }
            let duplicate =
                Diagnostic::error(name.span(), format!("two plugins named `{}` in one chain", name.get_ref()));
            let named = plugin.name.is_some() || plugin.scripts.first().is_some_and(|script| script.name.is_some());
            self.error(if named {
                duplicate.help("give one of them another `name`")
            } else {
                let help = format!("give it a name of its own: `name = \"{}-2\"`", name.get_ref());
                duplicate.label("named after its file").help(help)
            });
        }
    }

    /// None for a script that is switched off, or has no module.
    fn script(&mut self, place: &Place, script: schema::Script) -> Option<ScriptConfig> {
        let on_ext = script.on_ext.map(|action| action.map(|action| self.action(place, &action)).unwrap_or_default());
        let limits = self.limits(Some(place.phase), &script.limits);
        if !script.is_open {
            return None;
        }
        let env = script.allow.env.iter().filter_map(|name| self.environment(name)).collect();
        let written = script.wasm_path?;
        let wasm_path = self.file("the module", &written)?;
        let mut keys = script.configs.each_ref().map(|config| config.as_ref().map(|config| config.key.clone()));
        let mut configs = script.configs.map(|config| config.map(|config| config.text));
        for (config, key) in configs.iter_mut().zip(&mut keys).skip(1) {
            if config.as_ref().is_some_and(String::is_empty) {
                (*config, *key) = (None, None);
            }
        }
        let default_on_failure = if place.phase == Phase::AccessLog { OnFailure::Open } else { OnFailure::Close };
        Some(ScriptConfig {
            name: script.name.map_or_else(|| file_stem(written.get_ref()), |name| name.into_inner().0),
            wasm_path,
            configs,
            on_failure: script.on_failure.unwrap_or(default_on_failure),
            instance: script.instance.unwrap_or_default(),
            limits,
            recycle_after: Some(script.recycle_after.unwrap_or(RECYCLE_AFTER)).filter(|requests| *requests > 0),
            recycle_memory: Some(script.recycle_memory.map_or(limits.memory / 2, |size| size.0))
                .filter(|size| *size > 0),
            env,
            net: script.allow.net,
            on_ext,
            spans: ScriptSpans { wasm_path: written.span(), configs: keys },
        })
    }

    /// Those of a script in this phase; none: of a named session.
    pub fn limits(&mut self, phase: Option<Phase>, limits: &schema::Limits) -> Limits {
        let enough = |memory: &&Spanned<Size>| memory.get_ref().0 >= LEAST_MEMORY;
        if let Some(memory) = limits.memory.as_ref().filter(|memory| !enough(memory)) {
            let message = "`memory` is less than one page of WebAssembly memory";
            self.error(
                Diagnostic::error(memory.span(), message).help("give at least `\"64KiB\"`; the default is `\"64MiB\"`"),
            );
        }
        Limits {
            memory: limits.memory.as_ref().filter(enough).map_or(MEMORY, |memory| memory.get_ref().0),
            cpu: limits.cpu_ms.unwrap_or(CPU),
            wall: limits.wall_ms.or(phase.filter(|phase| *phase != Phase::Serverless).map(|_| WALL)),
        }
    }

    pub fn environment(&mut self, name: &Spanned<String>) -> Option<(String, String)> {
        let problem = match std::env::var(name.get_ref()) {
            Ok(value) => return Some((name.get_ref().clone(), value)),
            Err(std::env::VarError::NotPresent) => "is not set",
            Err(std::env::VarError::NotUnicode(_)) => "is not UTF-8",
        };
        let message = format!("the environment variable `{}` {problem}", name.get_ref());
        self.error(
            Diagnostic::error(name.span(), message).help("set it where Phasegate is started, or remove it here"),
        );
        None
    }

    fn action(&mut self, place: &Place, text: &Spanned<String>) -> Action {
        let span = text.span();
        let (word, argument) = match text.get_ref().split_once(':') {
            Some((word, argument)) => (word, Some(argument)),
            None => (text.get_ref().as_str(), None),
        };
        let action = match (word, argument) {
            ("ok", None) => Some(Action::Ok),
            ("break", None) => Some(Action::Break),
            ("finish", None) => Some(Action::Finish),
            ("error", None) => Some(Action::Error),
            ("return", None) => Some(Action::Return),
            ("goto", Some(plugin)) => self.goto(place, &span, plugin),
            ("upstream", Some(name)) => self.choose_upstream(place.phase, &span, name),
            ("status", Some(code)) => self.status(&span, code),
            _ => {
                self.unknown_action(&span, text.get_ref());
                None
            }
        };
        let Some(action) = action else { return Action::Ok };
        if !action.supported_in(place.phase) {
            let message = format!("`{}` ends the request, which `{}` cannot do", text.get_ref(), place.phase);
            let help = "use `ok`, `break`, `finish` or `goto:PLUGIN`, or move the plugin to `wasm_access`";
            self.error(Diagnostic::error(span, message).help(help));
            return Action::Ok;
        }
        action
    }

    fn unknown_action(&mut self, span: &Span, text: &str) {
        let words = ["ok", "break", "finish", "error", "return", "goto:PLUGIN", "upstream:NAME", "status:CODE"];
        let help = match nearest(text, words) {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("use one of {}", words.join(", ")),
        };
        self.error(Diagnostic::error(span.clone(), format!("`{text}` is not something a verdict can do")).help(help));
    }

    fn goto(&mut self, place: &Place, span: &Span, plugin: &str) -> Option<Action> {
        let all = || place.names.iter().map(|name| name.as_ref().map_or("", |name| name.get_ref().as_str()));
        let later = || all().skip(place.position + 1).filter(|name| !name.is_empty());
        let position = all().position(|name| name == plugin && !name.is_empty());
        if let Some(position) = position.filter(|position| *position > place.position) {
            return Some(Action::Goto(position));
        }
        let message = match position {
            Some(position) if position == place.position => format!("`goto:{plugin}` leads from the plugin to itself"),
            Some(_) => format!("`goto:{plugin}` leads back to an earlier plugin"),
            None => format!("there is no plugin `{plugin}` in this chain"),
        };
        let help = match nearest(plugin, later()) {
            Some(name) if position.is_none() => format!("did you mean `goto:{name}`?"),
            _ if later().next().is_none() => "no plugin comes after this one: use `finish` or `break`".to_owned(),
            _ => format!("the plugins that come later are {}", later().collect::<Vec<_>>().join(", ")),
        };
        self.diagnostics.push_absent(Diagnostic::error(span.clone(), message).help(help));
        None
    }

    fn choose_upstream(&mut self, phase: Phase, span: &Span, name: &str) -> Option<Action> {
        if !phase.can_choose_upstream() {
            let message = format!("`upstream:{name}` chooses the upstream, which `{phase}` cannot do");
            self.error(Diagnostic::error(span.clone(), message).help("move the plugin to `wasm_access`"));
            return None;
        }
        let upstream = Spanned::new(span.clone(), name.to_owned());
        self.upstream_for(&upstream).map(|_| Action::Upstream(upstream.into_inner()))
    }

    fn status(&mut self, span: &Span, code: &str) -> Option<Action> {
        let three_digits = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
        let status = code.parse().ok().filter(|_| three_digits).and_then(final_status);
        if status.is_none() {
            let message = format!("`{code}` is not a status from 200 to 599");
            self.error(Diagnostic::error(span.clone(), message).help("for example: `status:429`"));
        }
        status.map(|status| Action::Status(status.as_u16()))
    }
}

/// Its `name`, else the name of its first script.
fn plugin_name(plugin: &schema::Plugin) -> Option<Spanned<String>> {
    let named = |name: &Spanned<_>| Spanned::new(name.span(), crate::config::leaf::Name::clone(name.get_ref()).0);
    let script = plugin.scripts.first();
    let name = plugin.name.as_ref().or_else(|| script?.name.as_ref());
    name.map(named).or_else(|| {
        let path = script?.wasm_path.as_ref()?;
        Some(Spanned::new(path.span(), file_stem(path.get_ref())))
    })
}

/// The name that a file gives to what is in it.
pub fn file_stem(path: &str) -> String {
    Path::new(path).file_stem().map(|stem| stem.to_string_lossy().replace(Name::breaks, "_")).unwrap_or_default()
}

/// Whether a script of the plugins is on. One that is missing by mistake counts, as it is reported already.
fn has_script(plugins: &[schema::Plugin]) -> bool {
    plugins.iter().any(|plugin| plugin.scripts.is_empty() || plugin.scripts.iter().any(|script| script.is_open))
}
