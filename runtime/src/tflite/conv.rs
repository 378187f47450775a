//! Convolutions and dense layers.
//!
//! Weights of the engine are symmetric in 8 bits. Those of uint8 files are not: less their zero point they can take 9
//! bits. They are then split into a sum of two (or three) numbers of 8 bits, and each input channel is repeated as
//! often, which is the same sum of products. It costs as much again, and no accuracy.

use super::TfliteError;
use super::importer::Importer;
use super::operator::Operator;
use super::schema::{Kind, element};
use super::value::{State, dims_of};
use sedge_engine::{Conv, Dims, Op, Pads, Quantization, ValueId, Window};

/// How far a bias may be from the scale of its sums, in steps of the output: TFLite's own bound.
const BIAS_SCALE_SLACK: f64 = 0.02;

/// How a window lies on a picture.
pub(super) struct Geometry {
    /// Whether the output is as large as the input divided by the strides.
    pub(super) same: bool,
    pub(super) kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) dilation: [usize; 2],
}

impl Geometry {
    /// The window over `input`, which lies inside of `around`, and what it yields: rows and columns.
    pub(super) fn over(
        &self,
        operator: &Operator<'_>,
        input: Dims,
        around: Pads,
    ) -> Result<(Window, [usize; 2]), TfliteError> {
        let one = |axis: usize, size: usize, before: usize, after: usize| {
            let (stride, size) = (self.stride[axis], size.checked_add(before)?.checked_add(after)?);
            let span = self.kernel[axis].checked_sub(1)?.checked_mul(self.dilation[axis])?.checked_add(1)?;
            if !self.same {
                return Some((before, after, size.checked_sub(span)? / stride + 1));
            }
            let out = size.div_ceil(stride);
            let missing = (out.checked_sub(1)? * stride).checked_add(span)?.saturating_sub(size);
            Some((before + missing / 2, after + (missing - missing / 2), out))
        };
        let impossible = || {
            let [rows, columns] = self.kernel;
            operator.refuse(format!("a window of {rows} by {columns} does not fit {} by {}", input.h, input.w))
        };
        let (top, bottom, h) = one(0, input.h, around.top, around.bottom).ok_or_else(impossible)?;
        let (left, right, w) = one(1, input.w, around.left, around.right).ok_or_else(impossible)?;
        let pads = Pads { top, left, bottom, right };
        Ok((Window { kernel: self.kernel, stride: self.stride, dilation: self.dilation, pads }, [h, w]))
    }
}

/// A tensor without the padding that was put around it, and that padding.
pub(super) fn unpadded(file: &mut Importer<'_>, tensor: usize) -> Result<(ValueId, Pads), TfliteError> {
    match *file.state(tensor) {
        State::Padded(inner, pads) => Ok((file.natural(inner)?, pads)),
        _ => Ok((file.natural(tensor)?, Pads::default())),
    }
}

pub(super) fn convolution(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let options = operator.options(Kind::Conv2d)?;
    let [_, rows, columns, per_group] = weights_shape(file, operator)?;
    let channels = file.shape(operator.input(0)?).last().copied().unwrap_or(1);
    if per_group == 0 || !channels.is_multiple_of(per_group) {
        return Err(operator.refuse(format!("weights for {per_group} channels do not fit an input of {channels}")));
    }
    let geometry = Geometry {
        same: options.byte(0)? == 0,
        kernel: [rows, columns],
        stride: [options.pixels(2, 0)?, options.pixels(1, 0)?],
        dilation: [options.pixels(5, 1)?, options.pixels(4, 1)?],
    };
    let weights = Weights::read(file, operator, 0)?;
    windowed(file, operator, &geometry, channels / per_group, weights, options.byte(3)?)
}

pub(super) fn depthwise(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let options = operator.options(Kind::DepthwiseConv2d)?;
    let [one, rows, columns, outputs] = weights_shape(file, operator)?;
    let channels = file.shape(operator.input(0)?).last().copied().unwrap_or(1);
    if one != 1 || channels == 0 || !outputs.is_multiple_of(channels) {
        return Err(operator.refuse(format!("weights for {outputs} channels do not fit an input of {channels}")));
    }
    let geometry = Geometry {
        same: options.byte(0)? == 0,
        kernel: [rows, columns],
        stride: [options.pixels(2, 0)?, options.pixels(1, 0)?],
        dilation: [options.pixels(6, 1)?, options.pixels(5, 1)?],
    };
    let mut weights = Weights::read(file, operator, 3)?;
    // In the file output channels are the innermost axis.
    let taps = rows * columns;
    let stored = std::mem::take(&mut weights.wide);
    weights.wide =
        (0..outputs).flat_map(|c| (0..taps).map(move |tap| (tap, c))).map(|(t, c)| stored[t * outputs + c]).collect();
    windowed(file, operator, &geometry, channels, weights, options.byte(4)?)
}

