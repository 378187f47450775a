//! What a core's multipliers could do if they were all that it did: the ceiling that kernels are held against.
//!
//! Measured, not looked up: it depends on the clock of the moment and on how many multiplications a core begins in a
//! cycle. Nothing is loaded or stored, and no multiplication waits for another.

use crate::isa::pick;
use std::time::{Duration, Instant};

/// Multiplications of one loop, each adding to a register of its own: more than any core has under way.
const CHAINS: usize = 12;
const LOOPS: usize = 20_000;
/// The best counts, so that a busy moment spoils nothing. A few milliseconds in all.
const TRIES: usize = 50;

/// A loop that multiplies, and the products of one multiplication.
type Loop = (fn(usize), usize);

/// Products of bytes per second that an instruction set's multiplications could do on this core, by its name in
/// [`isas`](crate::isas). `None` where the core does not have it, or its multiplications are left to the compiler.
pub fn peak(isa: &str) -> Option<f64> {
    pick(Some(isa)).ok()?;
    loops::of_bytes(isa).map(measured)
}

/// The same of numbers in 32-bit float, in the widest registers.
pub fn peak_f32() -> Option<f64> {
    loops::of_f32().map(measured)
}

fn measured((run, products): Loop) -> f64 {
    let mut best = Duration::MAX;
    for _ in 0..TRIES {
        let begin = Instant::now();
        run(LOOPS);
        best = best.min(begin.elapsed());
    }
    (LOOPS * CHAINS * products) as f64 / best.as_secs_f64()
}

#[cfg(target_arch = "x86_64")]
mod loops {
    use std::arch::asm;

    pub(super) fn of_bytes(isa: &str) -> Option<super::Loop> {
        match isa {
            "avx512vnni" => Some((vpdpbusd_512, 64)),
            "avx512vnni-256" => Some((vpdpbusd_256, 32)),
            "avxvnni" => Some((vpdpbusd_vex, 32)),
            "avx2" => Some((vpmaddwd, 16)),
            _ => None,
        }
    }

    pub(super) fn of_f32() -> Option<super::Loop> {
        if is_x86_feature_detected!("avx512f") {
            Some((vfmadd_512, 16))
        } else if is_x86_feature_detected!("fma") {
            Some((vfmadd_256, 8))
        } else {
            None
        }
    }

    macro_rules! chains {
        ($name:ident, $register:literal, $instruction:literal) => {
            chains!(@ $name, $instruction, $register, 0 1 2 3 4 5 6 7 8 9 10 11);
        };
        (@ $name:ident, $instruction:literal, $register:literal, $($chain:literal)*) => {
            fn $name(loops: usize) {
                // SAFETY: asked for only where the core has these instructions; all registers are named.
                unsafe {
                    asm!(
                        // Zeros, so that no float is one that takes longer.
                        "vpxor xmm12, xmm12, xmm12",
                        "vpxor xmm13, xmm13, xmm13",
                        $(concat!("vpxor xmm", $chain, ", xmm", $chain, ", xmm", $chain),)*
                        "2:",
                        $(concat!($instruction, " ", $register, $chain, ", ", $register, "12, ", $register, "13"),)*
                        "dec {loops}",
                        "jnz 2b",
                        loops = inout(reg) loops => _,
                        out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                        out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                        out("xmm12") _, out("xmm13") _,
                        options(nomem, nostack),
                    );
                }
            }
        };
    }
    chains!(vpdpbusd_512, "zmm", "vpdpbusd");
    chains!(vpdpbusd_256, "ymm", "{{evex}} vpdpbusd");
    chains!(vpdpbusd_vex, "ymm", "{{vex}} vpdpbusd");
    chains!(vpmaddwd, "ymm", "vpmaddwd");
    chains!(vfmadd_512, "zmm", "vfmadd231ps");
    chains!(vfmadd_256, "ymm", "vfmadd231ps");
}

#[cfg(target_arch = "aarch64")]
mod loops {
    use std::arch::asm;

    pub(super) fn of_bytes(isa: &str) -> Option<super::Loop> {
        match isa {
            "i8mm" => Some((smmla, 32)),
            "dotprod" => Some((sdot, 16)),
            "neon" => Some((smlal, 8)),
            _ => None,
        }
    }

