//! Convolutions and dense layers: windows and blocks around a [`crate::isa::Gemm`].
//!
//! A window is a few runs of neighbouring bytes: one for each row of it, since columns and channels of a row lie side by
//! side; one for each tap where taps are dilated or channels are grouped. Blocks of output channels are packed once, in
//! the order in which the kernel reads them.

mod strips;
mod sums;

use crate::elementwise::{Channels, Elementwise, Total};
use crate::graph::{Conv, Quantization};
use crate::isa::{Kernels, Output, Tile, WINDOWS_MAX};
use crate::packed::{Packed, Source};
use crate::place::Place;
use crate::requantize::conv_multipliers;
use crate::threads::{Arena, Split};
use std::ops::Range;

use strips::each_block;

pub(crate) use strips::{Strip, cover, each_tile, put};
pub(crate) use sums::{CHANNELS_MAX, Pixel, Sums};

/// A convolution that is ready to run.
#[derive(Debug)]
pub(crate) struct Step {
    input: Place,
    output: Place,
    stride: [usize; 2],
    /// From the first pixel's place to the first window's first byte.
    before: usize,
    runs: Vec<usize>,
    asymmetry: Option<Asymmetry>,
    /// Whether the output is one pixel.
    single: bool,
    strips: Vec<Strip>,
    packed: Packed,
    limits: Output,
}

/// Weights whose zero point is not 0: it times the sum of a window is taken away from all sums of the window.
#[derive(Debug, Clone)]
struct Asymmetry {
    /// One for all channels, or one for each, and then their multipliers.
    weight_zeros: Vec<i32>,
    multipliers: Vec<f32>,
    /// Bytes of each run, and what an input of 0 adds to the sum of a window.
    run: usize,
    zero_sum: i32,
    flip: u8,
    total: Total,
}

impl Asymmetry {
    /// Sums of each window's bytes, less their zero point.
    ///
    /// # Safety
    /// The runs of each window may be read.
    unsafe fn bytes(&self, windows: &[*const u8], runs: &[usize]) -> [i32; WINDOWS_MAX] {
        let mut sums = [0; WINDOWS_MAX];
        for (sum, window) in sums.iter_mut().zip(windows) {
            let of_run = |run: &usize| {
                // SAFETY: as of this function.
                let bytes = unsafe { std::slice::from_raw_parts(window.wrapping_add(*run), self.run) };
                let mut sum = 0;
                (self.total)(bytes, &mut sum, self.flip);
                sum
            };
            *sum = runs.iter().map(of_run).sum::<i32>() - self.zero_sum;
        }
        sums
    }

    /// What is added to all sums of each window, where all channels have one zero point.
    ///
    /// # Safety
    /// As of [`Asymmetry::bytes`].
    unsafe fn plus(&self, windows: &[*const u8], runs: &[usize]) -> [i32; WINDOWS_MAX] {
        // SAFETY: as of this function.
        unsafe { self.bytes(windows, runs) }.map(|bytes| -self.weight_zeros[0] * bytes)
    }

    /// Turns sums into bytes, where each channel has a zero point of its own.
    ///
    /// # Safety
    /// Outputs have all channels that exist.
    unsafe fn finish(&self, sums: &Sums<'_>, limits: Output, elementwise: &Elementwise) {
        let channels = sums.first..sums.first + sums.channels;
        let (zeros, multipliers) = (&self.weight_zeros[channels.clone()], &self.multipliers[channels]);
        let shift = ((limits.zero_point, self.flip), limits.range);
        for pixel in sums.pixels() {
            // SAFETY: as of this function.
            let out =
                unsafe { std::slice::from_raw_parts_mut(pixel.output.wrapping_add(sums.first), pixel.sums.len()) };
            (elementwise.requantize_each)(pixel.sums, out, &Channels { zeros, times: pixel.bytes, multipliers }, shift);
        }
    }
}

