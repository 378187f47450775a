;; Spins before anything was called.
;;! expect: no answer within 2000 ms
(module
  ;;! include _pre
  (func (export "sedge:processor/pre@0.1.0#process") (type $process)
    (i32.const 0))
  (func $spin (loop $again (br $again)))
  (start $spin)
)
