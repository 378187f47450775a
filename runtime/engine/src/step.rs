//! One operator, ready to run.

mod gather;
mod pool;

use crate::bytes::AlignedBytes;
use crate::conv;
use crate::depthwise::{self, is_depthwise};
use crate::elementwise::{Binary, Second};
use crate::graph::{Dims, Graph, Node, Op, Quantization, Range, Window};
use crate::isa::Kernels;
use crate::matmul;
use crate::packed::{Packed, Source};
use crate::place::{Place, Plan};
use crate::requantize::{AddScales, Exponentials, mul_multiplier, table};
use crate::threads::{Arena, Split};
use gather::Gather;

/// What is done, with all that is known beforehand.
#[derive(Debug)]
pub(crate) struct Step {
    /// Where it goes.
    pub(crate) output: Place,
    /// What surrounds the output.
    border: u8,
    /// Products that are summed up in one run.
    pub(crate) products: u64,
    work: Work,
}

/// What is done with two tensors, element by element.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pair {
    Sum,
    Product,
    SquaredDifference,
}

#[derive(Debug)]
enum Work {
    Conv(conv::Step),
    Depthwise(depthwise::Step),
    Binary {
        one: Place,
        two: Place,
        of: Binary,
        kind: Pair,
    },
    MatMul(matmul::Step),
    MaxPool {
        input: Place,
        window: Window,
    },
    AveragePool {
        input: Place,
        window: Window,
        include_pads: bool,
        scales: (Quantization, Quantization),
    },
    Table {
        input: Place,
        table: Box<[u8; 256]>,
    },
    Softmax {
        input: Place,
        exponentials: Exponentials,
        to: Quantization,
    },
    /// Tensors that are put together.
    Gather(Vec<Gather>),
    /// A tensor inside of the output, which is the border's byte elsewhere.
    Pad(Gather),
    /// The input's bytes in their order.
    Copy {
        input: Place,
    },
    Nothing,
}

impl Step {
    pub(crate) fn new(graph: &Graph, node: &Node, kernels: &'static Kernels, plan: &Plan, source: &mut Source) -> Self {
        let of = |index: usize| {
            let id = node.inputs[index].0;
            (plan.places[id], graph.values[id].quantization)
        };
        let (output, to) = (plan.places[node.output.0], graph.values[node.output.0].quantization);
        let (input, from) = of(0);
        let flip = kernels.flip;
        let sizes = output.dims.array();
        let pixels = (output.dims.n * output.dims.h * output.dims.w) as u64;
        let mut products = 0;
        let work = match &node.op {
            Op::Conv(op) => {
                let taps = (op.window.kernel[0] * op.window.kernel[1]) as u64;
                products = pixels * taps * (output.dims.c * (input.dims.c / op.groups)) as u64;
                if is_depthwise(op, input.dims.c, output.dims.c) {
                    Work::Depthwise(depthwise::Step::new(op, kernels, (input, from), (output, to), source))
                } else {
                    Work::Conv(conv::Step::new(op, kernels, (input, from), (output, to), source))
                }
            }
            Op::Add(_) | Op::Mul(_) | Op::SquaredDifference => {
                let (two, second) = of(1);
                let (kind, range) = match &node.op {
                    Op::Add(range) => (Pair::Sum, *range),
                    Op::Mul(range) => (Pair::Product, *range),
                    _ => (Pair::SquaredDifference, Range::FULL),
                };
                Work::Binary { one: input, two, of: binary((from, second, to), range, flip, kind), kind }
            }
            Op::MatMul { transposed, range } => {
                let (two, second) = of(1);
                products = pixels * (output.dims.c * input.dims.c) as u64;
                let of = binary((from, second, to), *range, flip, Pair::Product);
                Work::MatMul(matmul::Step::new((input, two, output), *transposed, of, kernels))
            }
            Op::Concat { axis } => {
                let mut at = [0; 4];
                let part = |index: usize| {
                    let (place, quantization) = of(index);
                    let sizes = place.dims.array();
                    let mut gather = Gather::new(&place, sizes, at, |axis, i| (axis, i));
                    at[*axis] += sizes[*axis];
                    if quantization != to {
                        gather.table = Some(flipped(&table(quantization, to), flip));
                    }
                    gather
                };
                Work::Gather((0..node.inputs.len()).map(part).collect())
            }
            Op::MaxPool(window) => Work::MaxPool { input, window: *window },
            Op::AveragePool { window, include_pads } => {
                Work::AveragePool { input, window: *window, include_pads: *include_pads, scales: (from, to) }
            }
            Op::Upsample { factor } => {
                let factors = [1, factor[0], factor[1], 1];
                Work::Gather(vec![Gather::new(&input, sizes, [0; 4], |axis, i| (axis, i / factors[axis]))])
            }
            Op::Table(table) => Work::Table { input, table: flipped(table, flip) },
            Op::Softmax => Work::Softmax { input, exponentials: Exponentials::new(from.scale), to },
            Op::Reshape if output.is_dense() && input.is_dense() && output.offset == input.offset => Work::Nothing,
            Op::Reshape => Work::Copy { input },
            Op::Transpose { axes } => Work::Gather(vec![Gather::new(&input, sizes, [0; 4], |axis, i| (axes[axis], i))]),
            Op::Slice { start, step } => {
                let index = |axis: usize, i: usize| (axis, start[axis] + i * step[axis]);
                Work::Gather(vec![Gather::new(&input, sizes, [0; 4], index)])
            }
            Op::Pad { before } => Work::Pad(Gather::new(&input, input.dims.array(), *before, |axis, i| (axis, i))),
        };
        Self { output, border: to.zero_point ^ flip, products, work }
    }

