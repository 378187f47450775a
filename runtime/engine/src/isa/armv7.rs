//! 32-bit ARM with NEON: `vmlal` multiplies the weights of four channels by one element of a window, all of them of 16 bits,
//! as [`super::neon`]'s sums across channels do on 64-bit cores.
//!
//! The intrinsics are not stable, so kernels are assembly that works on memory: sums are loaded before a run of a window and
//! stored behind it. Eight of the sixteen registers hold sums (4 windows x 8 channels), four hold eight elements of each
//! window, and two take weights in turns.
//!
//! There is no conversion that rounds half to even; adding and taking away 1.5 * 2^23 does the same for what is small.

use super::{Depthwise, Gemm, Kernels, Lanes, Output, Tile, WeightForm, in_order};
use crate::elementwise;
use std::arch::asm;
use std::sync::LazyLock;

pub(super) static NEON: Kernels = Kernels {
    name: "neon",
    flip: 0,
    gemms: &[
        Gemm {
            channels: CHANNELS,
            depth: 1,
            windows: 4,
            weights: WeightForm::I16,
            lane: in_order,
            // A tile of fewer windows computes its last again.
            cost: |_| (18.0, 140.0),
            tile: four,
        },
        Gemm {
            channels: CHANNELS,
            depth: 1,
            windows: 1,
            weights: WeightForm::I16,
            lane: in_order,
            cost: |_| (7.0, 50.0),
            tile: one,
        },
    ],
    depthwise: &Depthwise { lanes: CHANNELS, depth: 1, weights: WeightForm::I16, lane: in_order, run, pairs: None },
    elementwise: &elementwise::PORTABLE,
    available: || *AVAILABLE,
};

const CHANNELS: usize = 8;
type Sums = [i32; CHANNELS];

/// Whether the kernel says that this core has NEON: what the standard library asks too, where that is stable.
static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
    const HWCAP: u32 = 16;
    const NEON: u32 = 1 << 12;
    let word = |bytes: &[u8]| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let entries = std::fs::read("/proc/self/auxv").unwrap_or_default();
    entries.chunks_exact(8).any(|entry| word(entry) == HWCAP && word(&entry[4..]) & NEON != 0)
});

/// Assembly for cores that have NEON, whatever the rest of the program is built for.
macro_rules! neon {
    ($($template:expr),+; $($operand:tt)*) => {
        asm!(
            ".arch armv7-a", ".fpu neon", $($template),+,
            $($operand)*
            // By the names that the compiler knows where it may not use NEON itself.
            out("d0") _, out("d1") _, out("d2") _, out("d3") _, out("d4") _, out("d5") _, out("d6") _, out("d7") _,
            out("d8") _, out("d9") _, out("d10") _, out("d11") _, out("d12") _, out("d13") _, out("d14") _, out("d15") _,
            out("q8") _, out("q9") _, out("q10") _, out("q11") _, out("q12") _, out("q13") _, out("q14") _, out("q15") _,
            options(nostack),
        )
    };
}

/// Adds the products of one element of each window, of which `$x` are the lanes, with weights in two registers.
macro_rules! element {
    ($low:literal $high:literal, $($sums:literal $more:literal $x:literal),+) => {
        concat!($("vmlal.s16 ", $sums, ", ", $low, ", ", $x, "\n", "vmlal.s16 ", $more, ", ", $high, ", ", $x, "\n"),+)
    };
}
macro_rules! of_four {
    ($low:literal $high:literal, $a:literal $b:literal $c:literal $d:literal) => {
        element!($low $high, "q8" "q9" $a, "q10" "q11" $b, "q12" "q13" $c, "q14" "q15" $d)
    };
}

