use wasmtime::{Engine, Extern, Instance, Module, Store};

use super::*;

#[derive(Default)]
struct Guest {
    memory: Option<Memory>,
    environment: Vec<(String, String)>,
    written: Vec<(log::Level, Vec<u8>)>,
}

impl Host for Guest {
    fn memory(&self) -> Option<Memory> {
        self.memory
    }

    fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    fn output(&mut self, level: log::Level, text: &[u8]) {
        self.written.push((level, text.to_vec()));
    }
}

/// A guest that exports one page of memory and all of WASI that it imports.
struct Test {
    store: Store<Guest>,
    instance: Instance,
}

/// Beyond the guest's memory, whatever is there; in part; at the end of all addresses.
const NOWHERE: [u32; 3] = [65536, 65535, u32::MAX];

impl Test {
    fn new(imports: &str) -> Test {
        let (mut linker, store) = store();
        add(&mut linker).unwrap();
        let wat = format!("(module {imports} (memory (export \"memory\") 1))");
        Test::of(linker, store, &wat)
    }

    /// Calls a function of WASI: it is imported and exported as it is.
    fn wasi(function: &str, parameters: &str) -> Test {
        Test::new(&format!(
            "(import \"wasi_snapshot_preview1\" \"{function}\" (func (param {parameters}) (result i32))) \
             (export \"f\" (func 0))"
        ))
    }

    fn of(linker: Linker<Guest>, mut store: Store<Guest>, wat: &str) -> Test {
        let module = Module::new(linker.engine(), wat::parse_str(wat).unwrap()).unwrap();
        let instance = linker.instantiate(&mut store, &module).unwrap();
        store.data_mut().memory = instance.get_memory(&mut store, "memory");
        Test { store, instance }
    }

    fn call<P: wasmtime::WasmParams>(&mut self, parameters: P) -> Errno {
        let function = self.instance.get_typed_func::<P, u32>(&mut self.store, "f").unwrap();
        function.call(&mut self.store, parameters).unwrap()
    }

    fn memory(&mut self) -> &mut [u8] {
        self.store.data().memory.unwrap().data_mut(&mut self.store)
    }

    fn u32(&mut self, at: usize) -> u32 {
        u32::from_le_bytes(self.memory()[at..at + 4].try_into().unwrap())
    }

    fn u64(&mut self, at: usize) -> u64 {
        u64::from_le_bytes(self.memory()[at..at + 8].try_into().unwrap())
    }

    fn set(&mut self, at: usize, numbers: &[u32]) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.memory()[at..at + bytes.len()].copy_from_slice(&bytes);
    }
}

fn store() -> (Linker<Guest>, Store<Guest>) {
    let engine = Engine::default();
    (Linker::new(&engine), Store::new(&engine, Guest::default()))
}

/// The adapter that turns preview 1 into components exports every function as guests import it.
#[test]
fn it_is_all_of_preview_1_under_both_names() {
    let (mut linker, mut store) = store();
    add(&mut linker).unwrap();
    let adapter = wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER;
    let adapter = Module::new(linker.engine(), adapter).unwrap();
    let groups = ["args_", "clock_", "environ_", "fd_", "path_", "poll_", "proc_", "random_", "sched_", "sock_"];
    let mut functions = 0;
    for export in adapter.exports() {
        // Beside them, it has entry points of its own.
        if !groups.iter().any(|group| export.name().starts_with(group)) {
            continue;
        }
        let ty = export.ty().unwrap_func().clone();
        for module in MODULES {
            let found = linker.get(&mut store, module, export.name());
            let found = found.ok().and_then(Extern::into_func).unwrap_or_else(|| panic!("{module}.{}", export.name()));
            assert!(FuncType::eq(&found.ty(&store), &ty), "{module}.{}", export.name());
        }
        functions += 1;
    }
    assert_eq!(functions, REPLIES.len() + 13);
}

#[test]
fn output_is_the_log() {
    let mut test = Test::wasi("fd_write", "i32 i32 i32 i32");
    test.memory()[100..112].copy_from_slice(b"Hello,World\n");
    test.set(0, &[100, 12]);
    assert_eq!(test.call((1, 0, 1, 64)), SUCCESS);
    assert_eq!(test.u32(64), 12);
    test.set(0, &[100, 6, 0, 0, 106, 6]);
    assert_eq!(test.call((2, 0, 3, 64)), SUCCESS);
    let lines = [(log::Level::Info, b"Hello,World\n".to_vec()), (log::Level::Error, b"Hello,World\n".to_vec())];
    assert_eq!(test.store.data().written, lines);
    for fd in [0, 3, u32::MAX] {
        assert_eq!(test.call((fd, 0, 1, 64)), BADF);
    }
    assert_eq!(test.store.data().written.len(), 2);
}

