;; Reads where it has no memory.
;;! expect: out of bounds memory access
(module
  ;;! include _pre
  (func (export "sedge:processor/pre@0.1.0#process") (type $process)
    (i32.load (i32.const 0x7ffffff0)))
)
