//! Constants with a scale: weights, biases, constant operands.

use super::super::constant::{Constant, Elements};
use super::super::source::{INT8, INT32, Parameters, Source, UINT8, axis, wrong};
use crate::model::ModelError;
use sedge_engine::Quantization;
use tract_onnx::pb::NodeProto;

/// Integers, with what they stand for; or floats, without.
#[derive(Debug, Clone)]
pub(in super::super) struct Weights {
    pub(super) dims: Vec<usize>,
    pub(super) elements: Elements,
    /// One, or one for each index along `axis`. Empty where the integers count in steps of an accumulator.
    pub(super) scales: Vec<f32>,
    zero_points: Vec<i32>,
    pub(super) axis: usize,
}

impl Weights {
    /// What a float tensor holds that is constant: DequantizeLinear of integers, or plain floats. `None` where it would
    /// have to be computed.
    pub(in super::super) fn of(source: &Source, name: &str, reader: &NodeProto) -> Result<Option<Self>, ModelError> {
        if let Some(constant) = source.constant(name, reader)? {
            let Constant { dims, elements } = constant;
            return Ok(Some(Self { dims, elements, scales: vec![], zero_points: vec![], axis: 0 }));
        }
        let Some((at, _)) = source.producer(name) else { return Ok(None) };
        let node = source.node(at);
        match node.op_type.as_str() {
            "DequantizeLinear" => Self::dequantized(source, node),
            "Identity" => Self::of(source, &node.input[0], node),
            "Transpose" => {
                let Some(weights) = Self::of(source, &node.input[0], node)? else { return Ok(None) };
                let rank = weights.dims.len();
                let given = super::super::source::attribute(node, "perm");
                let axes: Vec<usize> =
                    given.map_or_else(|| (0..rank).rev().collect(), |a| a.ints.iter().map(|i| *i as usize).collect());
                Ok(weights.transposed(&axes))
            }
            _ => Ok(None),
        }
    }

    fn dequantized(source: &Source, node: &NodeProto) -> Result<Option<Self>, ModelError> {
        let Some(parameters) = source.parameters(node, (1, 2))? else { return Ok(None) };
        let data = &node.input[0];
        if let Some(constant) = source.constant(data, node)? {
            return Self::with(node, constant, parameters, !Source::has(node, 2));
        }
        // Weights that the file holds in float and quantizes at once.
        let Some((at, _)) = source.producer(data) else { return Ok(None) };
        let quantizer = source.node(at);
        if quantizer.op_type != "QuantizeLinear" {
            return Ok(None);
        }
        let Some(stored) = source.constant(&quantizer.input[0], quantizer)? else { return Ok(None) };
        let Some(quantizing) = source.parameters(quantizer, (1, 2))? else { return Ok(None) };
        let Some(constant) = quantized(quantizer, &stored, &quantizing)? else { return Ok(None) };
        Self::with(node, constant, parameters, false)
    }

    /// Integers with their parameters, checked against each other.
    pub(in super::super) fn with(
        node: &NodeProto,
        constant: Constant,
        parameters: Parameters,
        typeless: bool,
    ) -> Result<Option<Self>, ModelError> {
        let ty = match constant.elements {
            Elements::U8(_) => UINT8,
            Elements::I8(_) => INT8,
            Elements::I32(_) => INT32,
            _ => return Ok(None),
        };
        if !typeless && ty != parameters.ty {
            return Err(wrong(node, "its zero point has another type than its input"));
        }
        let Constant { dims, elements } = constant;
        let along = axis(parameters.axis, dims.len());
        let fits = parameters.scales.len() == 1 || along.is_some_and(|a| dims[a] == parameters.scales.len());
        if !fits {
            let (count, axis) = (parameters.scales.len(), parameters.axis);
            return Err(wrong(node, format!("it has {count} scales along axis {axis} of {dims:?}")));
        }
        let Parameters { scales, zero_points, .. } = parameters;
        Ok(Some(Self { dims, elements, scales, zero_points, axis: along.unwrap_or(0) }))
    }

    /// Integers in steps of an accumulator, as quantized operators have their bias.
    pub(super) fn of_accumulator(constant: Constant) -> Self {
        let Constant { dims, elements } = constant;
        Self { dims, elements, scales: vec![], zero_points: vec![], axis: 0 }
    }

    pub(in super::super) fn transposed(self, axes: &[usize]) -> Option<Self> {
        let place = axes.iter().position(|a| *a == self.axis);
        let constant = Constant { dims: self.dims, elements: self.elements }.transposed(axes)?;
        let Constant { dims, elements } = constant;
        Some(Self { dims, elements, axis: place.unwrap_or(0), ..self })
    }