#[test]
fn output_has_bounds() {
    let mut test = Test::wasi("fd_write", "i32 i32 i32 i32");
    let piece = [0, 60000];
    test.set(0, &[piece; 3].concat());
    assert_eq!(test.call((1, 0, 3, 60000)), SUCCESS);
    assert_eq!((test.u32(60000), test.store.data().written[0].1.len()), (MOST_WRITTEN as u32, MOST_WRITTEN));
    assert_eq!(test.call((1, 0, MOST_PIECES + 1, 60000)), INVAL);
    for nowhere in NOWHERE {
        assert_eq!(test.call((1, nowhere, 1, 64)), FAULT, "the pieces");
        assert_eq!(test.call((1, 0, 1, nowhere)), FAULT, "the length");
        test.set(8, &[nowhere, 2]);
        assert_eq!(test.call((1, 8, 1, 64)), FAULT, "the text");
    }
    test.set(8, &[1, u32::MAX]);
    assert_eq!(test.call((1, 8, 1, 64)), FAULT, "a long text");
}

#[test]
fn the_environment_is_the_configured_one() {
    let environment = vec![("A".to_owned(), "1".to_owned()), ("LANG".to_owned(), String::new())];
    let mut test = Test::wasi("environ_sizes_get", "i32 i32");
    test.store.data_mut().environment = environment.clone();
    assert_eq!(test.call((8, 12)), SUCCESS);
    assert_eq!((test.u32(8), test.u32(12)), (2, 10));
    NOWHERE
        .into_iter()
        .for_each(|nowhere| assert_eq!((test.call((nowhere, 0)), test.call((0, nowhere))), (FAULT, FAULT)));

    let mut test = Test::wasi("environ_get", "i32 i32");
    test.store.data_mut().environment = environment;
    assert_eq!(test.call((8, 100)), SUCCESS);
    assert_eq!((test.u32(8), test.u32(12)), (100, 104));
    assert_eq!(&test.memory()[100..110], b"A=1\0LANG=\0");
    NOWHERE
        .into_iter()
        .for_each(|nowhere| assert_eq!((test.call((nowhere, 0)), test.call((0, nowhere))), (FAULT, FAULT)));

    let mut test = Test::wasi("args_sizes_get", "i32 i32");
    test.memory().fill(1);
    assert_eq!(test.call((8, 12)), SUCCESS);
    assert_eq!((test.u32(8), test.u32(12)), (0, 0));
    NOWHERE
        .into_iter()
        .for_each(|nowhere| assert_eq!((test.call((nowhere, 0)), test.call((0, nowhere))), (FAULT, FAULT)));
}

#[test]
fn clocks_move() {
    let mut test = Test::wasi("clock_time_get", "i32 i64 i32");
    assert_eq!(test.call((REALTIME, 1u64, 0)), SUCCESS);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    assert!(now - test.u64(0) < 60_000_000_000);
    assert_eq!(test.call((MONOTONIC, 1u64, 0)), SUCCESS);
    let before = test.u64(0);
    while test.u64(0) == before {
        assert_eq!(test.call((MONOTONIC, 1u64, 0)), SUCCESS);
    }
    assert!(test.u64(0) > before);
    assert_eq!((test.call((2, 1u64, 0)), test.call((u32::MAX, 1u64, 0))), (NOTSUP, NOTSUP));
    NOWHERE.into_iter().for_each(|nowhere| assert_eq!(test.call((REALTIME, 1u64, nowhere)), FAULT));

    let mut test = Test::wasi("clock_res_get", "i32 i32");
    assert_eq!((test.call((MONOTONIC, 0)), test.u64(0)), (SUCCESS, 1));
    assert_eq!((test.call((2, 0)), test.call((0, u32::MAX))), (NOTSUP, FAULT));
}

#[test]
fn random_numbers_fill_what_was_asked_for() {
    let mut test = Test::wasi("random_get", "i32 i32");
    assert_eq!(test.call((8, 32)), SUCCESS);
    let first = test.memory()[8..40].to_vec();
    let memory = test.memory();
    assert!(memory[..8].iter().chain(&memory[40..]).all(|byte| *byte == 0));
    assert_eq!(test.call((8, 32)), SUCCESS);
    assert_ne!(test.memory()[8..40], first);
    assert_eq!(test.call((0, MOST_RANDOM)), SUCCESS);
    assert_eq!(test.call((0, MOST_RANDOM + 1)), INVAL);
    NOWHERE.into_iter().for_each(|nowhere| assert_eq!(test.call((nowhere, 2)), FAULT));
}

