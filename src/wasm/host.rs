//! What there is once in the process to run plugins.

use std::path::Path;
use std::sync::Arc;

use wasmtime::component::{InstancePre, Linker};

use super::cache::{self, CacheError};
use super::component::{self, Module, ModuleError, Modules, State};
use super::engine::EngineClock;
use super::proxy_wasm::{CodeStore, FilterHost};
use crate::capability::Capabilities;
use crate::observe::metrics::Metrics;

/// Compiles modules and links scripts: the engine with its clock, and all host functions.
pub struct Host {
    clock: EngineClock,
    linker: Linker<State>,
    modules: Modules,
    capabilities: Arc<Capabilities>,
    filters: FilterHost,
    cache_error: Option<CacheError>,
}

impl Host {
    /// Keeps what it compiles in the folder `cache`.
    ///
    /// # Errors
    /// When the machine cannot run compiled WebAssembly.
    pub fn new(capabilities: Arc<Capabilities>, cache: Option<&Path>, metrics: &Metrics) -> wasmtime::Result<Host> {
        let code = CodeStore::new(capabilities.clone(), cache, metrics);
        let (cache, cache_error) = match cache.map(cache::open).transpose() {
            Ok(cache) => (cache, None),
            Err(error) => (None, Some(error)),
        };
        let clock = EngineClock::start(cache)?;
        let linker = component::linker(clock.engine(), capabilities.store.waits())?;
        let filters = FilterHost::new(clock.engine(), code, capabilities.clone())?;
        Ok(Host { clock, linker, modules: Modules::default(), capabilities, filters, cache_error })
    }

    /// Why what it compiles is not kept, although it should be.
    pub fn cache_error(&self) -> Option<&CacheError> {
        self.cache_error.as_ref()
    }

    /// Reads a file and compiles it, unless a module with the same content is in use.
    ///
    /// # Errors
    /// When the file is not a plugin.
    pub fn load(&self, path: &Path) -> Result<Arc<Module>, ModuleError> {
        self.modules.load(self.clock.engine(), path)
    }

    /// Links a module to the host functions.
    ///
    /// # Errors
    /// When it imports what there is not.
    pub fn link(&self, module: &Module) -> Result<InstancePre<State>, ModuleError> {
        self.linker.instantiate_pre(&module.component).map_err(|error| ModuleError::Link(format!("{error:#}")))
    }

    /// What plugins stand on.
    pub fn capabilities(&self) -> &Arc<Capabilities> {
        &self.capabilities
    }

    /// Proxy-Wasm filters.
    pub fn filters(&self) -> &FilterHost {
        &self.filters
    }
}
