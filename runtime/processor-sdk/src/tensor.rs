//! Conversions between real values and what a tensor stores.

use crate::{ElementType, Error, ModelInfo, Quantization, Tensor, TensorSpec, TensorView};

impl ModelInfo {
    /// The model's only input.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when it has none or several.
    pub fn single_input(&self) -> Result<&TensorSpec, Error> {
        match self.inputs.as_slice() {
            [one] => Ok(one),
            several => Err(Error::Unsupported(format!(
                "this processor fills one input, the model {} has {}",
                self.name,
                several.len()
            ))),
        }
    }
}

impl TensorSpec {
    /// The shape with no open dimension.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when a dimension is open (-1).
    pub fn fixed_shape(&self) -> Result<Vec<u32>, Error> {
        self.shape
            .iter()
            .map(|&d| u32::try_from(d))
            .collect::<Result<_, _>>()
            .map_err(|_| Error::Unsupported(format!("tensor {} has an open dimension: {:?}", self.name, self.shape)))
    }
}

impl TensorSpec {
    /// Checks that the stored values stand for real ones: floats as they are, integers by their quantization.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for integers without a quantization.
    pub fn require_real(&self) -> Result<(), Error> {
        let float = matches!(
            self.ty,
            ElementType::Float16 | ElementType::Bfloat16 | ElementType::Float32 | ElementType::Float64
        );
        if float || self.quantization.is_some() {
            return Ok(());
        }
        Err(Error::InvalidConfig(format!(
            "tensor {} is {} and has no quantization; give its scale and zero_point in bundle.toml",
            self.name, self.ty
        )))
    }
}

impl Tensor {
    /// A tensor of this name, type and shape whose data is still to be filled.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when a dimension is open (-1).
    pub fn empty(spec: &TensorSpec) -> Result<Self, Error> {
        Ok(Self { name: spec.name.clone(), ty: spec.ty, shape: spec.fixed_shape()?, data: Vec::new() })
    }

    /// Stores real values as `spec` demands: floats as they are, integers through the quantization of the spec
    /// (rounded half to even and saturated, as ONNX `QuantizeLinear` does), or, without one, rounded and saturated.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an open dimension or an element type that images and sensors do not use,
    /// [`Error::Internal`] when the number of values is not the product of the shape.
    pub fn from_real(spec: &TensorSpec, values: &[f32]) -> Result<Self, Error> {
        let mut tensor = Self::empty(spec)?;
        let expected: usize = tensor.shape.iter().map(|&d| d as usize).product();
        if values.len() != expected {
            return Err(Error::Internal(format!(
                "{} values for tensor {} of shape {:?}",
                values.len(),
                spec.name,
                tensor.shape
            )));
        }
        let Quantization { scale, zero_point } =
            spec.quantization.unwrap_or(Quantization { scale: 1.0, zero_point: 0 });
        let stored = |v: f32| (v / scale).round_ties_even() + zero_point as f32;
        tensor.data = match spec.ty {
            ElementType::Float32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ElementType::Uint8 => values.iter().map(|&v| stored(v) as u8).collect(),
            ElementType::Int8 => values.iter().map(|&v| stored(v) as i8 as u8).collect(),
            ElementType::Int16 => values.iter().flat_map(|&v| (stored(v) as i16).to_le_bytes()).collect(),
            ElementType::Int32 => values.iter().flat_map(|&v| (stored(v) as i32).to_le_bytes()).collect(),
            other => return Err(Error::Unsupported(format!("tensor {}: element type {other}", spec.name))),
        };
        Ok(tensor)
    }

    /// This tensor, borrowed.
    pub fn view(&self) -> TensorView<'_> {
        TensorView { name: &self.name, ty: self.ty, shape: &self.shape, data: &self.data }
    }
}

