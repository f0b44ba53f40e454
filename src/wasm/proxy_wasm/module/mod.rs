//! From bytes to a filter that can be linked: recognise, compile.

mod own_memory;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use wasmparser::{Encoding, ExternalKind, Parser, Payload, TypeRef};
use wasmtime::{Engine, Module};

use crate::file::{self, Digest};
use crate::wasm::found::Found;
use crate::wasm::in_use::InUse;

/// The functions by whose export a module names the ABI that it was built for begin so.
const MARKER: &str = "proxy_abi_version_";

/// The versions of the ABI, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Abi {
    V0_1_0,
    V0_2_0,
    V0_2_1,
    /// What Higress names its additions to 0.2.1 (higress-group/proxy-wasm-cpp-host).
    V0_2_100,
}

impl Abi {
    pub const ALL: [Abi; 4] = [Abi::V0_1_0, Abi::V0_2_0, Abi::V0_2_1, Abi::V0_2_100];

    /// The function whose export stands for it.
    pub fn marker(self) -> &'static str {
        match self {
            Abi::V0_1_0 => "proxy_abi_version_0_1_0",
            Abi::V0_2_0 => "proxy_abi_version_0_2_0",
            Abi::V0_2_1 => "proxy_abi_version_0_2_1",
            Abi::V0_2_100 => "proxy_abi_version_0_2_100",
        }
    }
}

/// Code of filters, compiled.
pub struct FilterModule {
    pub module: Module,
    /// The newest that it knows.
    pub abi: Abi,
    /// The SHA-256 of the code.
    pub digest: [u8; 32],
}

/// Why code is not that of a filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterModuleError {
    #[error("has a missing or unknown Proxy-Wasm ABI version: found {0}")]
    NoAbi(Instead),
    #[error("is damaged: {0}")]
    Damaged(#[from] wasmparser::BinaryReaderError),
    #[error("has {0} memories, where one is expected that is exported as `memory`, or imported")]
    Memory(u32),
    #[error("imports a memory or a table and cannot be given its own: {0}")]
    Imported(String),
    #[error("does not compile: {0}")]
    Compile(String),
}

impl FilterModuleError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            FilterModuleError::NoAbi(Instead::Plugin) => {
                "a plugin goes under a phase such as [[wasm_access]]; a filter is built with an SDK of Proxy-Wasm"
            }
            FilterModuleError::NoAbi(_) => {
                "expected a core module that an SDK of Proxy-Wasm built for ABI 0.1.0, 0.2.0 or 0.2.1, or one of Higress for 0.2.100"
            }
            FilterModuleError::Compile(why) if why.contains("exceptions") => {
                "build the filter without exceptions of WebAssembly, such as with -fno-exceptions"
            }
            FilterModuleError::Damaged(_) | FilterModuleError::Imported(_) | FilterModuleError::Compile(_) => {
                "build the filter again"
            }
            FilterModuleError::Memory(_) => "a filter has one memory, which it imports, or exports as `memory`",
        }
    }
}

/// What code without a known version of the ABI is.
#[derive(Debug, PartialEq, Eq)]
pub enum Instead {
    /// Nothing of WebAssembly.
    File(Found),
    /// A component, or a core module that can be made into one.
    Plugin,
    /// A core module that names another version.
    Version(String),
    Bare {
        exports: u32,
    },
}

impl fmt::Display for Instead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Instead::File(found) => found.fmt(f),
            Instead::Plugin => write!(f, "a plugin of phasegate:plugin, or another component"),
            Instead::Version(version) => write!(f, "version {version}"),
            Instead::Bare { exports } => write!(f, "a core module with {exports} exports and none of {MARKER}…"),
        }
    }
}

/// The filter modules that are in use.
#[derive(Default)]
pub struct FilterModules(InUse<FilterModule>);

impl FilterModules {
    /// The module of this code.
    ///
    /// # Errors
    /// When it is not a filter.
    pub fn load(&self, engine: &Engine, bytes: &[u8]) -> Result<Arc<FilterModule>, FilterModuleError> {
        let digest = file::digest(bytes);
        self.0.get_or_make(digest, || FilterModule::compile(engine, bytes, digest))
    }

