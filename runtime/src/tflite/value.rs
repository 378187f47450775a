//! Tensors of the file as values of the graph.
//!
//! Three things are put off until they are needed, and mostly never are: other sizes for the same bytes, padding that a
//! convolution can take over, and the real values between a DEQUANTIZE and the next QUANTIZE.

use super::TfliteError;
use super::contents::{RANK_MAX, malformed, tensor_error};
use super::importer::Importer;
use super::operator::Operator;
use super::schema::{self, Tensor, element};
use sedge_engine::{Dims, Op, Pads, Quantization, Range, Value, ValueId};

/// Operators may share weights, and each gets a copy: weights of more than so many times the file are refused.
const SHARING_MAX: usize = 16;

/// What is known of a tensor.
#[derive(Debug, Clone)]
pub(super) enum State {
    /// Nothing yet; its bytes may stand in the file.
    Unset,
    /// Bytes, in the order of memory.
    Bytes(ValueId),
    /// Another tensor, with rows and columns of its zero point around it.
    Padded(usize, Pads),
    /// A float input of the model that is not quantized yet, by its place.
    FloatInput(usize),
    /// Floats: one for each byte of a value.
    Real(ValueId, Box<[f32; 256]>),
}

impl<'a> Importer<'a> {
    /// An error of a tensor.
    pub(super) fn refuse(&self, tensor: usize, problem: impl Into<String>) -> TfliteError {
        tensor_error(tensor, &self.contents.tensors[tensor].name, problem)
    }

