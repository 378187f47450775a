//! Samples from `.npy` and `.npz` files, cut into single runs of the model.

mod arrays;

use super::QuantizeError;
use crate::model::ModelError;
use arrays::Arrays;
use sedge_processor_sdk::{ElementType, Tensor};
use sedge_protocol::text::visible;
use std::path::{Path, PathBuf};
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;

/// An input as the file declares it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Declared {
    pub(super) name: String,
    pub(super) ty: Option<ElementType>,
    /// Sizes, `None` where open; no list where not even the rank is told.
    shape: Option<Vec<Option<usize>>>,
}

/// The inputs of a graph whose constants are no inputs any more.
pub(super) fn declared(graph: &pb::GraphProto) -> Vec<Declared> {
    use pb::tensor_shape_proto::dimension::Value;
    let one = |info: &pb::ValueInfoProto| {
        let tensor = info.r#type.as_ref().and_then(|t| t.value.as_ref()).and_then(|v| match v {
            pb::type_proto::Value::TensorType(t) => Some(t),
            #[allow(unreachable_patterns)]
            _ => None,
        });
        let size = |d: &pb::tensor_shape_proto::Dimension| match d.value {
            Some(Value::DimValue(v)) => usize::try_from(v).ok().filter(|&v| v > 0),
            _ => None,
        };
        Declared {
            name: info.name.clone(),
            ty: tensor.and_then(|t| element_type(t.elem_type)),
            shape: tensor.and_then(|t| t.shape.as_ref()).map(|s| s.dim.iter().map(size).collect()),
        }
    };
    graph.input.iter().map(one).collect()
}

fn element_type(code: i32) -> Option<ElementType> {
    Some(match DataType::try_from(code).ok()? {
        DataType::Float => ElementType::Float32,
        DataType::Double => ElementType::Float64,
        DataType::Uint8 => ElementType::Uint8,
        DataType::Int8 => ElementType::Int8,
        DataType::Int32 => ElementType::Int32,
        DataType::Int64 => ElementType::Int64,
        _ => return None,
    })
}

impl Declared {
    /// How many samples an array of this shape holds, and the shape of one; `None` where it does not fit.
    pub(super) fn split(&self, shape: &[usize]) -> Option<(usize, Vec<usize>)> {
        let Some(declared) = &self.shape else { return Some((1, shape.to_vec())) };
        let fits = |sizes: &[usize], declared: &[Option<usize>]| {
            sizes.len() == declared.len() && sizes.iter().zip(declared).all(|(s, d)| d.is_none_or(|d| d == *s))
        };
        // The first axis of a model is the batch where it is open or 1; samples are run one by one.
        let batch = declared.first().is_some_and(|d| d.is_none_or(|d| d == 1));
        if batch && shape.len() == declared.len() && fits(&shape[1..], &declared[1..]) {
            return Some((shape[0], [&[1], &shape[1..]].concat()));
        }
        if fits(shape, declared) {
            return Some((1, shape.to_vec()));
        }
        if batch && fits(shape, &declared[1..]) {
            return Some((1, [&[1], shape].concat()));
        }
        let (&count, sample) = shape.split_first()?;
        fits(sample, declared).then(|| (count, sample.to_vec()))
    }

    fn wanted(&self) -> String {
        let ty = self.ty.map_or("?", ElementType::name);
        let size = |d: &Option<usize>| d.map_or("any".to_owned(), |d| d.to_string());
        match &self.shape {
            Some(shape) => format!("{ty} [{}]", shape.iter().map(size).collect::<Vec<_>>().join(", ")),
            None => ty.to_owned(),
        }
    }
}

/// One run of the model.
pub(super) struct Sample {
    /// File and place in it.
    pub(super) name: String,
    pub(super) tensors: Vec<Tensor>,
    /// The right class, where the file tells it.
    pub(super) label: Option<usize>,
}

/// Files of samples, each of which was seen to fit the model.
#[derive(Debug, Clone)]
pub struct SampleSet {
    files: Vec<PathBuf>,
    inputs: Vec<Declared>,
    /// Of one sample, by input.
    shapes: Vec<Vec<usize>>,
    count: usize,
}

