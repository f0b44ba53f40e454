//! Proxy-Wasm filters.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::config::Span;

#[derive(Clone, Debug)]
pub struct FilterConfig {
    /// Several filters of a chain may have the same.
    pub name: String,
    pub code: Code,
    pub root_id: String,
    pub vm_id: String,
    /// Empty when there is none: filters cannot tell.
    pub configuration: String,
    pub vm_configuration: String,
    pub failure_policy: FailurePolicy,
    pub instances: Instances,
    /// The environment that the guest sees; each name once.
    pub env: Vec<(String, String)>,
    /// Names of `config::abi`, sorted, each once; none: everything is allowed.
    pub allowed_capabilities: Vec<String>,
    pub limits: FilterLimits,
    /// Whether a filter that holds the headers is still given the body.
    pub allow_on_headers_stop_iteration: bool,
    pub spans: FilterSpans,
}

/// Where the code of a filter comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// A file, which is there; what is in it is not checked yet.
    Local(PathBuf),
    Remote(Remote),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Remote {
    /// Absolute, of http or https, with a host.
    pub url: String,
    pub sha256: [u8; 32],
    /// Attempts after the first one.
    pub retries: u32,
    /// Of one attempt.
    pub timeout: Duration,
}

/// What becomes of streams when the VM has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FailurePolicy {
    /// They end with 503.
    #[default]
    Closed,
    /// They go on without the filter.
    Open,
    /// A new VM is made after a while; until then as `Closed`.
    Reload,
}

/// How many VMs serve the streams of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instances {
    /// From 1.
    Slots(usize),
    /// One for each request.
    Request,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FilterLimits {
    /// Bytes of guest memory.
    pub memory: usize,
    /// CPU time of a callback.
    pub cpu: Duration,
    /// The longest pause of a stream.
    pub wall: Duration,
    /// Bytes of a body that may be held, in each direction.
    pub buffer: usize,
    /// In flight for one VM.
    pub callouts: usize,
}

/// Where to point when the filter turns out to be wrong. Without a key for a configuration, the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterSpans {
    pub code: Span,
    pub configuration: Span,
    pub vm_configuration: Span,
}

/// A filter without streams.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    pub filter: FilterConfig,
    /// One VM in the process; else as many as `FilterConfig::instances` says.
    pub singleton: bool,
}