unsafe fn four(windows: usize, tile: &Tile<'_>) {
    let at = |i: usize| i.min(windows - 1);
    // SAFETY: a block begins with the bias of each channel.
    let bias: Sums = unsafe { tile.block.cast::<Sums>().read() };
    let mut sums: [Sums; 4] =
        std::array::from_fn(|i| bias.map(|bias| bias.wrapping_add(tile.plus.map_or(0, |plus| plus[at(i)]))));
    // After bias and multipliers.
    let mut weights = tile.block.wrapping_add(CHANNELS * 8);
    for run in tile.runs {
        let x: [*const u8; 4] = std::array::from_fn(|i| tile.windows[at(i)].wrapping_add(*run));
        // SAFETY: there is a group of weights for each element of each run, and windows may be read to their end.
        unsafe {
            neon!(
                "vldm {sums}, {{d16-d31}}",
                "subs {count}, {count}, #8",
                "blt 3f",
                "2:",
                "vld1.8 {{d0}}, [{a}]!",
                "vld1.8 {{d2}}, [{b}]!",
                "vld1.8 {{d4}}, [{c}]!",
                "vld1.8 {{d6}}, [{d}]!",
                "vmovl.u8 q0, d0",
                "vmovl.u8 q1, d2",
                "vmovl.u8 q2, d4",
                "vmovl.u8 q3, d6",
                "vld1.16 {{d8-d11}}, [{weights}]!",
                of_four!("d8" "d9", "d0[0]" "d2[0]" "d4[0]" "d6[0]"),
                of_four!("d10" "d11", "d0[1]" "d2[1]" "d4[1]" "d6[1]"),
                "vld1.16 {{d12-d15}}, [{weights}]!",
                of_four!("d12" "d13", "d0[2]" "d2[2]" "d4[2]" "d6[2]"),
                of_four!("d14" "d15", "d0[3]" "d2[3]" "d4[3]" "d6[3]"),
                "vld1.16 {{d8-d11}}, [{weights}]!",
                of_four!("d8" "d9", "d1[0]" "d3[0]" "d5[0]" "d7[0]"),
                of_four!("d10" "d11", "d1[1]" "d3[1]" "d5[1]" "d7[1]"),
                "vld1.16 {{d12-d15}}, [{weights}]!",
                of_four!("d12" "d13", "d1[2]" "d3[2]" "d5[2]" "d7[2]"),
                of_four!("d14" "d15", "d1[3]" "d3[3]" "d5[3]" "d7[3]"),
                "subs {count}, {count}, #8",
                "bge 2b",
                "3:",
                "adds {count}, {count}, #8",
                "beq 5f",
                "4:",
                "vld1.8 {{d0[]}}, [{a}]!",
                "vld1.8 {{d2[]}}, [{b}]!",
                "vld1.8 {{d4[]}}, [{c}]!",
                "vld1.8 {{d6[]}}, [{d}]!",
                "vmovl.u8 q0, d0",
                "vmovl.u8 q1, d2",
                "vmovl.u8 q2, d4",
                "vmovl.u8 q3, d6",
                "vld1.16 {{d8-d9}}, [{weights}]!",
                of_four!("d8" "d9", "d0[0]" "d2[0]" "d4[0]" "d6[0]"),
                "subs {count}, {count}, #1",
                "bne 4b",
                "5:",
                "vstm {sums}, {{d16-d31}}";
                sums = in(reg) sums.as_mut_ptr(),
                count = inout(reg) tile.groups => _,
                a = inout(reg) x[0] => _,
                b = inout(reg) x[1] => _,
                c = inout(reg) x[2] => _,
                d = inout(reg) x[3] => _,
                weights = inout(reg) weights,
            );
        }
    }
    for (i, sums) in sums.iter().enumerate().take(windows) {
        // SAFETY: as of this function.
        unsafe { finish(sums, tile, i) };
    }
}

unsafe fn one(_: usize, tile: &Tile<'_>) {
    // SAFETY: a block begins with the bias of each channel.
    let bias: Sums = unsafe { tile.block.cast::<Sums>().read() };
    let mut sums = bias.map(|bias| bias.wrapping_add(tile.plus.map_or(0, |plus| plus[0])));
    let mut weights = tile.block.wrapping_add(CHANNELS * 8);
    for run in tile.runs {
        // SAFETY: as of four windows.
        unsafe {
            neon!(
                "vldm {sums}, {{d16-d19}}",
                "subs {count}, {count}, #4",
                "blt 3f",
                // Of every other element into sums of their own: each waits for the last of its own only.
                "vmov.i32 q10, #0",
                "vmov.i32 q11, #0",
                "2:",
                "vld1.32 {{d0[0]}}, [{x}]!",
                "vmovl.u8 q0, d0",
                "vld1.16 {{d8-d11}}, [{weights}]!",
                element!("d8" "d9", "q8" "q9" "d0[0]"),
                element!("d10" "d11", "q10" "q11" "d0[1]"),
                "vld1.16 {{d12-d15}}, [{weights}]!",
                element!("d12" "d13", "q8" "q9" "d0[2]"),
                element!("d14" "d15", "q10" "q11" "d0[3]"),
                "subs {count}, {count}, #4",
                "bge 2b",
                "vadd.i32 q8, q8, q10",
                "vadd.i32 q9, q9, q11",
                "3:",
                "adds {count}, {count}, #4",
                "beq 5f",
                "4:",
                "vld1.8 {{d0[]}}, [{x}]!",
                "vmovl.u8 q0, d0",
                "vld1.16 {{d8-d9}}, [{weights}]!",
                element!("d8" "d9", "q8" "q9" "d0[0]"),
                "subs {count}, {count}, #1",
                "bne 4b",
                "5:",
                "vstm {sums}, {{d16-d19}}";
                sums = in(reg) sums.as_mut_ptr(),
                count = inout(reg) tile.groups => _,
                x = inout(reg) tile.windows[0].wrapping_add(*run) => _,
                weights = inout(reg) weights,
            );
        }
    }
    // SAFETY: as of this function.
    unsafe { finish(&sums, tile, 0) };
}