pub(super) fn fully_connected(file: &mut Importer<'_>, operator: &Operator<'_>) -> Result<(), TfliteError> {
    let options = operator.options(Kind::FullyConnected)?;
    if options.byte(1)? != 0 {
        return Err(operator.refuse("shuffled weights are not read: convert without that option"));
    }
    let &[outputs, inputs] = file.shape(operator.input(1)?) else {
        return Err(operator.refuse("its weights must be a matrix"));
    };
    let tensor = operator.input(0)?;
    let elements: usize = file.shape(tensor).iter().product();
    if inputs == 0 || !elements.is_multiple_of(inputs) {
        return Err(operator.refuse(format!("an input of {elements} elements cannot be rows of {inputs}")));
    }
    let rows = elements / inputs;
    let value = file.value(tensor)?;
    let input = file.view(value, Dims::new(1, 1, rows, inputs));
    let geometry = Geometry { same: false, kernel: [1, 1], stride: [1, 1], dilation: [1, 1] };
    let (window, _) = geometry.over(operator, Dims::new(1, 1, rows, inputs), Pads::default())?;
    let weights = Weights::read(file, operator, 0)?;
    let dims = Dims::new(1, 1, rows, outputs);
    finish(file, operator, (input, dims), window, 1, weights, options.byte(0)?)
}

fn weights_shape(file: &Importer<'_>, operator: &Operator<'_>) -> Result<[usize; 4], TfliteError> {
    let found = file.shape(operator.input(1)?);
    found.try_into().map_err(|_| operator.refuse(format!("its weights have the shape {found:?}; four axes are needed")))
}

fn windowed(
    file: &mut Importer<'_>,
    operator: &Operator<'_>,
    geometry: &Geometry,
    groups: usize,
    weights: Weights,
    activation: u8,
) -> Result<(), TfliteError> {
    let tensor = operator.input(0)?;
    if file.shape(tensor).len() != 4 {
        return Err(operator.refuse(format!("its input has the shape {:?}; four axes are needed", file.shape(tensor))));
    }
    let (input, around) = unpadded(file, tensor)?;
    let from = file.graph.values[input.0].dims;
    let (window, [h, w]) = geometry.over(operator, from, around)?;
    let dims = Dims::new(from.n, h, w, weights.outputs);
    let declared = file.shape(operator.output(0)?);
    if dims_of(declared) != dims {
        return Err(operator.refuse(format!("its output has the shape {declared:?}, and must have {:?}", dims.array())));
    }
    finish(file, operator, (input, dims), window, groups, weights, activation)
}

/// `input` with the weights gives `dims`.
fn finish(
    file: &mut Importer<'_>,
    operator: &Operator<'_>,
    (mut input, dims): (ValueId, Dims),
    window: Window,
    groups: usize,
    weights: Weights,
    activation: u8,
) -> Result<(), TfliteError> {
    let output = operator.output(0)?;
    let (from, to) = (file.graph.values[input.0].quantization, file.quantization(output)?);
    let bias = bias(file, operator, &weights, (from, to))?;
    let parts = weights.parts();
    if parts > 1 {
        input = repeat_channels(file, operator, input, parts);
    }
    let range = operator.activation(activation, to)?;
    let conv = Conv {
        window,
        groups,
        weights: weights.split(parts),
        weight_zero_points: vec![],
        scales: weights.scales,
        bias,
        range,
    };
    let value = file.emit(operator, Op::Conv(conv), &[input], dims, to);
    file.yields(operator, value)
}

/// Each channel several times, one beside the other.
fn repeat_channels(file: &mut Importer<'_>, operator: &Operator<'_>, input: ValueId, times: usize) -> ValueId {
    let value = &file.graph.values[input.0];
    let (Dims { n, h, w, c }, quantization) = (value.dims, value.quantization);
    let pixels = n * h * w;
    let narrow = file.view(input, Dims::new(1, pixels, c, 1));
    let op = Op::Upsample { factor: [1, times] };
    let wide = file.emit(operator, op, &[narrow], Dims::new(1, pixels, c * times, 1), quantization);
    file.view(wide, Dims::new(n, h, w, c * times))
}

/// Weights less their zero points, output channels outermost.
struct Weights {
    wide: Vec<i16>,
    scales: Vec<f32>,
    outputs: usize,
}

