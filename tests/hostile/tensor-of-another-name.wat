;; Returns a tensor of a name that the model does not have.
;;! expect: it returned tensors ["imagf"]
(module
  ;;! include _pre
  ;;! include _answer
  (data (i32.const 128) "imagf")
)
