;; A data segment that does not fit the memory.
;;! expect: out of bounds memory access
(module
  ;;! include _pre
  (func (export "sedge:processor/pre@0.1.0#process") (type $process)
    (i32.const 0))
  (data (i32.const 0x7ffffff0) "x")
)
