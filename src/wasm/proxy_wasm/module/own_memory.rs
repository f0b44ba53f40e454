//! What a module imports from its host as a memory or a table, made its own. Filters of old toolchains (emscripten without
//! `STANDALONE_WASM`, AssemblyScript with `--importMemory`) leave these to the host, and Envoy makes them.

use std::convert::Infallible;

use wasm_encoder::reencode::{Error, Reencode, utils};
use wasm_encoder::{
    ExportKind, ExportSection, ImportSection, MemorySection, MemoryType, Module, SectionId, TableSection, TableType,
};
use wasmparser::{ExportSectionReader, ImportSectionReader, MemorySectionReader, Parser, TableSectionReader, TypeRef};

/// The same module with its imported memories and tables defined, and the first memory exported as `memory`. Imports come
/// first in the order of either, so that all indices stay as they are.
///
/// # Errors
/// When the module is damaged.
pub fn owned(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut module = Module::new();
    Owning::default().parse_core_module(&mut module, Parser::new(0), bytes)?;
    Ok(module.finish())
}

/// What was imported, until it is defined.
#[derive(Default)]
struct Owning {
    memories: Vec<MemoryType>,
    tables: Vec<TableType>,
}

impl Owning {
    fn tables(&mut self) -> TableSection {
        let mut section = TableSection::new();
        self.tables.drain(..).for_each(|table| _ = section.table(table));
        section
    }

    fn memories(&mut self) -> MemorySection {
        let mut section = MemorySection::new();
        self.memories.drain(..).for_each(|memory| _ = section.memory(memory));
        section
    }
}

impl Reencode for Owning {
    type Error = Infallible;

    fn parse_import_section(
        &mut self,
        imports: &mut ImportSection,
        section: ImportSectionReader<'_>,
    ) -> Result<(), Error> {
        for import in section.into_imports() {
            let import = import?;
            match import.ty {
                TypeRef::Memory(memory) => {
                    let memory = self.memory_type(memory)?;
                    self.memories.push(memory);
                }
                TypeRef::Table(table) => {
                    let table = self.table_type(table)?;
                    self.tables.push(table);
                }
                _ => self.parse_import(imports, import)?,
            }
        }
        Ok(())
    }

    fn intersperse_section_hook(
        &mut self,
        module: &mut Module,
        _after: Option<SectionId>,
        before: Option<SectionId>,
    ) -> Result<(), Error> {
        let (tables_are_due, memories_are_due) = match before {
            Some(SectionId::Custom | SectionId::Type | SectionId::Import | SectionId::Function | SectionId::Table) => {
                (false, false)
            }
            Some(SectionId::Memory) => (true, false),
            _ => (true, true),
        };
        if tables_are_due && !self.tables.is_empty() {
            module.section(&self.tables());
        }
        if memories_are_due && !self.memories.is_empty() {
            module.section(&self.memories());
        }
        Ok(())
    }

    fn parse_table_section(&mut self, tables: &mut TableSection, section: TableSectionReader<'_>) -> Result<(), Error> {
        *tables = self.tables();
        utils::parse_table_section(self, tables, section)
    }

    fn parse_memory_section(
        &mut self,
        memories: &mut MemorySection,
        section: MemorySectionReader<'_>,
    ) -> Result<(), Error> {
        *memories = self.memories();
        utils::parse_memory_section(self, memories, section)
    }

    fn parse_export_section(
        &mut self,
        exports: &mut ExportSection,
        section: ExportSectionReader<'_>,
    ) -> Result<(), Error> {
        let mut has_memory = false;
        for export in section {
            let export = export?;
            has_memory |= export.name == "memory";
            self.parse_export(exports, export)?;
        }
        if !has_memory {
            exports.export("memory", ExportKind::Memory, 0);
        }
        Ok(())
    }
}