    /// Bytes of scratch that a run wants.
    pub(crate) fn scratch_bytes(&self) -> usize {
        match &self.work {
            Work::MatMul(step) => step.scratch_bytes(),
            Work::AveragePool { .. } => self.output.dims.c * size_of::<i32>(),
            _ => 0,
        }
    }

    /// Packed weights, when it has some.
    pub(crate) fn packed(&self) -> Option<&Packed> {
        match &self.work {
            Work::Conv(step) => Some(step.packed()),
            Work::Depthwise(step) => Some(step.packed()),
            _ => None,
        }
    }
}

/// A table between bytes as they lie in memory.
fn flipped(table: &[u8; 256], flip: u8) -> Box<[u8; 256]> {
    Box::new(std::array::from_fn(|byte| table[usize::from(byte as u8 ^ flip)] ^ flip))
}

fn binary((one, two, to): (Quantization, Quantization, Quantization), range: Range, flip: u8, kind: Pair) -> Binary {
    let multiplier = mul_multiplier(one.scale, two.scale, to.scale);
    let scales = match kind {
        Pair::Sum => AddScales::new(one.scale, two.scale, to.scale),
        Pair::Product => AddScales { one: multiplier, two: multiplier },
        Pair::SquaredDifference => AddScales::of_square(one.scale, two.scale, to.scale),
    };
    Binary { zero_one: one.zero_point, zero_two: two.zero_point, scales, zero_point: to.zero_point, range, flip }
}

impl Arena {
    /// # Safety
    /// The bytes lie in the arena, and are not written while they are held.
    unsafe fn bytes<'a>(self, offset: usize, count: usize) -> &'a [u8] {
        // SAFETY: as of this function.
        unsafe { std::slice::from_raw_parts(self.0.add(offset), count) }
    }

    /// # Safety
    /// The bytes lie in the arena, and nobody else holds them: an output shares no byte with its step's inputs.
    unsafe fn bytes_mut<'a>(self, offset: usize, count: usize) -> &'a mut [u8] {
        // SAFETY: as of this function.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(offset), count) }
    }
}

impl Step {
    /// # Safety
    /// `arena` has the size and the alignment that the plan says, and `scratch` the bytes that this step wants.
    pub(crate) unsafe fn run(&self, arena: Arena, scratch: &mut AlignedBytes, kernels: &Kernels, split: Split) {
        if !self.output.is_dense() {
            let (start, bytes) = (self.output.start(), self.output.bytes());
            let mut inside = self.output;
            inside.offset -= start;
            // SAFETY: the output's place lies in the arena.
            crate::edge::border(unsafe { arena.bytes_mut(start, bytes) }, &inside, self.border);
        }
        // SAFETY: as of this function.
        unsafe {
            match &self.work {
                Work::Conv(step) => step.run(arena, split, self.products, kernels.elementwise),
                Work::Depthwise(step) => step.run(arena, split, self.products),
                Work::Binary { one, two, of, kind } => self.binary(arena, (one, two), of, *kind, kernels),
                Work::MatMul(step) => step.run(arena, scratch.as_mut_slice(), kernels.flip, split, self.products),
                Work::MaxPool { input, window } => self.max_pool(arena, input, window, kernels),
                Work::AveragePool { input, window, include_pads, scales } => {
                    self.average_pool(arena, (input, window, *include_pads), *scales, (scratch, kernels));
                }
                Work::Table { input, table } => self.stretches(arena, input, |x, y| {
                    (kernels.elementwise.table)(x, y, table);
                }),
                Work::Softmax { input, exponentials, to } => self.pixels(arena, input, |x, y| {
                    (kernels.elementwise.softmax)(x, y, exponentials, *to, kernels.flip);
                }),
                Work::Gather(parts) => parts.iter().for_each(|part| self.gather(arena, part, kernels)),
                Work::Pad(part) => {
                    arena.bytes_mut(self.output.start(), self.output.bytes()).fill(self.border);
                    self.gather(arena, part, kernels);
                }
                Work::Copy { input } => self.copy(arena, input),
                Work::Nothing => {}
            }
        }
    }

