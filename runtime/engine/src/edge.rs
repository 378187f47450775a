//! In and out of the arena: other element types, other orders of axes.

use crate::graph::{Dims, Element, Port, Quantization, Value};
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
}

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
        Self { port: *port, place, quantization: value.quantization, strides: strides(port.order, value.dims) }
    }

    /// Bytes outside.
    pub(crate) fn bytes(&self) -> usize {
        self.place.dims.elements().unwrap_or(0) * self.port.element_bytes()
    }

    /// Whether memory outside has the order of memory inside. Axes of one element lie anywhere.
    fn in_order(&self) -> bool {
        let dims = self.place.dims;
        let inside = strides(Port::CHANNELS_LAST, dims);
        dims.array().iter().zip(inside.iter().zip(self.strides)).all(|(size, (a, b))| *size == 1 || *a == b)
    }

    pub(crate) fn enter(&self, arena: &mut [u8], outside: &[u8], kernels: &Kernels) {
        let element = self.port.element_bytes();
        border(arena, &self.place, self.quantization.zero_point ^ kernels.flip);
        if self.in_order() {
            let (count, length) = self.place.stretches();
            for index in 0..count {
                let inside = &mut arena[self.place.stretch(index)..][..length];
                self.bytes_in(&outside[index * length * element..][..length * element], inside, kernels);
            }
        } else {
            self.each(|from, to| self.bytes_in(&outside[from * element..][..element], &mut arena[to..=to], kernels));
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
        if self.in_order() {
            let (count, length) = self.place.stretches();
            for index in 0..count {
                let inside = &arena[self.place.stretch(index)..][..length];
                self.bytes_out(inside, &mut outside[index * length * element..][..length * element], kernels);
            }
        } else {
            self.each(|to, from| self.bytes_out(&arena[from..=from], &mut outside[to * element..][..element], kernels));
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

    /// Each element's place outside and inside.
    fn each(&self, mut with: impl FnMut(usize, usize)) {
        let Dims { n, h, w, c } = self.place.dims;
        let [sn, sh, sw, sc] = self.strides;
        for n in 0..n {
            for y in 0..h {
                for x in 0..w {
                    let (outside, inside) = (n * sn + y * sh + x * sw, self.place.pixel(n, y, x));
                    (0..c).for_each(|c| with(outside + c * sc, inside + c));
                }
            }
        }
    }
}
