//! From a file to a compiled component: recognise, turn into a component, compile.

use std::path::Path;
use std::sync::Arc;

use wasmparser::{Encoding, Parser, Payload};
use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use super::entry::EntryPoint;
use crate::file;
use crate::wasm::found::Found;
use crate::wasm::in_use::InUse;

/// The custom section in which the SDK names the entry points that a plugin implements, comma-separated.
const ENTRY_POINTS_SECTION: &str = "phasegate:entry-points";

/// Why a file is not a plugin.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    #[error("is not a plugin: found {found}")]
    NotAPlugin { found: Found },
    #[error("is damaged: {0}")]
    Damaged(#[from] wasmparser::BinaryReaderError),
    #[error("cannot be turned into a component: {0}")]
    Componentize(String),
    #[error("does not compile: {0}")]
    Compile(String),
    #[error("cannot be linked: {0}")]
    Link(String),
    #[error("exports a `{entry}` of another type: {error}")]
    Type { entry: &'static str, error: String },
    #[error("failed while it was instantiated: {0}")]
    Instantiate(String),
    #[error("is a component that does not export `{}`", crate::wasm::SERVICE)]
    NoService,
}

impl ModuleError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            ModuleError::Read(_) => "check the path, which is relative to the configuration file, and its permissions",
            ModuleError::NotAPlugin { found: Found::ProxyWasm(_) } => "a Proxy-Wasm filter goes under [[proxy_wasm]]",
            ModuleError::NotAPlugin { found: Found::BareModule { .. } } => {
                "a plugin exports its entry points: has it `export!(main: …)`, and in its Cargo.toml \
                 `crate-type = [\"cdylib\"]`? Then build it with cargo build --target wasm32-wasip1 --release. In other \
                 languages, link what wit-bindgen has made (`…_component_type.o`), or add the type with wasm-tools component \
                 embed wit --world wasm-server"
            }
            ModuleError::NotAPlugin { found: Found::Command } => {
                "build it as a library, a reactor: `crate-type = [\"cdylib\"]` in Rust, -mexec-model=reactor in C, \
                 -buildmode=c-shared in Go"
            }
            ModuleError::NotAPlugin { .. } | ModuleError::NoService => {
                "expected a component, or a core module that wit-bindgen built for the world \
                 phasegate:plugin/wasm-server: cargo build --target wasm32-wasip1 --release"
            }
            ModuleError::Damaged(_) => "build the plugin again",
            ModuleError::Componentize(_) => {
                "a plugin exports all functions of `wasm-service`: build it with --target wasm32-wasip1 and the wit files of \
                 this version"
            }
            ModuleError::Compile(_) => {
                "build the plugin with --target wasm32-wasip1, without WebAssembly exceptions (-fno-exceptions) and threads"
            }
            ModuleError::Link(_) => {
                "a plugin can import the interfaces of phasegate:plugin@0.1.0 and WASI 0.2, nothing else: build it with the wit \
                 files of this version"
            }
            ModuleError::Type { .. } => "build the plugin with the wit files of this version",
            ModuleError::Instantiate(_) => "a plugin must initialize without a request, and within its `limits`",
        }
    }
}

/// A file, compiled.
pub struct Module {
    pub component: Component,
    /// The entry points that the plugin says it implements; none when it does not say.
    pub declared: Option<Vec<EntryPoint>>,
}

/// The modules that are in use.
#[derive(Default)]
pub struct Modules(InUse<Module>);

impl Modules {
    /// The module of a file.
    ///
    /// # Errors
    /// When it is not a plugin.
    pub fn load(&self, engine: &Engine, path: &Path) -> Result<Arc<Module>, ModuleError> {
        let bytes = file::read(path)?;
        self.0.get_or_make(file::digest(&bytes), || Module::compile(engine, bytes))
    }
}

impl Module {
    /// Recognises, componentizes when need be, and compiles what is in a file.
    ///
    /// # Errors
    /// Says what was found; [`ModuleError::help`] says what was expected.
    fn compile(engine: &Engine, bytes: Vec<u8>) -> Result<Module, ModuleError> {
        let traits = inspect(&bytes)?;
        let declared = traits.entry_points;
        let component = if traits.core { componentize(&bytes)? } else { bytes };
        let component =
            Component::new(engine, &component).map_err(|error| ModuleError::Compile(format!("{error:#}")))?;
        Ok(Module { component, declared })
    }

