;; Claims a shape that is more than its data.
;;! expect: claims shape [1, 1, 16, 16] of float32, which is 1024 bytes, and holds 1000
(module
  ;;! include _pre
  ;;! include _answer
  (data (i32.const 88) "\e8\03\00\00")
)
