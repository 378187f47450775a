;; Grows its memory until it is told no.
;;! expect: it asked for 9 MiB of memory, limits.sandbox_memory_mib is 8
(module
  ;;! include _pre
  (func (export "sedge:processor/pre@0.1.0#process") (type $process)
    (loop $again (drop (memory.grow (i32.const 1))) (br $again)) (i32.const 0))
)