/// One channel's weights in the order of runs, each run padded to a multiple of the kernel's depth.
fn in_runs(weights: &[i8], run: usize, padded: usize) -> impl Iterator<Item = i8> + '_ {
    weights.chunks(run).flat_map(move |chunk| chunk.iter().copied().chain(std::iter::repeat_n(0, padded - chunk.len())))
}

/// Bias with the input's zero point folded in: `bias - zero_point * sum of weights`, for input bytes as they lie in
/// memory.
pub(crate) fn folded_bias(op: &Conv, channel: usize, weights: &[i8], zero_point: u8, flip: u8) -> i32 {
    let sum: i32 = weights.iter().map(|w| i32::from(*w)).sum();
    let bias = op.bias.get(channel).copied().unwrap_or(0);
    // A byte that is flipped is read as signed: 128 less.
    let zero_point = i32::from(zero_point) - i32::from(flip);
    bias - zero_point * sum
}

impl Step {
    pub(crate) fn new(
        op: &Conv,
        kernels: &'static Kernels,
        (input, from): (Place, Quantization),
        (output, to): (Place, Quantization),
        source: &mut Source,
    ) -> Self {
        let [rows, columns] = op.window.kernel;
        let (channels_in, channels_out) = (input.dims.c / op.groups, output.dims.c / op.groups);
        let whole_rows = op.groups == 1 && op.window.dilation[1] == 1;
        let run = if whole_rows { columns * channels_in } else { channels_in };
        let taps = (0..rows).flat_map(|row| (0..columns).map(move |column| [row, column]));
        let offset = |[row, column]: [usize; 2]| {
            row * op.window.dilation[0] * input.row + column * op.window.dilation[1] * input.dims.c
        };
        let runs: Vec<usize> = taps.filter(|[_, column]| !whole_rows || *column == 0).map(offset).collect();
        let multipliers = conv_multipliers(op, from.scale, to.scale, output.dims.c);
        let asymmetric = op.weight_zero_points.iter().any(|zero_point| *zero_point != 0);
        let asymmetry = asymmetric.then(|| Asymmetry {
            weight_zeros: op.weight_zero_points.iter().map(|zero_point| i32::from(*zero_point)).collect(),
            multipliers: multipliers.clone(),
            run,
            zero_sum: (run * runs.len()) as i32 * i32::from(from.zero_point),
            flip: kernels.flip,
            total: kernels.elementwise.total,
        });
        let pixels = output.dims.n * output.dims.h * output.dims.w;
        let group = |group: usize| [group * channels_in, group * channels_out, (group + 1) * channels_out];
        let narrow = !op.weights.contains(&i8::MIN);
        let groups: Vec<[usize; 3]> = (0..op.groups).map(group).collect();
        let (strips, bytes) = cover(kernels.gemms, pixels, (run, runs.len()), &groups, narrow);
        let per_channel = rows * columns * channels_in;
        let pack = |packed: &mut [u8], strip: &Strip| {
            let gemm = strip.gemm;
            let blocks = packed[strip.offset..].chunks_exact_mut(strip.block_bytes);
            for (first, block) in (strip.channels[0]..strip.channels[1]).step_by(gemm.channels).zip(blocks) {
                for place in 0..gemm.channels {
                    let channel = first + (gemm.lane)(place);
                    if channel >= strip.channels[1] {
                        continue;
                    }
                    let weights = &op.weights[channel * per_channel..][..per_channel];
                    let bias = folded_bias(op, channel, weights, from.zero_point, kernels.flip);
                    block[place * 4..][..4].copy_from_slice(&bias.to_ne_bytes());
                    let multiplier = gemm.channels * 4 + place * 4;
                    block[multiplier..][..4].copy_from_slice(&multipliers[channel].to_ne_bytes());
                    let body = &mut block[gemm.channels * 8..];
                    let padded = strip.depth_groups * gemm.depth;
                    for (index, weight) in in_runs(weights, run, padded).enumerate() {
                        let (depth, element) = (index / gemm.depth, index % gemm.depth);
                        put(body, (depth * gemm.channels + place) * gemm.depth + element, weight, gemm.weights);
                    }
                }
            }
        };
        let packed = source.take(bytes, |packed| strips.iter().for_each(|strip| pack(packed, strip)));
        Self {
            input,
            output,
            stride: op.window.stride,
            before: op.window.pads.top * input.row + op.window.pads.left * input.dims.c,
            runs,
            asymmetry,
            single: pixels == 1,
            strips,
            packed,
            limits: Output { zero_point: to.zero_point, range: op.range },
        }
    }

