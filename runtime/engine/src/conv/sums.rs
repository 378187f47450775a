//! A convolution's sums, for what kernels do not do with them: weights whose zero points differ by channel, and layers
//! that yield real values. A tile's sums lie in a buffer that stays near, and whoever wants them makes of them what it
//! needs before the next tile.

use super::{Step, each_tile};
use crate::isa::{Tile, WINDOWS_MAX};
use crate::threads::{Arena, Split};
use std::ops::Range;

/// Most channels of a block, of any kernel.
pub(crate) const CHANNELS_MAX: usize = 64;

/// Sums of some neighbouring pixels with one block of channels.
pub(crate) struct Sums<'a> {
    /// The first pixel, counted through all pictures.
    pub(crate) pixel: usize,
    /// The first channel, and how many.
    pub(crate) first: usize,
    pub(crate) channels: usize,
    sums: &'a [i32],
    width: usize,
    outputs: &'a [*mut u8],
    bytes: &'a [i32],
}

/// Of one pixel.
pub(crate) struct Pixel<'a> {
    pub(crate) pixel: usize,
    /// One for each channel of [`Sums::channels`].
    pub(crate) sums: &'a [i32],
    /// Where its output begins, at its first channel.
    pub(crate) output: *mut u8,
    /// The sum of its window's bytes less their zero point; 0 where weights have no zero point.
    pub(crate) bytes: i32,
}

impl Sums<'_> {
    pub(crate) fn pixels(&self) -> impl Iterator<Item = Pixel<'_>> {
        let outputs = self.outputs.iter().zip(self.bytes);
        self.sums.chunks_exact(self.width).zip(outputs).enumerate().map(|(i, (sums, (output, bytes)))| Pixel {
            pixel: self.pixel + i,
            sums: &sums[..self.channels],
            output: *output,
            bytes: *bytes,
        })
    }
}

impl Step {
    /// Hands all sums over, tile by tile, from several threads for a large layer. Zero points of weights are not in them.
    ///
    /// # Safety
    /// As of [`Step::run`].
    pub(crate) unsafe fn run_sums(&self, arena: Arena, split: Split, products: u64, with: impl Fn(&Sums<'_>) + Sync) {
        let units = self.strips.iter().map(|strip| strip.units).sum();
        // SAFETY: as of this function.
        split.over(units, products, |units| unsafe { self.sum_units(arena, units, &with) });
    }

    /// # Safety
    /// As of [`Step::run`].
    unsafe fn sum_units(&self, arena: Arena, units: Range<usize>, with: &impl Fn(&Sums<'_>)) {
        let packed = self.packed.as_slice();
        let mut buffer = [0_i32; WINDOWS_MAX * CHANNELS_MAX];
        let at = buffer.as_mut_ptr();
        let mut tile = Tile { raw: true, ..Tile::new(&self.runs, self.limits) };
        each_tile(&self.strips, units, |strip, pixel, windows, blocks| {
            tile.groups = strip.depth_groups;
            self.place(&mut tile, arena.0.wrapping_add(strip.into), arena.0, pixel, windows);
            let bytes = match &self.asymmetry {
                // SAFETY: windows lie in the arena.
                Some(asymmetry) => unsafe { asymmetry.bytes(&tile.windows[..windows], &self.runs) },
                None => [0; WINDOWS_MAX],
            };
            let (outputs, width) = (tile.outputs, strip.gemm.channels);
            for (i, output) in tile.outputs.iter_mut().enumerate() {
                *output = at.wrapping_add(i * width).cast();
            }
            for block in blocks {
                // SAFETY: as of this function; the kernels were picked for this core, and there is room for each window's
                // block.
                let sums = unsafe {
                    strip.block(packed, block, windows, &mut tile);
                    std::slice::from_raw_parts(at, windows * width)
                };
                let (first, channels) = (tile.first, tile.channels);
                with(&Sums { pixel, first, channels, sums, width, outputs: &outputs, bytes: &bytes });
            }
        });
    }
}
