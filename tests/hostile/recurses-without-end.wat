;; Recurses until the stack is used up.
;;! expect: more than 256 KiB of stack
(module
  ;;! include _pre
  (func $down (param i32) (result i32) (i32.add (call $down (local.get 0)) (i32.const 1)))
  (func (export "sedge:processor/pre@0.1.0#process") (type $process)
    (call $down (i32.const 0)))
)