    /// The module whose code has this SHA-256, if it is in use: then the code need not be fetched.
    pub fn in_use(&self, digest: &Digest) -> Option<Arc<FilterModule>> {
        self.0.get(digest)
    }
}

impl FilterModule {
    fn compile(engine: &Engine, bytes: &[u8], digest: Digest) -> Result<FilterModule, FilterModuleError> {
        let Inspected { abi, is_whole } = inspect(bytes)?;
        let bytes = if is_whole {
            Cow::Borrowed(bytes)
        } else {
            own_memory::owned(bytes).map_err(|error| FilterModuleError::Imported(error.to_string()))?.into()
        };
        let module =
            Module::from_binary(engine, &bytes).map_err(|error| FilterModuleError::Compile(format!("{error:#}")))?;
        Ok(FilterModule { module, abi, digest })
    }
}

/// What the sections of a core module say about it.
#[derive(Default)]
struct Traits {
    abi: Option<Abi>,
    /// Of the ABI, but not known.
    version: Option<String>,
    plugin: bool,
    exports: u32,
    memories: u32,
    memory_exported: bool,
    memory_imported: bool,
    table_imported: bool,
}

/// What is to be known before code is compiled.
struct Inspected {
    abi: Abi,
    /// Whether it brings its memory and its tables along.
    is_whole: bool,
}

fn inspect(bytes: &[u8]) -> Result<Inspected, FilterModuleError> {
    if let Some(found) = Found::before_wasm(bytes) {
        return Err(FilterModuleError::NoAbi(Instead::File(found)));
    }
    let traits = traits(bytes)?;
    let Some(abi) = traits.abi else {
        return Err(FilterModuleError::NoAbi(match traits.version {
            Some(version) => Instead::Version(version),
            None if traits.plugin => Instead::Plugin,
            None => Instead::Bare { exports: traits.exports },
        }));
    };
    if traits.memories != 1 || !(traits.memory_exported || traits.memory_imported) {
        return Err(FilterModuleError::Memory(traits.memories));
    }
    Ok(Inspected { abi, is_whole: !traits.memory_imported && !traits.table_imported })
}

