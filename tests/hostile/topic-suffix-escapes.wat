;; Tries to publish to another device.
;;! world: postprocessor
;;! expect: topic suffix `../../other/in/s`
(module
  ;;! include _post
  (data (i32.const 208) "\01")
)
