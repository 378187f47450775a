//! ONNX `QuantizeLinear` as the standard has it, in place of tract's.
//!
//! Two reasons. tract 0.23.9 multiplies by the reciprocal of the scale where the standard divides, so values on a tie
//! can come out one quantum off. And its `DequantizeLinear` folds everything up to the next `QuantizeLinear` of its own
//! into a table of 256 values, also operators that do not work element by element: a softmax between the two (as in
//! every classifier quantized by TensorFlow) then yields the same class for every input. The fold does not see this
//! operator.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::InferenceOp;
use tract_onnx::tract_hir::infer::rules::{InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

/// Puts the operator in place of tract's.
pub(super) fn register(onnx: &mut tract_onnx::Onnx) {
    onnx.op_register.insert("QuantizeLinear", build);
}

fn build(
    _context: &tract_onnx::model::ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let integer = |name: &str, default: i64| node.attribute.iter().find(|a| a.name == name).map_or(default, |a| a.i);
    ensure!(integer("block_size", 0) == 0, "blocked quantization is not supported");
    Ok((expand(Imported { has_zero_point: node.input.len() == 3, axis: integer("axis", 1) }), vec![]))
}

/// As it stands in the file: scale and zero point are inputs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Imported {
    has_zero_point: bool,
    axis: i64,
}

impl Expansion for Imported {
    fn name(&self) -> StaticName {
        "QuantizeLinear".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        ensure!(inputs.len() == 2 + usize::from(self.has_zero_point) && outputs.len() == 1, "wrong number of inputs");
        solver.equals(&inputs[1].datum_type, f32::datum_type())?;
        if self.has_zero_point {
            solver.equals(&outputs[0].datum_type, &inputs[2].datum_type)?;
        } else {
            solver.equals(&outputs[0].datum_type, u8::datum_type())?;
        }
        solver.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(&self, prefix: &str, target: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let constant = |ix: usize| -> TractResult<Arc<Tensor>> {
            target.outlet_fact(inputs[ix])?.konst.clone().context("scale and zero point must be constants")
        };
        let scale = constant(1)?;
        let zero_point =
            if self.has_zero_point { constant(2)? } else { Tensor::zero_dt(u8::datum_type(), scale.shape())?.into() };
        let ty = zero_point.datum_type();
        ensure!([u8::datum_type(), i8::datum_type()].contains(&ty), "{prefix} quantizes to {ty:?}, not to 8 bits");
        let scale = scale.cast_to::<f32>()?.try_as_plain_ram()?.as_slice::<f32>()?.to_vec();
        let zero_point = zero_point.cast_to::<i32>()?.try_as_plain_ram()?.as_slice::<i32>()?.to_vec();
        ensure!(
            scale.len() == zero_point.len(),
            "{prefix} has {} scales and {} zero points",
            scale.len(),
            zero_point.len()
        );
        if let Some(bad) = scale.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
            bail!("the scale of {prefix} is {bad}, which is not a positive number");
        }
        let fact = target.outlet_fact(inputs[0])?;
        let rank = fact.rank() as i64;
        let axis = if self.axis < 0 { self.axis + rank } else { self.axis };
        let channels = usize::try_from(axis).ok().and_then(|a| fact.shape.get(a)).and_then(|d| d.to_usize().ok());
        ensure!(
            scale.len() == 1 || channels == Some(scale.len()),
            "{prefix} has {} scales for axis {axis} of {fact:?}",
            scale.len()
        );
        let parameters = scale.iter().map(|s| s.to_bits()).zip(zero_point).collect();
        target.wire_node(
            prefix,
            QuantizeLinear { parameters, axis: usize::try_from(axis).unwrap_or(0), ty },
            &[inputs[0]],
        )
    }
}

/// `saturate(round_half_to_even(x / scale) + zero_point)`
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct QuantizeLinear {
    /// Scale, as bits so that the operator can be compared and hashed, and zero point: one pair for the tensor, or
    /// one for each index along `axis`.
    parameters: Vec<(u32, i32)>,
    axis: usize,
    /// `u8` or `i8`.
    ty: DatumType,
}

impl QuantizeLinear {
    /// Dense runs of elements that share a scale and a zero point.
    fn each_run<T>(
        &self,
        shape: &[usize],
        values: &[f32],
        out: &mut [T],
        min: i32,
        narrow: impl Fn(i32) -> T + Copy,
    ) -> TractResult<()> {
        let run = if self.parameters.len() == 1 { values.len() } else { shape[self.axis + 1..].iter().product() };
        let runs = values.chunks(run.max(1)).zip(out.chunks_mut(run.max(1)));
        for ((values, out), &(scale, zero_point)) in runs.zip(self.parameters.iter().cycle()) {
            let sound = quantize(values, out, f32::from_bits(scale), zero_point, min, narrow);
            ensure!(sound, "a value to quantize is NaN: the model or its input is not numerically sound");
        }
        Ok(())
    }
}

