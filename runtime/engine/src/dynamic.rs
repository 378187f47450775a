//! Layers between real values whose input is quantized anew at every run: dynamic quantization, as ONNX defines it.
//!
//! ```text
//! low, high = smallest and largest value of the input, 0 among them
//! x_scale   = (high - low) / 255                                       1 where all are 0
//! x_zero    = clamp( round_half_even( -low / x_scale ), 0, 255 )
//! x         = clamp( round_half_even( value / x_scale ) + x_zero, 0, 255 )
//! sum       = Σ (x - x_zero) · (w - w_zero[c])                          i32
//! output    = f32(sum) · (x_scale · w_scale[c]) + bias[c]               f32, in this order
//! ```
//!
//! Windows, blocks and kernels are those of [`crate::conv`], which yield sums of bytes and weights as they lie in memory.
//! What the zero points take away from them is known once the input is: `x_zero` times the sum of a channel's weights, and
//! `w_zero` times the sum of a window. Layers that read the same tensor share its bytes.

mod depthwise;

use crate::bytes::AlignedBytes;
use crate::check::{ACCUMULATOR_MAX, Problem, TENSOR_BYTES_MAX, fault, layer, windows};
use crate::conv::{self, Sums};
use crate::depthwise::is_depthwise;
use crate::edge::border;
use crate::elementwise::{Channels, Extent, Scaled};
use crate::graph::{Conv, Dims, Pads, Quantization, Range, Window};
use crate::isa::{Kernels, SLACK_BYTES, WINDOWS_MAX, pick};
use crate::packed::Source;
use crate::place::Place;
use crate::program::{CompileError, Options, PRODUCTS_MIN, RunError};
use crate::reference::strides;
use crate::threads::{Arena, Split, shared_pool};
use std::sync::Arc;

/// Layers that read one tensor of real values.
#[derive(Debug, Clone, PartialEq)]
pub struct Dynamic {
    /// For messages.
    pub name: String,
    /// The tensor's sizes, channels last.
    pub input: Dims,
    /// The order of axes in memory of inputs and outputs, as of [`crate::Port::order`].
    pub order: [usize; 4],
    /// What reads it.
    pub layers: Vec<DynamicLayer>,
}

/// A convolution, or a dense layer (a window of one).
#[derive(Debug, Clone, PartialEq)]
pub struct DynamicLayer {
    /// For messages: the name that the model's file gives it.
    pub name: String,
    /// Output channels.
    pub channels: usize,
    /// Its window. Padding has the input's zero point.
    pub window: Window,
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// `[output channel][row][column][input channel of the group]`.
    pub weights: Vec<i8>,
    /// The weight that stands for 0: one for all, or one for each output channel; empty where it is 0.
    pub weight_zero_points: Vec<i8>,
    /// Distance of two neighbouring weights: one for all, or one for each output channel.
    pub scales: Vec<f32>,
    /// One for each output channel; empty for none.
    pub bias: Vec<f32>,
}

/// [`Dynamic`] layers compiled for this core. Shared by any number of sessions.
#[derive(Debug)]
pub struct DynamicProgram {
    kernels: &'static Kernels,
    input: Place,
    /// Distance outside of two neighbours along n, h, w, c; none where memory has the order of memory inside.
    strides: Option<[usize; 4]>,
    layers: Vec<Layer>,
    arena_bytes: usize,
    split: Split,
    pool: Option<Arc<rayon::ThreadPool>>,
}

#[derive(Debug)]
struct Layer {
    step: Step,
    dims: Dims,
    strides: [usize; 4],
    products: u64,
    /// Weights of a channel.
    count: i32,
    /// Of each channel: what the input's zero point takes away, the sum of its weights; their zero point where it is not 0
    /// for all; their scale; its bias.
    sums: Vec<i32>,
    zeros: Vec<i32>,
    scales: Vec<f32>,
    bias: Vec<f32>,
}

