//! The configuration file: what the user typed (`schema`), and what the program runs on (`model`) once `resolve` has
//! checked it. Nothing stops at the first error; all are collected as diagnostics.

pub mod abi;
mod diagnostic;
mod excerpt;
mod keys;
mod leaf;
mod listener;
mod model;
mod net;
mod reader;
mod resolve;
mod schema;
mod syntax;
mod template;
#[cfg(test)]
mod tests;

pub use diagnostic::{Diagnostic, Diagnostics, Severity, Span, key};
pub use listener::{Listener, Router};
pub use model::*;
#[cfg(test)]
pub use net::load_rules;
pub use net::{NetHost, NetRule};
pub use template::{Part, Template, TemplateError};

use std::io;
use std::path::Path;

use toml::de::DeTable;

use crate::file;

/// What a configuration file gave.
#[derive(Debug)]
pub struct Loaded {
    /// Everything that could be resolved, also beside errors, so that the modules can be checked too. To be run only when
    /// there are no errors.
    pub config: Config,
    pub diagnostics: Diagnostics,
}

/// Reads and resolves a file, or a pipe. That it cannot be read is a diagnostic too.
pub fn load(path: &Path) -> Loaded {
    resolve(path, file::read_stream(path))
}

/// As [`load`], and does not wait: nobody might ever write to a pipe.
pub fn load_again(path: &Path) -> Loaded {
    resolve(path, file::read(path))
}

fn resolve(path: &Path, bytes: io::Result<Vec<u8>>) -> Loaded {
    let failed = |source: String, diagnostic| {
        let mut diagnostics = Diagnostics::new(path, source);
        diagnostics.push(diagnostic);
        Loaded { config: Config::empty(path), diagnostics }
    };
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(error) => {
            let message = format!("cannot read the configuration file {}: {error}", path.display());
            let help = "name the file with `-c FILE`";
            return failed(String::new(), Diagnostic::error(0..0, message).help(help));
        }
    };
    match String::from_utf8(bytes) {
        Ok(source) => load_text(path, source),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let source = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let span = at..at + char::REPLACEMENT_CHARACTER.len_utf8();
            let message = "the configuration file is not UTF-8";
            failed(source, Diagnostic::error(span, message).help("save it as UTF-8"))
        }
    }
}

fn load_text(path: &Path, source: String) -> Loaded {
    let mut diagnostics = Diagnostics::new(path, source.clone());
    let checked = syntax::check(&source, &mut diagnostics);
    if diagnostics.has_errors() {
        diagnostics.set_torn();
    }
    let config = match checked.as_deref().and_then(|source| DeTable::parse(source).ok()) {
        Some(document) => {
            let main = reader::read_table(document.get_ref(), document.span(), &mut diagnostics);
            resolve::resolve(main, path, &mut diagnostics)
        }
        None => Config::empty(path),
    };
    Loaded { config, diagnostics }
}
