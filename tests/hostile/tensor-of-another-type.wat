;; Returns int8 where the model takes float32.
;;! expect: tensor `image` is int8
(module
  ;;! include _pre
  ;;! include _answer
  (data (i32.const 72) "\01")
)
