;; Asks for random bytes, which nobody granted.
;;! expect: imports `sedge:processor/random@0.1.0`, which is not granted
;;! world: preprocessor-full
(module
  (import "sedge:processor/random@0.1.0" "fill" (func $fill (param i32 i32)))
  ;;! include _pre
  (func (export "sedge:processor/pre@0.1.0#process") (type $process)
    (call $fill (i32.const 1) (i32.const 0)) (i32.const 0))
)