/// What yields the sums of a layer: those of a depthwise one come without zero points.
#[derive(Debug)]
enum Step {
    Conv(conv::Step),
    Depthwise(depthwise::Step),
}

/// The memory of one run after the other.
#[derive(Debug)]
pub struct DynamicSession {
    arena: AlignedBytes,
    /// The input's bytes in the order outside, where that is another.
    bytes: Vec<u8>,
    /// Of each channel of a layer.
    minus: Vec<i32>,
    multipliers: Vec<f32>,
}

/// Where outputs are written: memory that all threads share.
#[derive(Clone, Copy)]
struct Outside(*mut f32);

// SAFETY: threads write the sums of tiles, which do not overlap.
unsafe impl Send for Outside {}
// SAFETY: as above.
unsafe impl Sync for Outside {}

impl Outside {
    const fn at(&self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// The quantization that ONNX's DynamicQuantizeLinear finds for values of this extent.
pub(crate) fn quantization(extent: Extent) -> Quantization {
    let Extent { low, high, .. } = extent;
    let scale = if low == high { 1.0 } else { (high - low) / 255.0 };
    // A cast takes what is no number, of an extent too small for a scale, to 0.
    let zero_point = (-low / scale).clamp(0.0, 255.0).round_ties_even() as u8;
    Quantization { scale, zero_point }
}

/// Output sizes of a layer that is sound, and the layer as a convolution.
fn accept(op: &DynamicLayer, input: Dims) -> Result<(Dims, Conv), CompileError> {
    let err = |problem| Err(fault(&op.name, problem).into());
    let dims = Dims { c: op.channels, ..windows(&op.name, &op.window, input)? };
    if !dims.elements().is_some_and(|count| count > 0 && count <= TENSOR_BYTES_MAX / size_of::<f32>()) {
        return err(Problem::Size(dims));
    }
    let conv = Conv {
        window: op.window,
        groups: op.groups,
        weights: op.weights.clone(),
        weight_zero_points: op.weight_zero_points.clone(),
        scales: op.scales.clone(),
        bias: vec![],
        range: Range::FULL,
    };
    layer(&op.name, &conv, input, dims)?;
    let taps = op.window.kernel[0].checked_mul(op.window.kernel[1]);
    let Some(per_channel) = taps.and_then(|taps| taps.checked_mul(input.c / op.groups)).filter(|count| *count > 0)
    else {
        return err(Problem::Size(input));
    };
    let expected = per_channel.saturating_mul(op.channels);
    if op.weights.len() != expected {
        return err(Problem::Count { what: "weights", found: op.weights.len(), expected });
    }
    if !op.bias.is_empty() && op.bias.len() != op.channels {
        return err(Problem::Count { what: "bias", found: op.bias.len(), expected: op.channels });
    }
    for (channel, weights) in op.weights.chunks(per_channel).enumerate() {
        let zero_point = i64::from(conv.weight_zero_point(channel).unsigned_abs());
        let sum = 255 * weights.iter().map(|w| i64::from(w.unsigned_abs()) + zero_point).sum::<i64>();
        if sum > ACCUMULATOR_MAX {
            return err(Problem::Overflow { channel, sum });
        }
    }
    Ok((dims, conv))
}

impl Layer {
    fn new(
        op: &DynamicLayer,
        (dims, conv): (Dims, Conv),
        input: Place,
        order: [usize; 4],
        kernels: &'static Kernels,
    ) -> Result<Self, CompileError> {
        let Some(place) = Place::new(dims, Pads::default()) else {
            return Err(fault(&op.name, Problem::Size(dims)).into());
        };
        let alone = is_depthwise(&conv, input.dims.c, dims.c);
        let step = if alone {
            Step::Depthwise(depthwise::Step::new(&conv, input, dims))
        } else {
            // Bytes as they lie in memory, so that nothing is folded into the sums.
            let as_stored = Quantization { scale: 1.0, zero_point: kernels.flip };
            let (input, output) = ((input, as_stored), (place, as_stored));
            Step::Conv(conv::Step::new(&conv, kernels, input, output, &mut Source::Pack))
        };
        let per_channel = conv.weights.len() / dims.c;
        let sum = |weights: &[i8]| weights.iter().map(|w| i32::from(*w)).sum();
        let asymmetric = !alone && conv.weight_zero_points.iter().any(|zero_point| *zero_point != 0);
        let zeros = (0..if asymmetric { dims.c } else { 0 }).map(|channel| conv.weight_zero_point(channel).into());
        let each = |all: &[f32], none: f32| match all {
            [] => vec![none; dims.c],
            [one] => vec![*one; dims.c],
            each => each.to_vec(),
        };
        Ok(Self {
            step,
            dims,
            strides: strides(order, dims),
            products: (dims.n * dims.h * dims.w) as u64 * conv.weights.len() as u64,
            count: per_channel as i32,
            sums: if alone { vec![0; dims.c] } else { conv.weights.chunks(per_channel).map(sum).collect() },
            zeros: zeros.collect(),
            scales: each(&conv.scales, 1.0),
            // Adding this changes nothing, not even the sign of a 0.
            bias: each(&op.bias, -0.0),
        })
    }

    /// # Safety
    /// The arena holds the input's bytes, and `out` has the layer's elements.
    unsafe fn run(
        &self,
        arena: Arena,
        (minus, multipliers): (&mut [i32], &mut [f32]),
        of: Quantization,
        out: Outside,
        (kernels, split): (&Kernels, Split),
    ) {
        let zero = i32::from(of.zero_point) - i32::from(kernels.flip);
        minus.iter_mut().zip(&self.sums).for_each(|(minus, sum)| *minus = zero * sum);
        multipliers.iter_mut().zip(&self.scales).for_each(|(multiplier, scale)| *multiplier = of.scale * scale);
        let (minus, multipliers): (&[i32], &[f32]) = (minus, multipliers);
        let each = |channels: std::ops::Range<usize>, times: i32| Scaled {
            minus: &minus[channels.clone()],
            channels: Channels {
                zeros: self.zeros.get(channels.clone()).unwrap_or_default(),
                times,
                multipliers: &multipliers[channels.clone()],
            },
            bias: &self.bias[channels],
        };
        let scale = kernels.elementwise.scale;
        let [_, _, _, apart] = self.strides;
        // Channels that do not lie side by side outside are written channel by channel, some pixels at a time.
        let scatter = |reals: &[f32], width: usize, places: &[usize], channels: usize| {
            for c in 0..channels {
                for (reals, place) in reals.chunks_exact(width).zip(places) {
                    // SAFETY: these channels of these pixels are written by this call alone.
                    unsafe { out.at(place + c * apart).write(reals[c]) };
                }
            }
        };
        // SAFETY: as above.
        let row = |place: usize, count: usize| unsafe { std::slice::from_raw_parts_mut(out.at(place), count) };
        let finish = |sums: &Sums<'_>| {
            let channels = sums.first..sums.first + sums.channels;
            // Parts may leave an i32 where weights have no zero point: nobody reads it then.
            let of = |pixel: &conv::Pixel<'_>| {
                each(channels.clone(), pixel.bytes.wrapping_sub(self.count.wrapping_mul(zero)))
            };
            if apart == 1 {
                for pixel in sums.pixels() {
                    scale(pixel.sums, row(self.place(pixel.pixel, sums.first), sums.channels), &of(&pixel));
                }
                return;
            }
            let mut reals = [0.0; WINDOWS_MAX * conv::CHANNELS_MAX];
            let (mut places, mut count) = ([0; WINDOWS_MAX], 0);
            for (pixel, reals) in sums.pixels().zip(reals.chunks_exact_mut(conv::CHANNELS_MAX)) {
                scale(pixel.sums, &mut reals[..sums.channels], &of(&pixel));
                places[count] = self.place(pixel.pixel, sums.first);
                count += 1;
            }
            scatter(&reals, conv::CHANNELS_MAX, &places[..count], sums.channels);
        };
        let finish_alone = |pixel: usize, first: usize, sums: &[i32]| {
            let (of, place) = (each(first..first + sums.len(), 0), self.place(pixel, first));
            if apart == 1 {
                return scale(sums, row(place, sums.len()), &of);
            }
            let mut reals = [0.0; conv::CHANNELS_MAX];
            scale(sums, &mut reals[..sums.len()], &of);
            scatter(&reals, conv::CHANNELS_MAX, &[place], sums.len());
        };
        // SAFETY: as of this function.
        unsafe {
            match &self.step {
                Step::Conv(step) => step.run_sums(arena, split, self.products, finish),
                Step::Depthwise(step) => {
                    step.run((arena, of.zero_point), (kernels, split), self.products, finish_alone);
                }
            }
        }
    }

