;; Gives a class the name of another.
;;! world: postprocessor
;;! expect: label is 3 `4`, outside of the bundle's 10 labels
(module
  ;;! include _post
  (data (i32.const 160) "4")
)
