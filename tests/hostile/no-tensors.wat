;; Returns no tensor at all.
;;! expect: it returned tensors []
(module
  ;;! include _pre
  ;;! include _answer
  (data (i32.const 12) "\00\00\00\00")
)
