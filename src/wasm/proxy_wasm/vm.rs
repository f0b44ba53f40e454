//! A VM: an instance of a module with its contexts, and the callbacks that it exports. Callbacks run to their end, one at
//! a time; what they ask for is done after them.

use std::collections::HashMap;
use std::sync::Arc;

use wasmtime::{Instance, InstancePre, Store, TypedFunc, WasmParams, WasmResults};

use super::abi::{Both, Direction};
use super::module::Abi;
use super::plugin::Identity;
use super::slot::Listener;
use super::state::{Mode, Root, State, StreamContext, Tick};
use crate::wasm::limits::Cpu;

/// A VM. After a trap nothing of it may be called any more.
pub struct Vm {
    store: Store<State>,
    callbacks: Callbacks,
    cpu: CpuTimes,
    /// Whether what the VM has computed until now counts as the start of the first plugin.
    is_new: bool,
    roots: Vec<(Arc<Identity>, u32)>,
}

/// How long the guest may compute.
#[derive(Clone)]
pub struct CpuTimes {
    pub of_callback: Cpu,
    /// Of all callbacks with which a plugin starts, and of the VM's own before them.
    pub of_start: Cpu,
}

/// Why a VM or a plugin in it did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("exports no memory named `memory`")]
    NoMemory,
    #[error("exports neither `malloc` nor `proxy_on_memory_allocate`")]
    NoAllocator,
    #[error("exports `{0}` with other parameters or results than those of its ABI")]
    Signature(String),
    #[error("failed while it was instantiated: {0}")]
    Instantiate(String),
    #[error("failed in {callback}: {error}")]
    Trap { callback: &'static str, error: String },
    #[error("refused its configuration: `{0}` answered false")]
    Refused(&'static str),
}

/// What the guest exports; what it does not is taken for Continue, true, or nothing to do.
struct Callbacks {
    on_context_create: Option<TypedFunc<(u32, u32), ()>>,
    on_vm_start: Option<TypedFunc<(u32, u32), u32>>,
    on_configure: Option<TypedFunc<(u32, u32), u32>>,
    on_tick: Option<TypedFunc<u32, ()>>,
    on_queue_ready: Option<TypedFunc<(u32, u32), ()>>,
    on_headers: Both<Option<HeadersCallback>>,
    on_body: Both<Option<BodyCallback>>,
    on_trailers: Both<Option<TypedFunc<(u32, u32), u32>>>,
    on_http_call_response: Option<TypedFunc<CallResponse, ()>>,
    on_grpc_receive_initial_metadata: Option<TypedFunc<(u32, u32, u32), ()>>,
    on_grpc_receive: Option<TypedFunc<(u32, u32, u32), ()>>,
    on_grpc_receive_trailing_metadata: Option<TypedFunc<(u32, u32, u32), ()>>,
    on_grpc_close: Option<TypedFunc<(u32, u32, u32), ()>>,
    on_redis_call_response: Option<TypedFunc<(u32, u32, u32, u32), ()>>,
    on_done: Option<TypedFunc<u32, u32>>,
    on_log: Option<TypedFunc<u32, ()>>,
    on_delete: Option<TypedFunc<u32, ()>>,
}

/// Of a root context: the id of the call, and how many headers, bytes of the body and trailers there are.
type CallResponse = (u32, u32, u32, u32, u32);

/// Context, size, end of stream; the action.
type BodyCallback = TypedFunc<(u32, u32, u32), u32>;

/// `proxy_on_request_headers`, `proxy_on_response_headers`.
enum HeadersCallback {
    /// ABI 0.1.0 does not tell about the end of the stream.
    Two(TypedFunc<(u32, u32), u32>),
    Three(TypedFunc<(u32, u32, u32), u32>),
}

/// Which callbacks may be called: all of them, or those that the configuration lists.
pub type Allowed = Option<std::collections::HashSet<String>>;

impl Vm {
    /// Makes an instance and initializes it: in the time of a start, which goes on with the first plugin.
    ///
    /// # Errors
    /// When it is not a Proxy-Wasm module, or fails.
    pub fn start(pre: &InstancePre<State>, state: State, cpu: CpuTimes, allowed: &Allowed) -> Result<Vm, StartError> {
        let mut store = Store::new(pre.module().engine(), state);
        store.limiter(|state| &mut state.limits);
        store.epoch_deadline_callback(|mut store| store.data_mut().cpu.tick());
        store.set_epoch_deadline(1);
        let instance = pre.instantiate(&mut store);
        store.data_mut().end_output();
        let instance = instance.map_err(|error| StartError::Instantiate(format!("{error:#}")))?;
        let memory = instance.get_memory(&mut store, "memory").ok_or(StartError::NoMemory)?;
        let allocate = match export(&instance, &mut store, &["malloc", "proxy_on_memory_allocate"])? {
            Some(allocate) => allocate,
            None => return Err(StartError::NoAllocator),
        };
        store.data_mut().memory = Some(memory);
        store.data_mut().allocate = Some(allocate);
        let callbacks = Callbacks::of(&instance, &mut store, allowed)?;
        let mut vm = Vm { store, callbacks, cpu, is_new: true, roots: Vec::new() };
        let initialized = vm.initialize(&instance);
        vm.state().end_output();
        initialized?;
        vm.store.data_mut().mode = Mode::Running;
        Ok(vm)
    }

    /// `_initialize` and `main`, else `_start`.
    fn initialize(&mut self, instance: &Instance) -> Result<(), StartError> {
        let trap = |callback| move |error: wasmtime::Error| StartError::Trap { callback, error: format!("{error:?}") };
        let store = &mut self.store;
        if let Some(initialize) = export::<(), ()>(instance, store, &["_initialize"])? {
            initialize.call(&mut *store, ()).map_err(trap("_initialize"))?;
            if let Some(main) = export::<(u32, u32), u32>(instance, store, &["main"])? {
                main.call(&mut *store, (0, 0)).map_err(trap("main"))?;
            } else if let Some(main) = export::<(), u32>(instance, store, &["__main_void"])? {
                main.call(&mut *store, ()).map_err(trap("__main_void"))?;
            }
        } else if let Some(start) = export::<(), ()>(instance, store, &["_start"])? {
            start.call(&mut *store, ()).map_err(trap("_start"))?;
        }
        Ok(())
    }

    /// Starts a plugin, unless it has been started: its root context.
    ///
    /// # Errors
    /// When it traps or refuses its configuration. After a trap the VM must not be used any more.
    pub fn start_plugin(&mut self, identity: &Arc<Identity>) -> Result<(), StartError> {
        if self.root(identity).is_some() {
            return Ok(());
        }
        if !std::mem::take(&mut self.is_new) {
            self.store.data_mut().cpu = self.cpu.of_start.clone();
        }
        let state = self.store.data_mut();
        let id = state.contexts.add_root(|id| Root {
            identity: identity.clone(),
            listener: Arc::new(Listener::new(id, state.slot.clone(), state.services.clone())),
            tick: Tick::default(),
            declared: Vec::new(),
            redis: HashMap::new(),
            parked: None,
        });
        let started = self.start_root(id, identity);
        let state = self.store.data_mut();
        state.cpu = self.cpu.of_callback.clone();
        state.shown.plugin_configuration = None;
        match started {
            Ok(()) => {
                self.roots.push((identity.clone(), id));
                Ok(())
            }
            Err(error) => {
                state.forget(id);
                Err(error)
            }
        }
    }

    fn start_root(&mut self, id: u32, identity: &Identity) -> Result<(), StartError> {
        let trap = |callback| move |error: wasmtime::Error| StartError::Trap { callback, error: format!("{error:?}") };
        let length = |text: &str| u32::try_from(text.len()).unwrap_or(u32::MAX);
        let state = self.store.data_mut();
        let vm_configuration = length(&state.vm.configuration);
        let configuration = length(&identity.configuration);
        state.shown.plugin_configuration = Some(identity.configuration.clone());
        let callbacks = &self.callbacks;
        let on = on(&callbacks.on_context_create, (id, 0));
        go_on(&mut self.store, id, on).map_err(trap("proxy_on_context_create"))?;
        self.store.data_mut().shown.plugin_configuration = None;
        let call = on_or(&callbacks.on_vm_start, (id, vm_configuration), 1);
        if go_on(&mut self.store, id, call).map_err(trap("proxy_on_vm_start"))? == 0 {
            return Err(StartError::Refused("proxy_on_vm_start"));
        }
        self.store.data_mut().shown.plugin_configuration = Some(identity.configuration.clone());
        let call = on_or(&callbacks.on_configure, (id, configuration), 1);
        if go_on(&mut self.store, id, call).map_err(trap("proxy_on_configure"))? == 0 {
            return Err(StartError::Refused("proxy_on_configure"));
        }
        Ok(())
    }

    /// The root context of a plugin that was started.
    pub fn root(&self, identity: &Arc<Identity>) -> Option<u32> {
        self.roots.iter().find(|(other, _)| Arc::ptr_eq(other, identity)).map(|(_, id)| *id)
    }

    /// Those of all plugins that run.
    pub fn roots(&self) -> Vec<u32> {
        self.roots.iter().map(|(_, id)| *id).collect()
    }

    pub fn state(&mut self) -> &mut State {
        self.store.data_mut()
    }
}

/// The callbacks of streams. Each can trap: the VM is lost then.
impl Vm {
    /// `proxy_on_context_create` of a stream.
    ///
    /// # Errors
    /// A trap.
    pub fn create_stream(&mut self, context: StreamContext) -> wasmtime::Result<u32> {
        let root = context.root;
        let id = self.store.data_mut().contexts.add_stream(context);
        run(&mut self.store, id, on(&self.callbacks.on_context_create, (id, root)))?;
        Ok(id)
    }

    /// # Errors
    /// A trap.
    pub fn on_headers(&mut self, direction: Direction, id: u32, count: u32, end: bool) -> wasmtime::Result<u32> {
        self.store.data_mut().contexts.direction = Some(direction);
        match &self.callbacks.on_headers[direction] {
            None => Ok(0),
            Some(HeadersCallback::Two(callback)) => run(&mut self.store, id, call(callback, (id, count))),
            Some(HeadersCallback::Three(callback)) => {
                run(&mut self.store, id, call(callback, (id, count, u32::from(end))))
            }
        }
    }

    /// # Errors
    /// A trap.
    pub fn on_body(&mut self, direction: Direction, id: u32, size: u32, end: bool) -> wasmtime::Result<u32> {
        self.on_more(direction, id);
        let callback = &self.callbacks.on_body[direction];
        run(&mut self.store, id, on_or(callback, (id, size, u32::from(end)), 0))
    }

    /// # Errors
    /// A trap.
    pub fn on_trailers(&mut self, direction: Direction, id: u32, count: u32) -> wasmtime::Result<u32> {
        self.on_more(direction, id);
        let callback = &self.callbacks.on_trailers[direction];
        run(&mut self.store, id, on_or(callback, (id, count), 0))
    }

    fn on_more(&mut self, direction: Direction, id: u32) {
        let contexts = &mut self.store.data_mut().contexts;
        contexts.direction = Some(direction);
        contexts.forget_resume(id, direction);
    }

    /// Done and log: the stream has ended.
    ///
    /// # Errors
    /// A trap. The context is still there then, to say whose it was.
    pub fn on_end(&mut self, id: u32) -> wasmtime::Result<()> {
        run(&mut self.store, id, on_or(&self.callbacks.on_done, id, 1))?;
        run(&mut self.store, id, on(&self.callbacks.on_log, id))
    }
}

/// The callbacks of root contexts. Whoever calls one may have waited until its plugin was gone.
impl Vm {
    /// # Errors
    /// A trap.
    pub fn on_tick(&mut self, root: u32) -> wasmtime::Result<()> {
        run_if_there(&mut self.store, root, on(&self.callbacks.on_tick, root))
    }

    /// # Errors
    /// A trap.
    pub fn on_queue_ready(&mut self, root: u32, queue: u32) -> wasmtime::Result<()> {
        run_if_there(&mut self.store, root, on(&self.callbacks.on_queue_ready, (root, queue)))
    }

    /// # Errors
    /// A trap.
    pub fn on_http_call_response(&mut self, root: u32, id: u32, counts: [u32; 3]) -> wasmtime::Result<()> {
        let [headers, body, trailers] = counts;
        let callback = &self.callbacks.on_http_call_response;
        run_if_there(&mut self.store, root, on(callback, (root, id, headers, body, trailers)))
    }

    /// # Errors
    /// A trap.
    pub fn on_grpc_receive_initial_metadata(&mut self, root: u32, id: u32, count: u32) -> wasmtime::Result<()> {
        run_if_there(&mut self.store, root, on(&self.callbacks.on_grpc_receive_initial_metadata, (root, id, count)))
    }

    /// # Errors
    /// A trap.
    pub fn on_grpc_receive(&mut self, root: u32, id: u32, size: u32) -> wasmtime::Result<()> {
        run_if_there(&mut self.store, root, on(&self.callbacks.on_grpc_receive, (root, id, size)))
    }

    /// # Errors
    /// A trap.
    pub fn on_grpc_receive_trailing_metadata(&mut self, root: u32, id: u32, count: u32) -> wasmtime::Result<()> {
        run_if_there(&mut self.store, root, on(&self.callbacks.on_grpc_receive_trailing_metadata, (root, id, count)))
    }

    /// # Errors
    /// A trap.
    pub fn on_grpc_close(&mut self, root: u32, id: u32, status: u32) -> wasmtime::Result<()> {
        run_if_there(&mut self.store, root, on(&self.callbacks.on_grpc_close, (root, id, status)))
    }

    /// # Errors
    /// A trap.
    pub fn on_redis_call_response(&mut self, root: u32, id: u32, status: u32, size: u32) -> wasmtime::Result<()> {
        run_if_there(&mut self.store, root, on(&self.callbacks.on_redis_call_response, (root, id, status, size)))
    }

    /// The plugin is not configured any more: whether it can be deleted now, or only when it calls `proxy_done`.
    ///
    /// # Errors
    /// A trap.
    pub fn on_root_done(&mut self, root: u32) -> wasmtime::Result<bool> {
        self.roots.retain(|(_, id)| *id != root);
        Ok(run(&mut self.store, root, on_or(&self.callbacks.on_done, root, 1))? != 0)
    }

    /// Of any context.
    ///
    /// # Errors
    /// A trap.
    pub fn delete(&mut self, id: u32) -> wasmtime::Result<()> {
        run_if_there(&mut self.store, id, on(&self.callbacks.on_delete, id))?;
        self.store.data_mut().forget(id);
        Ok(())
    }
}

/// Runs a callback of a context, unless it has been deleted: guests do not know it any more then.
fn run_if_there(
    store: &mut Store<State>,
    context: u32,
    callback: impl FnOnce(&mut Store<State>) -> wasmtime::Result<()>,
) -> wasmtime::Result<()> {
    if store.data().contexts.contains(context) { run(store, context, callback) } else { Ok(()) }
}

/// Runs a callback of a context.
fn run<R>(
    store: &mut Store<State>,
    context: u32,
    callback: impl FnOnce(&mut Store<State>) -> wasmtime::Result<R>,
) -> wasmtime::Result<R> {
    store.data_mut().cpu.reset(false, None);
    go_on(store, context, callback)
}

/// Runs another callback of a context, in the time of those before.
fn go_on<R>(
    store: &mut Store<State>,
    context: u32,
    callback: impl FnOnce(&mut Store<State>) -> wasmtime::Result<R>,
) -> wasmtime::Result<R> {
    let state = store.data_mut();
    state.contexts.current = context;
    state.contexts.called = context;
    let result = callback(store);
    store.data_mut().end_output();
    let result = result?;
    // After a trap it says whose it was.
    let contexts = &mut store.data_mut().contexts;
    contexts.current = 0;
    contexts.direction = None;
    Ok(result)
}

fn call<P: WasmParams, R: WasmResults>(
    callback: &TypedFunc<P, R>,
    arguments: P,
) -> impl FnOnce(&mut Store<State>) -> wasmtime::Result<R> {
    move |store| callback.call(store, arguments)
}

fn on_or<P: WasmParams, R: WasmResults>(
    callback: &Option<TypedFunc<P, R>>,
    arguments: P,
    absent: R,
) -> impl FnOnce(&mut Store<State>) -> wasmtime::Result<R> {
    move |store| match callback {
        Some(callback) => callback.call(store, arguments),
        None => Ok(absent),
    }
}

fn on<P: WasmParams>(
    callback: &Option<TypedFunc<P, ()>>,
    arguments: P,
) -> impl FnOnce(&mut Store<State>) -> wasmtime::Result<()> {
    on_or(callback, arguments, ())
}

impl Callbacks {
    fn of(instance: &Instance, store: &mut Store<State>, allowed: &Allowed) -> Result<Callbacks, StartError> {
        let abi = store.data().vm.abi;
        let is_allowed = |name: &str| allowed.as_ref().is_none_or(|allowed| allowed.contains(name));
        macro_rules! callback {
            ($name:literal) => {
                if is_allowed($name) { export(instance, store, &[$name])? } else { None }
            };
        }
        macro_rules! headers {
            ($name:literal) => {
                if abi == Abi::V0_1_0 {
                    callback!($name).map(HeadersCallback::Two)
                } else {
                    callback!($name).map(HeadersCallback::Three)
                }
            };
        }
        Ok(Callbacks {
            on_context_create: callback!("proxy_on_context_create"),
            on_vm_start: callback!("proxy_on_vm_start"),
            on_configure: callback!("proxy_on_configure"),
            on_tick: callback!("proxy_on_tick"),
            on_queue_ready: callback!("proxy_on_queue_ready"),
            on_headers: Both {
                request: headers!("proxy_on_request_headers"),
                response: headers!("proxy_on_response_headers"),
            },
            on_body: Both {
                request: callback!("proxy_on_request_body"),
                response: callback!("proxy_on_response_body"),
            },
            on_trailers: Both {
                request: callback!("proxy_on_request_trailers"),
                response: callback!("proxy_on_response_trailers"),
            },
            on_http_call_response: callback!("proxy_on_http_call_response"),
            on_grpc_receive_initial_metadata: callback!("proxy_on_grpc_receive_initial_metadata"),
            on_grpc_receive: callback!("proxy_on_grpc_receive"),
            on_grpc_receive_trailing_metadata: callback!("proxy_on_grpc_receive_trailing_metadata"),
            on_grpc_close: callback!("proxy_on_grpc_close"),
            on_redis_call_response: callback!("proxy_on_redis_call_response"),
            on_done: callback!("proxy_on_done"),
            on_log: callback!("proxy_on_log"),
            on_delete: callback!("proxy_on_delete"),
        })
    }
}

/// The first of these exports that is there.
fn export<P: WasmParams, R: WasmResults>(
    instance: &Instance,
    store: &mut Store<State>,
    names: &[&str],
) -> Result<Option<TypedFunc<P, R>>, StartError> {
    for name in names {
        if let Some(function) = instance.get_func(&mut *store, name) {
            let typed = function.typed(&*store).map_err(|_| StartError::Signature((*name).to_owned()))?;
            return Ok(Some(typed));
        }
    }
    Ok(None)
}
