;; Returns a tensor that the model does not take.
;;! expect: the model's input is float32 [1, 1, 16, 16]
(module
  ;;! include _pre
  ;;! include _answer
  (data (i32.const 168) "\ff\ff\ff\ff")
)
