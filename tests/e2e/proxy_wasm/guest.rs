//! Filters in WebAssembly text, each made for one test: what happens in which callback.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The callbacks with their number of parameters, the first of which is the context, and what they answer if nothing else
/// is said.
const CALLBACKS: [(&str, usize, Option<u32>); 17] = [
    ("proxy_on_context_create", 2, None),
    ("proxy_on_vm_start", 2, Some(1)),
    ("proxy_on_configure", 2, Some(1)),
    ("proxy_on_tick", 1, None),
    ("proxy_on_queue_ready", 2, None),
    ("proxy_on_request_headers", 3, Some(0)),
    ("proxy_on_request_body", 3, Some(0)),
    ("proxy_on_request_trailers", 2, Some(0)),
    ("proxy_on_response_headers", 3, Some(0)),
    ("proxy_on_response_body", 3, Some(0)),
    ("proxy_on_response_trailers", 2, Some(0)),
    ("proxy_on_done", 1, Some(1)),
    ("proxy_on_log", 1, None),
    ("proxy_on_delete", 1, None),
    ("proxy_on_memory_allocate", 1, Some(SCRATCH)),
    ("_initialize", 0, None),
    ("_start", 0, None),
];

/// Where the allocator, unless it is replaced, has all of its memory.
const SCRATCH: u32 = 64 << 10;

