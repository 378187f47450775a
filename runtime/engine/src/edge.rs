//! In and out of the arena: other element types, other orders of axes.

use crate::graph::{Element, Port, Quantization, Value};
use crate::isa::Kernels;
use crate::place::Place;
use crate::reference::strides;

/// A tensor at the edge.
#[derive(Debug)]
pub(crate) struct Edge {
    port: Port,
    place: Place,
    quantization: Quantization,
    /// Distance outside of two neighbours along n, h, w, c.
    strides: [usize; 4],
    /// Whether memory outside has the order of memory inside.
    in_order: bool,
    /// Bytes outside.
    bytes: usize,
}

/// Elements that are brought into another order at once.
const RUN_MAX: usize = 64;

/// Writes a dense tensor's bytes, as they are, to its place.
pub(crate) fn fill(arena: &mut [u8], place: &Place, bytes: &[u8]) {
    let (_, length) = place.stretches();
    for (index, bytes) in bytes.chunks_exact(length).enumerate() {
        arena[place.stretch(index)..][..length].copy_from_slice(bytes);
    }
}

/// Surrounds a tensor with a byte.
pub(crate) fn border(arena: &mut [u8], place: &Place, byte: u8) {
    if place.is_dense() {
        return;
    }
    let (pads, c) = (place.pads, place.dims.c);
    for n in 0..place.dims.n {
        let picture = place.start() + n * place.picture;
        let first = pads.top * place.row + pads.left * c;
        arena[picture..picture + first].fill(byte);
        let (inside, between) = (place.dims.w * c, (pads.left + pads.right) * c);
        for y in 0..place.dims.h - 1 {
            let end = picture + first + y * place.row + inside;
            arena[end..end + between].fill(byte);
        }
        let end = picture + first + (place.dims.h - 1) * place.row + inside;
        arena[end..picture + place.picture].fill(byte);
    }
}

impl Edge {
    pub(crate) fn new(port: &Port, value: &Value, place: Place) -> Self {
        let (dims, outside) = (place.dims, strides(port.order, value.dims));
        let inside = strides(Port::CHANNELS_LAST, dims);
        // Axes of one element lie anywhere.
        let in_order = dims.array().iter().zip(inside.iter().zip(outside)).all(|(size, (a, b))| *size == 1 || *a == b);
        let bytes = dims.elements().unwrap_or(0) * port.element_bytes();
        Self { port: *port, place, quantization: value.quantization, strides: outside, in_order, bytes }
    }

    /// Bytes outside.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn enter(&self, arena: &mut [u8], outside: &[u8], kernels: &Kernels) {
        let element = self.port.element_bytes();
        border(arena, &self.place, self.quantization.zero_point ^ kernels.flip);
        if self.in_order {
            let (count, length) = self.place.stretches();
            for index in 0..count {
                let inside = &mut arena[self.place.stretch(index)..][..length];
                self.bytes_in(&outside[index * length * element..][..length * element], inside, kernels);
            }
        } else {
            let mut bytes = [0; RUN_MAX];
            self.each_run(|from, to, count, step| {
                let bytes = &mut bytes[..count];
                self.bytes_in(&outside[from * element..][..count * element], bytes, kernels);
                arena[to..].iter_mut().step_by(step).zip(bytes).for_each(|(inside, byte)| *inside = *byte);
            });
        }
    }

    fn bytes_in(&self, outside: &[u8], inside: &mut [u8], kernels: &Kernels) {
        let flip = kernels.flip;
        match self.port.element {
            Element::F32 => {
                let mut reals = [0.0; 64];
                for (bytes, inside) in outside.chunks(64 * 4).zip(inside.chunks_mut(64)) {
                    for (real, bytes) in reals.iter_mut().zip(bytes.chunks_exact(4)) {
                        *real = f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                    }
                    (kernels.elementwise.quantize)(&reals[..inside.len()], inside, self.quantization, flip);
                }
            }
            Element::U8 | Element::I8 => {
                let flip = self.flip(flip);
                if flip == 0 {
                    inside.copy_from_slice(outside);
                } else {
                    inside.iter_mut().zip(outside).for_each(|(inside, byte)| *inside = byte ^ flip);
                }
            }
        }
    }

    /// Between bytes outside and bytes in memory inside.
    fn flip(&self, inside: u8) -> u8 {
        if self.port.element == Element::I8 { inside ^ 0x80 } else { inside }
    }

    pub(crate) fn leave(&self, arena: &[u8], outside: &mut [u8], kernels: &Kernels) {
        let element = self.port.element_bytes();
        if self.in_order {
            let (count, length) = self.place.stretches();
            for index in 0..count {
                let inside = &arena[self.place.stretch(index)..][..length];
                self.bytes_out(inside, &mut outside[index * length * element..][..length * element], kernels);
            }
        } else {
            let mut bytes = [0; RUN_MAX];
            self.each_run(|to, from, count, step| {
                let bytes = &mut bytes[..count];
                bytes.iter_mut().zip(arena[from..].iter().step_by(step)).for_each(|(byte, inside)| *byte = *inside);
                self.bytes_out(bytes, &mut outside[to * element..][..count * element], kernels);
            });
        }
    }

    fn bytes_out(&self, inside: &[u8], outside: &mut [u8], kernels: &Kernels) {
        match self.port.element {
            Element::F32 => {
                let mut reals = [0.0; 64];
                for (bytes, inside) in outside.chunks_mut(64 * 4).zip(inside.chunks(64)) {
                    let reals = &mut reals[..inside.len()];
                    (kernels.elementwise.dequantize)(inside, reals, self.quantization, kernels.flip);
                    for (real, bytes) in reals.iter().zip(bytes.chunks_exact_mut(4)) {
                        bytes.copy_from_slice(&real.to_ne_bytes());
                    }
                }
            }
            Element::U8 | Element::I8 => {
                let flip = self.flip(kernels.flip);
                outside.iter_mut().zip(inside).for_each(|(outside, byte)| *outside = byte ^ flip);
            }
        }
    }

    /// Elements that lie side by side outside, a few at a time: where they begin outside and inside, how many there are,
    /// and how far apart they lie inside.
    fn each_run(&self, mut with: impl FnMut(usize, usize, usize, usize)) {
        let sizes = self.place.dims.array();
        let inside = [self.place.picture, self.place.row, self.place.dims.c, 1];
        let along = (0..4).find(|axis| self.strides[*axis] == 1 && sizes[*axis] > 1).unwrap_or(3);
        let mut counts = sizes;
        counts[along] = sizes[along].div_ceil(RUN_MAX);
        let [ns, hs, ws, cs] = counts;
        for (n, y, x) in (0..ns).flat_map(|n| (0..hs).flat_map(move |y| (0..ws).map(move |x| (n, y, x)))) {
            for c in 0..cs {
                let mut at = [n, y, x, c];
                at[along] *= RUN_MAX;
                let count = RUN_MAX.min(sizes[along] - at[along]);
                let place =
                    |strides: &[usize; 4]| at.iter().zip(strides).map(|(at, stride)| at * stride).sum::<usize>();
                with(place(&self.strides), self.place.offset + place(&inside), count, inside[along]);
            }
        }
    }
}
