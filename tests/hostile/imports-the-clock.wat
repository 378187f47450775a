;; Asks for the clock, which nobody granted.
;;! expect: imports `sedge:processor/clock@0.1.0`, which is not granted: add `grants = ["clock"]`
;;! world: preprocessor-full
(module
  (import "sedge:processor/clock@0.1.0" "now-monotonic-ns" (func $now (result i64)))
  ;;! include _pre
  (func (export "sedge:processor/pre@0.1.0#process") (type $process)
    (drop (call $now)) (i32.const 0))
)
