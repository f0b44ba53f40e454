//! What the host keeps of a VM: the data of its store.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::exchange::ResponseHeader;
use bytes::Bytes;
use http::HeaderMap;
use wasmtime::TypedFunc;

use super::abi::{Direction, Status};
use super::calls::Calls;
use super::module::Abi;
use super::plugin::Identity;
use super::property::Declared;
use super::slot::Slot;
use super::stream::Stream;
use super::{Services, wasi};
use crate::capability::resp::RedisClient;
use crate::capability::shared::{Namespace, QueueListener};
use crate::observe::metrics::Counted;
use crate::wasm::Failure;
use crate::wasm::limits::{Cpu, Memory};
use crate::wasm::log::{Output, indented};

/// Names of unknown clusters that the log tells: they may be made of what requests say.
const MOST_UNKNOWN: usize = 16;

/// Bytes of such a name that it shows.
const LONGEST_UNKNOWN: usize = 256;

/// The data of a VM's store.
pub struct State {
    /// There once the module is instantiated.
    pub memory: Option<wasmtime::Memory>,
    /// The guest's allocator: `malloc`, else `proxy_on_memory_allocate`, as in Envoy.
    pub allocate: Option<TypedFunc<u32, u32>>,
    pub mode: Mode,
    pub limits: Memory,
    pub cpu: Cpu,
    pub contexts: Contexts,
    /// What callouts the VM waits for.
    pub calls: Calls,
    /// What the callback that runs may look at.
    pub shown: Shown,
    /// What to do when the callback has returned.
    pub effects: Vec<Effect>,
    pub vm: Arc<Environment>,
    pub services: Arc<Services>,
    /// Where it lives; gone when it is being taken down.
    pub slot: Weak<Slot>,
    pub purpose: Purpose,
    /// There when the last stream of a request's VM has ended, and callouts have not: what its plugins end by at the latest.
    pub farewell: Option<Parked>,
    /// What the guest has written without ending the line.
    pub output: Output,
    /// Whether it has written anything in this callback: asking the output itself would cost every callback a lock.
    pub has_written: bool,
    /// The functions of which the log has said that they are at a limit.
    pub at_limit: HashSet<&'static str>,
    /// The names of which the log has said that no upstream has them.
    pub unknown_clusters: HashSet<String>,
    /// Of all, and of its group.
    pub _alive: (Counted, Counted),
}

/// What all VMs of a group have in common.
pub struct Environment {
    pub vm_id: String,
    pub configuration: Arc<str>,
    pub variables: Vec<(String, String)>,
    /// Callouts that may be in flight.
    pub callouts: usize,
    pub abi: Abi,
    /// What it shares with others of the same `vm_id`.
    pub shared: Arc<Namespace>,
}

/// What a VM is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Streams of many requests, and what plugins do beside them.
    Slot,
    /// The streams of one request.
    Request,
    /// To show that a plugin starts, and nothing more.
    Trial,
}

/// What the guest is doing: not every host function may be called then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `_initialize`, `main` or `_start`.
    Initializing,
    Running,
    /// It allocates memory for the host.
    Allocating,
}

/// The contexts of a VM, and which of them calls.
#[derive(Default)]
pub struct Contexts {
    all: HashMap<u32, Context, BuildHasherDefault<Identically>>,
    last: u32,
    /// 0 when none.
    pub current: u32,
    /// Whose callback runs, whatever context it has taken on.
    pub called: u32,
    /// Of a stream, when it is about one.
    pub direction: Option<Direction>,
}

pub enum Context {
    Root(Root),
    Stream(StreamContext),
}

/// One plugin in this VM.
pub struct Root {
    pub identity: Arc<Identity>,
    /// Who is told of messages in its queues.
    pub listener: Arc<dyn QueueListener>,
    pub tick: Tick,
    /// The properties that it has declared.
    pub declared: Vec<Declared>,
    /// How it has said that it comes to clusters that are Redis.
    pub redis: HashMap<String, Redis>,
    /// There when `proxy_on_done` has answered false: it is deleted on `proxy_done`.
    pub parked: Option<Parked>,
}

/// A plugin's way to a cluster that is Redis.
#[derive(Clone)]
pub struct Redis {
    pub client: Arc<RedisClient>,
    /// What a command may take.
    pub timeout: Duration,
}

