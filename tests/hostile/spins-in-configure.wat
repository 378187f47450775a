;; Never ends its configuration.
;;! expect: no answer within 2000 ms
(module
  (type $process (func (param i64 i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global $next (mut i32) (i32.const 1024))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.set $next (i32.and (i32.add (i32.add (global.get $next) (local.get 3)) (i32.const 7)) (i32.const -8)))
    (i32.sub (global.get $next) (i32.and (i32.add (local.get 3) (i32.const 7)) (i32.const -8))))
  (func (export "sedge:processor/pre@0.1.0#configure") (param i32) (result i32) (loop $again (br $again)) (i32.const 0))
  (func (export "sedge:processor/pre@0.1.0#reset"))
  (func (export "sedge:processor/pre@0.1.0#process") (type $process) (i32.const 0)))