    pub(super) fn tensor(&self, tensor: usize) -> &Tensor<'a> {
        &self.contents.tensors[tensor]
    }

    pub(super) fn shape(&self, tensor: usize) -> &[usize] {
        &self.contents.shapes[tensor]
    }

    pub(super) fn state(&self, tensor: usize) -> &State {
        &self.states[tensor]
    }

    /// What the bytes of a tensor stand for.
    pub(super) fn quantization(&self, tensor: usize) -> Result<Quantization, TfliteError> {
        let t = &self.contents.tensors[tensor];
        let low = match t.element {
            element::INT8 => -128,
            element::UINT8 => 0,
            other => {
                let problem =
                    format!("it is of {}, and 8 bits are needed: quantize the operator", element::name(other));
                return Err(self.refuse(tensor, problem));
            }
        };
        let (scales, zero_points) = (t.scales.elements(), t.zero_points.elements());
        if t.custom_quantization || scales.len() != 1 || zero_points.len() > 1 {
            let problem = "it must have one scale and one zero point: quantize it per tensor";
            return Err(self.refuse(tensor, problem));
        }
        let scale = f32::from_le_bytes(scales[0]);
        if !(scale.is_finite() && scale > 0.0) {
            return Err(self.refuse(tensor, format!("the scale {scale} is not a finite number above 0")));
        }
        let zero_point = zero_points.first().map_or(0, |bytes| i64::from_le_bytes(*bytes));
        let shifted = zero_point.checked_sub(low).and_then(|shifted| u8::try_from(shifted).ok());
        let outside = || self.refuse(tensor, format!("the zero point {zero_point} is outside of its bytes"));
        Ok(Quantization { scale, zero_point: shifted.ok_or_else(outside)? })
    }

    /// A tensor's bytes as they stand in the file; none when they are computed.
    pub(super) fn constant(&self, tensor: usize) -> Result<Option<&'a [u8]>, TfliteError> {
        let t = &self.contents.tensors[tensor];
        if t.variable || t.sparse {
            return Err(self.refuse(tensor, "variable and sparse tensors are not read"));
        }
        if t.buffer == 0 {
            return Ok(None);
        }
        let missing = || self.refuse(tensor, format!("buffer {} is not there", t.buffer));
        let table = self.contents.buffers.get(t.buffer as usize).ok_or_else(missing)?;
        let bytes = schema::buffer(self.contents.bytes, *table).map_err(malformed(format!("buffer {}", t.buffer)))?;
        Ok(Some(bytes.ok_or_else(missing)?).filter(|bytes| !bytes.is_empty()))
    }

    /// Weights: bytes that must stand in the file, `N` for each element.
    pub(super) fn weights<const N: usize>(&mut self, tensor: usize) -> Result<&'a [[u8; N]], TfliteError> {
        let missing = "its bytes do not stand in the file, and only constants can be weights";
        let bytes = self.constant(tensor)?.ok_or_else(|| self.refuse(tensor, missing))?;
        let expected: usize = self.contents.shapes[tensor].iter().product();
        if bytes.len() != expected * N {
            let problem = format!("it has {} bytes in the file, and its shape needs {}", bytes.len(), expected * N);
            return Err(self.refuse(tensor, problem));
        }
        self.weight_bytes += bytes.len();
        if self.weight_bytes / SHARING_MAX > self.contents.bytes.len() {
            let problem = format!("with it, operators share weights of more than {SHARING_MAX} times the file");
            return Err(self.refuse(tensor, problem));
        }
        Ok(bytes.as_chunks().0)
    }

    /// A few integers that must stand in the file: axes, sizes.
    pub(super) fn integers(&self, tensor: usize) -> Result<Vec<i64>, TfliteError> {
        let missing = || self.refuse(tensor, "it must be a constant of a few integers");
        let bytes = self.constant(tensor)?.ok_or_else(missing)?;
        if bytes.len() > 8 * 2 * RANK_MAX {
            return Err(missing());
        }
        match self.contents.tensors[tensor].element {
            element::INT32 => Ok(bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect()),
            element::INT64 => Ok(bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
            _ => Err(missing()),
        }
    }

    /// A tensor's bytes, whatever sizes the value has that holds them.
    pub(super) fn value(&mut self, tensor: usize) -> Result<ValueId, TfliteError> {
        let value = match self.states[tensor].clone() {
            State::Bytes(value) => return Ok(value),
            State::Padded(inner, pads) => {
                let input = self.natural(inner)?;
                let quantization = self.graph.values[input.0].quantization;
                let output = self.graph.value(
                    &self.contents.tensors[tensor].name,
                    dims_of(&self.contents.shapes[tensor]),
                    quantization,
                );
                let op = Op::Pad { before: [0, pads.top, pads.left, 0] };
                self.graph.node(&format!("PAD to tensor {tensor}"), op, &[input], output);
                output
            }
            State::FloatInput(_) | State::Real(..) => {
                return Err(self.refuse(tensor, "it is of float32 where 8 bits are needed: quantize the operator"));
            }
            State::Unset => {
                let quantization = self.quantization(tensor)?;
                if self.constant(tensor)?.is_none() {
                    return Err(self.refuse(tensor, "it is read before it is computed"));
                }
                let shift = if self.contents.tensors[tensor].element == element::INT8 { 0x80 } else { 0 };
                let constant = self.weights::<1>(tensor)?.iter().map(|[byte]| byte ^ shift).collect();
                let (name, dims) = (self.contents.tensors[tensor].name.clone(), dims_of(&self.contents.shapes[tensor]));
                self.graph.values.push(Value { name, dims, quantization, constant: Some(constant) });
                ValueId(self.graph.values.len() - 1)
            }
        };
        self.states[tensor] = State::Bytes(value);
        Ok(value)
    }

    /// A tensor's bytes under the sizes that its shape says.
    pub(super) fn natural(&mut self, tensor: usize) -> Result<ValueId, TfliteError> {
        let dims = dims_of(&self.contents.shapes[tensor]);
        let value = self.value(tensor)?;
        Ok(self.view(value, dims))
    }

    /// The same bytes under other sizes. Sizes that do not fit are found when the graph is checked.
    pub(super) fn view(&mut self, value: ValueId, dims: Dims) -> ValueId {
        let Value { name, dims: found, quantization, .. } = &self.graph.values[value.0];
        if *found == dims {
            return value;
        }
        let (name, quantization) = (name.clone(), *quantization);
        let output = self.graph.value(&name, dims, quantization);
        self.graph.node(&format!("RESHAPE of {name}"), Op::Reshape, &[value], output);
        output
    }

    /// Adds an operator of the graph; its value.
    pub(super) fn emit(
        &mut self,
        operator: &Operator<'_>,
        op: Op,
        inputs: &[ValueId],
        dims: Dims,
        quantization: Quantization,
    ) -> ValueId {
        let name = operator.outputs.first().map_or("", |&tensor| self.contents.tensors[tensor].name.as_str());
        let output = self.graph.value(name, dims, quantization);
        self.graph.node(&operator.label(), op, inputs, output);
        output
    }

    /// A value limited to a range, by an operator that cannot do so itself.
    pub(super) fn limit(&mut self, operator: &Operator<'_>, value: ValueId, range: Range) -> ValueId {
        if range == Range::FULL {
            return value;
        }
        let table = std::array::from_fn(|byte| (byte as u8).clamp(range.low, range.high));
        let Value { dims, quantization, .. } = self.graph.values[value.0];
        self.emit(operator, Op::Table(Box::new(table)), &[value], dims, quantization)
    }

    /// Says what an output of an operator is.
    pub(super) fn set(&mut self, operator: &Operator<'_>, place: usize, state: State) -> Result<(), TfliteError> {
        let tensor = operator.output(place)?;
        if !matches!(self.states[tensor], State::Unset) {
            return Err(self.refuse(tensor, format!("{} computes it a second time", operator.label())));
        }
        if let State::Bytes(value) = &state {
            let (found, expected) = (self.graph.values[value.0].dims, &self.contents.shapes[tensor]);
            if found.elements() != Some(expected.iter().product()) {
                return Err(operator.refuse(format!("its output has the shape {expected:?}, and must have {found:?}")));
            }
        }
        self.states[tensor] = state;
        Ok(())
    }

    pub(super) fn yields(&mut self, operator: &Operator<'_>, value: ValueId) -> Result<(), TfliteError> {
        self.set(operator, 0, State::Bytes(value))
    }

    /// The quantization that input and output share where an operator only moves bytes.
    pub(super) fn shared(&self, operator: &Operator<'_>, from: usize, to: usize) -> Result<Quantization, TfliteError> {
        let (one, two) = (self.quantization(from)?, self.quantization(to)?);
        // Converters compute the two scales in different ways; TFLite allows for that as well.
        if one.zero_point == two.zero_point && (one.scale - two.scale).abs() <= 1e-5 * one.scale {
            return Ok(one);
        }
        let show = |q: Quantization| format!("{} around {}", q.scale, q.zero_point);
        let problem = "input and output must have the same scale and zero point, and have";
        Err(operator.refuse(format!("{problem} {} and {}", show(one), show(two))))
    }
}

/// Sizes of a tensor as the graph has them: channels are the last axis. What is before the last four axes is one.
pub(super) fn dims_of(shape: &[usize]) -> Dims {
    let size = |from_last: usize| shape.len().checked_sub(from_last).and_then(|i| shape.get(i)).copied().unwrap_or(1);
    let before = shape.len().saturating_sub(3);
    Dims::new(shape[..before].iter().product(), size(3), size(2), size(1))
}
