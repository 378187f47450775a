;; Puts control characters into its error, to forge log lines.
;;! expect: invalid configuration: a b
(module
  ;;! include _pre
  (func (export "sedge:processor/pre@0.1.0#process") (type $process)
    (i32.const 0))
  (data (i32.const 0) "\01\00\00\00\00\00\00\00\40\00\00\00\03\00\00\00")
  (data (i32.const 64) "a\0ab")
)
