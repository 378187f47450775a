//! Sums of a channel by itself. There is nothing that a tile could share, so channels that lie side by side are summed up
//! by a loop over elements, and zero points are taken off before anything is multiplied.

use crate::elementwise::Taps;
use crate::graph::{Conv, Dims};
use crate::isa::Kernels;
use crate::place::Place;
use crate::threads::{Arena, Split};

/// Channels whose sums stay near.
const CHANNELS: usize = crate::conv::CHANNELS_MAX;

/// A depthwise layer that is ready to run.
#[derive(Debug)]
pub(super) struct Step {
    input: Place,
    output: Dims,
    stride: [usize; 2],
    before: usize,
    /// How far from a window's first byte each tap lies.
    taps: Vec<usize>,
    /// `[tap][channel]`, without their zero points.
    weights: Vec<i16>,
}

impl Step {
    pub(super) fn new(op: &Conv, input: Place, output: Dims) -> Self {
        let ([rows, columns], channels) = (op.window.kernel, output.c);
        let [down, right] = op.window.dilation;
        let taps = (0..rows).flat_map(|row| (0..columns).map(move |column| [row, column]));
        let count = rows * columns;
        let weight = |index: usize| {
            let (tap, channel) = (index / channels, index % channels);
            i16::from(op.weights[channel * count + tap]) - i16::from(op.weight_zero_point(channel))
        };
        Self {
            input,
            output,
            stride: op.window.stride,
            before: op.window.pads.top * input.row + op.window.pads.left * channels,
            taps: taps.map(|[row, column]| row * down * input.row + column * right * channels).collect(),
            weights: (0..count * channels).map(weight).collect(),
        }
    }

    /// Hands over the sums of each pixel, counted through all pictures, from a channel on.
    ///
    /// # Safety
    /// `arena` holds the place of the input, which has the pads of the window, and nobody writes there.
    pub(super) unsafe fn run(
        &self,
        (arena, zero_point): (Arena, u8),
        (kernels, split): (&Kernels, Split),
        products: u64,
        with: impl Fn(usize, usize, &[i32]) + Sync,
    ) {
        let Dims { n, h, w, c } = self.output;
        // SAFETY: as of this function.
        let bytes = unsafe { std::slice::from_raw_parts(arena.0.add(self.input.start()), self.input.bytes()) };
        split.over(n * h, products, |rows| {
            let mut sums = [0; CHANNELS];
            for (row, x) in rows.flat_map(|row| (0..w).map(move |x| (row, x))) {
                let pixel = self.input.pixel(row / h, row % h * self.stride[0], x * self.stride[1]);
                let window = &bytes[pixel - self.before - self.input.start()..];
                for first in (0..c).step_by(CHANNELS) {
                    let sums = &mut sums[..CHANNELS.min(c - first)];
                    sums.fill(0);
                    let (taps, weights) = (self.taps.as_slice(), &self.weights[first..]);
                    let of = Taps { taps, weights, channels: c, zero_point, flip: kernels.flip };
                    (kernels.elementwise.taps)(&window[first..], sums, &of);
                    with(row * w + x, first, sums);
                }
            }
        });
    }
}