/// Of a plugin that is shut down, and has not called `proxy_done` yet, or of a VM that waits for its callouts: the end of the
/// process waits for it.
pub struct Parked {
    /// Keeps the VM until then.
    pub _waiting: Task,
    pub _counts: Arc<()>,
}

/// The clock of a root context.
#[derive(Default)]
pub struct Tick {
    /// Milliseconds; 0: none.
    pub period: u32,
    pub task: Option<Task>,
}

/// A task in the background. Dropped, it is cancelled.
pub struct Task(pub tokio::task::AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One filter of one request.
pub struct StreamContext {
    pub stream: Arc<Stream>,
    /// In its chain.
    pub position: usize,
    pub root: u32,
    /// The properties that it has declared itself.
    pub declared: Vec<Declared>,
}

/// Values that there are only while a callback runs which is about them.
#[derive(Default)]
pub struct Shown {
    /// While a plugin starts.
    pub plugin_configuration: Option<Arc<str>>,
    pub call_headers: Option<ResponseHeader>,
    pub call_trailers: Option<HeaderMap>,
    pub call_body: Option<Bytes>,
    pub grpc_initial_metadata: Option<ResponseHeader>,
    pub grpc_trailing_metadata: Option<HeaderMap>,
    pub grpc_message: Option<Bytes>,
    pub redis_reply: Option<Bytes>,
    /// What `proxy_get_status` answers.
    pub status: Option<(u32, String)>,
}

/// What a callback has asked for, and the host does after it.
pub enum Effect {
    /// The tick of this root context has changed.
    Tick(u32),
    /// `proxy_done` of this root context.
    Done(u32, Parked),
}

impl Contexts {
    pub fn add_stream(&mut self, stream: StreamContext) -> u32 {
        let id = self.next();
        self.all.insert(id, Context::Stream(stream));
        id
    }

    pub fn add_root(&mut self, root: impl FnOnce(u32) -> Root) -> u32 {
        let id = self.next();
        self.all.insert(id, Context::Root(root(id)));
        id
    }

    fn next(&mut self) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            // 0 stands for none.
            if self.last != 0 && !self.all.contains_key(&self.last) {
                return self.last;
            }
        }
    }

    pub fn remove(&mut self, id: u32) -> Option<Context> {
        self.all.remove(&id)
    }

    pub fn contains(&self, id: u32) -> bool {
        self.all.contains_key(&id)
    }

    pub fn root_mut(&mut self, id: u32) -> Option<&mut Root> {
        match self.all.get_mut(&id) {
            Some(Context::Root(root)) => Some(root),
            _ => None,
        }
    }

    /// The properties that the context that calls has declared; none without a context.
    pub fn declared(&mut self) -> Option<&mut Vec<Declared>> {
        match self.all.get_mut(&self.current)? {
            Context::Root(root) => Some(&mut root.declared),
            Context::Stream(stream) => Some(&mut stream.declared),
        }
    }

    /// A callback for the body or trailers of a stream begins: what was continued before is not what it pauses.
    pub fn forget_resume(&self, id: u32, direction: Direction) {
        if let Some(Context::Stream(StreamContext { stream, position, .. })) = self.all.get(&id) {
            stream.lock().held(direction, *position).resume = false;
        }
    }

    /// The stream of the context that calls.
    ///
    /// # Errors
    /// When that is a root context, or none.
    pub fn stream(&self) -> Result<&StreamContext, Status> {
        match self.all.get(&self.current) {
            Some(Context::Stream(stream)) => Ok(stream),
            _ => Err(Status::NotFound),
        }
    }

    /// The root context of the one that calls.
    ///
    /// # Errors
    /// When there is none, as during initialization.
    pub fn root(&self) -> Result<(u32, &Root), Status> {
        let id = match self.all.get(&self.current) {
            Some(Context::Stream(stream)) => stream.root,
            _ => self.current,
        };
        match self.all.get(&id) {
            Some(Context::Root(root)) => Ok((id, root)),
            _ => Err(Status::NotFound),
        }
    }

    /// How the plugin of the context that calls comes to clusters that are Redis.
    ///
    /// # Errors
    /// As [`Contexts::root`].
    pub fn redis(&mut self) -> Result<&mut HashMap<String, Redis>, Status> {
        let (id, _) = self.root()?;
        self.root_mut(id).map(|root| &mut root.redis).ok_or(Status::NotFound)
    }

    /// All streams.
    pub fn streams(&self) -> impl Iterator<Item = &Arc<Stream>> {
        self.all.values().filter_map(|context| match context {
            Context::Stream(context) => Some(&context.stream),
            Context::Root(_) => None,
        })
    }
}

