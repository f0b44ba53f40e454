//! A plugin: a filter or a service as it is configured, and the group of VMs that it runs in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::group::Group;
use super::state::Task;
use super::stream::Stream;
use super::vm::StartError;
use crate::config::FailurePolicy;
use crate::observe::metrics::FilterMetrics;
use crate::phase::FailureKind;

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
        let error = error.to_string().replace('\n', "\n    ");
        log::error!("filter={name} request={request} failed: {}: the plugin {error}", kind.name());
    }
}

/// A plugin that has been tried, or started. Dropped, it is shut down.
pub struct Plugin {
    pub identity: Arc<Identity>,
    pub group: Arc<Group>,
    is_started: AtomicBool,
    /// There while it is to be started anew after failures.
    revival: Mutex<Vec<Task>>,
    /// Whether the log has said that none of its VMs is left.
    pub is_gone: AtomicBool,
}

impl Plugin {
    pub fn new(identity: Identity, group: Arc<Group>) -> Plugin {
        let (is_started, is_gone) = (AtomicBool::new(false), AtomicBool::new(false));
        Plugin { identity: Arc::new(identity), group, is_started, revival: Mutex::default(), is_gone }
    }

    /// Starts it wherever it does not run, and from now on anew, or not, where it fails.
    pub fn start(self: &Arc<Plugin>, revives: bool) {
        self.group.start(self);
        let mut revival = self.revival.lock();
        if !revives {
            revival.clear();
        } else if revival.is_empty() {
            *revival = self.group.revive(self);
        }
    }

    /// Whether it runs in the VMs of its group, or should.
    pub fn is_started(&self) -> bool {
        self.is_started.load(Ordering::Relaxed)
    }

    pub fn has_started(&self) {
        self.is_started.store(true, Ordering::Relaxed);
        self.is_gone.store(false, Ordering::Relaxed);
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
    watch: OnceLock<Vec<Task>>,
}

impl Service {
    pub fn new(plugin: Arc<Plugin>, failure_policy: FailurePolicy) -> Service {
        Service { plugin, failure_policy, watch: OnceLock::new() }
    }

    /// From its start on, has the log say when it fails for good: there is no request that would notice.
    pub fn watch(&self) {
        if self.failure_policy != FailurePolicy::Reload {
            self.watch.get_or_init(|| self.plugin.group.watch(&self.plugin.identity));
        }
    }
}