    /// Whether a function like this is imported from any interface.
    pub fn imports(&self, function: impl Fn(&str) -> bool) -> bool {
        let engine = self.component.engine();
        self.component.component_type().imports(engine).any(|(_, import)| match import.ty {
            ComponentItem::ComponentInstance(interface) => interface.exports(engine).any(|(name, _)| function(name)),
            _ => false,
        })
    }
}

/// What the sections of a binary say about it.
struct Traits {
    core: bool,
    entry_points: Option<Vec<EntryPoint>>,
}

fn inspect(bytes: &[u8]) -> Result<Traits, ModuleError> {
    let not_a_plugin = |found| Err(ModuleError::NotAPlugin { found });
    if let Some(found) = Found::before_wasm(bytes) {
        return not_a_plugin(found);
    }

    let mut core = false;
    let mut component_type = false;
    let mut proxy_wasm = None;
    let (mut exports, mut is_command) = (0, false);
    let mut entry_points = None;
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::Version { encoding, .. } if depth == 0 => core = encoding == Encoding::Module,
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::CustomSection(section) if section.name() == ENTRY_POINTS_SECTION => {
                entry_points = Some(parse_entry_points(section.data()));
            }
            Payload::CustomSection(section) if section.name().starts_with("component-type") => component_type = true,
            Payload::ExportSection(section) if depth == 0 => {
                exports = section.count() as usize;
                for export in section {
                    let name = export?.name;
                    is_command |= name == "_start";
                    if name.starts_with("proxy_abi_version_") {
                        proxy_wasm = Some(name.to_owned());
                    }
                }
            }
            _ => {}
        }
    }
    if core && !component_type {
        return not_a_plugin(match proxy_wasm {
            Some(version) => Found::ProxyWasm(version),
            None => Found::BareModule { exports },
        });
    }
    if core && is_command {
        return not_a_plugin(Found::Command);
    }
    Ok(Traits { core, entry_points })
}

fn parse_entry_points(data: &[u8]) -> Vec<EntryPoint> {
    let text = String::from_utf8_lossy(data);
    EntryPoint::ALL.into_iter().filter(|entry| text.split(',').any(|name| name.trim() == entry.export())).collect()
}

/// Wraps a core module into a component, with the adapter that gives a `wasm32-wasip1` build its WASI 0.2 imports.
fn componentize(module: &[u8]) -> Result<Vec<u8>, ModuleError> {
    use wasi_preview1_component_adapter_provider as adapter;

    let failed = |error| ModuleError::Componentize(format!("{error:#}"));
    wit_component::ComponentEncoder::default()
        .validate(false)
        .module(module)
        .and_then(|encoder| {
            encoder
                .adapter(adapter::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)
        })
        .and_then(|mut encoder| encoder.encode())
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(bytes: &[u8]) -> Option<Found> {
        match inspect(bytes) {
            Err(ModuleError::NotAPlugin { found }) => Some(found),
            _ => None,
        }
    }

    #[test]
    fn says_what_a_file_is() {
        assert_eq!(found(b""), Some(Found::Empty));
        assert_eq!(found(b"\x7fELF"), Some(Found::NotWasm));
        assert_eq!(found(b"  (module)"), Some(Found::WebAssemblyText));
        assert_eq!(found(b"\0asm\x01\0\0\0"), Some(Found::BareModule { exports: 0 }));
        let command = wat::parse_str(r#"(module (func (export "_start")) (@custom "component-type" ""))"#).unwrap();
        assert_eq!(found(&command), Some(Found::Command));
        assert!(matches!(inspect(b"\0asm\x01\0\0\0\x01"), Err(ModuleError::Damaged(_))));
        assert!(inspect(b"\0asm\x0d\0\x01\0").is_ok(), "an empty component");
    }

    #[test]
    fn reads_the_entry_points_that_a_plugin_names() {
        assert_eq!(parse_entry_points(b"wasm-main,wasm-main-ext2"), [EntryPoint::Main, EntryPoint::Ext2]);
        assert_eq!(parse_entry_points(b"other"), []);
    }
}
