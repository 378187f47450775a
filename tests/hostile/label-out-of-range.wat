;; Names a class that the bundle does not have.
;;! world: postprocessor
;;! expect: label is 10 `3`, outside of the bundle's 10 labels
(module
  ;;! include _post
  (data (i32.const 128) "\0a")
)
