;; Calls through an empty table.
;;! expect: uninitialized element
(module
  ;;! include _pre
  (table 4 funcref)
  (func (export "sedge:processor/pre@0.1.0#process") (type $process)
    (call_indirect (type $process) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1)))
)
