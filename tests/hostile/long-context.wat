;; Leaves a note of 100 KB for the postprocessor.
;;! expect: bytes of context: 100000; at most 4096
(module
  ;;! include _pre
  ;;! include _answer
  (data (i32.const 16) "\a0\86\01\00\a0\86\01\00")
)
