;; Spins in calls to the host, where the guest itself is not interrupted.
;;! expect: no answer within 100 ms
(module
  (import "sedge:processor/trace@0.1.0" "mark" (func $mark (param i32)))
  ;;! include _pre
  (func (export "sedge:processor/pre@0.1.0#process") (type $process)
    (loop $again (call $mark (i32.const 1)) (br $again)) (i32.const 0))
)
