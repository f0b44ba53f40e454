//! A plugin: a filter or a service as it is configured, and the group of VMs that it runs in.

use std::sync::Arc;

use super::group::Group;
use super::vm::StartError;
use crate::observe::metrics::FilterMetrics;

/// By which a plugin is known in its VMs. Those of the same identity share a root context.
pub struct Identity {
    pub name: String,
    pub root_id: String,
    pub configuration: Option<Arc<str>>,
    pub metrics: FilterMetrics,
}

impl Identity {
    pub fn is_same(&self, other: &Identity) -> bool {
        (&self.name, &self.root_id, &self.configuration) == (&other.name, &other.root_id, &other.configuration)
    }

    /// Logs that a VM could not be started for a request.
    pub fn failed_to_start(&self, error: &StartError) {
        log::error!("filter={} the plugin {}", self.name, error.to_string().replace('\n', "\n    "));
    }
}

/// A plugin that has been started. Dropped, it is shut down.
pub struct Plugin {
    pub identity: Arc<Identity>,
    pub group: Arc<Group>,
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.group.shut_down(&self.identity);
    }
}
