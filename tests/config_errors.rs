//! Every `tests/bad_configs/NAME.toml` gives exactly the text of `NAME.txt`. `UPDATE=1` writes the texts anew.

use std::fs;
use std::path::{Path, PathBuf};

use phasegate::config;

#[test]
fn every_bad_config_gives_its_message() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad_configs");
    let mut wrong = Vec::new();
    for path in files(&directory) {
        let loaded = config::load(&path);
        let given = loaded.diagnostics.to_string().replace(&format!("{}/", directory.display()), "");
        assert!(!given.is_empty(), "{} is not bad", path.display());
        let expected_path = path.with_extension("txt");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&expected_path, &given).expect("the text can be written");
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if given != expected {
            wrong.push(format!("{}\n--- expected\n{expected}\n--- given\n{given}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "UPDATE=1 accepts these:\n{}", wrong.join("\n"));
}

#[test]
fn a_file_that_is_not_there_is_a_diagnostic() {
    let loaded = config::load(Path::new("no/such.toml"));
    assert_eq!(loaded.diagnostics.error_count(), 1);
    let text = loaded.diagnostics.to_string();
    assert!(text.contains("cannot read the configuration file no/such.toml: No such file"), "{text}");
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("the folder is there");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    assert!(!files.is_empty());
    files
}
