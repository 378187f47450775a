//! How a layer is covered: strips of blocks of output channels, met by tiles of windows.

use crate::isa::{Gemm, Tile, WeightForm};
use std::ops::Range;

/// Weights that fit into this many bytes are walked through for each tile of windows; more are walked through once.
const WEIGHTS_NEAR_BYTES: usize = 16 << 10;

/// Blocks of one kernel that lie side by side.
#[derive(Debug)]
pub(crate) struct Strip {
    pub(crate) gemm: &'static Gemm,
    /// Groups of the kernel's depth in each run.
    pub(crate) depth_groups: usize,
    /// From a window's first byte to the group's first channel.
    pub(super) into: usize,
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
pub(super) fn each_block(strips: &[Strip], units: Range<usize>, mut with: impl FnMut(&Strip, usize)) {
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
