;; Claims a thousand million tensors.
;;! expect: failed inside
(module
  ;;! include _pre
  ;;! include _answer
  (data (i32.const 12) "\ff\ff\ff\3f")
)