    /// Each stretch of an input with the same sizes.
    ///
    /// # Safety
    /// As of [`Step::run`].
    unsafe fn stretches(&self, arena: Arena, input: &Place, mut with: impl FnMut(&[u8], &mut [u8])) {
        let dense = input.is_dense() && self.output.is_dense();
        let Dims { n, h, w, c } = self.output.dims;
        let (count, length) = if dense { (1, n * h * w * c) } else { (n * h, w * c) };
        for index in 0..count {
            let (n, y) = (index / h, index % h);
            // SAFETY: as of this function.
            unsafe {
                with(arena.bytes(input.pixel(n, y, 0), length), arena.bytes_mut(self.output.pixel(n, y, 0), length));
            }
        }
    }

    /// Each pixel's channels.
    ///
    /// # Safety
    /// As of [`Step::run`].
    unsafe fn pixels(&self, arena: Arena, input: &Place, mut with: impl FnMut(&[u8], &mut [u8])) {
        let c = self.output.dims.c;
        let row = |x: &[u8], y: &mut [u8]| x.chunks_exact(c).zip(y.chunks_exact_mut(c)).for_each(|(x, y)| with(x, y));
        // SAFETY: as of this function.
        unsafe { self.stretches(arena, input, row) };
    }

    unsafe fn binary(&self, arena: Arena, (one, two): (&Place, &Place), of: &Binary, kind: Pair, kernels: &Kernels) {
        let call = match kind {
            Pair::Sum => kernels.elementwise.add,
            Pair::Product => kernels.elementwise.mul,
            Pair::SquaredDifference => kernels.elementwise.squared_difference,
        };
        let (dims, second) = (self.output.dims, two.dims);
        if second == dims && [one, two, &self.output].iter().all(|place| place.is_dense()) {
            let count = dims.n * dims.h * dims.w * dims.c;
            // SAFETY: as of this function.
            unsafe {
                let (x, y) = (arena.bytes(one.offset, count), arena.bytes(two.offset, count));
                call(x, Second::Row(y), arena.bytes_mut(self.output.offset, count), of);
            }
            return;
        }
        let at = |index: usize, size: usize| if size == 1 { 0 } else { index };
        for n in 0..dims.n {
            for y in 0..dims.h {
                // Where a row of the second is as long as one of the output, whole rows; else pixel by pixel.
                let whole = second.w == dims.w && second.c == dims.c;
                let (items, length) = if whole { (1, dims.w * dims.c) } else { (dims.w, dims.c) };
                for x in 0..items {
                    let from = two.pixel(at(n, second.n), at(y, second.h), at(x, second.w));
                    // SAFETY: as of this function.
                    unsafe {
                        let first = arena.bytes(one.pixel(n, y, x), length);
                        let row = if second.c == 1 && dims.c > 1 {
                            Second::One(arena.bytes(from, 1)[0])
                        } else {
                            Second::Row(arena.bytes(from, length))
                        };
                        call(first, row, arena.bytes_mut(self.output.pixel(n, y, x), length), of);
                    }
                }
            }
        }
    }

    unsafe fn copy(&self, arena: Arena, input: &Place) {
        let (_, from_length) = input.stretches();
        let (_, to_length) = self.output.stretches();
        let all = self.output.dims.n * self.output.dims.h * self.output.dims.w * self.output.dims.c;
        let mut done = 0;
        while done < all {
            let (from, to) = (done % from_length, done % to_length);
            let count = (from_length - from).min(to_length - to);
            let (source, target) = (input.stretch(done / from_length), self.output.stretch(done / to_length));
            // SAFETY: as of this function.
            unsafe { arena.bytes_mut(target + to, count).copy_from_slice(arena.bytes(source + from, count)) };
            done += count;
        }
    }
}
