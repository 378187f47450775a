//! Constants of a file, decoded.

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;

/// Elements in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Elements {
    F32(Vec<f32>),
    U8(Vec<u8>),
    I8(Vec<i8>),
    I32(Vec<i32>),
    I64(Vec<i64>),
}

/// A tensor whose values the file tells.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Constant {
    pub(super) dims: Vec<usize>,
    pub(super) elements: Elements,
}

impl Constant {
    /// Decodes one. `None` for a type that no quantized operator has; an error for values that are not there, are too
    /// many, or do not fit their type.
    pub(super) fn decode(tensor: &pb::TensorProto) -> Result<Option<Self>, String> {
        let dims: Vec<usize> = tensor.dims.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect();
        let Some(count) = dims.iter().try_fold(1_usize, |n, d| n.checked_mul(*d)) else {
            return Err(format!("the sizes {:?} of `{}` are too large", tensor.dims, tensor.name));
        };
        let raw = tensor.raw_data.as_slice();
        let narrow = |low: i32, high: i32| {
            let of = |n: &i32| (low..=high).contains(n).then_some(*n);
            let outside = || format!("`{}` holds a value that its type does not have", tensor.name);
            tensor.int32_data.iter().map(of).collect::<Option<Vec<i32>>>().ok_or_else(outside)
        };
        let elements = match DataType::try_from(tensor.data_type) {
            Ok(DataType::Float) if raw.is_empty() => Elements::F32(tensor.float_data.clone()),
            Ok(DataType::Float) => Elements::F32(words(raw, f32::from_le_bytes)),
            Ok(DataType::Uint8) if raw.is_empty() => {
                Elements::U8(narrow(0, 255)?.into_iter().map(|n| n as u8).collect())
            }
            Ok(DataType::Uint8) => Elements::U8(raw.to_vec()),
            Ok(DataType::Int8) if raw.is_empty() => {
                Elements::I8(narrow(-128, 127)?.into_iter().map(|n| n as i8).collect())
            }
            Ok(DataType::Int8) => Elements::I8(raw.iter().map(|byte| *byte as i8).collect()),
            Ok(DataType::Int32) if raw.is_empty() => Elements::I32(tensor.int32_data.clone()),
            Ok(DataType::Int32) => Elements::I32(words(raw, i32::from_le_bytes)),
            Ok(DataType::Int64) if raw.is_empty() => Elements::I64(tensor.int64_data.clone()),
            Ok(DataType::Int64) => Elements::I64(words(raw, i64::from_le_bytes)),
            _ => return Ok(None),
        };
        let constant = Self { dims, elements };
        if constant.len() != count {
            let (found, name) = (constant.len(), &tensor.name);
            return Err(format!("`{name}` has {found} values, and its sizes {:?} say {count}", tensor.dims));
        }
        Ok(Some(constant))
    }

    /// What a `Constant` node holds.
    pub(super) fn of_node(node: &pb::NodeProto) -> Result<Option<Self>, String> {
        let Some(attribute) = node.attribute.first() else { return Ok(None) };
        let one = |elements| Ok(Some(Self { dims: vec![], elements }));
        let list = |count: usize, elements| Ok(Some(Self { dims: vec![count], elements }));
        match attribute.name.as_str() {
            "value" => attribute.t.as_ref().map_or(Ok(None), Self::decode),
            "value_float" => one(Elements::F32(vec![attribute.f])),
            "value_int" => one(Elements::I64(vec![attribute.i])),
            "value_floats" => list(attribute.floats.len(), Elements::F32(attribute.floats.clone())),
            "value_ints" => list(attribute.ints.len(), Elements::I64(attribute.ints.clone())),
            _ => Ok(None),
        }
    }

    pub(super) fn len(&self) -> usize {
        match &self.elements {
            Elements::F32(all) => all.len(),
            Elements::U8(all) => all.len(),
            Elements::I8(all) => all.len(),
            Elements::I32(all) => all.len(),
            Elements::I64(all) => all.len(),
        }
    }

