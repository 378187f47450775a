;; Divides by zero.
;;! expect: divide by zero
(module
  ;;! include _pre
  (func (export "sedge:processor/pre@0.1.0#process") (type $process)
    (i32.div_u (i32.const 1) (i32.const 0)))
)