    pub(super) fn of_f32() -> Option<super::Loop> {
        Some((fmla, 4))
    }

    macro_rules! chains {
        ($name:ident, $extension:literal, $instruction:literal, $to:literal, $from:literal) => {
            chains!(@ $name, $extension, $instruction, $to, $from, 0 1 2 3 4 5 6 7 16 17 18 19);
        };
        (@ $name:ident, $extension:literal, $instruction:literal, $to:literal, $from:literal, $($chain:literal)*) => {
            fn $name(loops: usize) {
                // SAFETY: asked for only where the core has these instructions; all registers are named.
                unsafe {
                    asm!(
                        concat!(".arch_extension ", $extension),
                        // Zeros, so that no float is one that takes longer.
                        "movi v20.16b, #0",
                        "movi v21.16b, #0",
                        $(concat!("movi v", $chain, ".16b, #0"),)*
                        "2:",
                        $(concat!($instruction, " v", $chain, ".", $to, ", v20.", $from, ", v21.", $from),)*
                        "subs {loops}, {loops}, #1",
                        "b.ne 2b",
                        loops = inout(reg) loops => _,
                        out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _,
                        out("v7") _, out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _, out("v21") _,
                        options(nomem, nostack),
                    );
                }
            }
        };
    }
    chains!(smmla, "i8mm", "smmla", "4s", "16b");
    chains!(sdot, "dotprod", "sdot", "4s", "16b");
    chains!(smlal, "simd", "smlal", "8h", "8b");
    chains!(fmla, "simd", "fmla", "4s", "4s");
}

#[cfg(target_arch = "arm")]
mod loops {
    use std::arch::asm;

    pub(super) fn of_bytes(isa: &str) -> Option<super::Loop> {
        (isa == "neon").then_some((vmlal, 4))
    }

    pub(super) fn of_f32() -> Option<super::Loop> {
        crate::isa::pick(Some("neon")).is_ok().then_some((vmla, 4))
    }

    macro_rules! chains {
        ($name:ident, $instruction:literal, $one:literal, $two:literal) => {
            chains!(@ $name, $instruction, $one, $two, 4 5 6 7 8 9 10 11 12 13 14 15);
        };
        (@ $name:ident, $instruction:literal, $one:literal, $two:literal, $($chain:literal)*) => {
            fn $name(loops: usize) {
                // SAFETY: asked for only where the core has these instructions; all registers are named.
                unsafe {
                    asm!(
                        ".arch armv7-a",
                        ".fpu neon",
                        "vmov.i32 q0, #0",
                        "vmov.i32 q1, #0",
                        $(concat!("vmov.i32 q", $chain, ", #0"),)*
                        "2:",
                        $(concat!($instruction, " q", $chain, ", ", $one, ", ", $two),)*
                        "subs {loops}, {loops}, #1",
                        "bne 2b",
                        loops = inout(reg) loops => _,
                        // By the names that the compiler knows where it may not use NEON itself.
                        out("d0") _, out("d1") _, out("d2") _, out("d3") _, out("d8") _, out("d9") _, out("d10") _,
                        out("d11") _, out("d12") _, out("d13") _, out("d14") _, out("d15") _,
                        out("q8") _, out("q9") _, out("q10") _, out("q11") _, out("q12") _, out("q13") _,
                        out("q14") _, out("q15") _,
                        options(nomem, nostack),
                    );
                }
            }
        };
    }
    chains!(vmlal, "vmlal.s16", "d0", "d2");
    chains!(vmla, "vmla.f32", "q0", "q1");
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm")))]
mod loops {
    pub(super) fn of_bytes(_: &str) -> Option<super::Loop> {
        None
    }

    pub(super) fn of_f32() -> Option<super::Loop> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::isas;

    #[test]
    fn each_instruction_set_with_multiplications_of_its_own_has_a_peak() {
        for isa in isas() {
            assert_eq!(peak(isa).is_some_and(|peak| peak.is_finite() && peak > 1e6), isa != "portable", "{isa}");
        }
        assert_eq!(peak("none such"), None);
    }
}
