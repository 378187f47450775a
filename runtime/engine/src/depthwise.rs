//! Depthwise convolutions: rows of lanes around a [`Depthwise`] kernel.
//!
//! Where windows move by one column, the windows of neighbouring pixels lie one pixel's channels apart, so that a row of
//! output is one stretch of lanes: lane `j` reads byte `j` after each tap. A kernel's item then holds several pixels where
//! channels are few, or some of a pixel's channels where they are many; weights repeat with the period of both. Elsewhere
//! an item is a pixel's next channels; and where a row of taps leaves one place of its groups empty, a kernel may take two
//! neighbouring pixels at a time, since the groups then hold what both of them need.

use crate::conv::{folded_bias, put};
use crate::graph::{Conv, Quantization};
use crate::isa::{Depthwise, Kernels, Lanes, Output, Run};
use crate::packed::{Packed, Source};
use crate::place::Place;
use crate::requantize::conv_multipliers;
use crate::threads::{Arena, Split};
use std::ops::Range;

/// More blocks than this to a row would only push others out of the cache.
const PERIOD_MAX: usize = 32;

/// A depthwise convolution that is ready to run.
#[derive(Debug)]
pub(crate) struct Step {
    input: Place,
    output: Place,
    kernel: &'static Depthwise,
    stride: [usize; 2],
    before: usize,
    taps: Vec<usize>,
    /// Whether a row is one stretch of lanes.
    flat: bool,
    /// What runs over the items.
    run: Run,
    blocks: usize,
    block_bytes: usize,
    packed: Packed,
    limits: Output,
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Whether a convolution is one that each channel makes for itself.
pub(crate) fn is_depthwise(op: &Conv, channels_in: usize, channels_out: usize) -> bool {
    op.groups == channels_in && channels_in == channels_out
}

/// How many int8 weights one is the sum of when its zero point is taken off.
fn parts(op: &Conv) -> usize {
    match op.weight_zero_points.as_slice() {
        zero_points if zero_points.iter().all(|zero_point| *zero_point == 0) => 1,
        // From 0 to 255.
        zero_points if zero_points.contains(&i8::MIN) => 3,
        _ => 2,
    }
}

/// The weights of a channel without their zero point, as the sum of so many: first the first part of each, then the
/// second.
fn in_parts(weights: &[i8], zero_point: i8, parts: usize) -> Vec<i8> {
    let mut rest: Vec<i32> = weights.iter().map(|weight| i32::from(*weight) - i32::from(zero_point)).collect();
    let part = |rest: &mut i32| {
        let part = (*rest).clamp(i8::MIN.into(), i8::MAX.into());
        *rest -= part;
        part as i8
    };
    (0..parts).flat_map(|_| rest.iter_mut().map(part).collect::<Vec<i8>>()).collect()
}

impl Step {
    pub(crate) fn new(
        op: &Conv,
        kernels: &'static Kernels,
        (input, from): (Place, Quantization),
        (output, to): (Place, Quantization),
        source: &mut Source,
    ) -> Self {
        let (kernel, channels) = (kernels.depthwise, output.dims.c);
        let [rows, columns] = op.window.kernel;
        let count = rows * columns;
        let (lanes, depth) = (kernel.lanes, kernel.depth);
        let one_apart = op.window.stride[1] == op.window.dilation[1] && (columns + 1).is_multiple_of(depth);
        // An item is then one pixel's channels: lanes that lie idle must not cost more than pairs save.
        let few_idle = channels.next_multiple_of(lanes) <= channels + channels / 5;
        let pays = |(least, run)| (columns >= least && one_apart && few_idle).then_some(run);
        // Weights with a zero point meet each tap several times, and there are no pairs.
        let parts = parts(op);
        let pairs = kernel.pairs.filter(|_| parts == 1).and_then(pays);
        // For pairs each row of taps is a few whole groups.
        let row_taps = columns + usize::from(pairs.is_some());
        let mut taps: Vec<usize> = (0..parts * rows)
            .map(|row| row % rows)
            .flat_map(|row| (0..row_taps).map(move |column| [row, if column < columns { column } else { 0 }]))
            .map(|[row, column]| row * op.window.dilation[0] * input.row + column * op.window.dilation[1] * channels)
            .collect();
        // Weights of zero may meet any byte.
        taps.resize(taps.len().next_multiple_of(depth), taps[0]);
        let period = channels / greatest_common_divisor(channels, lanes);
        let flat = pairs.is_none() && op.window.stride[1] == 1 && period <= PERIOD_MAX;
        let blocks = if flat { period } else { channels.div_ceil(lanes) };
        let copies = if pairs.is_some() { 2 } else { 1 };
        let block_bytes = lanes * (8 + copies * taps.len() * kernel.weights.bytes());
        let multipliers = conv_multipliers(op, from.scale, to.scale, channels);
        let pack = |(index, block): (usize, &mut [u8])| {
            for place in 0..kernel.lanes {
                let lane = index * kernel.lanes + (kernel.lane)(place);
                if !flat && lane >= channels {
                    continue;
                }
                let channel = lane % channels;
                let weights = &op.weights[channel * count..][..count];
                let weights = &in_parts(weights, op.weight_zero_point(channel), parts);
                let bias = folded_bias(op, channel, weights, from.zero_point, kernels.flip);
                block[place * 4..][..4].copy_from_slice(&bias.to_ne_bytes());
                block[kernel.lanes * 4 + place * 4..][..4].copy_from_slice(&multipliers[channel].to_ne_bytes());
                let body = &mut block[kernel.lanes * 8..];
                for (tap, weight) in weights.iter().enumerate() {
                    let tap = tap / columns * row_taps + tap % columns;
                    for copy in 0..copies {
                        let (group, element) = ((tap + copy) / depth + copy * taps.len() / depth, (tap + copy) % depth);
                        put(body, (group * lanes + place) * depth + element, *weight, kernel.weights);
                    }
                }
            }
        };
        let all = |packed: &mut [u8]| packed.chunks_exact_mut(block_bytes).enumerate().for_each(pack);
        let packed = source.take(blocks * block_bytes, all);
        Self {
            input,
            output,
            kernel,
            stride: op.window.stride,
            before: op.window.pads.top * input.row + op.window.pads.left * channels,
            taps,
            flat,
            run: pairs.unwrap_or(kernel.run),
            blocks,
            block_bytes,
            packed,
            limits: Output { zero_point: to.zero_point, range: op.range },
        }
    }

