//! Depthwise convolutions in float as operators of our own inside tract, with the limits after them (Relu, Relu6, Clip) in
//! the same step. tract computes them channel by channel with pieces of rows as they come, which takes up to half of a
//! mobile network's time; its other float operators are as good as ours would be.

mod kernel;

use kernel::{PixelByPixel, PlaneByPlane, Planes};
use tract_linalg::multithread::par_chunks_mut;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cnn::{Conv, KernelFormat};

/// Windows that move by more are left to tract.
const STRIDE_MAX: usize = 16;

/// Puts our operators in the place of those that they are faster than. The model is decluttered, and not yet optimized.
pub(super) fn replace(model: &mut TypedModel) -> TractResult<()> {
    Rewriter::<()>::default().with_rule_for("sedge-depthwise", depthwise).rewrite(&(), model)
}

fn depthwise(
    _context: &(),
    model: &TypedModel,
    node: &TypedNode,
    name: &str,
    conv: &Conv,
) -> TractResult<Option<TypedModelPatch>> {
    let Some(mut op) = planned(model, node, conv)? else { return Ok(None) };
    let mut last = node;
    while let Some((next, limit)) = limited(model, last)? {
        op.planes.limits = limit.after(op.planes.limits);
        last = next;
    }
    let mut patch = TypedModelPatch::default();
    let inputs = patch.taps(model, &node.inputs[..1])?;
    let wires = patch.wire_node(name, op, &inputs)?;
    patch.shunt_outside(model, last.id.into(), wires[0])?;
    Ok(Some(patch))
}

/// The convolution as ours, where it is one that we have.
fn planned(model: &TypedModel, node: &TypedNode, conv: &Conv) -> TractResult<Option<FloatDepthwise>> {
    let spec = &conv.pool_spec;
    let channels = conv.group;
    let [x, weights, bias] = &*node.inputs else { return Ok(None) };
    let (x, weights, bias) = (model.outlet_fact(*x)?, model.outlet_fact(*weights)?, model.outlet_fact(*bias)?);
    rule_if!(conv.q_params.is_none() && conv.kernel_fmt == KernelFormat::OIHW);
    rule_if!(channels > 1 && channels == spec.input_channels && channels == spec.output_channels);
    rule_if!(spec.rank() == 2);
    rule_if_some!(shape = x.shape.as_concrete());
    rule_if_some!(weights = &weights.konst);
    rule_if_some!(bias = &bias.konst);
    rule_if!([x.datum_type, weights.datum_type(), bias.datum_type()].iter().all(|ty| *ty == f32::datum_type()));
    let input = spec.data_format.shape(shape)?;
    let sizes = input.hw_dims();
    let padding = spec.computed_padding(sizes);
    let pair = |of: &dyn Fn(usize) -> usize| [of(0), of(1)];
    let planes = Planes {
        input: pair(&|axis| sizes[axis]),
        output: pair(&|axis| padding[axis].convoluted),
        kernel: pair(&|axis| spec.kernel_shape[axis]),
        stride: pair(&|axis| spec.stride(axis)),
        dilation: pair(&|axis| spec.dilation(axis)),
        before: pair(&|axis| padding[axis].pad_before),
        limits: (f32::NEG_INFINITY, f32::INFINITY),
    };
    rule_if!([planes.kernel, planes.stride, planes.dilation].as_flattened().iter().all(|size| *size > 0));
    // The copy has a part for each rest of the strides; beyond this it would outgrow what it is a copy of.
    rule_if!(planes.stride.iter().all(|stride| *stride <= STRIDE_MAX) && planes.input.iter().all(|size| *size > 0));
    let mut weights = weights.try_as_plain_ram()?.as_slice::<f32>()?.to_vec();
    let bias = match bias.try_as_plain_ram()?.as_slice::<f32>()? {
        [one] => vec![*one; channels],
        all => all.to_vec(),
    };
    let taps: usize = planes.kernel.iter().product();
    rule_if!(bias.len() == channels && weights.len() == channels * taps);
    let channels_last = spec.data_format.c_is_last();
    if channels_last {
        let by_channel = weights;
        weights = (0..taps).flat_map(|tap| by_channel[tap..].iter().step_by(taps).copied()).collect();
    }
    let shape = spec.output_shape(shape)?.shape;
    Ok(Some(FloatDepthwise { shape, channels_last, planes, weights, bias }))
}

