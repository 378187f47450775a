;; Returns a variant case that does not exist.
;;! expect: failed inside
(module
  ;;! include _pre
  (func (export "sedge:processor/pre@0.1.0#process") (type $process)
    (i32.store8 (i32.const 0) (i32.const 7)) (i32.const 0))
)