/// Stores a window's sums: as they are, or as bytes.
///
/// # Safety
/// The output has room for all sums, or for the channels that exist.
unsafe fn finish(sums: &Sums, tile: &Tile<'_>, window: usize) {
    let out = tile.outputs[window];
    // SAFETY: as of this function; multipliers follow the bias.
    unsafe {
        if tile.raw {
            out.cast::<Sums>().write(*sums);
        } else {
            store(sums, tile.block.add(CHANNELS * 4), tile.output, out.wrapping_add(tile.first), tile.channels);
        }
    }
}

unsafe fn run(lanes: &Lanes<'_>) {
    // SAFETY: a block has bias, multipliers, and the weights of each tap.
    let bias: Sums = unsafe { lanes.block.cast::<Sums>().read() };
    for item in 0..lanes.items {
        let mut sums = bias;
        // SAFETY: bytes beyond the last lane may be read.
        unsafe {
            neon!(
                "vldm {sums}, {{d16-d19}}",
                "2:",
                "ldr {x}, [{taps}], #4",
                "add {x}, {x}, {window}",
                "vld1.8 {{d0}}, [{x}]",
                "vmovl.u8 q0, d0",
                "vld1.16 {{d2-d3}}, [{weights}]!",
                "vmlal.s16 q8, d0, d2",
                "vmlal.s16 q9, d1, d3",
                "subs {count}, {count}, #1",
                "bne 2b",
                "vstm {sums}, {{d16-d19}}";
                sums = in(reg) sums.as_mut_ptr(),
                count = inout(reg) lanes.taps.len() => _,
                taps = inout(reg) lanes.taps.as_ptr() => _,
                window = in(reg) lanes.window.wrapping_add(item * lanes.step),
                weights = inout(reg) lanes.block.wrapping_add(CHANNELS * 8) => _,
                x = out(reg) _,
            );
        }
        let count = if item + 1 == lanes.items { lanes.lanes_last } else { lanes.lanes };
        let out = lanes.out.wrapping_add(item * lanes.out_step);
        // SAFETY: multipliers follow the bias, and the output has all lanes that exist.
        unsafe { store(&sums, lanes.block.add(CHANNELS * 4), lanes.output, out, count) };
    }
}

/// Requantizes, and stores the first `count` bytes.
///
/// # Safety
/// There are as many multipliers as sums, and `count` bytes of output.
unsafe fn store(sums: &Sums, multipliers: *const u8, output: Output, out: *mut u8, count: usize) {
    /// 1.5 * 2^23, as it lies in memory: what is added to it is rounded to a whole number in its lower bits.
    const ROUNDING: u32 = 0x4b40_0000;
    let mut bytes = [0_u8; CHANNELS];
    // SAFETY: as of this function.
    unsafe {
        neon!(
            "vldm {sums}, {{d0-d3}}",
            "vldm {multipliers}, {{d4-d7}}",
            "vdup.32 q4, {largest}",
            "vneg.f32 q5, q4",
            "vdup.32 q6, {rounding}",
            "vdup.32 q7, {zero_point}",
            "vdup.8 d16, {low}",
            "vdup.8 d17, {high}",
            "vcvt.f32.s32 q0, q0",
            "vcvt.f32.s32 q1, q1",
            "vmul.f32 q0, q0, q2",
            "vmul.f32 q1, q1, q3",
            "vmin.f32 q0, q0, q4",
            "vmin.f32 q1, q1, q4",
            "vmax.f32 q0, q0, q5",
            "vmax.f32 q1, q1, q5",
            "vadd.f32 q0, q0, q6",
            "vadd.f32 q1, q1, q6",
            "vsub.i32 q0, q0, q6",
            "vsub.i32 q1, q1, q6",
            "vadd.i32 q0, q0, q7",
            "vadd.i32 q1, q1, q7",
            "vqmovn.s32 d0, q0",
            "vqmovn.s32 d1, q1",
            "vqmovun.s16 d0, q0",
            "vmax.u8 d0, d0, d16",
            "vmin.u8 d0, d0, d17",
            "vst1.8 {{d0}}, [{bytes}]";
            sums = in(reg) sums.as_ptr(),
            multipliers = in(reg) multipliers,
            largest = in(reg) 1024_f32.to_bits(),
            rounding = in(reg) ROUNDING,
            zero_point = in(reg) u32::from(output.zero_point),
            low = in(reg) u32::from(output.range.low),
            high = in(reg) u32::from(output.range.high),
            bytes = in(reg) bytes.as_mut_ptr(),
        );
        out.copy_from_nonoverlapping(bytes.as_ptr(), count.min(CHANNELS));
    }
}
