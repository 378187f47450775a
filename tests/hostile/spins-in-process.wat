;; Never answers: the epoch deadline ends the call.
;;! expect: no answer within 100 ms
(module
  ;;! include _pre
  (func (export "sedge:processor/pre@0.1.0#process") (type $process)
    (loop $again (br $again)) (i32.const 0))
)
