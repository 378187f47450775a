;; Scores a label with NaN.
;;! world: postprocessor
;;! expect: score of `3` is NaN
(module
  ;;! include _post
  (data (i32.const 140) "\00\00\c0\7f")
)
