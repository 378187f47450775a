;; Is granted random bytes and asks for four thousand million.
;;! expect: 4294967295 random bytes asked for; at most 4096 a call
;;! world: preprocessor-full
;;! grants: random
(module
  (import "sedge:processor/random@0.1.0" "fill" (func $fill (param i32 i32)))
  ;;! include _pre
  (func (export "sedge:processor/pre@0.1.0#process") (type $process)
    (call $fill (i32.const -1) (i32.const 0)) (i32.const 0))
)
