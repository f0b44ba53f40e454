//! Every `tests/bad_modules/NAME.toml` names modules that are wrong, and `check` says exactly the text of `NAME.txt`.
//! `UPDATE=1` writes the texts anew.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::support::*;

#[test]
fn every_bad_module_gives_its_message() {
    let texts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad_modules");
    let folder = modules();
    let mut wrong = Vec::new();
    for path in configurations(&texts) {
        let name = path.file_name().unwrap();
        fs::copy(&path, folder.path().join(name)).unwrap();
        let output = Output::of(phasegate().args(["check", "-c"]).arg(name).current_dir(folder.path()));
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{}: {output:?}", path.display());

        let expected_path = path.with_extension("txt");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&expected_path, &output.stderr).unwrap();
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if output.stderr != expected {
            wrong.push(format!("{}\n--- expected\n{expected}\n--- given\n{}", path.display(), output.stderr));
        }
    }
    assert!(wrong.is_empty(), "UPDATE=1 accepts these:\n{}", wrong.join("\n"));
}

/// `check` and `run` find the module wrong before anything listens: the port is taken, and nobody notices.
#[test]
fn nothing_listens_for_a_bad_module() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = |module: &Path| {
        let listen = format!("[[server]]\nlisten = [{{ addr = \"{}\" }}]\n", taken.local_addr().unwrap());
        let local = "[[server.local]]\npath = \"/\"\necho = true\n";
        format!("{listen}{local}{}", script("wasm_access", module, ""))
    };
    let bad = config(&guests::path("bare"));
    let (checked, run) = (check(&bad), refused(&bad));
    for output in [&checked, &run] {
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output:?}");
        assert!(output.stderr.contains("the module bare.wasm is not a plugin"), "{output:?}");
        assert!(!output.stderr.contains("listen"), "{output:?}");
    }
    let good = check(&config(&guests::path("verdict")));
    assert_eq!(good.code, Some(0), "{good:?}");
}

/// A folder with the modules that the configurations name.
fn modules() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    for guest in ["bare", "partial", "proxy_wasm_stub"] {
        write(&format!("{guest}.wasm"), &fs::read(guests::path(guest)).unwrap());
    }
    write("hotlink.wasm", &fs::read(plugins::path("hotlink")).unwrap());
    write("empty.wasm", b"");
    write("text.wasm", b"This is no module.\n");
    write("plugin.wat", b"(module\n  (func (export \"wasm-main\")))\n");
    // In the middle of the first section, so that the message does not depend on how a guest was built.
    write("truncated.wasm", &fs::read(guests::path("partial")).unwrap()[..10]);
    write("no_service.wasm", COMPONENT);
    write("other_type.wasm", &wat::parse_str(OTHER_TYPE).unwrap());
    write(
        "unknown_import.wasm",
        &[COMPONENT, TYPE_OF_AN_INSTANCE, &import(b"example:database/queries@1.0.0")].concat(),
    );
    folder
}

/// An entry point that takes and gives nothing.
const OTHER_TYPE: &str = r#"(component
  (core module $module (func (export "main")))
  (core instance $instance (instantiate $module))
  (func $main (canon lift (core func $instance "main")))
  (instance $service (export "wasm-main" (func $main)))
  (export "phasegate:plugin/wasm-service@0.1.0" (instance $service)))"#;

/// The header of a component (Binary.md of the component model).
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
/// `(type (instance (export "run" (func))))`
const TYPE_OF_AN_INSTANCE: &[u8] = b"\x07\x10\x01\x42\x02\x01\x40\0\x01\0\x04\0\x03run\x01\0";

/// A section that imports an instance of type 0.
fn import(name: &[u8]) -> Vec<u8> {
    let length = u8::try_from(name.len()).unwrap();
    [b"\x0a", &[length + 5][..], b"\x01\x00", &[length], name, b"\x05\x00"].concat()
}

fn configurations(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    assert!(!files.is_empty());
    files
}
