;; Returns 256 KiB for one message.
;;! world: postprocessor
;;! expect: bytes of payload: 262144; at most 98304
(module
  ;;! include _post
  (data (i32.const 204) "\00\00\04\00")
)
