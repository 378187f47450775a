//! Plain Rust, for any core. What the others are held against, and held against the reference itself.

use super::{Depthwise, Gemm, Kernels, Lanes, Tile, WeightForm, in_order};
use crate::elementwise;
use crate::requantize::requantize;

pub(super) static KERNELS: Kernels = Kernels {
    name: "portable",
    flip: 0,
    gemms: &[Gemm {
        channels: CHANNELS,
        depth: DEPTH,
        windows: 4,
        weights: WeightForm::I8,
        lane: in_order,
        cost: |windows| (windows as f32 * 16.0, windows as f32 * 20.0),
        tile,
    }],
    depthwise: &Depthwise { lanes: LANES, depth: 1, weights: WeightForm::I8, lane: in_order, run, pairs: None },
    elementwise: &elementwise::PORTABLE,
    available: || true,
};

const CHANNELS: usize = 8;
const DEPTH: usize = 4;
const LANES: usize = 16;

unsafe fn tile(windows: usize, tile: &Tile<'_>) {
    for i in 0..windows {
        // SAFETY: the caller vouches for the block: bias, multipliers, then the weights of every group.
        let (bias, multipliers) = unsafe {
            (tile.block.cast::<[i32; CHANNELS]>().read(), tile.block.add(CHANNELS * 4).cast::<[f32; CHANNELS]>().read())
        };
        let plus = tile.plus.map_or(0, |plus| plus[i]);
        let mut sums = bias.map(|bias| bias.wrapping_add(plus));
        // SAFETY: as above.
        let mut weights = unsafe { tile.block.add(CHANNELS * 8) }.cast::<[[i8; DEPTH]; CHANNELS]>();
        for run in tile.runs {
            for group in 0..tile.groups {
                // SAFETY: a window's runs may be read to their last group.
                let x = unsafe { tile.windows[i].add(run + group * DEPTH).cast::<[u8; DEPTH]>().read() };
                // SAFETY: there is one group of weights for each of them.
                let group = unsafe { weights.read() };
                for (sum, weights) in sums.iter_mut().zip(group) {
                    let products: i32 = x.iter().zip(weights).map(|(x, w)| i32::from(*x) * i32::from(w)).sum();
                    // Parts may leave an i32 where the whole does not.
                    *sum = sum.wrapping_add(products);
                }
                // SAFETY: at most one past the last.
                weights = unsafe { weights.add(1) };
            }
        }
        if tile.raw {
            // SAFETY: the output has room for the sums of a block.
            unsafe { tile.outputs[i].cast::<[i32; CHANNELS]>().write_unaligned(sums) };
            continue;
        }
        for (channel, (sum, multiplier)) in sums.iter().zip(multipliers).take(tile.channels).enumerate() {
            let byte = requantize(*sum, multiplier, tile.output.zero_point, tile.output.range);
            // SAFETY: the output has all channels that exist.
            unsafe { tile.outputs[i].add(tile.first + channel).write(byte) };
        }
    }
}

unsafe fn run(lanes: &Lanes<'_>) {
    for item in 0..lanes.items {
        let count = if item + 1 == lanes.items { lanes.lanes_last } else { lanes.lanes };
        for lane in 0..count {
            // SAFETY: the caller vouches for the block, for each window's taps, and for the output.
            unsafe {
                let mut sum = lanes.block.cast::<i32>().add(lane).read();
                let multiplier = lanes.block.add(LANES * 4).cast::<f32>().add(lane).read();
                let weights = lanes.block.add(LANES * 8).cast::<i8>();
                for (tap, offset) in lanes.taps.iter().enumerate() {
                    let x = lanes.window.add(item * lanes.step + offset + lane).read();
                    sum += i32::from(x) * i32::from(weights.add(tap * LANES + lane).read());
                }
                let byte = requantize(sum, multiplier, lanes.output.zero_point, lanes.output.range);
                lanes.out.add(item * lanes.out_step + lane).write(byte);
            }
        }
    }
}
