;; Returns a content type with a line break.
;;! world: postprocessor
;;! expect: content type `te t/plain`
(module
  ;;! include _post
  (data (i32.const 258) "\0a")
)