/// A limit from one side.
enum Limit {
    Low(f32),
    High(f32),
}

impl Limit {
    /// Both limits, when this one comes after others.
    fn after(self, (low, high): (f32, f32)) -> (f32, f32) {
        match self {
            Self::Low(limit) => (low.max(limit), high.max(limit)),
            Self::High(limit) => (low.min(limit), high.min(limit)),
        }
    }
}

/// The one node that reads this one's result, when it limits it by a constant.
fn limited<'a>(model: &'a TypedModel, node: &TypedNode) -> TractResult<Option<(&'a TypedNode, Limit)>> {
    rule_if!(!model.outputs.contains(&node.id.into()));
    rule_if_some!(next = model.single_succ(node.id)?);
    rule_if_some!(op = next.op_as::<TypedBinOp>());
    let [one, two] = &*next.inputs else { return Ok(None) };
    let other = if one.node == node.id { two } else { one };
    rule_if_some!(limit = &model.outlet_fact(*other)?.uniform);
    rule_if!(limit.datum_type() == f32::datum_type() && next.outputs[0].fact.shape == node.outputs[0].fact.shape);
    let limit = *limit.try_as_plain_ram()?.as_slice::<f32>()?.first().context("a uniform tensor has a value")?;
    Ok(match op.0.name() {
        _ if limit.is_nan() => None,
        "Max" => Some((next, Limit::Low(limit))),
        "Min" => Some((next, Limit::High(limit))),
        _ => None,
    })
}

/// A depthwise convolution and its limits. Tensors are f32, in the order N, C, H, W or N, H, W, C, or without N.
#[derive(Debug, Clone, PartialEq)]
struct FloatDepthwise {
    /// Of the output.
    shape: TVec<usize>,
    channels_last: bool,
    planes: Planes,
    /// Taps of each channel; channels of each tap where these come last.
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Eq for FloatDepthwise {}

impl FloatDepthwise {
    /// Planes from `first` on.
    fn compute_planes(&self, input: &[f32], first: usize, out: &mut [f32]) {
        let area = |[height, width]: [usize; 2]| height * width;
        let (from, to, taps) = (area(self.planes.input), area(self.planes.output), area(self.planes.kernel));
        let mut planes = PlaneByPlane::new(&self.planes);
        for (plane, out) in out.chunks_exact_mut(to).enumerate() {
            let plane = first + plane;
            let channel = plane % self.bias.len();
            planes.run(
                &input[plane * from..][..from],
                &self.weights[channel * taps..][..taps],
                self.bias[channel],
                out,
            );
        }
    }

    /// Rows of pixels from `first` on.
    fn compute_rows(&self, input: &[f32], first: usize, out: &mut [f32]) {
        let channels = self.bias.len();
        let ([height, width], [out_height, out_width]) = (self.planes.input, self.planes.output);
        let mut pixels = PixelByPixel::new(&self.planes, &self.weights, &self.bias);
        for (row, out) in out.chunks_exact_mut(out_width * channels).enumerate() {
            let (image, row) = ((first + row) / out_height, (first + row) % out_height);
            let size = height * width * channels;
            pixels.row(&input[image * size..][..size], row, out);
        }
    }
}

impl Op for FloatDepthwise {
    fn name(&self) -> StaticName {
        "SedgeDepthwise".into()
    }

    op_as_typed_op!();
}

impl EvalOp for FloatDepthwise {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = inputs[0].try_as_plain_ram()?.as_slice::<f32>()?;
        // SAFETY: each element is written below, and is a plain number.
        let mut output = unsafe { Tensor::uninitialized::<f32>(&self.shape)? };
        let total = output.len();
        if total > 0 {
            let [height, width] = self.planes.output;
            let mut plain = output.try_as_plain_ram_mut()?;
            let out = plain.as_slice_mut::<f32>()?;
            let piece = if self.channels_last { width * self.bias.len() } else { height * width };
            par_chunks_mut(out, piece, total, |first, out| {
                match self.channels_last {
                    true => self.compute_rows(input, first, out),
                    false => self.compute_planes(input, first, out),
                }
                Ok(())
            })?;
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for FloatDepthwise {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(&self.shape)))
    }

    fn cost(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let taps: usize = self.planes.kernel.iter().product();
        let outputs: usize = self.shape.iter().product();
        Ok(tvec!((Cost::FMA(f32::datum_type()), (outputs * taps).to_dim())))
    }

    as_op!();
}