#[test]
fn only_output_is_open() {
    let mut test = Test::wasi("fd_fdstat_get", "i32 i32");
    assert_eq!((test.call((1, 0)), test.u64(0), test.u64(8), test.u64(16)), (SUCCESS, 0, 64, 0));
    assert_eq!((test.call((0, 0)), test.call((3, 0)), test.call((2, u32::MAX))), (BADF, BADF, FAULT));

    let mut test = Test::wasi("fd_seek", "i32 i64 i32 i32");
    test.memory().fill(1);
    assert_eq!((test.call((1, 5u64, 0, 8)), test.u64(8)), (SUCCESS, 0));
    assert_eq!(test.call((1, 5u64, 0, u32::MAX)), FAULT);

    let mut test = Test::wasi("fd_tell", "i32 i32");
    test.memory().fill(1);
    assert_eq!((test.call((1, 8)), test.u64(8), test.call((3, 8))), (SUCCESS, 0, BADF));
    let mut test = Test::wasi("fd_pwrite", "i32 i32 i32 i64 i32");
    test.set(0, &[100, 2]);
    test.memory()[100..102].copy_from_slice(b"hi");
    assert_eq!((test.call((1, 0, 1, 5u64, 64)), test.u32(64), test.call((3, 0, 1, 5u64, 64))), (SUCCESS, 2, BADF));
    assert_eq!(test.store.data().written, [(log::Level::Info, b"hi".to_vec())]);
    for (function, errno) in [("fd_pread", NOSYS), ("fd_readdir", EXIST)] {
        let mut test = Test::wasi(function, "i32 i32 i32 i64 i32");
        assert_eq!([1, 3].map(|fd| test.call((fd, 0, 0, 0u64, 0))), [errno; 2], "{function}");
    }

    let mut test = Test::wasi("path_open", "i32 i32 i32 i32 i32 i64 i64 i32 i32");
    assert_eq!(test.call((3, 0, 0, 0, 0, 0u64, 0u64, 0, u32::MAX)), NOENT);
    let mut test = Test::wasi("fd_prestat_get", "i32 i32");
    assert_eq!(test.call((3, 0)), BADF);
    let mut test = Test::wasi("fd_sync", "i32");
    assert_eq!((test.call(1), test.call(2), test.call(0), test.call(-1)), (SUCCESS, SUCCESS, BADF, BADF));
    let mut test = Test::wasi("sched_yield", "");
    assert_eq!(test.call(()), SUCCESS);
}

#[test]
fn polling_finds_nothing_at_once() {
    let mut test = Test::wasi("poll_oneoff", "i32 i32 i32 i32");
    test.memory().fill(1);
    assert_eq!((test.call((0, 0, 1, 100)), test.u32(100)), (SUCCESS, 0));
    NOWHERE.into_iter().for_each(|nowhere| assert_eq!(test.call((0, 0, 1, nowhere)), FAULT));
}

#[test]
fn to_exit_is_a_trap_that_says_so() {
    let mut test = Test::new(
        "(import \"wasi_unstable\" \"proc_exit\" (func (param i32))) \
         (func (export \"f\") (result i32) (call 0 (i32.const 7)) (i32.const 0))",
    );
    let function = test.instance.get_typed_func::<(), u32>(&mut test.store, "f").unwrap();
    let error = format!("{:#}", function.call(&mut test.store, ()).unwrap_err());
    assert!(error.contains("it called proc_exit(7)"), "{error}");
}

#[test]
fn a_guest_may_write_while_it_is_instantiated_and_need_not_have_memory() {
    let (mut linker, store) = store();
    add(&mut linker).unwrap();
    let wat = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\08\00\00\00\02\00\00\00hi")
        (func $start (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16))))
        (start $start))"#;
    let test = Test::of(linker, store, wat);
    assert_eq!(test.store.data().written, [(log::Level::Info, b"hi".to_vec())]);

    let (mut linker, store) = self::store();
    add(&mut linker).unwrap();
    let wat = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
        (export "f" (func 0)))"#;
    assert_eq!(Test::of(linker, store, wat).call((1, 0, 1, 0)), FAULT);
}
