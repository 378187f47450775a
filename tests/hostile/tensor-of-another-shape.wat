;; Returns a tensor that the model does not take.
;;! expect: bundle.toml says float32 [1, 1, 16, 16]
(module
  ;;! include _pre
  ;;! include _answer
  (data (i32.const 168) "\ff\ff\ff\ff")
)
