//! AArch64: plain NEON, dot products, and products of matrices. Vectors have 16 bytes, and there are 32 of them.
//!
//! | name    | its instructions | products of one | cores, for example           |
//! |---------|------------------|-----------------|------------------------------|
//! | neon    | smull, smlal     | 8, 4            | Cortex-A53, A72 (Pi 3, Pi 4) |
//! | dotprod | sdot             | 16              | Cortex-A55, A76 (Pi 5)       |
//! | i8mm    | smmla, sdot      | 32, 16          | Cortex-A710, Neoverse V1     |
//!
//! All of them multiply signed by signed, as weights are: bytes are flipped in memory. (`usmmla` takes bytes as they are,
//! at the same speed; what the others have in common would then be lost.)
//!
//! NEON belongs to every AArch64 core, so loops over elements are the portable ones: the compiler has made vectors of
//! them already.
//!
//! Products and instructions of the inner loops, as compiled (rustc 1.96, full tiles). Depthwise ones are whole: with loads,
//! requantization and the store of sixteen bytes.
//!
//! | kernel                  | windows x channels | products | instructions | each |
//! |-------------------------|--------------------|----------|--------------|------|
//! | `pairs`                 | 4 x 4              | 256      | 74           | 3.5  |
//! | `pairs`, no weight -128 | 4 x 4              | 256      | 58           | 4.4  |
//! | `lanes`                 | 6 x 16             | 768      | 219          | 3.5  |
//! | `lanes`                 | 8 x 8              | 512      | 153          | 3.3  |
//! | `dotprod`               | 6 x 16             | 1536     | 118          | 13.0 |
//! | `dotprod`               | 8 x 8              | 1024     | 89           | 11.5 |
//! | `i8mm`                  | 6 x 16             | 1536     | 79           | 19.4 |
//! | `i8mm`                  | 8 x 8              | 1024     | 64           | 16.0 |
//! | `depthwise`, nine taps  | 16 lanes           | 144      | 103          | 1.4  |
//! | `taps`, nine taps       | 16 lanes           | 144      | 83           | 1.7  |
//!
//! Costs are estimates from such counts and from what a Cortex-A72 or A76 is assumed to begin in a cycle. None of it was
//! measured on a core.

mod depthwise;
mod dotprod;
mod i8mm;
mod lanes;
mod pairs;
mod store;
mod taps;

use super::{Depthwise, Gemm, Kernels, WeightForm, in_order};
use crate::elementwise;
use std::arch::is_aarch64_feature_detected;

/// Bytes in memory are signed.
const FLIP: u8 = 0x80;

pub(super) static NEON: Kernels = Kernels {
    name: "neon",
    flip: FLIP,
    gemms: &[
        Gemm {
            channels: 16,
            depth: 16,
            windows: 4,
            weights: WeightForm::I8,
            lane: in_order,
            cost: |windows| (8.0 + windows as f32 * 44.0, 60.0 + 42.0 * windows as f32),
            tile: pairs::sixteen,
        },
        Gemm {
            channels: 8,
            depth: 16,
            windows: 4,
            weights: WeightForm::I8,
            lane: in_order,
            cost: |windows| (4.0 + windows as f32 * 22.0, 40.0 + 26.0 * windows as f32),
            tile: pairs::eight,
        },
        Gemm {
            channels: 16,
            depth: 16,
            windows: 4,
            weights: WeightForm::Narrow,
            lane: in_order,
            cost: |windows| (8.0 + windows as f32 * 36.0, 60.0 + 42.0 * windows as f32),
            tile: pairs::sixteen_narrow,
        },
        Gemm {
            channels: 8,
            depth: 16,
            windows: 4,
            weights: WeightForm::Narrow,
            lane: in_order,
            cost: |windows| (4.0 + windows as f32 * 18.0, 40.0 + 26.0 * windows as f32),
            tile: pairs::eight_narrow,
        },
        Gemm {
            channels: 16,
            depth: 1,
            windows: 6,
            weights: WeightForm::I16,
            lane: in_order,
            cost: |windows| (0.5 + windows as f32 * 4.2, 20.0 + 20.0 * windows as f32),
            tile: lanes::wide,
        },
        Gemm {
            channels: 8,
            depth: 1,
            windows: 8,
            weights: WeightForm::I16,
            lane: in_order,
            cost: |windows| (0.5 + windows as f32 * 2.2, 16.0 + 12.0 * windows as f32),
            tile: lanes::narrow,
        },
    ],
    depthwise: &Depthwise {
        lanes: 16,
        depth: 1,
        weights: WeightForm::I8,
        lane: in_order,
        run: depthwise::run,
        pairs: None,
    },
    elementwise: &elementwise::PORTABLE,
    available: || is_aarch64_feature_detected!("neon"),
};

pub(super) static DOTPROD: Kernels = Kernels {
    name: "dotprod",
    flip: FLIP,
    gemms: &[
        Gemm {
            channels: 16,
            depth: 4,
            windows: 6,
            weights: WeightForm::I8,
            lane: in_order,
            cost: |windows| ((windows as f32 * 2.1).max(2.5), 12.0 + 14.0 * windows as f32),
            tile: dotprod::wide,
        },
        Gemm {
            channels: 8,
            depth: 4,
            windows: 8,
            weights: WeightForm::I8,
            lane: in_order,
            cost: |windows| ((windows as f32 * 1.15).max(2.0), 10.0 + 9.0 * windows as f32),
            tile: dotprod::narrow,
        },
    ],
    depthwise: &Depthwise { lanes: 16, depth: 4, weights: WeightForm::I8, lane: in_order, run: taps::run, pairs: None },
    elementwise: &elementwise::PORTABLE,
    available: || is_aarch64_feature_detected!("dotprod"),
};

pub(super) static I8MM: Kernels = Kernels {
    name: "i8mm",
    flip: FLIP,
    gemms: &[
        Gemm {
            channels: 16,
            depth: 8,
            windows: 6,
            weights: WeightForm::I8,
            lane: in_order,
            // Two windows cost as much as one.
            cost: |windows| ((windows.div_ceil(2) as f32 * 4.5).max(4.5), 12.0 + 15.0 * windows as f32),
            tile: i8mm::wide,
        },
        Gemm {
            channels: 8,
            depth: 8,
            windows: 8,
            weights: WeightForm::I8,
            lane: in_order,
            cost: |windows| ((windows.div_ceil(2) as f32 * 2.5).max(3.0), 10.0 + 10.0 * windows as f32),
            tile: i8mm::narrow,
        },
    ],
    depthwise: &Depthwise { lanes: 16, depth: 4, weights: WeightForm::I8, lane: in_order, run: taps::run, pairs: None },
    elementwise: &elementwise::PORTABLE,
    available: || is_aarch64_feature_detected!("i8mm") && is_aarch64_feature_detected!("dotprod"),
};