/// What each module has: host functions, and functions to be called with texts.
///
/// - `$say` logs a text, `$show` a text with a number, such as a status.
/// - `$print` writes a text to the standard output.
/// - `$spin` computes, and calls the host, for so many milliseconds.
/// - `$count` adds one to the counter of this name.
/// - `$path` is the first letter of the path after its slash; `$header` whether the request has this header.
/// - `$answer` sends a response with this status and no body.
const COMMON: &str = r#"
  (import "env" "proxy_log" (func $proxy_log (param i32 i32 i32) (result i32)))
  (import "env" "proxy_define_metric" (func $proxy_define_metric (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_increment_metric" (func $proxy_increment_metric (param i32 i64) (result i32)))
  (import "env" "proxy_get_header_map_value"
    (func $proxy_get_header_map_value (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_add_header_map_value"
    (func $proxy_add_header_map_value (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_buffer_bytes" (func $proxy_get_buffer_bytes (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_send_local_response"
    (func $proxy_send_local_response (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_continue_stream" (func $proxy_continue_stream (param i32) (result i32)))
  (import "env" "proxy_get_current_time_nanoseconds" (func $proxy_get_current_time (param i32) (result i32)))
  (import "env" "proxy_set_effective_context" (func $proxy_set_effective_context (param i32) (result i32)))
  (import "env" "proxy_set_tick_period_milliseconds" (func $tick_every (param i32) (result i32)))
  (import "env" "proxy_done" (func $proxy_done (result i32)))
  (import "env" "proxy_get_shared_data" (func $proxy_get_shared_data (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_shared_data" (func $proxy_set_shared_data (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_register_shared_queue" (func $proxy_register_shared_queue (param i32 i32 i32) (result i32)))
  (import "env" "proxy_resolve_shared_queue"
    (func $proxy_resolve_shared_queue (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_enqueue_shared_queue" (func $proxy_enqueue_shared_queue (param i32 i32 i32) (result i32)))
  (import "env" "proxy_dequeue_shared_queue" (func $proxy_dequeue_shared_queue (param i32 i32 i32) (result i32)))
  (import "env" "envoy_resolve_dns" (func $envoy_resolve_dns (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory $memory (export "memory") 4)
  (func $say (param i32 i32) (drop (call $proxy_log (i32.const 2) (local.get 0) (local.get 1))))
  (func $show (param $text i32) (param $size i32) (param $number i32) (local $at i32)
    (memory.copy (i32.const 0x200) (local.get $text) (local.get $size))
    (local.set $at (i32.const 0x2ff))
    (loop $digit
      (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10))))
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (br_if $digit (local.tee $number (i32.div_u (local.get $number) (i32.const 10)))))
    (memory.copy
      (i32.add (i32.const 0x200) (local.get $size)) (i32.add (local.get $at) (i32.const 1))
      (i32.sub (i32.const 0x2ff) (local.get $at)))
    (call $say (i32.const 0x200) (i32.add (local.get $size) (i32.sub (i32.const 0x2ff) (local.get $at)))))
  (func $print (param i32 i32)
    (i32.store (i32.const 0x10c) (local.get 0))
    (i32.store (i32.const 0x110) (local.get 1))
    (drop (call $fd_write (i32.const 1) (i32.const 0x10c) (i32.const 1) (i32.const 0x114))))
  (func $spin (param i32)
    (drop (call $proxy_get_current_time (i32.const 0x118)))
    (i64.store (i32.const 0x120)
      (i64.add (i64.load (i32.const 0x118)) (i64.mul (i64.extend_i32_u (local.get 0)) (i64.const 1000000))))
    (loop $more
      (drop (call $proxy_get_current_time (i32.const 0x118)))
      (br_if $more (i64.lt_u (i64.load (i32.const 0x118)) (i64.load (i32.const 0x120))))))
  (func $count (param i32 i32)
    (drop (call $proxy_define_metric (i32.const 0) (local.get 0) (local.get 1) (i32.const 0x100)))
    (drop (call $proxy_increment_metric (i32.load (i32.const 0x100)) (i64.const 1))))
  (func $header (param i32 i32) (result i32)
    (i32.eqz (call $proxy_get_header_map_value
      (i32.const 0) (local.get 0) (local.get 1) (i32.const 0x104) (i32.const 0x108))))
  (func $path (result i32)
    (drop (call $header ':path'))
    (i32.load8_u offset=1 (i32.load (i32.const 0x104))))
  (func $answer (param i32)
    (drop (call $proxy_send_local_response (local.get 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
      (i32.const 0) (i32.const 0) (i32.const -1))))
"#;

/// A filter. In its code, a text in single quotes stands for its address and its length.
#[derive(Clone, Default)]
pub struct Guest {
    callbacks: BTreeMap<&'static str, String>,
    imports: String,
    more: String,
    of_higress: bool,
}

impl Guest {
    pub fn new() -> Guest {
        Guest::default()
    }

    /// Does this in a callback, after what was said before. The context is `$context`, what follows it `$a` and `$b`.
    pub fn on(mut self, callback: &str, code: &str) -> Guest {
        let known = CALLBACKS.iter().find(|(name, ..)| *name == callback);
        let (name, ..) = known.unwrap_or_else(|| panic!("there is no {callback}"));
        *self.callbacks.entry(name).or_default() += code;
        self
    }

    /// With more functions and globals.
    pub fn with(mut self, more: &str) -> Guest {
        self.more += more;
        self
    }

    /// With more host functions.
    pub fn importing(mut self, imports: &str) -> Guest {
        self.imports += imports;
        self
    }

    /// For the ABI as Higress names it.
    pub fn of_higress(mut self) -> Guest {
        self.of_higress = true;
        self
    }

    /// The module.
    pub fn bytes(&self) -> Vec<u8> {
        let mut texts = Vec::new();
        let version = if self.of_higress { "0_2_100" } else { "0_2_1" };
        let mut module = self.imports.clone() + &quoted(COMMON, &mut texts);
        module += &format!("(func (export \"proxy_abi_version_{version}\"))");
        module += &quoted(&self.more, &mut texts);
        for (name, parameters, answer) in CALLBACKS {
            let code = match (self.callbacks.get(name), name) {
                (Some(code), _) => code,
                (None, "proxy_on_memory_allocate") => "",
                (None, _) => continue,
            };
            let parameters: String =
                ["$context", "$a", "$b"][..parameters].iter().map(|name| format!(" (param {name} i32)")).collect();
            let (result, answer) =
                answer.map(|answer| (" (result i32)", format!("(i32.const {answer})"))).unwrap_or_default();
            let code = quoted(code, &mut texts);
            module += &format!("(func (export \"{name}\"){parameters}{result} {code} {answer})\n");
        }
        let texts: String = texts.iter().map(|byte| format!("\\{byte:02x}")).collect();
        let module = format!("(module {module} (data (i32.const {TEXTS}) \"{texts}\"))");
        wat::parse_str(&module).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Where the module is. It stays there: each has a name of its own.
    pub fn path(&self) -> PathBuf {
        let bytes = self.bytes();
        let digest: String = Sha256::digest(&bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("filter-{digest}.wasm"));
        if !path.exists() {
            // There whole or not at all, whoever else does the same.
            let part = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            fs::write(part.path(), bytes).unwrap();
            part.persist(&path).unwrap();
        }
        path
    }
}

/// Where texts are in the memory.
const TEXTS: usize = 0x400;

/// Code with the texts in it put into the memory.
fn quoted(code: &str, texts: &mut Vec<u8>) -> String {
    let mut parts = code.split('\'');
    let mut result = parts.next().unwrap_or("").to_owned();
    while let (Some(text), Some(rest)) = (parts.next(), parts.next()) {
        result += &format!("(i32.const {}) (i32.const {}){rest}", TEXTS + texts.len(), text.len());
        texts.extend_from_slice(text.as_bytes());
    }
    result
}
