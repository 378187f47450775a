//! Bytes that are brought to other places: parts, axes in another order, several tensors as one.

use super::Step;
use crate::isa::Kernels;
use crate::place::Place;
use crate::threads::Arena;

/// Bytes taken from a tensor to the output: output index `i` of an axis comes from the offset `from[axis][i]`.
#[derive(Debug)]
pub(super) struct Gather {
    /// Where in the output it begins, and its sizes.
    at: [usize; 4],
    sizes: [usize; 4],
    from: [Vec<usize>; 4],
    base: usize,
    pub(super) table: Option<Box<[u8; 256]>>,
    /// Whether a pixel's channels lie side by side.
    together: bool,
}

impl Gather {
    pub(super) fn new(
        input: &Place,
        sizes: [usize; 4],
        at: [usize; 4],
        index: impl Fn(usize, usize) -> (usize, usize),
    ) -> Self {
        let strides = [input.picture, input.row, input.dims.c, 1];
        let along = |axis: usize| {
            let offset = |i: usize| {
                let (of, i) = index(axis, i);
                i * strides[of]
            };
            (0..sizes[axis]).map(offset).collect()
        };
        let from: [Vec<usize>; 4] = std::array::from_fn(along);
        let together = from[3].windows(2).all(|pair| pair[1] == pair[0] + 1);
        Self { at, sizes, from, base: input.offset, table: None, together }
    }
}

impl Step {
    /// # Safety
    /// As of [`Step::run`].
    pub(super) unsafe fn gather(&self, arena: Arena, part: &Gather, kernels: &Kernels) {
        let [ns, hs, ws, cs] = part.sizes;
        for n in 0..ns {
            for y in 0..hs {
                for x in 0..ws {
                    let from = part.base + part.from[0][n] + part.from[1][y] + part.from[2][x];
                    let to = self.output.pixel(part.at[0] + n, part.at[1] + y, part.at[2] + x) + part.at[3];
                    // SAFETY: as of this function.
                    let out = unsafe { arena.bytes_mut(to, cs) };
                    if part.together {
                        // SAFETY: as of this function.
                        let bytes = unsafe { arena.bytes(from + part.from[3][0], cs) };
                        match &part.table {
                            Some(table) => (kernels.elementwise.table)(bytes, out, table),
                            None => out.copy_from_slice(bytes),
                        }
                        continue;
                    }
                    for (out, offset) in out.iter_mut().zip(&part.from[3]) {
                        // SAFETY: as of this function.
                        let byte = unsafe { arena.bytes(from + offset, 1)[0] };
                        *out = part.table.as_ref().map_or(byte, |table| table[usize::from(byte)]);
                    }
                }
            }
        }
    }
}
