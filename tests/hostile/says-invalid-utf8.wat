;; Returns an error text that is not UTF-8.
;;! expect: failed inside
(module
  ;;! include _pre
  (func (export "sedge:processor/pre@0.1.0#process") (type $process)
    (i32.store8 (i32.const 0) (i32.const 1)) (i32.store8 (i32.const 4) (i32.const 1))
    (i32.store (i32.const 8) (i32.const 64)) (i32.store (i32.const 12) (i32.const 2)) (i32.store16 (i32.const 64) (i32.const 0xffff))
    (i32.const 0))
)
