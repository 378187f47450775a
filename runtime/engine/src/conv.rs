//! Convolutions and dense layers: windows and blocks around a [`Gemm`].
//!
//! A window is a few runs of neighbouring bytes: one for each row of it, since columns and channels of a row lie side by
//! side; one for each tap where taps are dilated or channels are grouped. Blocks of output channels are packed once, in
//! the order in which the kernel reads them.

use crate::bytes::AlignedBytes;
use crate::graph::{Conv, Quantization};
use crate::isa::{Gemm, Kernels, Output, Tile, WINDOWS_MAX, WeightForm};
use crate::place::Place;
use crate::requantize::conv_multipliers;

/// Weights that fit into this many bytes are walked through for each tile of windows; more are walked through once.
const WEIGHTS_NEAR_BYTES: usize = 16 << 10;

/// A convolution that is ready to run.
#[derive(Debug)]
pub(crate) struct Step {
    input: Place,
    output: Place,
    gemm: &'static Gemm,
    stride: [usize; 2],
    /// From the first pixel's place to the first window's first byte.
    before: usize,
    runs: Vec<usize>,
    /// Groups of the kernel's depth in each run.
    depth_groups: usize,
    groups: usize,
    channels_in: usize,
    channels_out: usize,
    blocks: usize,
    block_bytes: usize,
    packed: AlignedBytes,
    limits: Output,
    windows: usize,
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
        let pixels = output.dims.n * output.dims.h * output.dims.w;
        let gemm = cheapest(kernels.gemms, pixels, channels_out, (run, runs.len()), &op.weights);
        let depth_groups = run.div_ceil(gemm.depth);
        let padded = depth_groups * gemm.depth;
        let blocks = channels_out.div_ceil(gemm.channels);
        let block_bytes = gemm.channels * (8 + runs.len() * padded * gemm.weights.bytes());
        let block_bytes = block_bytes.next_multiple_of(64);
        let mut packed = AlignedBytes::zeroed(op.groups * blocks * block_bytes);
        let multipliers = conv_multipliers(op, from.scale, to.scale, output.dims.c);
        let per_channel = rows * columns * channels_in;
        for (index, block) in packed.as_mut_slice().chunks_exact_mut(block_bytes).enumerate() {
            let (group, block_index) = (index / blocks, index % blocks);
            for place in 0..gemm.channels {
                let within = block_index * gemm.channels + (gemm.lane)(place);
                if within >= channels_out {
                    continue;
                }
                let channel = group * channels_out + within;
                let weights = &op.weights[channel * per_channel..][..per_channel];
                let bias = folded_bias(op, channel, weights, from.zero_point, kernels.flip);
                block[place * 4..][..4].copy_from_slice(&bias.to_ne_bytes());
                let multiplier = gemm.channels * 4 + place * 4;
                block[multiplier..][..4].copy_from_slice(&multipliers[channel].to_ne_bytes());
                let body = &mut block[gemm.channels * 8..];
                for (index, weight) in in_runs(weights, run, padded).enumerate() {
                    let (depth, element) = (index / gemm.depth, index % gemm.depth);
                    put(body, (depth * gemm.channels + place) * gemm.depth + element, weight, gemm.weights);
                }
            }
        }
        // Fewer windows than a tile could take are spread evenly over the tiles.
        let tiles = pixels.div_ceil(gemm.windows);
        Self {
            input,
            output,
            gemm,
            stride: op.window.stride,
            before: op.window.pads.top * input.row + op.window.pads.left * input.dims.c,
            runs,
            depth_groups,
            groups: op.groups,
            channels_in,
            channels_out,
            blocks,
            block_bytes,
            packed,
            limits: Output { zero_point: to.zero_point, range: op.range },
            windows: pixels.div_ceil(tiles),
        }
    }

    pub(crate) fn packed_bytes(&self) -> usize {
        self.packed.len()
    }

    /// # Safety
    /// `arena` holds the places of input and output, with the slack behind them.
    pub(crate) unsafe fn run(&self, arena: *mut u8) {
        let pixels = self.output.dims.n * self.output.dims.h * self.output.dims.w;
        let all = 0..self.groups * self.blocks;
        if self.packed.len() <= WEIGHTS_NEAR_BYTES {
            let mut pixel = 0;
            while pixel < pixels {
                let windows = self.windows.min(pixels - pixel);
                let mut tile = self.tile(arena, pixel, windows);
                for block in all.clone() {
                    // SAFETY: as of this function.
                    unsafe { self.block(&mut tile, block, windows) };
                }
                pixel += windows;
            }
        } else {
            for block in all {
                let mut pixel = 0;
                while pixel < pixels {
                    let windows = self.windows.min(pixels - pixel);
                    let mut tile = self.tile(arena, pixel, windows);
                    // SAFETY: as of this function.
                    unsafe { self.block(&mut tile, block, windows) };
                    pixel += windows;
                }
            }
        }
    }

    /// Windows and outputs of some neighbouring pixels, at the first channel.
    fn tile(&self, arena: *mut u8, pixel: usize, windows: usize) -> Tile<'_> {
        let (width, height) = (self.output.dims.w, self.output.dims.h);
        let (mut x, row) = (pixel % width, pixel / width);
        let (mut y, mut n) = (row % height, row / height);
        let mut tile = Tile {
            windows: [std::ptr::null(); WINDOWS_MAX],
            outputs: [std::ptr::null_mut(); WINDOWS_MAX],
            runs: &self.runs,
            groups: self.depth_groups,
            block: std::ptr::null(),
            channels: 0,
            output: self.limits,
        };
        for i in 0..windows {
            let from = self.input.pixel(n, y * self.stride[0], x * self.stride[1]) - self.before;
            tile.windows[i] = arena.wrapping_add(from);
            tile.outputs[i] = arena.wrapping_add(self.output.pixel(n, y, x));
            x += 1;
            if x == width {
                (x, y) = (0, y + 1);
                if y == height {
                    (y, n) = (0, n + 1);
                }
            }
        }
        tile
    }

    /// # Safety
    /// As of [`Step::run`].
    unsafe fn block(&self, tile: &mut Tile<'_>, index: usize, windows: usize) {
        let (group, block) = (index / self.blocks, index % self.blocks);
        let first = block * self.gemm.channels;
        tile.block = self.packed.as_ptr().wrapping_add(index * self.block_bytes);
        tile.channels = self.gemm.channels.min(self.channels_out - first);
        let (into, out) = (group * self.channels_in, group * self.channels_out + first);
        for i in 0..windows {
            tile.windows[i] = tile.windows[i].wrapping_add(into);
            tile.outputs[i] = tile.outputs[i].wrapping_add(out);
        }
        // SAFETY: as of this function; the kernels were picked for this core.
        unsafe { (self.gemm.tile)(windows, tile) };
        for i in 0..windows {
            tile.windows[i] = tile.windows[i].wrapping_sub(into);
            tile.outputs[i] = tile.outputs[i].wrapping_sub(out);
        }
    }
}