    pub(crate) fn packed(&self) -> &Packed {
        &self.packed
    }

    /// # Safety
    /// `arena` holds the places of input and output, with the slack behind them.
    pub(crate) unsafe fn run(&self, arena: Arena, split: Split, products: u64) {
        let rows = self.output.dims.n * self.output.dims.h;
        // SAFETY: as of this function.
        split.over(rows, products, |rows| unsafe { self.run_rows(arena, rows) });
    }

    /// # Safety
    /// As of [`Step::run`].
    unsafe fn run_rows(&self, arena: Arena, rows: Range<usize>) {
        let dims = self.output.dims;
        for row in rows {
            let (n, y) = (row / dims.h, row % dims.h);
            let window = arena.0.wrapping_add(self.input.pixel(n, y * self.stride[0], 0) - self.before);
            let out = arena.0.wrapping_add(self.output.pixel(n, y, 0));
            for block in 0..self.blocks {
                let first = block * self.kernel.lanes;
                let all = if self.flat { dims.w * dims.c } else { dims.c };
                if first >= all {
                    break;
                }
                let (step, out_step, items, lanes, lanes_last) = if self.flat {
                    let step = self.blocks * self.kernel.lanes;
                    let items = (all - first).div_ceil(step);
                    let last = all - first - (items - 1) * step;
                    (step, step, items, self.kernel.lanes, last.min(self.kernel.lanes))
                } else {
                    let lanes = self.kernel.lanes.min(all - first);
                    (self.stride[1] * dims.c, dims.c, dims.w, lanes, lanes)
                };
                let lanes = Lanes {
                    window: window.wrapping_add(first),
                    step,
                    taps: &self.taps,
                    block: self.packed.as_ptr().wrapping_add(block * self.block_bytes),
                    out: out.wrapping_add(first),
                    out_step,
                    items,
                    lanes,
                    lanes_last,
                    output: self.limits,
                };
                // SAFETY: as of this function; the kernels were picked for this core.
                unsafe { (self.run)(&lanes) };
            }
        }
    }
}