    /// Where a channel of a pixel lies outside.
    fn place(&self, pixel: usize, channel: usize) -> usize {
        let Dims { h, w, .. } = self.dims;
        let [sn, sh, sw, sc] = self.strides;
        pixel / w / h * sn + pixel / w % h * sh + pixel % w * sw + channel * sc
    }
}

impl DynamicProgram {
    /// Checks layers and prepares them.
    ///
    /// # Errors
    /// [`CompileError`] naming the layer.
    pub fn compile(dynamic: &Dynamic, options: &Options) -> Result<Self, CompileError> {
        let (kernels, dims) = (pick(options.isa.as_deref())?, dynamic.input);
        let wrong = |problem| CompileError::Graph(fault(&dynamic.name, problem));
        let mut axes = dynamic.order;
        axes.sort_unstable();
        if axes != [0, 1, 2, 3] {
            return Err(wrong(Problem::Axis(dynamic.order[3])));
        }
        if !dims.elements().is_some_and(|count| count > 0 && count <= TENSOR_BYTES_MAX / size_of::<f32>()) {
            return Err(wrong(Problem::Size(dims)));
        }
        let accepted = dynamic.layers.iter().map(|op| accept(op, dims)).collect::<Result<Vec<_>, _>>()?;
        let pads = dynamic.layers.iter().fold(Pads::default(), |all, op| {
            let Pads { top, left, bottom, right } = op.window.pads;
            Pads {
                top: all.top.max(top),
                left: all.left.max(left),
                bottom: all.bottom.max(bottom),
                right: all.right.max(right),
            }
        });
        let input = Place::new(dims, pads).ok_or_else(|| wrong(Problem::Size(dims)))?;
        let layers = dynamic.layers.iter().zip(accepted);
        let layers = layers.map(|(op, accepted)| Layer::new(op, accepted, input, dynamic.order, kernels));
        let (inside, outside) = (strides([0, 1, 2, 3], dims), strides(dynamic.order, dims));
        let same = dims.array().iter().zip(inside.iter().zip(outside)).all(|(size, (a, b))| *size == 1 || *a == b);
        let threads = options.threads.max(1);
        Ok(Self {
            kernels,
            input,
            strides: (!same).then_some(outside),
            layers: layers.collect::<Result<_, _>>()?,
            arena_bytes: input.bytes() + SLACK_BYTES,
            split: Split { threads, products_min: options.products_min.unwrap_or(PRODUCTS_MIN) },
            pool: shared_pool(threads)?,
        })
    }