    pub(crate) fn packed(&self) -> &Packed {
        &self.packed
    }

    /// # Safety
    /// `arena` holds the places of input and output, with the slack behind them.
    pub(crate) unsafe fn run(&self, arena: Arena, split: Split, products: u64, elementwise: &Elementwise) {
        if let Some(asymmetry) = self.asymmetry.as_ref().filter(|asymmetry| asymmetry.weight_zeros.len() > 1) {
            // SAFETY: as of this function.
            unsafe {
                self.run_sums(arena, split, products, |sums| asymmetry.finish(sums, self.limits, elementwise));
            }
            return;
        }
        let units = self.strips.iter().map(|strip| strip.units).sum();
        // SAFETY: as of this function.
        split.over(units, products, |units| unsafe { self.run_units(arena, units) });
    }

    /// Some of the tiles, which are counted through all strips.
    ///
    /// # Safety
    /// As of [`Step::run`].
    unsafe fn run_units(&self, arena: Arena, units: Range<usize>) {
        let packed = self.packed.as_slice();
        let mut tile = Tile::new(&self.runs, self.limits);
        if self.single {
            // Finding out places would take a tenth of a small dense layer's time.
            tile.outputs[0] = arena.0.wrapping_add(self.output.offset);
            let window = arena.0.wrapping_add(self.input.offset - self.before);
            each_block(&self.strips, units, |strip, block| {
                tile.groups = strip.depth_groups;
                tile.windows[0] = window.wrapping_add(strip.into);
                // SAFETY: windows lie in the arena.
                tile.plus = self.asymmetry.as_ref().map(|of| unsafe { of.plus(&tile.windows[..1], &self.runs) });
                // SAFETY: as of this function; the kernels were picked for this core.
                unsafe { strip.block(packed, block, 1, &mut tile) };
            });
            return;
        }
        each_tile(&self.strips, units, |strip, pixel, windows, blocks| {
            tile.groups = strip.depth_groups;
            self.place(&mut tile, arena.0.wrapping_add(strip.into), arena.0, pixel, windows);
            // SAFETY: windows lie in the arena.
            tile.plus = self.asymmetry.as_ref().map(|of| unsafe { of.plus(&tile.windows[..windows], &self.runs) });
            for block in blocks {
                // SAFETY: as of this function; the kernels were picked for this core.
                unsafe { strip.block(packed, block, windows, &mut tile) };
            }
        });
    }

    /// Places the windows and outputs of some neighbouring pixels.
    fn place(&self, tile: &mut Tile<'_>, from: *mut u8, to: *mut u8, pixel: usize, windows: usize) {
        let (width, height) = (self.output.dims.w, self.output.dims.h);
        let (mut x, row) = (pixel % width, pixel / width);
        let (mut y, mut n) = (row % height, row / height);
        let (right, out_right) = (self.stride[1] * self.input.dims.c, self.output.dims.c);
        let mut done = 0;
        while done < windows {
            let mut window = self.input.pixel(n, y * self.stride[0], x * self.stride[1]) - self.before;
            let mut output = self.output.pixel(n, y, x);
            let end = windows.min(done + width - x);
            for (of_window, of_output) in tile.windows[done..end].iter_mut().zip(&mut tile.outputs[done..end]) {
                (*of_window, *of_output) = (from.wrapping_add(window), to.wrapping_add(output));
                (window, output) = (window + right, output + out_right);
            }
            (done, x, y) = (end, 0, y + 1);
            if y == height {
                (y, n) = (0, n + 1);
            }
        }
    }
}