impl SampleSet {
    pub(super) fn find(place: &Path, inputs: Vec<Declared>) -> Result<Self, QuantizeError> {
        let unreadable = |source| QuantizeError::ReadFile { file: place.to_owned(), source };
        let mut files = Vec::new();
        if std::fs::metadata(place).map_err(unreadable)?.is_dir() {
            for entry in std::fs::read_dir(place).map_err(unreadable)? {
                let path = entry.map_err(unreadable)?.path();
                if path.is_file() && path.extension().is_some_and(|e| e == "npy" || e == "npz") {
                    files.push(path);
                }
            }
            // The order of a directory is nobody's promise, and sums of floats depend on it.
            files.sort();
        } else {
            files.push(place.to_owned());
        }
        let mut set = Self { files, inputs, shapes: Vec::new(), count: 0 };
        for ix in 0..set.files.len() {
            let read = set.read(&set.files[ix])?;
            if set.shapes.is_empty() {
                set.shapes = read.arrays.iter().map(|a| a.shape.clone()).collect();
            }
            set.count += read.count;
        }
        if set.count == 0 {
            return Err(QuantizeError::NoSamples { place: place.to_owned() });
        }
        Ok(set)
    }

    /// How many samples there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Never: a set without samples is refused.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Sizes of the inputs, for a model that leaves some open.
    pub(super) fn shapes(&self) -> Vec<(String, Vec<i32>)> {
        let sizes = |shape: &Vec<usize>| shape.iter().map(|&d| i32::try_from(d).unwrap_or(i32::MAX)).collect();
        self.inputs.iter().zip(&self.shapes).map(|(input, shape)| (input.name.clone(), sizes(shape))).collect()
    }

    /// Shows each sample, in the order of the files' names. The files are read again: only one is in memory.
    pub(super) fn each(
        &self,
        mut visit: impl FnMut(usize, &Sample) -> Result<(), QuantizeError>,
    ) -> Result<(), QuantizeError> {
        let mut seq = 0;
        for file in &self.files {
            let read = self.read(file)?;
            for ix in 0..read.count {
                let tensor = |(input, array): (&Declared, &Array)| {
                    let size = array.data.len() / read.count;
                    Tensor {
                        name: input.name.clone(),
                        ty: array.ty,
                        shape: array.shape.iter().map(|&d| d as u32).collect(),
                        data: array.data[ix * size..(ix + 1) * size].to_vec(),
                    }
                };
                let sample = Sample {
                    name: format!("{} of {}", ix + 1, file.display()),
                    tensors: self.inputs.iter().zip(&read.arrays).map(tensor).collect(),
                    label: read.labels.as_ref().and_then(|l| l.get(ix).copied()),
                };
                visit(seq, &sample)?;
                seq += 1;
            }
        }
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<Read, QuantizeError> {
        let wrong = |tensor: &str, problem: String| QuantizeError::Sample {
            file: path.to_owned(),
            tensor: visible(tensor, 200),
            problem,
        };
        let mut source = Arrays::open(path)?;
        let mut arrays: Vec<Array> = Vec::new();
        let mut count = None;
        for (ix, input) in self.inputs.iter().enumerate() {
            let single = self.inputs.len() == 1;
            let key = source.key(&input.name, single).map_err(|problem| wrong(&input.name, problem))?;
            let ty = input.ty.ok_or_else(|| ModelError::UnsupportedType {
                tensor: input.name.clone(),
                ty: "of no kind that samples have".to_owned(),
            })?;
            let name = key.as_deref().unwrap_or(&input.name);
            let (shape, data) = source
                .array(key.as_deref(), ty)
                .map_err(|e| wrong(name, format!("is no {} array ({e}); convert it", ty.name())))?;
            let unfit = || format!("has shape {shape:?}; the input `{}` is {}", input.name, input.wanted());
            let (samples, one) = input.split(&shape).ok_or_else(|| wrong(name, unfit()))?;
            if one.iter().chain([&samples]).any(|&d| d == 0 || i32::try_from(d).is_err()) {
                return Err(wrong(name, format!("holds no sample: its shape is {shape:?}")));
            }
            if let Some(first) = self.shapes.get(ix).filter(|first| **first != one) {
                return Err(wrong(name, format!("has samples of shape {one:?}, the first file's are {first:?}")));
            }
            if *count.get_or_insert(samples) != samples {
                return Err(wrong(name, format!("holds {samples} samples, another input of the file {count:?}")));
            }
            arrays.push(Array { ty, shape: one, data });
        }
        let count = count.unwrap_or(0);
        let labels = source.labels().map_err(|e| wrong("y", format!("is no array of classes ({e})")))?;
        if let Some(labels) = labels.as_ref().filter(|l| l.len() != count) {
            return Err(wrong("y", format!("holds {} classes for {count} samples", labels.len())));
        }
        Ok(Read { arrays, count, labels })
    }
}

/// One input's array of a file.
struct Array {
    ty: ElementType,
    /// Of one sample.
    shape: Vec<usize>,
    /// Of all samples.
    data: Vec<u8>,
}

struct Read {
    arrays: Vec<Array>,
    count: usize,
    labels: Option<Vec<usize>>,
}
