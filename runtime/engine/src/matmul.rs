//! Products of two matrices that are both computed: the second is packed at every run, then multiplied like weights.
//!
//! Weights are signed and symmetric, and a tensor is neither. Its bytes less 128 are signed; what is left of its zero
//! point, `z`, takes `z` times the sum of a row of the first matrix away from every sum of that row, which a tile adds
//! before it begins.

use crate::conv::{self, Strip};
use crate::elementwise::{Binary, Total};
use crate::isa::{Gemm, Kernels, Output, Tile, WINDOWS_MAX, WeightForm};
use crate::place::Place;
use crate::threads::{Arena, Split};
use std::ops::Range;

/// A product that is ready to run.
#[derive(Debug)]
pub(crate) struct Step {
    one: Place,
    two: Place,
    output: Place,
    transposed: bool,
    of: Binary,
    strips: Vec<Strip>,
    /// Of the packed second matrix.
    packed_bytes: usize,
    /// Rows of the first matrix that meet one second matrix.
    rows: usize,
    total: Total,
}

impl Step {
    pub(crate) fn new(
        (one, two, output): (Place, Place, Place),
        transposed: bool,
        of: Binary,
        kernels: &'static Kernels,
    ) -> Self {
        let alone = two.dims.n == 1 && two.dims.h == 1;
        let dims = output.dims;
        let rows = if alone { dims.n * dims.h * dims.w } else { dims.w };
        let (strips, packed_bytes) = conv::cover(kernels.gemms, rows, (one.dims.c, 1), &[[0, 0, dims.c]], false);
        Self { one, two, output, transposed, of, strips, packed_bytes, rows, total: kernels.elementwise.total }
    }

    /// Bytes of scratch that a run wants.
    pub(crate) const fn scratch_bytes(&self) -> usize {
        self.packed_bytes
    }

    /// # Safety
    /// `arena` holds the places of all three, with the slack behind them. `scratch` begins at a cache line and has the bytes
    /// that are wanted.
    pub(crate) unsafe fn run(&self, arena: Arena, scratch: &mut [u8], flip: u8, split: Split, products: u64) {
        let all = self.output.dims.n * self.output.dims.h * self.output.dims.w;
        for batch in 0..all / self.rows {
            let (n, h) = (batch / self.output.dims.h, batch % self.output.dims.h);
            let at = |index: usize, size: usize| if size == 1 { 0 } else { index };
            let second = self.two.pixel(at(n, self.two.dims.n), at(h, self.two.dims.h), 0);
            // SAFETY: as of this function.
            unsafe { self.pack(arena, second, scratch, flip) };
            let packed: &[u8] = scratch;
            let units = self.strips.iter().map(|strip| strip.units).sum();
            // SAFETY: as of this function.
            split.over(units, products, |units| unsafe { self.run_units(arena, packed, batch, units, flip) });
        }
    }

    /// # Safety
    /// As of [`Step::run`].
    unsafe fn pack(&self, arena: Arena, second: usize, scratch: &mut [u8], flip: u8) {
        let columns = self.output.dims.c;
        let zero = i32::from(self.of.zero_one) - i32::from(flip);
        for strip in &self.strips {
            let gemm = strip.gemm;
            let blocks = scratch[strip.offset..].chunks_exact_mut(strip.block_bytes);
            for (first, block) in (strip.channels[0]..strip.channels[1]).step_by(gemm.channels).zip(blocks) {
                let (head, body) = block.split_at_mut(gemm.channels * 8);
                body.fill(0);
                for place in 0..gemm.channels {
                    let column = first + (gemm.lane)(place);
                    if column >= columns {
                        continue;
                    }
                    // SAFETY: as of this function.
                    let sum = unsafe { self.pack_column(arena, (second, column), (body, place), gemm, flip ^ 0x80) };
                    head[place * 4..][..4].copy_from_slice(&(-zero * sum).to_ne_bytes());
                    let multiplier = gemm.channels * 4 + place * 4;
                    head[multiplier..][..4].copy_from_slice(&self.of.scales.one.to_ne_bytes());
                }
            }
        }
    }

    /// Puts a column to its place in a block, made signed by `flip`, and yields its sum.
    ///
    /// # Safety
    /// As of [`Step::run`].
    unsafe fn pack_column(
        &self,
        arena: Arena,
        (second, column): (usize, usize),
        (body, place): (&mut [u8], usize),
        gemm: &Gemm,
        flip: u8,
    ) -> i32 {
        let depth_all = self.one.dims.c;
        // Distances of two neighbours of a column, and of two columns.
        let (down, right) = if self.transposed { (1, self.two.dims.c) } else { (self.two.dims.c, 1) };
        let start = arena.0.wrapping_add(second + column * right);
        // SAFETY: as of this function.
        let signed = |k: usize| unsafe { start.add(k * down).read() } ^ flip;
        let (mut sum, mut done) = (0, 0);
        if gemm.weights == WeightForm::I8 && gemm.depth == 4 {
            // The usual case, in words.
            let groups = body.chunks_exact_mut(gemm.channels * 4);
            for (group, of_group) in groups.enumerate().take(depth_all / 4) {
                let word: [u8; 4] = std::array::from_fn(|element| signed(group * 4 + element));
                sum += word.iter().map(|byte| i32::from(*byte as i8)).sum::<i32>();
                of_group[place * 4..][..4].copy_from_slice(&word);
            }
            done = depth_all / 4 * 4;
        }
        for k in done..depth_all {
            let weight = signed(k) as i8;
            sum += i32::from(weight);
            let index = (k / gemm.depth * gemm.channels + place) * gemm.depth + k % gemm.depth;
            conv::put(body, index, weight, gemm.weights);
        }
        sum
    }

    /// # Safety
    /// As of [`Step::run`].
    unsafe fn run_units(&self, arena: Arena, packed: &[u8], batch: usize, units: Range<usize>, flip: u8) {
        let dims = self.output.dims;
        let zero_two = i32::from(self.of.zero_two) - 128;
        let depth = self.one.dims.c;
        conv::each_tile(&self.strips, units, |strip, first, windows, blocks| {
            let limits = Output { zero_point: self.of.zero_point, range: self.of.range };
            let mut tile = Tile { groups: strip.depth_groups, ..Tile::new(&[0], limits) };
            let mut plus = [0; WINDOWS_MAX];
            for (i, plus) in plus.iter_mut().enumerate().take(windows) {
                let row = batch * self.rows + first + i;
                let (n, h, w) = (row / dims.w / dims.h, row / dims.w % dims.h, row % dims.w);
                tile.windows[i] = arena.0.wrapping_add(self.one.pixel(n, h, w));
                tile.outputs[i] = arena.0.wrapping_add(self.output.pixel(n, h, w));
                if zero_two != 0 {
                    let mut sum = 0;
                    // SAFETY: as of this function.
                    (self.total)(unsafe { std::slice::from_raw_parts(tile.windows[i], depth) }, &mut sum, flip);
                    *plus = -zero_two * (sum - depth as i32 * i32::from(self.of.zero_one));
                }
            }
            tile.plus = (zero_two != 0).then_some(plus);
            for block in blocks {
                // SAFETY: as of this function; the kernels were picked for this core.
                unsafe { strip.block(packed, block, windows, &mut tile) };
            }
        });
    }
}