impl Weights {
    /// The second input, with `axis` that of the output channels.
    fn read(file: &mut Importer<'_>, operator: &Operator<'_>, axis: usize) -> Result<Self, TfliteError> {
        let tensor = operator.input(1)?;
        let outputs = file.shape(tensor)[axis];
        let t = file.tensor(tensor);
        let byte: fn(u8) -> i16 = match t.element {
            element::INT8 => |byte| i16::from(byte as i8),
            element::UINT8 => i16::from,
            other => {
                let problem = format!("weights of {} are not read, only int8 and uint8", element::name(other));
                return Err(file.refuse(tensor, problem));
            }
        };
        let stored = file.weights::<1>(tensor)?;
        let t = file.tensor(tensor);
        let scales: Vec<f32> = t.scales.elements().iter().map(|b| f32::from_le_bytes(*b)).collect();
        let zero_points = t.zero_points.elements();
        let several = scales.len() == outputs && usize::try_from(t.axis) == Ok(axis);
        let fits = zero_points.is_empty() || zero_points.len() == scales.len();
        if t.custom_quantization || !(scales.len() == 1 || several) || !fits {
            let problem = "it must have one scale and zero point, or one for each output channel";
            return Err(file.refuse(tensor, problem));
        }
        if let Some(bad) = scales.iter().find(|scale| !(scale.is_finite() && **scale > 0.0)) {
            return Err(file.refuse(tensor, format!("the scale {bad} is not a finite number above 0")));
        }
        let mut zeros = Vec::new();
        for bytes in zero_points {
            let zero_point = i64::from_le_bytes(*bytes);
            let low = if t.element == element::INT8 { -128 } else { 0 };
            if !(low..=low + 255).contains(&zero_point) {
                return Err(file.refuse(tensor, format!("the zero point {zero_point} is outside of its bytes")));
            }
            zeros.push(zero_point as i16);
        }
        if zeros.iter().all(|&zero| zero == 0) {
            zeros.clear();
        }
        // Output channels are the first axis or the last, so that places in memory tell the channel.
        let run = if axis == 0 { (stored.len() / outputs.max(1)).max(1) } else { 1 };
        let zero = |place: usize| match zeros.len() {
            0 => 0,
            1 => zeros[0],
            channels => zeros[place / run % channels],
        };
        let wide = stored.iter().enumerate().map(|(place, [b])| byte(*b) - zero(place)).collect();
        Ok(Self { wide, scales, outputs })
    }

    /// How many numbers of 8 bits it takes to write each weight as their sum.
    fn parts(&self) -> usize {
        let (low, high) = self.wide.iter().fold((0, 0), |(low, high), &w| (w.min(low), w.max(high)));
        (1..3).find(|&parts| low >= -128 * parts && high <= 127 * parts).unwrap_or(3) as usize
    }

    fn split(&self, parts: usize) -> Vec<i8> {
        if parts == 1 {
            return self.wide.iter().map(|&weight| weight as i8).collect();
        }
        let mut split = Vec::with_capacity(self.wide.len() * parts);
        for &weight in &self.wide {
            let mut rest = weight;
            for _ in 0..parts {
                let part = rest.clamp(-128, 127);
                split.push(part as i8);
                rest -= part;
            }
        }
        split
    }
}

fn bias(
    file: &mut Importer<'_>,
    operator: &Operator<'_>,
    weights: &Weights,
    (from, to): (Quantization, Quantization),
) -> Result<Vec<i32>, TfliteError> {
    let Some(tensor) = operator.inputs.get(2).copied().flatten() else { return Ok(Vec::new()) };
    let t = file.tensor(tensor);
    if t.element != element::INT32 {
        return Err(file.refuse(tensor, format!("a bias of {} is not read, only int32", element::name(t.element))));
    }
    let scales = t.scales.elements();
    for (place, scale) in scales.iter().enumerate() {
        let weight = weights.scales[if weights.scales.len() == 1 { 0 } else { place % weights.scales.len() }];
        let (found, expected) = (f32::from_le_bytes(*scale), f64::from(from.scale) * f64::from(weight));
        let distance = (f64::from(found) - expected).abs() / f64::from(to.scale);
        if distance.is_nan() || distance > BIAS_SCALE_SLACK {
            let problem = format!("its scale {found:e} is not that of input and weights, {expected:e}");
            return Err(file.refuse(tensor, problem));
        }
    }
    if file.shape(tensor).iter().product::<usize>() != weights.outputs {
        let problem = format!("a bias of the shape {:?} for {} channels", file.shape(tensor), weights.outputs);
        return Err(operator.refuse(problem));
    }
    Ok(file.weights::<4>(tensor)?.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect())
}