    /// Float values; `None` of integers.
    pub(super) fn floats(&self) -> Option<&[f32]> {
        match &self.elements {
            Elements::F32(all) => Some(all),
            _ => None,
        }
    }

    /// Integer values; `None` of floats.
    pub(super) fn integers(&self) -> Option<Vec<i64>> {
        Some(match &self.elements {
            Elements::F32(_) => return None,
            Elements::U8(all) => all.iter().map(|n| i64::from(*n)).collect(),
            Elements::I8(all) => all.iter().map(|n| i64::from(*n)).collect(),
            Elements::I32(all) => all.iter().map(|n| i64::from(*n)).collect(),
            Elements::I64(all) => all.clone(),
        })
    }

    /// With its axes in another order: the result's axis `i` is this one's axis `axes[i]`.
    pub(super) fn transposed(&self, axes: &[usize]) -> Option<Self> {
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..self.dims.len()) {
            return None;
        }
        let places = places(&self.dims, axes);
        let dims = axes.iter().map(|axis| self.dims[*axis]).collect();
        let elements = match &self.elements {
            Elements::F32(all) => Elements::F32(places.map(|place| all[place]).collect()),
            Elements::U8(all) => Elements::U8(places.map(|place| all[place]).collect()),
            Elements::I8(all) => Elements::I8(places.map(|place| all[place]).collect()),
            Elements::I32(all) => Elements::I32(places.map(|place| all[place]).collect()),
            Elements::I64(all) => Elements::I64(places.map(|place| all[place]).collect()),
        };
        Some(Self { dims, elements })
    }
}

fn words<T, const N: usize>(raw: &[u8], word: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.chunks_exact(N).filter_map(|bytes| bytes.try_into().ok()).map(word).collect()
}

/// For each element of the transposed tensor, in its order, the place of it in a tensor of sizes `dims`.
pub(super) fn places(dims: &[usize], axes: &[usize]) -> impl Iterator<Item = usize> + use<> {
    let mut strides = vec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis] * dims[axis];
    }
    let (sizes, strides): (Vec<usize>, Vec<usize>) = axes.iter().map(|a| (dims[*a], strides[*a])).unzip();
    let count = sizes.iter().product::<usize>();
    let mut index = vec![0; sizes.len()];
    let mut place = 0;
    (0..count).map(move |_| {
        let found = place;
        for axis in (0..sizes.len()).rev() {
            index[axis] += 1;
            place += strides[axis];
            if index[axis] < sizes[axis] {
                break;
            }
            place -= strides[axis] * sizes[axis];
            index[axis] = 0;
        }
        found
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes_and_refuses_what_is_no_order() {
        let matrix = Constant { dims: vec![2, 3], elements: Elements::I8(vec![1, 2, 3, 4, 5, 6]) };
        let turned = matrix.transposed(&[1, 0]).expect("two axes");
        assert_eq!(turned, Constant { dims: vec![3, 2], elements: Elements::I8(vec![1, 4, 2, 5, 3, 6]) });
        assert_eq!(matrix.transposed(&[0, 0]), None);
        let cube = Constant { dims: vec![2, 2, 2], elements: Elements::I64((0..8).collect()) };
        let turned = cube.transposed(&[2, 0, 1]).expect("three axes");
        assert_eq!(turned.elements, Elements::I64(vec![0, 2, 4, 6, 1, 3, 5, 7]));
    }

    #[test]
    fn values_must_be_there_and_fit_their_type() {
        let mut tensor = pb::TensorProto {
            dims: vec![2],
            data_type: DataType::Int8 as i32,
            int32_data: vec![-128, 127],
            name: "w".to_owned(),
            ..pb::TensorProto::default()
        };
        let decoded = Constant::decode(&tensor).expect("fits").expect("8 bits");
        assert_eq!(decoded.elements, Elements::I8(vec![-128, 127]));
        tensor.int32_data = vec![0, 128];
        assert_eq!(Constant::decode(&tensor), Err("`w` holds a value that its type does not have".to_owned()));
        tensor.int32_data = vec![0];
        assert!(Constant::decode(&tensor).expect_err("one is missing").contains("has 1 values"));
    }
}
