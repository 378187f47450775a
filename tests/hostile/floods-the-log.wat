;; Logs without end: lines over the rate are dropped, the deadline ends the call.
;;! expect: no answer within 100 ms
(module
  (import "sedge:processor/log@0.1.0" "log" (func $log (param i32 i32 i32)))
  ;;! include _pre
  (func (export "sedge:processor/pre@0.1.0#process") (type $process)
    (loop $again (call $log (i32.const 2) (i32.const 0) (i32.const 64)) (br $again)) (i32.const 0))
)
