//! The folder in which compiled modules are kept for the next start.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use wasmtime::{Cache, CacheConfig};

/// Why nothing is kept there.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("{0}")]
    Folder(#[from] io::Error),
    #[error("others may write to {}, and what is in it runs as it is: take that away, chmod go-w", .0.display())]
    Open(PathBuf),
    #[error("{} belongs to another user, and what is in it runs as it is: name a folder of your own", .0.display())]
    Foreign(PathBuf),
    #[error("{0:#}")]
    Wasmtime(wasmtime::Error),
}

/// Opens the cache in a folder, which is made if need be, and starts the thread that keeps its size down. A file in it
/// that cannot be read is compiled anew.
///
/// # Errors
/// When the folder cannot be written to, or must not be trusted.
pub fn open(folder: &Path) -> Result<Cache, CacheError> {
    let folder = std::path::absolute(folder)?;
    // One of its own: Wasmtime deletes what it does not know.
    let compiled = folder.join("compiled");
    make(&folder)?;
    make(&compiled)?;
    let mut config = CacheConfig::new();
    config.with_directory(compiled);
    Cache::new(config).map_err(CacheError::Wasmtime)
}

/// Makes a folder into which nobody else can look, unless it is there. Whoever could write there could run code here.
fn make(folder: &Path) -> Result<(), CacheError> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let found = fs::metadata(folder)?;
    if found.mode() & 0o022 != 0 {
        return Err(CacheError::Open(folder.into()));
    }
    // Wasmtime would find out module by module.
    let probe = folder.join(format!("probe-{}", std::process::id()));
    let own = File::create(&probe)?.metadata()?.uid();
    fs::remove_file(&probe)?;
    if found.uid() == own { Ok(()) } else { Err(CacheError::Foreign(folder.into())) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use wasmtime::component::Component;
    use wasmtime::{Engine, Module};

    use super::*;
    use crate::wasm::engine::EngineClock;

    const MODULE: &str = "(module (func (export \"f\") (result i32) i32.const 1))";
    const COMPONENT: &str = "(component (core module (func (export \"f\"))))";

    fn compile(folder: &Path) {
        let clock = EngineClock::start(Some(open(folder).unwrap())).unwrap();
        compile_with(clock.engine());
    }

    fn compile_with(engine: &Engine) {
        let module = Module::new(engine, wat::parse_str(MODULE).unwrap()).unwrap();
        assert!(module.get_export("f").is_some());
        Component::new(engine, wat::parse_str(COMPONENT).unwrap()).unwrap();
    }

    /// The compiled modules, each with the number of its file: one that is written anew has another.
    fn kept(folder: &Path) -> Vec<(PathBuf, u64)> {
        let mut files = Vec::new();
        for compiler in fs::read_dir(folder.join("compiled/modules")).unwrap() {
            let modules = fs::read_dir(compiler.unwrap().path()).unwrap().map(|entry| entry.unwrap().path());
            let modules = modules.filter(|path| path.extension().is_none());
            files.extend(modules.map(|path| (path.clone(), path.metadata().unwrap().ino())));
        }
        files.sort();
        files
    }

    #[test]
    fn what_was_compiled_once_is_there_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("made/here");
        compile(&folder);
        let first = kept(&folder);
        assert_eq!(first.len(), 2);
        compile(&folder);
        assert_eq!(kept(&folder), first, "nothing is compiled again");
    }

    #[test]
    fn damaged_files_are_compiled_anew() {
        let folder = tempfile::tempdir().unwrap();
        compile(folder.path());
        let whole = kept(folder.path());
        for damage in ["nothing", "garbage", "half"] {
            for (path, _) in &whole {
                let bytes = fs::read(path).unwrap();
                let damaged = match damage {
                    "nothing" => &[],
                    "garbage" => &b"garbage"[..],
                    _ => &bytes[..bytes.len() / 2],
                };
                fs::write(path, damaged).unwrap();
            }
            let damaged = kept(folder.path());
            compile(folder.path());
            let now = kept(folder.path());
            assert_eq!(now.len(), 2);
            assert!(now.iter().zip(&damaged).all(|(now, damaged)| now.1 != damaged.1), "{now:?}");
        }
    }

    #[test]
    fn a_folder_that_is_of_no_use_or_not_to_be_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(open(&file), Err(CacheError::Folder(_))));
        assert!(matches!(open(Path::new("/proc/self/cache")), Err(CacheError::Folder(_))));
        for mode in [0o702, 0o720] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(open(folder.path()), Err(CacheError::Open(_))), "{mode:o}");
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(open(folder.path()).is_ok());
        let compiled = folder.path().join("compiled");
        assert_eq!(fs::metadata(&compiled).unwrap().mode() & 0o777, 0o700, "whatever the umask");
        fs::set_permissions(&compiled, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(open(folder.path()), Err(CacheError::Open(which)) if which == compiled));
        fs::remove_dir(&compiled).unwrap();
        // Only root can give it away.
        if std::os::unix::fs::chown(folder.path(), Some(65534), None).is_ok() {
            assert!(matches!(open(folder.path()), Err(CacheError::Foreign(_))));
        }
    }
}