/// Writes a weight in a kernel's form.
pub(crate) fn put(body: &mut [u8], index: usize, weight: i8, form: WeightForm) {
    match form {
        WeightForm::I8 | WeightForm::Narrow => body[index] = weight as u8,
        WeightForm::I16 => body[index * 2..][..2].copy_from_slice(&i16::from(weight).to_ne_bytes()),
    }
}

/// The kernel that takes least for so many windows and channels, of those that take the weights.
fn cheapest(
    gemms: &'static [Gemm],
    pixels: usize,
    channels: usize,
    (run, runs): (usize, usize),
    weights: &[i8],
) -> &'static Gemm {
    let narrow = !weights.contains(&i8::MIN);
    let cost = |gemm: &Gemm| {
        let (tiles, blocks) = (pixels.div_ceil(gemm.windows), channels.div_ceil(gemm.channels));
        let windows = pixels.div_ceil(tiles);
        let (per_group, per_tile) = (gemm.cost)(windows);
        let groups = runs * run.div_ceil(gemm.depth);
        (tiles * blocks) as f32 * (groups as f32 * per_group + per_tile)
    };
    let better = |best: &'static Gemm, other: &'static Gemm| if cost(other) < cost(best) { other } else { best };
    gemms.iter().filter(|gemm| narrow || gemm.weights != WeightForm::Narrow).fold(&gemms[0], better)
}
