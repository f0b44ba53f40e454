//! A plugin: a filter or a service as it is configured, and the group of VMs that it runs in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::group::Group;
use super::module::Abi;
use super::state::Task;
use super::stream::Stream;
use super::vm::StartError;
use crate::config::FailurePolicy;
use crate::observe::metrics::FilterMetrics;
use crate::phase::FailureKind;
use crate::wasm::log::indented;

/// By which a plugin is known in its VMs. Those of the same identity share a root context.
pub struct Identity {
    pub name: String,
    pub root_id: String,
    pub configuration: Arc<str>,
    pub metrics: FilterMetrics,
}

impl Identity {
    pub fn is_same(&self, other: &Identity) -> bool {
        (&self.name, &self.root_id, &self.configuration) == (&other.name, &other.root_id, &other.configuration)
    }

    /// Counts and logs that it could not be started where it ran, or for a request.
    pub fn failed_to_start(&self, error: &StartError, stream: Option<&Arc<Stream>>) {
        let kind = FailureKind::Instantiate;
        self.metrics.failures(kind).inc();
        let request = stream.map(|stream| stream.lock().facts.request_id().to_owned());
        let (name, request) = (&self.name, request.as_deref().unwrap_or("-"));
        let error = indented(&error.to_string());
        log::error!("filter={name} request={request} failed: {}: the plugin {error}", kind.name());
    }
}

/// A plugin that has been tried, or started. Dropped, it is shut down.
pub struct Plugin {
    pub identity: Arc<Identity>,
    pub group: Arc<Group>,
    is_started: AtomicBool,
    care: Mutex<(Care, Vec<Task>)>,
    /// Whether the log has said that none of its VMs is left.
    pub is_gone: AtomicBool,
}

/// What is done where the VM of a plugin fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Care {
    #[default]
    None,
    /// It is started anew if it has exceeded a limit.
    Limits,
    /// Else the log says that it stays down: there is no request that would notice.
    Tell,
    /// It is started anew.
    Revive,
}

impl Plugin {
    pub fn new(identity: Identity, group: Arc<Group>) -> Plugin {
        let (is_started, is_gone) = (AtomicBool::new(false), AtomicBool::new(false));
        Plugin { identity: Arc::new(identity), group, is_started, care: Mutex::default(), is_gone }
    }

    /// Says what is done from now on where it fails. It has been started.
    pub fn take_care(self: &Arc<Plugin>, care: Care) {
        let mut current = self.care.lock();
        if current.0 != care {
            let tasks = match care {
                Care::None => Vec::new(),
                Care::Limits => self.group.look_after(self, Group::reload_if_limited),
                Care::Tell => self.group.look_after(self, Group::tell),
                Care::Revive => self.group.look_after(self, Group::reload),
            };
            *current = (care, tasks);
        }
    }

    /// Whether headers callbacks may answer with StopIteration: it was built for that.
    pub fn allows_stop_iteration(&self) -> bool {
        self.group.environment.abi == Abi::V0_2_100
    }

    pub fn revives(&self) -> bool {
        self.care.lock().0 == Care::Revive
    }

    /// Whether it runs in the VMs of its group, or should.
    pub fn is_started(&self) -> bool {
        self.is_started.load(Ordering::Relaxed)
    }

    /// Gives what it was before.
    pub fn set_started(&self, is_started: bool) -> bool {
        self.is_started.swap(is_started, Ordering::Relaxed)
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.group.shut_down(&self.identity, || false);
    }
}

/// A plugin without streams: it runs as long as this lives.
pub struct Service {
    pub plugin: Arc<Plugin>,
    pub failure_policy: FailurePolicy,
}

impl Service {
    pub fn new(plugin: Arc<Plugin>, failure_policy: FailurePolicy) -> Service {
        Service { plugin, failure_policy }
    }
}

/// A plugin does not start beside others, although it did so alone.
#[derive(Debug, thiserror::Error)]
#[error("the filter {name} {error}")]
pub struct FailedStart {
    pub name: String,
    pub error: StartError,
}