fn traits(bytes: &[u8]) -> Result<Traits, FilterModuleError> {
    let mut traits = Traits::default();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::Version { encoding: Encoding::Component, .. } => {
                return Ok(Traits { plugin: true, ..Traits::default() });
            }
            Payload::CustomSection(section) if section.name().starts_with("component-type") => traits.plugin = true,
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    match import?.ty {
                        TypeRef::Memory(_) => {
                            traits.memories += 1;
                            traits.memory_imported = true;
                        }
                        TypeRef::Table(_) => traits.table_imported = true,
                        _ => {}
                    }
                }
            }
            Payload::MemorySection(section) => traits.memories += section.count(),
            Payload::ExportSection(section) => {
                traits.exports = section.count();
                for export in section {
                    let export = export?;
                    match export.kind {
                        ExternalKind::Memory => traits.memory_exported |= export.name == "memory",
                        ExternalKind::Func => traits.function(export.name),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(traits)
}

impl Traits {
    fn function(&mut self, name: &str) {
        let Some(version) = name.strip_prefix(MARKER) else { return };
        match Abi::ALL.into_iter().find(|abi| abi.marker() == name) {
            Some(abi) => self.abi = self.abi.max(Some(abi)),
            None => self.version = Some(version.replace('_', ".")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: &str = "(memory (export \"memory\") 1)";

    /// A module with this in it.
    fn wat(content: &str) -> Vec<u8> {
        wat::parse_str(format!("(module {content})")).unwrap()
    }

    fn marker(version: &str) -> String {
        format!("(func (export \"{MARKER}{version}\"))")
    }

    fn error(bytes: &[u8]) -> String {
        FilterModules::default().load(&Engine::default(), bytes).err().unwrap().to_string()
    }

    #[test]
    fn the_newest_version_that_is_known_counts() {
        for (versions, abi) in [
            (&["0_1_0"][..], Abi::V0_1_0),
            (&["0_2_0"], Abi::V0_2_0),
            (&["0_2_1"], Abi::V0_2_1),
            (&["0_2_1", "0_1_0", "0_2_0"], Abi::V0_2_1),
            (&["0_2_100"], Abi::V0_2_100),
            (&["0_1_0", "0_3_0"], Abi::V0_1_0),
        ] {
            let markers: String = versions.iter().map(|version| marker(version)).collect();
            let bytes = wat(&format!("{MEMORY} {markers}"));
            let module = FilterModules::default().load(&Engine::default(), &bytes).unwrap();
            assert_eq!(module.abi, abi, "{versions:?}");
            assert_eq!(module.digest, file::digest(&bytes));
        }
    }

    #[test]
    fn what_is_no_filter_is_told() {
        let plugin = wat("(@custom \"component-type:plugin\" \"\")");
        let version_as_memory = wat("(memory (export \"proxy_abi_version_0_2_1\") 1)");
        for (bytes, found) in [
            (&b""[..], "an empty file"),
            (b"\x7fELF", "a file that is not WebAssembly"),
            (b" (module)", "WebAssembly text, which has to be compiled first"),
            (b"\0asm\x0d\0\x01\0", "a plugin of phasegate:plugin, or another component"),
            (&plugin, "a plugin of phasegate:plugin, or another component"),
            (&wat(&marker("0_3_0")), "version 0.3.0"),
            (&wat(MEMORY), "a core module with 1 exports and none of proxy_abi_version_…"),
            (&version_as_memory, "a core module with 1 exports and none of proxy_abi_version_…"),
        ] {
            assert_eq!(error(bytes), format!("has a missing or unknown Proxy-Wasm ABI version: found {found}"));
        }
        assert!(FilterModuleError::NoAbi(Instead::Plugin).help().contains("[[wasm_access]]"));
    }

    #[test]
    fn what_cannot_be_a_filter() {
        let marker = marker("0_2_1");
        for (memories, count) in [
            ("", 0),
            ("(memory 1)", 1),
            ("(memory (export \"mem\") 1)", 1),
            ("(memory (export \"memory\") 1) (memory 1)", 2),
            ("(import \"env\" \"memory\" (memory 1)) (memory (export \"memory\") 1)", 2),
        ] {
            let expected =
                format!("has {count} memories, where one is expected that is exported as `memory`, or imported");
            assert_eq!(error(&wat(&format!("{memories} {marker}"))), expected, "{memories}");
        }
        let whole = wat(&format!("{MEMORY} {marker}"));
        assert!(error(&whole[..whole.len() - 3]).starts_with("is damaged: "));
        let invalid = wat(&format!("{MEMORY} {marker} (func (result i32))"));
        assert!(error(&invalid).starts_with("does not compile: "));
    }

    #[test]
    fn imported_memories_and_tables_are_its_own() {
        let marker = marker("0_1_0");
        for content in [
            "(import \"env\" \"memory\" (memory 2 4))",
            "(import \"env\" \"memory\" (memory 2)) (export \"memory\" (memory 0))",
            "(import \"env\" \"table\" (table 1 funcref)) (memory (export \"memory\") 1)",
            "(import \"env\" \"t\" (table 1 funcref)) (import \"env\" \"memory\" (memory 1))
             (import \"env\" \"proxy_done\" (func (result i32))) (table 1 funcref) (elem (i32.const 0) func $f) (data (i32.const 0) \"a\")
             (global i32 (i32.const 0)) (func $f (drop (i32.load (i32.const 0))) (call_indirect 0 (i32.const 0)))",
        ] {
            let module =
                FilterModules::default().load(&Engine::default(), &wat(&format!("{content} {marker}"))).unwrap();
            let imports: Vec<_> = module.module.imports().map(|import| import.name().to_owned()).collect();
            assert!(imports.iter().all(|name| name == "proxy_done"), "{content}: {imports:?}");
            assert!(module.module.get_export("memory").is_some_and(|memory| memory.memory().is_some()), "{content}");
        }
    }
}
