;; Asks for a header, and for the whole map, and answers with the statuses. The test writes the allocator: ALLOCATE stands for
;; its body, from the size in $size to an address.
(module
  (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
  (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_header_map_pairs" (func $pairs (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) ":path")
  (data (i32.const 96) "get ?, pairs ?")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32) ALLOCATE)
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    ;; The digits of the statuses.
    (i32.store8 (i32.const 100)
      (i32.add (i32.const 48) (call $get (i32.const 0) (i32.const 64) (i32.const 5) (i32.const 0) (i32.const 4))))
    (i32.store8 (i32.const 109)
      (i32.add (i32.const 48) (call $pairs (i32.const 0) (i32.const 0) (i32.const 4))))
    (drop (call $log (i32.const 2) (i32.const 96) (i32.const 14)))
    (i32.const 0)))
