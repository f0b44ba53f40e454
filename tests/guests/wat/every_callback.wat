;; Every callback of a filter, each with its number. The test puts code in the place of WHAT, and a number in that of WHICH:
;; the callback with that number runs the code.
(module
  (memory (export "memory") 2)
  (global $next (mut i32) (i32.const 4096))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $next))
    (global.set $next (i32.add (global.get $next) (local.get $size)))
    (local.get $at))

  (func $callback (param $number i32)
    (if (i32.eq (local.get $number) (i32.const WHICH))
      (then WHAT)))

  (func (export "_initialize") (call $callback (i32.const 0)))
  ;; 1 is the creation of a root context, 2 that of a stream's.
  (func (export "proxy_on_context_create") (param i32) (param $parent i32)
    (call $callback (if (result i32) (local.get $parent) (then (i32.const 2)) (else (i32.const 1)))))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (call $callback (i32.const 3)) (i32.const 1))
  (func (export "proxy_on_configure") (param i32 i32) (result i32) (call $callback (i32.const 4)) (i32.const 1))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (call $callback (i32.const 5)) (i32.const 0))
  (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (call $callback (i32.const 6)) (i32.const 0))
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (call $callback (i32.const 7)) (i32.const 0))
  (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (call $callback (i32.const 8)) (i32.const 0))
  (func (export "proxy_on_done") (param i32) (result i32) (call $callback (i32.const 9)) (i32.const 1))
  (func (export "proxy_on_log") (param i32) (call $callback (i32.const 10)))
  (func (export "proxy_on_delete") (param i32) (call $callback (i32.const 11))))
