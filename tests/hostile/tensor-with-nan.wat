;; Returns NaN, which would poison every sum.
;;! expect: tensor `image`, element 1 is NaN
(module
  ;;! include _pre
  ;;! include _answer
  (data (i32.const 260) "\00\00\c0\7f")
)
