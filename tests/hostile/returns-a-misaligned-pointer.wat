;; Says that its answer lies at an odd address.
;;! expect: failed inside
(module
  ;;! include _pre
  (func (export "sedge:processor/pre@0.1.0#process") (type $process)
    (i32.const 1))
)
