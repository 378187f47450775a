;; Declares four GiB of memory from the start.
;;! expect: of memory, limits.sandbox_memory_mib is 8
(module
  (type $process (func (param i64 i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 65535)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
  (func (export "sedge:processor/pre@0.1.0#configure") (param i32) (result i32) (i32.const 0))
  (func (export "sedge:processor/pre@0.1.0#reset"))
  (func (export "sedge:processor/pre@0.1.0#process") (type $process) (i32.const 0)))
