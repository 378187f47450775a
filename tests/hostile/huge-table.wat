;; A table of a million elements.
;;! expect: a table of 1000000 elements
(module
  ;;! include _pre
  (table 1000000 funcref)
  (func (export "sedge:processor/pre@0.1.0#process") (type $process)
    (i32.const 0))
)
