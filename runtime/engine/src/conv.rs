//! Convolutions and dense layers: windows and blocks around a [`Gemm`].
//!
//! A window is a few runs of neighbouring bytes: one for each row of it, since columns and channels of a row lie side by
//! side; one for each tap where taps are dilated or channels are grouped. Blocks of output channels are packed once, in
//! the order in which the kernel reads them.

mod sums;

use crate::elementwise::{Channels, Elementwise, Total};
use crate::graph::{Conv, Quantization};
use crate::isa::{Gemm, Kernels, Output, Tile, WINDOWS_MAX, WeightForm};
use crate::packed::{Packed, Source};
use crate::place::Place;
use crate::requantize::conv_multipliers;
use crate::threads::{Arena, Split};
use std::ops::Range;

pub(crate) use sums::{CHANNELS_MAX, Pixel, Sums};

/// Weights that fit into this many bytes are walked through for each tile of windows; more are walked through once.
const WEIGHTS_NEAR_BYTES: usize = 16 << 10;

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

/// Blocks of one kernel that lie side by side.
#[derive(Debug)]
pub(crate) struct Strip {
    pub(crate) gemm: &'static Gemm,
    /// Groups of the kernel's depth in each run.
    pub(crate) depth_groups: usize,
    /// From a window's first byte to the group's first channel.
    into: usize,
    /// First output channel, and the first that is not of this strip.
    pub(crate) channels: [usize; 2],
    /// Of the first block in the packed weights, and from one to the next.
    pub(crate) offset: usize,
    pub(crate) block_bytes: usize,
    /// Tiles of windows, and how many windows the shorter ones have: the first `longer` tiles have one more.
    tiles: usize,
    windows: usize,
    longer: usize,
    /// Blocks that a tile of windows meets one after the other: all where the weights are few; else one, and all tiles
    /// meet it before the next.
    together: usize,
    /// Tiles times turns of blocks.
    pub(crate) units: usize,
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

impl Strip {
    /// Computes a block of a tile.
    ///
    /// # Safety
    /// Windows and outputs are those of the tile's pixels, and the kernel was picked for this core.
    pub(crate) unsafe fn block(&self, packed: &[u8], index: usize, windows: usize, tile: &mut Tile<'_>) {
        tile.block = packed[self.offset + index * self.block_bytes..][..self.block_bytes].as_ptr();
        tile.first = self.channels[0] + index * self.gemm.channels;
        tile.channels = self.gemm.channels.min(self.channels[1] - tile.first);
        // SAFETY: as of this function.
        unsafe { (self.gemm.tile)(windows, tile) };
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
        let mut tile = Tile {
            windows: [std::ptr::null(); WINDOWS_MAX],
            outputs: [std::ptr::null_mut(); WINDOWS_MAX],
            runs: &self.runs,
            groups: 0,
            block: std::ptr::null(),
            first: 0,
            channels: 0,
            plus: None,
            raw: false,
            output: self.limits,
        };
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

/// Covers output channels with blocks, for each group of channels: how far into a window its input channels begin, its
/// first output channel, and the first that is not of it. `narrow` says that no weight is -128. How many bytes all blocks
/// take.
pub(crate) fn cover(
    gemms: &'static [Gemm],
    pixels: usize,
    (run, runs): (usize, usize),
    groups: &[[usize; 3]],
    narrow: bool,
) -> (Vec<Strip>, usize) {
    let (mut strips, mut bytes) = (Vec::new(), 0);
    for &[into, mut first, last] in groups {
        for (gemm, blocks) in cheapest(gemms, pixels, last - first, (run, runs), narrow) {
            let depth_groups = run.div_ceil(gemm.depth);
            let weights = runs * depth_groups * gemm.depth * gemm.weights.bytes();
            let block_bytes = (gemm.channels * (8 + weights)).next_multiple_of(64);
            let end = (first + blocks * gemm.channels).min(last);
            let (channels, offset, tiles) = ([first, end], bytes, pixels.div_ceil(gemm.windows));
            let together = if blocks * block_bytes <= WEIGHTS_NEAR_BYTES { blocks } else { 1 };
            let units = blocks / together * tiles;
            let (windows, longer) = (pixels / tiles, pixels % tiles);
            strips.push(Strip {
                gemm,
                depth_groups,
                into,
                channels,
                offset,
                block_bytes,
                tiles,
                windows,
                longer,
                together,
                units,
            });
            (first, bytes) = (end, bytes + blocks * block_bytes);
        }
    }
    (strips, bytes)
}

/// Some of the tiles, which are counted through all strips: its strip, its first pixel, how many pixels, and the blocks that
/// it meets.
pub(crate) fn each_tile(
    strips: &[Strip],
    units: Range<usize>,
    mut with: impl FnMut(&Strip, usize, usize, Range<usize>),
) {
    let mut before = 0;
    for strip in strips {
        let mine = units.start.max(before)..units.end.min(before + strip.units);
        let first = mine.start - before;
        let (mut turn, mut tile) = (first / strip.tiles, first % strip.tiles);
        for _ in mine {
            let pixel = tile * strip.windows + tile.min(strip.longer);
            let windows = strip.windows + usize::from(tile < strip.longer);
            let block = turn * strip.together;
            with(strip, pixel, windows, block..block + strip.together);
            tile += 1;
            if tile == strip.tiles {
                (tile, turn) = (0, turn + 1);
            }
        }
        before += strip.units;
    }
}

/// As [`each_tile`] where there is one pixel: each strip and block of it.
fn each_block(strips: &[Strip], units: Range<usize>, mut with: impl FnMut(&Strip, usize)) {
    let mut before = 0;
    for strip in strips {
        let mine = units.start.max(before) - before..units.end.min(before + strip.units).saturating_sub(before);
        (mine.start * strip.together..mine.end * strip.together).for_each(|block| with(strip, block));
        before += strip.units;
    }
}

/// Writes a weight in a kernel's form.
pub(crate) fn put(body: &mut [u8], index: usize, weight: i8, form: WeightForm) {
    match form {
        WeightForm::I8 | WeightForm::Narrow => body[index] = weight as u8,
        WeightForm::I16 => body[index * 2..][..2].copy_from_slice(&i16::from(weight).to_ne_bytes()),
    }
}

/// The kernels that take least for so many windows and channels, and how many blocks of each: blocks of one kernel, and
/// at the end one or two of narrower ones where that wastes less.
fn cheapest(
    gemms: &'static [Gemm],
    pixels: usize,
    channels: usize,
    (run, runs): (usize, usize),
    narrow: bool,
) -> Vec<(&'static Gemm, usize)> {
    let cost = |gemm: &Gemm| {
        let tiles = pixels.div_ceil(gemm.windows);
        let (per_group, per_tile) = (gemm.cost)(pixels.div_ceil(tiles));
        tiles as f32 * ((runs * run.div_ceil(gemm.depth)) as f32 * per_group + per_tile)
    };
    let mut best: (f32, Vec<(&'static Gemm, usize)>) = (f32::INFINITY, Vec::new());
    let mut offer = |parts: &[(&'static Gemm, usize)]| {
        let all: f32 = parts.iter().map(|(gemm, blocks)| cost(gemm) * *blocks as f32).sum();
        if all < best.0 {
            best = (all, parts.to_vec());
        }
    };
    let gemms = || gemms.iter().filter(|gemm| narrow || gemm.weights != WeightForm::Narrow);
    for first in gemms() {
        offer(&[(first, channels.div_ceil(first.channels))]);
        let (blocks, rest) = (channels / first.channels, channels % first.channels);
        for second in gemms().filter(|second| second.channels < first.channels && blocks > 0) {
            offer(&[(first, blocks), (second, rest.div_ceil(second.channels))]);
            let (more, rest) = (rest / second.channels, rest % second.channels);
            for third in gemms().filter(|third| third.channels < second.channels && more > 0) {
                offer(&[(first, blocks), (second, more), (third, rest.div_ceil(third.channels))]);
            }
        }
    }
    best.1.retain(|(_, blocks)| *blocks > 0);
    best.1
}