    /// Memory for one run at a time.
    pub fn session(&self) -> DynamicSession {
        let channels = self.layers.iter().map(|layer| layer.dims.c).max().unwrap_or(0);
        let count = self.strides.map_or(0, |_| self.input.dims.elements().unwrap_or(0));
        DynamicSession {
            arena: AlignedBytes::zeroed(self.arena_bytes),
            bytes: vec![0; count],
            minus: vec![0; channels],
            multipliers: vec![0.0; channels],
        }
    }

    /// Sizes of each layer's output, channels last.
    pub fn outputs(&self) -> impl Iterator<Item = Dims> + '_ {
        self.layers.iter().map(|layer| layer.dims)
    }

    /// Runs once.
    ///
    /// # Errors
    /// [`RunError`] for tensors that do not fit, and for an input without finite extent; nothing is computed then.
    pub fn run(&self, session: &mut DynamicSession, input: &[f32], outputs: &mut [&mut [f32]]) -> Result<(), RunError> {
        self.fits(session, input, outputs)?;
        let mut extent = Extent::default();
        (self.kernels.elementwise.extent)(input, &mut extent);
        if extent.nan || !(extent.high - extent.low).is_finite() {
            return Err(RunError::NotFinite);
        }
        let of = quantization(extent);
        self.enter(session, input, of);
        let mut all = || {
            for (layer, out) in self.layers.iter().zip(outputs.iter_mut()) {
                let channels = layer.dims.c;
                let each = (&mut session.minus[..channels], &mut session.multipliers[..channels]);
                let (arena, out) = (Arena(session.arena.as_mut_ptr()), Outside(out.as_mut_ptr()));
                // SAFETY: the arena is this program's, and the output has the bytes of the layer.
                unsafe { layer.run(arena, each, of, out, (self.kernels, self.split)) };
            }
        };
        match &self.pool {
            Some(pool) => pool.install(all),
            None => all(),
        }
        Ok(())
    }

    fn fits(&self, session: &DynamicSession, input: &[f32], outputs: &[&mut [f32]]) -> Result<(), RunError> {
        let channels = self.layers.iter().map(|layer| layer.dims.c).max().unwrap_or(0);
        let count = self.strides.map_or(0, |_| self.input.dims.elements().unwrap_or(0));
        if session.arena.len() != self.arena_bytes || session.bytes.len() != count || session.minus.len() != channels {
            return Err(RunError::Session);
        }
        if outputs.len() != self.layers.len() {
            return Err(RunError::Count { what: "output", found: outputs.len(), expected: self.layers.len() });
        }
        let bytes = |what, index, found: usize, dims: Dims| {
            let (found, expected) = (found * size_of::<f32>(), dims.elements().unwrap_or(0) * size_of::<f32>());
            if found == expected { Ok(()) } else { Err(RunError::Bytes { what, index, found, expected }) }
        };
        bytes("input", 0, input.len(), self.input.dims)?;
        for (index, (layer, output)) in self.layers.iter().zip(outputs).enumerate() {
            bytes("output", index, output.len(), layer.dims)?;
        }
        Ok(())
    }

    /// Quantizes the input to its place.
    fn enter(&self, session: &mut DynamicSession, input: &[f32], of: Quantization) {
        let (flip, quantize) = (self.kernels.flip, self.kernels.elementwise.quantize);
        let arena = session.arena.as_mut_slice();
        border(arena, &self.input, of.zero_point ^ flip);
        let Some([sn, sh, sw, sc]) = self.strides else {
            let (_, length) = self.input.stretches();
            for (index, reals) in input.chunks_exact(length).enumerate() {
                quantize(reals, &mut arena[self.input.stretch(index)..][..length], of, flip);
            }
            return;
        };
        quantize(input, &mut session.bytes, of, flip);
        let Dims { n, h, w, c } = self.input.dims;
        for row in 0..n * h {
            let (n, y) = (row / h, row % h);
            let inside = &mut arena[self.input.pixel(n, y, 0)..][..w * c];
            for (x, pixel) in inside.chunks_exact_mut(c).enumerate() {
                let first = n * sn + y * sh + x * sw;
                pixel.iter_mut().enumerate().for_each(|(c, byte)| *byte = session.bytes[first + c * sc]);
            }
        }
    }
}
