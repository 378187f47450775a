;; Is surer than sure.
;;! world: postprocessor
;;! expect: confidence is 1000000000, outside of 0 to 1
(module
  ;;! include _post
  (data (i32.const 84) "\28\6b\6e\4e")
)
