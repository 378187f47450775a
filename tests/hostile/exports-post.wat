;; Is a postprocessor where a preprocessor is needed.
;;! world: postprocessor
;;! as: preprocessor
;;! expect: does not export `sedge:processor/pre@0.1.0`, so it is no preprocessor
(module
  ;;! include _post
)
