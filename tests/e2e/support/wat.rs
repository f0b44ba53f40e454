//! Filters in WebAssembly text, `tests/guests/wat`, for what no compiler makes.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A folder of modules, which go with it.
pub struct Wat(TempDir);

impl Wat {
    pub fn new() -> Wat {
        Wat(tempfile::tempdir().unwrap())
    }

    /// The module of a text in `tests/guests/wat`, with words replaced; written under a name of its own.
    #[track_caller]
    pub fn module(&self, text: &str, name: &str, words: &[(&str, &str)]) -> PathBuf {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/wat").join(text).with_extension("wat");
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        // Comments are where the words are explained.
        let code: String =
            text.lines().filter(|line| !line.trim_start().starts_with(";;")).map(|line| format!("{line}\n")).collect();
        self.inline(name, &words.iter().fold(code, |code, (word, text)| code.replace(word, text)))
    }

    /// The module of this text.
    #[track_caller]
    pub fn inline(&self, name: &str, text: &str) -> PathBuf {
        let module = wat::parse_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let path = self.0.path().join(name).with_extension("wasm");
        fs::write(&path, module).unwrap();
        path
    }
}