    /// As int8, with those that stand for 0: none where all fit with their zero points taken off, else one, or one for
    /// each index along the axis. `None` for weights of another type.
    pub(in super::super) fn as_int8(&self) -> Option<(Vec<i8>, Vec<i8>)> {
        if let Some(symmetric) = self.symmetric() {
            return Some((symmetric, vec![]));
        }
        let (all, shift) = match &self.elements {
            Elements::I8(all) => (all.clone(), 0),
            Elements::U8(all) => (all.iter().map(|v| (v ^ 0x80) as i8).collect(), 128),
            _ => return None,
        };
        let (first, rest) = self.zero_points.split_first()?;
        let same = rest.iter().all(|zero_point| zero_point == first);
        let zero_points = if same { &self.zero_points[..1] } else { &self.zero_points };
        let narrow = |zero_point: &i32| i8::try_from(zero_point - shift).ok();
        Some((all, zero_points.iter().map(narrow).collect::<Option<_>>()?))
    }

    /// With the zero point taken off, as int8; `None` where that is no int8.
    fn symmetric(&self) -> Option<Vec<i8>> {
        let inner: usize = self.dims.get(self.axis + 1..).map_or(1, |rest| rest.iter().product());
        let zero = |place: usize| match self.zero_points.as_slice() {
            [] => 0,
            [one] => *one,
            many => many[place / inner.max(1) % many.len()],
        };
        let narrow = |(place, value): (usize, i32)| i8::try_from(value - zero(place)).ok();
        match &self.elements {
            Elements::I8(all) if self.zero_points.iter().all(|zero| *zero == 0) => Some(all.clone()),
            Elements::I8(all) => all.iter().map(|v| i32::from(*v)).enumerate().map(narrow).collect(),
            Elements::U8(all) => all.iter().map(|v| i32::from(*v)).enumerate().map(narrow).collect(),
            _ => None,
        }
    }

    /// Bytes of the unsigned domain, of a tensor that one scale describes.
    pub(super) fn bytes(&self) -> Option<(Vec<u8>, Quantization)> {
        let ([scale], [zero_point]) = (self.scales.as_slice(), self.zero_points.as_slice()) else { return None };
        let (bytes, shift) = match &self.elements {
            Elements::U8(all) => (all.clone(), 0),
            Elements::I8(all) => (all.iter().map(|v| (*v as u8) ^ 0x80).collect(), 128),
            _ => return None,
        };
        Some((bytes, Quantization { scale: *scale, zero_point: (zero_point + shift) as u8 }))
    }

    /// The real values.
    pub(super) fn reals(&self) -> Option<Vec<f32>> {
        let integers: Vec<i32> = match &self.elements {
            Elements::F32(all) => return Some(all.clone()),
            Elements::U8(all) => all.iter().map(|v| i32::from(*v)).collect(),
            Elements::I8(all) => all.iter().map(|v| i32::from(*v)).collect(),
            Elements::I32(all) => all.clone(),
            Elements::I64(_) => return None,
        };
        if self.scales.is_empty() {
            return None;
        }
        let inner: usize = self.dims.get(self.axis + 1..).map_or(1, |rest| rest.iter().product());
        let index = |place: usize| if self.scales.len() == 1 { 0 } else { place / inner.max(1) % self.scales.len() };
        let real = |(place, v): (usize, i32)| {
            let at = index(place);
            (i64::from(v) - i64::from(self.zero_points[at])) as f32 * self.scales[at]
        };
        Some(integers.into_iter().enumerate().map(real).collect())
    }
}

/// QuantizeLinear of a constant.
fn quantized(node: &NodeProto, stored: &Constant, to: &Parameters) -> Result<Option<Constant>, ModelError> {
    let Some(reals) = stored.floats() else { return Ok(None) };
    let along = axis(to.axis, stored.dims.len());
    if to.scales.len() != 1 && along.is_none_or(|a| stored.dims[a] != to.scales.len()) {
        return Err(wrong(node, format!("it has {} scales along axis {}", to.scales.len(), to.axis)));
    }
    if reals.iter().any(|value| value.is_nan()) {
        return Err(wrong(node, "it quantizes a constant that holds NaN"));
    }
    let inner: usize = along.map_or(1, |a| stored.dims[a + 1..].iter().product());
    let index = |place: usize| if to.scales.len() == 1 { 0 } else { place / inner.max(1) % to.scales.len() };
    let shift = if to.ty == INT8 { 128 } else { 0 };
    let byte = |(place, value): (usize, &f32)| {
        let at = index(place);
        let to = Quantization { scale: to.scales[at], zero_point: (to.zero_points[at] + shift) as u8 };
        sedge_engine::quantize(*value, to)
    };
    let bytes = reals.iter().enumerate().map(byte);
    let elements = match to.ty {
        UINT8 => Elements::U8(bytes.collect()),
        INT8 => Elements::I8(bytes.map(|b| (b ^ 0x80) as i8).collect()),
        _ => return Ok(None),
    };
    Ok(Some(Constant { dims: stored.dims.clone(), elements }))
}