impl TensorView<'_> {
    /// Place of the first NaN; `None` also for types that have none.
    pub fn first_not_a_number(&self) -> Option<usize> {
        self.first(|bits, infinite| bits > infinite)
    }

    /// Place of the first NaN or infinity; `None` also for types that have neither.
    pub fn first_not_finite(&self) -> Option<usize> {
        self.first(|bits, infinite| bits >= infinite)
    }

    /// The first value whose bits without the sign, against those of infinity, are odd.
    fn first(&self, odd: impl Fn(u64, u64) -> bool) -> Option<usize> {
        let sixteen = |infinite: u16| {
            let bits = |b: &[u8; 2]| u16::from_le_bytes(*b) & 0x7fff;
            self.data.as_chunks().0.iter().position(|b| odd(bits(b).into(), infinite.into()))
        };
        match self.ty {
            ElementType::Float32 => {
                let bits = |b: &[u8; 4]| u32::from_le_bytes(*b) & 0x7fff_ffff;
                self.data.as_chunks().0.iter().position(|b| odd(bits(b).into(), 0x7f80_0000))
            }
            ElementType::Float64 => {
                let bits = |b: &[u8; 8]| u64::from_le_bytes(*b) & (u64::MAX >> 1);
                self.data.as_chunks().0.iter().position(|b| odd(bits(b), 0x7ff << 52))
            }
            ElementType::Float16 => sixteen(0x7c00),
            ElementType::Bfloat16 => sixteen(0x7f80),
            _ => None,
        }
    }

    /// The stored values as real ones, dequantized where `quantization` is given.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for half floats and booleans.
    pub fn to_real(&self, quantization: Option<Quantization>) -> Result<Vec<f32>, Error> {
        let real = |v: f32| quantization.map_or(v, |q| q.scale * (v - q.zero_point as f32));
        fn each<const N: usize>(data: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            data.chunks_exact(N)
                .map(|c| {
                    let mut bytes = [0; N];
                    bytes.copy_from_slice(c);
                    read(bytes)
                })
                .collect()
        }
        Ok(match self.ty {
            ElementType::Float32 => each(self.data, f32::from_le_bytes),
            ElementType::Float64 => each(self.data, |b| f64::from_le_bytes(b) as f32),
            ElementType::Uint8 => self.data.iter().map(|&v| real(f32::from(v))).collect(),
            ElementType::Int8 => self.data.iter().map(|&v| real(f32::from(v as i8))).collect(),
            ElementType::Uint16 => each(self.data, |b| real(f32::from(u16::from_le_bytes(b)))),
            ElementType::Int16 => each(self.data, |b| real(f32::from(i16::from_le_bytes(b)))),
            ElementType::Int32 => each(self.data, |b| real(i32::from_le_bytes(b) as f32)),
            ElementType::Int64 => each(self.data, |b| real(i64::from_le_bytes(b) as f32)),
            other => return Err(Error::Unsupported(format!("tensor {}: element type {other}", self.name))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(ty: ElementType, quantization: Option<Quantization>) -> TensorSpec {
        TensorSpec { name: "x".into(), ty, shape: vec![4], quantization }
    }

    #[test]
    fn quantizes_half_to_even_and_saturates() {
        let s = spec(ElementType::Int8, Some(Quantization { scale: 0.5, zero_point: -3 }));
        let t = Tensor::from_real(&s, &[0.25, 0.75, -100.0, 100.0]).expect("valid");
        let stored: Vec<i8> = t.data.iter().map(|&b| b as i8).collect();
        assert_eq!(stored, [-3, -1, -128, 127]);
        let real = t.view().to_real(s.quantization).expect("int8");
        assert_eq!(&real[..2], [0.0, 1.0]);
    }

    #[test]
    fn what_is_no_number_is_found_in_every_float() {
        let find = |ty, data: &[u8]| {
            let view = TensorView { name: "x", ty, shape: &[2], data };
            (view.first_not_a_number(), view.first_not_finite())
        };
        let f32s = |v: f32| [1f32.to_le_bytes(), v.to_le_bytes()].concat();
        let f64s = |v: f64| [1f64.to_le_bytes(), v.to_le_bytes()].concat();
        assert_eq!(find(ElementType::Float32, &f32s(-f32::NAN)), (Some(1), Some(1)));
        assert_eq!(find(ElementType::Float32, &f32s(f32::NEG_INFINITY)), (None, Some(1)));
        assert_eq!(find(ElementType::Float32, &f32s(f32::MAX)), (None, None));
        assert_eq!(find(ElementType::Float64, &f64s(f64::NAN)), (Some(1), Some(1)));
        assert_eq!(find(ElementType::Float64, &f64s(f64::INFINITY)), (None, Some(1)));
        assert_eq!(find(ElementType::Float16, &[0, 0x3c, 1, 0xfe]), (Some(1), Some(1)));
        assert_eq!(find(ElementType::Bfloat16, &[0x80, 0x3f, 0x80, 0xff]), (None, Some(1)));
        assert_eq!(find(ElementType::Int8, &[0xff, 0xff]), (None, None));
    }

    #[test]
    fn a_wrong_number_of_values_is_named() {
        let e = Tensor::from_real(&spec(ElementType::Float32, None), &[1.0]).expect_err("one value for four");
        assert!(e.to_string().contains("1 values for tensor x of shape [4]"), "{e}");
    }
}
