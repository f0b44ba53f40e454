use super::{Ext, Phase, Verdict};

/// What `on_ext1`, `on_ext2` or `on_ext3` makes of its verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Action {
    #[default]
    Ok,
    Break,
    Finish,
    Error,
    Return,
    /// Go on with a later plugin of the same chain: its position in the chain.
    Goto(usize),
    /// Go on with the next script, and send the request to the upstream of this name.
    Upstream(String),
    /// End the request with this status.
    Status(u16),
}

impl Action {
    /// Whether a chain of this phase can do it.
    pub fn supported_in(&self, phase: Phase) -> bool {
        match self {
            Action::Error | Action::Return | Action::Status(_) => phase.can_end_request(),
            Action::Upstream(_) => phase.can_choose_upstream(),
            Action::Ok | Action::Break | Action::Finish | Action::Goto(_) => true,
        }
    }
}

/// The plugins of one phase, each a list of scripts, flattened: `S` is whatever runs a script.
#[derive(Debug)]
pub struct Chain<S> {
    scripts: Vec<Entry<S>>,
    /// Position in `scripts` of the first script of each plugin, and the end.
    plugins: Vec<usize>,
}

#[derive(Debug)]
struct Entry<S> {
    script: S,
    plugin: usize,
    on_ext: [Action; 3],
}

impl<S> Default for Chain<S> {
    fn default() -> Self {
        Chain { scripts: Vec::new(), plugins: Vec::new() }
    }
}

impl<S> Chain<S> {
    /// Begins the next plugin. One that gets no script (all are switched off) is passed over.
    pub fn add_plugin(&mut self) {
        self.plugins.push(self.scripts.len());
    }

    /// Adds a script to the plugin begun last.
    pub fn add_script(&mut self, script: S, on_ext: [Action; 3]) {
        debug_assert!(!self.plugins.is_empty(), "a script needs a plugin");
        let plugin = self.plugins.len().saturating_sub(1);
        self.scripts.push(Entry { script, plugin, on_ext });
    }

    pub fn is_empty(&self) -> bool {
        self.scripts.is_empty()
    }

    /// All scripts, in order.
    pub fn scripts(&self) -> impl Iterator<Item = &S> {
        self.scripts.iter().map(|entry| &entry.script)
    }

    /// Starts at the first script.
    pub fn walk(&self, phase: Phase) -> Walk<'_, S> {
        Walk { chain: self, phase, at: 0, ran: None }
    }

    /// Position of the first script at or after plugin `plugin`.
    fn start_of(&self, plugin: usize) -> usize {
        self.plugins.get(plugin).copied().unwrap_or(self.scripts.len())
    }
}

/// One evaluation of a chain: ask for the script, run it, hand its verdict back.
#[derive(Debug)]
pub struct Walk<'c, S> {
    chain: &'c Chain<S>,
    phase: Phase,
    at: usize,
    /// Position of the script that ran last.
    ran: Option<usize>,
}

/// What a verdict led to.
#[derive(Debug, PartialEq, Eq)]
pub struct Step<'c> {
    /// Set when the request ends here.
    pub end: Option<End>,
    /// Set when the upstream was chosen.
    pub upstream: Option<&'c str>,
    /// Set when the phase does not support this verdict, or what the configuration makes of it: it was taken as `ok`.
    pub unsupported: bool,
}

/// How a chain ends the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The response that the plugin set, else 500.
    Error,
    /// The response that the plugin set, else the default of the phase.
    Return,
    /// A response with this status.
    Status(u16),
}

impl<'c, S> Walk<'c, S> {
    /// The script to run next; none when the chain has ended.
    pub fn script(&self) -> Option<&'c S> {
        self.chain.scripts.get(self.at).map(|entry| &entry.script)
    }

    /// The script that ran last.
    pub fn ran(&self) -> Option<&'c S> {
        self.chain.scripts.get(self.ran?).map(|entry| &entry.script)
    }

    /// Whether the script to run next is of another plugin than the one that ran last.
    pub fn is_at_next_plugin(&self) -> bool {
        let plugin = |at: usize| self.chain.scripts.get(at).map(|entry| entry.plugin);
        let (Some(ran), Some(next)) = (self.ran.and_then(plugin), plugin(self.at)) else { return false };
        ran != next
    }

    /// Applies the verdict of the script that `script` gave.
    pub fn apply(&mut self, verdict: Verdict) -> Step<'c> {
        let chain = self.chain;
        let Some(entry) = chain.scripts.get(self.at) else {
            return Step { end: None, upstream: None, unsupported: false };
        };
        let action = match verdict {
            Verdict::Ok => &Action::Ok,
            Verdict::Break => &Action::Break,
            Verdict::Finish => &Action::Finish,
            Verdict::Error => &Action::Error,
            Verdict::Return => &Action::Return,
            Verdict::Ext(ext) => &entry.on_ext[ext as usize],
        };
        self.ran = Some(self.at);
        let unsupported = !action.supported_in(self.phase);
        let mut step = Step { end: None, upstream: None, unsupported };
        let action = if unsupported { &Action::Ok } else { action };

        let end = chain.scripts.len();
        self.at = match action {
            Action::Ok => self.at + 1,
            Action::Break => chain.start_of(entry.plugin + 1),
            // Only ever forwards: a configuration cannot make a chain run in circles.
            Action::Goto(plugin) => chain.start_of((*plugin).max(entry.plugin + 1)),
            Action::Upstream(name) => {
                step.upstream = Some(name);
                self.at + 1
            }
            Action::Finish | Action::Error | Action::Return | Action::Status(_) => end,
        };
        step.end = match action {
            Action::Error => Some(End::Error),
            Action::Return => Some(End::Return),
            Action::Status(code) => Some(End::Status(*code)),
            _ => None,
        };
        step
    }

    /// Passes over a script that has failed.
    pub fn skip(&mut self) {
        self.ran = Some(self.at);
        self.at += 1;
    }
}

// `on_ext` is indexed by it.
const _: () = assert!(Ext::Ext1 as usize == 0 && Ext::Ext2 as usize == 1 && Ext::Ext3 as usize == 2);
