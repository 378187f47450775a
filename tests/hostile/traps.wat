;; Panics, as Rust does on wasm32.
;;! expect: unreachable
(module
  ;;! include _pre
  (func (export "sedge:processor/pre@0.1.0#process") (type $process)
    unreachable)
)
