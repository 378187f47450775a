//! The largest and the mean of windows.

use super::Step;
use crate::bytes::AlignedBytes;
use crate::graph::{Dims, Quantization, Range, Window};
use crate::isa::Kernels;
use crate::place::Place;
use crate::requantize::average_multiplier;
use crate::threads::Arena;

impl Step {
    /// Pixels of a window that are not padding: rows and columns from and to.
    fn inside(window: &Window, input: &Place, [y, x]: [usize; 2]) -> (impl Iterator<Item = usize> + Clone, Columns) {
        let along = |axis: usize, at: usize, before: usize, size: usize| {
            let (kernel, dilation) = (window.kernel[axis], window.dilation[axis]);
            let start = at * window.stride[axis];
            (0..kernel).filter_map(move |tap| {
                let padded = start + tap * dilation;
                padded.checked_sub(before).filter(|at| *at < size)
            })
        };
        let columns = along(1, x, window.pads.left, input.dims.w);
        let bounds = Columns { first: columns.clone().next().unwrap_or(0), count: columns.count() };
        (along(0, y, window.pads.top, input.dims.h), bounds)
    }

    /// # Safety
    /// As of [`Step::run`].
    pub(super) unsafe fn max_pool(&self, arena: Arena, input: &Place, window: &Window, kernels: &Kernels) {
        let Dims { n, h, w, c } = self.output.dims;
        for (n, y, x) in (0..n).flat_map(|n| (0..h).flat_map(move |y| (0..w).map(move |x| (n, y, x)))) {
            let (rows, columns) = Self::inside(window, input, [y, x]);
            // SAFETY: as of this function.
            let out = unsafe { arena.bytes_mut(self.output.pixel(n, y, x), c) };
            out.fill(kernels.flip);
            for row in rows {
                for column in columns.each(window.dilation[1]) {
                    // SAFETY: as of this function.
                    let pixel = unsafe { arena.bytes(input.pixel(n, row, column), c) };
                    (kernels.elementwise.max)(pixel, out, kernels.flip);
                }
            }
        }
    }

    /// # Safety
    /// As of [`Step::run`].
    pub(super) unsafe fn average_pool(
        &self,
        arena: Arena,
        (input, window, include_pads): (&Place, &Window, bool),
        (from, to): (Quantization, Quantization),
        (scratch, kernels): (&mut AlignedBytes, &Kernels),
    ) {
        let Dims { n, h, w, c } = self.output.dims;
        let (sums, area) = (&mut scratch.as_sums()[..c], window.kernel[0] * window.kernel[1]);
        // Columns of one channel lie side by side.
        let flat = c == 1 && window.dilation[1] == 1;
        for (n, y, x) in (0..n).flat_map(|n| (0..h).flat_map(move |y| (0..w).map(move |x| (n, y, x)))) {
            let (rows, columns) = Self::inside(window, input, [y, x]);
            sums.fill(0);
            let mut pixels = 0;
            for row in rows {
                if flat && columns.count > 0 {
                    // SAFETY: as of this function.
                    let columns = unsafe { arena.bytes(input.pixel(n, row, columns.first), columns.count) };
                    (kernels.elementwise.total)(columns, &mut sums[0], kernels.flip);
                    pixels += columns.len();
                    continue;
                }
                for column in columns.each(window.dilation[1]) {
                    // SAFETY: as of this function.
                    let pixel = unsafe { arena.bytes(input.pixel(n, row, column), c) };
                    (kernels.elementwise.accumulate)(pixel, sums, kernels.flip);
                    pixels += 1;
                }
            }
            let zero = pixels as i32 * i32::from(from.zero_point);
            let count = if include_pads { area } else { pixels };
            let multiplier = average_multiplier(from.scale, to.scale, count);
            // SAFETY: as of this function.
            let out = unsafe { arena.bytes_mut(self.output.pixel(n, y, x), c) };
            let shift = ((to.zero_point, kernels.flip), Range::FULL);
            (kernels.elementwise.requantize)(sums, out, -zero, multiplier, shift);
        }
    }
}

/// Columns of a window that are not padding.
#[derive(Clone, Copy)]
struct Columns {
    first: usize,
    count: usize,
}

impl Columns {
    fn each(self, dilation: usize) -> impl Iterator<Item = usize> {
        (0..self.count).map(move |i| self.first + i * dilation)
    }
}
