;; Says that a tensor's data lies outside of its memory.
;;! expect: failed inside
(module
  ;;! include _pre
  ;;! include _answer
  (data (i32.const 84) "\f0\ff\ff\7f")
)