impl Op for QuantizeLinear {
    fn name(&self) -> StaticName {
        "SedgeQuantizeLinear".into()
    }

    op_as_typed_op!();
}

impl EvalOp for QuantizeLinear {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let input = input.cast_to::<f32>()?;
        let values = input.try_as_plain_ram()?.as_slice::<f32>()?;
        let mut output = Tensor::zero_dt(self.ty, input.shape())?;
        let mut out = output.try_as_plain_ram_mut()?;
        if self.ty == u8::datum_type() {
            self.each_run(input.shape(), values, out.as_slice_mut::<u8>()?, u8::MIN.into(), |q| q as u8)?;
        } else {
            self.each_run(input.shape(), values, out.as_slice_mut::<i8>()?, i8::MIN.into(), |q| q as i8)?;
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

/// `min` is the smallest stored value; the largest is 255 above it. Whether no value was NaN, which would come out as
/// the smallest.
fn quantize<T>(
    values: &[f32],
    out: &mut [T],
    scale: f32,
    zero_point: i32,
    min: i32,
    narrow: impl Fn(i32) -> T,
) -> bool {
    // Bounds in steps from the zero point: small enough that adding 1.5 * 2^23 rounds to an integer, half to even,
    // in the processor's own rounding mode, with nothing but additions, which vectorise everywhere.
    const MAGIC: f32 = 12_582_912.0;
    let (low, high) = ((min - zero_point) as f32, (min + 255 - zero_point) as f32);
    let mut sound = true;
    for (value, out) in values.iter().zip(out) {
        sound &= !value.is_nan();
        let steps = (value / scale).max(low).min(high);
        *out = narrow(((steps + MAGIC) - MAGIC) as i32 + zero_point);
    }
    sound
}

impl TypedOp for QuantizeLinear {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.ty.fact(inputs[0].shape.clone())))
    }

    fn axes_mapping(&self, inputs: &[&TypedFact], outputs: &[&TypedFact]) -> TractResult<AxesMapping> {
        AxesMapping::natural(inputs, outputs)
    }

    fn change_axes(
        &self,
        model: &TypedModel,
        node: &TypedNode,
        _io: InOut,
        change: &AxisOp,
    ) -> TractResult<Option<AxisChangeConsequence>> {
        // Per axis, the change would have to move the axis as well.
        if self.parameters.len() > 1 {
            return Ok(None);
        }
        Ok(Some(AxisChangeConsequence::new(model, node, None, change)))
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_half_to_even_and_saturates() {
        let values = [0.25, 0.75, 1.25, -0.25, -0.75, 1e30, -1e30, f32::INFINITY, f32::NEG_INFINITY];
        let mut out = [0i8; 9];
        quantize(&values, &mut out, 0.5, 3, -128, |q| q as i8);
        assert_eq!(out, [3, 5, 5, 3, 1, 127, -128, 127, -128]);
        let mut out = [0u8; 9];
        quantize(&values, &mut out, 0.5, 3, 0, |q| q as u8);
        assert_eq!(out, [3, 5, 5, 3, 1, 255, 0, 255, 0]);
        assert!(!quantize(&[1.0, f32::NAN], &mut [0u8; 2], 0.5, 3, 0, |q| q as u8), "NaN is seen");
    }

    #[test]
    fn per_axis_runs_take_their_own_scale() {
        let parameters = vec![(1.0f32.to_bits(), 0), (2.0f32.to_bits(), 1)];
        let op = QuantizeLinear { parameters, axis: 1, ty: i8::datum_type() };
        let x = tensor3(&[[[2.0f32, 4.0], [2.0, 4.0]], [[6.0, 8.0], [6.0, 8.0]]]);
        let y = op.eval_out_of_plan(tvec!(x.into_tvalue())).expect("runs").expect("needs no plan").remove(0);
        assert_eq!(*y, tensor3(&[[[2i8, 4], [2, 3]], [[6, 8], [4, 5]]]));
    }

    #[test]
    fn divides_rather_than_multiplying_by_the_reciprocal() {
        // 0.1 as f32 is no power of two: 2.5 * 0.1 / 0.1 is a tie, times the rounded reciprocal it need not be.
        let exact = |scale: f32, steps: f32| {
            let mut out = [0i8];
            quantize(&[steps * scale], &mut out, scale, 0, -128, |q| q as i8);
            i32::from(out[0]) == (steps * scale / scale).round_ties_even() as i32
        };
        assert!((1..=1000).all(|k| exact(k as f32 * 1e-3, 2.5) && exact(k as f32 * 1e-3, 33.5)));
    }
}