/// Context ids are counted: they need no hashing.
#[derive(Default)]
pub struct Identically(u64);

impl Hasher for Identically {
    fn finish(&self) -> u64 {
        // Spread over the upper bits, which the table looks at too.
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0 << 8 | u64::from(*byte));
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = id.into();
    }
}

impl State {
    /// A context is gone, and with a root context what it waits for.
    pub fn forget(&mut self, context: u32) {
        if let Some(Context::Root(_)) = self.contexts.remove(context) {
            self.calls.give_up(context);
        }
    }

    /// Writes a line of the filter to the log.
    pub fn log(&self, level: log::Level, text: &str) {
        let Ok((_, root)) = self.contexts.root() else {
            return crate::wasm::log::write_filter(level, &self.vm.vm_id, None, text);
        };
        if !crate::wasm::log::enabled(level) {
            return;
        }
        crate::wasm::log::write_filter(level, &root.identity.name, self.request_id().as_deref(), text);
    }

    /// A callback has ended, and with it the line that it left open.
    pub fn end_output(&mut self) {
        if std::mem::take(&mut self.has_written) {
            self.log_output(self.output.take());
        }
    }

    fn log_output(&self, lines: Vec<(log::Level, Vec<u8>)>) {
        for (level, lines) in lines {
            self.log(level, String::from_utf8_lossy(&lines).trim_end());
        }
    }

    /// What a filter has set cannot be sent, or kept: its stream ends, and nothing goes on without that. SDKs panic over
    /// statuses that would say so, which would end all streams of the VM.
    pub fn end_stream(&self, function: &str, why: &dyn Display) {
        let Ok(context) = self.contexts.stream() else { return };
        context.stream.lock().fail(why.to_string());
        context.stream.wake();
        self.log(log::Level::Warn, &format!("{function}: {why}: the stream ends"));
    }

    /// A function does not do what it was asked for, as where there is too much already. The log says it once, for it may be so
    /// for long.
    pub fn at_limit(&mut self, function: &'static str, error: &dyn Display) {
        if self.at_limit.insert(function) {
            self.log(log::Level::Warn, &format!("{function}: {error}"));
        }
    }

    /// A callout is to a cluster that is not there: its status does not say so. The log does, once for each name.
    pub fn no_cluster(&mut self, function: &str, name: &str) {
        let name = &name[..name.floor_char_boundary(LONGEST_UNKNOWN)];
        if self.unknown_clusters.len() < MOST_UNKNOWN && self.unknown_clusters.insert(name.to_owned()) {
            self.log(log::Level::Warn, &format!("{function}: there is no [upstream.{name}]"));
        }
    }

    /// Counts a failure and logs it, once.
    pub fn report(&self, Failure { kind, detail }: &Failure) {
        if let Ok((_, root)) = self.contexts.root() {
            root.identity.metrics.failures(*kind).inc();
        }
        log::error!("{} failed: {}: {}", self.who(), kind.name(), indented(detail));
    }

    /// The guest has called a function that `allowed_capabilities` does not list.
    pub fn denied(&self, function: &str) {
        log::warn!("`{function}` is not in allowed_capabilities, and was called by {}", self.who());
    }

    /// Who runs, as lines of the log begin.
    fn who(&self) -> String {
        match self.contexts.root() {
            Ok((_, root)) => {
                format!("filter={} request={}", root.identity.name, self.request_id().as_deref().unwrap_or("-"))
            }
            Err(_) => format!("filter of the VM `{}`", self.vm.vm_id),
        }
    }

    fn request_id(&self) -> Option<String> {
        let context = self.contexts.stream().ok()?;
        Some(context.stream.lock().facts.request_id().to_owned())
    }
}

impl wasi::Host for State {
    fn memory(&self) -> Option<wasmtime::Memory> {
        self.memory
    }

    fn environment(&self) -> &[(String, String)] {
        &self.vm.variables
    }

    fn output(&mut self, level: log::Level, text: &[u8]) {
        self.has_written = true;
        self.output.write(level, text);
        self.log_output(self.output.take_lines());
    }
}
