//! The file's tensors and operators, checked one by one: every index leads to something, every shape fits.

use super::TfliteError;
use super::flatbuffer::{Broken, Table, Vector};
use super::operator::Operator;
use super::schema::{self, Model, RawOperator, Subgraph, Tensor};
use sedge_engine::{NODES_MAX, TENSOR_BYTES_MAX};

/// More tensors are refused: each operator has a handful.
const TENSORS_MAX: usize = 8 * NODES_MAX;
/// Operators with more inputs or outputs are refused.
const OPERANDS_MAX: usize = 1024;
/// More inputs and outputs of all operators are refused.
const ALL_OPERANDS_MAX: usize = 4 * TENSORS_MAX;
/// Tensors with more axes are refused, as in TFLite.
pub(super) const RANK_MAX: usize = 8;

/// What a file holds.
pub(super) struct Contents<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) model: Model<'a>,
    pub(super) buffers: Vec<Table<'a>>,
    pub(super) tensors: Vec<Tensor<'a>>,
    /// Of each tensor; at most [`TENSOR_BYTES_MAX`] elements.
    pub(super) shapes: Vec<Vec<usize>>,
    pub(super) operators: Vec<Operator<'a>>,
    /// Tensors that come in.
    pub(super) inputs: Vec<usize>,
    /// Tensors that go out.
    pub(super) outputs: Vec<usize>,
}

pub(super) fn malformed(place: impl Into<String>) -> impl FnOnce(Broken) -> TfliteError {
    let place = place.into();
    move |broken| TfliteError::Malformed { place, problem: broken.to_string() }
}

/// The tables of a vector, not more than `max` of them.
fn tables<'a>(what: &str, vector: Vector<'a, 4>, max: usize) -> Result<Vec<Table<'a>>, TfliteError> {
    if vector.len() > max {
        let problem = format!("there are {}, and at most {max} are accepted", vector.len());
        return Err(TfliteError::Malformed { place: format!("the {what}s"), problem });
    }
    let named =
        |(index, table): (usize, Result<Table<'a>, Broken>)| table.map_err(malformed(format!("{what} {index}")));
    vector.tables().enumerate().map(named).collect()
}

impl<'a> Contents<'a> {
    /// Reads the file's tables.
    pub(super) fn read(file: &'a [u8]) -> Result<Self, TfliteError> {
        let model = Model::read(file).map_err(malformed("the model"))?;
        if model.version != 3 {
            let problem = format!("version {} of the schema is not known, only 3", model.version);
            return Err(TfliteError::Malformed { place: "the model".to_owned(), problem });
        }
        let graphs = tables("subgraph", model.subgraphs, NODES_MAX)?;
        let [graph] = graphs.as_slice() else {
            let problem = format!("it has {} graphs, and one is needed (no control flow)", graphs.len());
            return Err(TfliteError::Malformed { place: "the model".to_owned(), problem });
        };
        let graph = Subgraph::read(*graph).map_err(malformed("the graph"))?;
        let mut tensors = Vec::new();
        for (index, table) in tables("tensor", graph.tensors, TENSORS_MAX)?.into_iter().enumerate() {
            tensors.push(Tensor::read(table).map_err(malformed(format!("tensor {index}")))?);
        }
        let buffers = tables("buffer", model.buffers, TENSORS_MAX + NODES_MAX)?;
        let shapes = tensors.iter().enumerate().map(|(index, t)| shape(index, t)).collect::<Result<_, _>>()?;
        let place = |what: &str, vector: Vector<'a, 4>| -> Result<Vec<usize>, TfliteError> {
            indices(&format!("the model's {what}s"), vector, tensors.len())?
                .into_iter()
                .map(|index| {
                    let problem = format!("a {what} is left out");
                    index.ok_or_else(|| TfliteError::Malformed { place: "the graph".to_owned(), problem })
                })
                .collect()
        };
        let (inputs, outputs) = (place("input", graph.inputs)?, place("output", graph.outputs)?);
        let operators = operators(&model, &graph, tensors.len())?;
        Ok(Self { bytes: file, model, buffers, tensors, shapes, operators, inputs, outputs })
    }
}

pub(super) fn tensor_error(index: usize, name: &str, problem: impl Into<String>) -> TfliteError {
    TfliteError::Tensor { index, name: name.to_owned(), problem: problem.into() }
}

fn shape(index: usize, tensor: &Tensor<'_>) -> Result<Vec<usize>, TfliteError> {
    let error = |problem: String| tensor_error(index, &tensor.name, problem);
    if tensor.shape.len() > RANK_MAX {
        return Err(error(format!("it has {} axes, and at most {RANK_MAX} are accepted", tensor.shape.len())));
    }
    let sizes: Vec<i32> = tensor.shape.elements().iter().map(|b| i32::from_le_bytes(*b)).collect();
    let shape: Option<Vec<usize>> = sizes.iter().map(|&size| usize::try_from(size).ok()).collect();
    // A size of 0 is said where such a tensor is used: converters leave empty ones behind. It must not hide others.
    let product =
        |sizes: &Vec<usize>| sizes.iter().try_fold(1_usize, |product, &size| product.checked_mul(size.max(1)));
    let elements = shape.as_ref().and_then(product);
    match (shape, elements) {
        (Some(shape), Some(elements)) if elements <= TENSOR_BYTES_MAX => Ok(shape),
        _ => Err(error(format!("the shape {sizes:?} is negative or has more than {TENSOR_BYTES_MAX} elements"))),
    }
}

/// Places of tensors; none for -1.
fn indices(place: &str, vector: Vector<'_, 4>, tensors: usize) -> Result<Vec<Option<usize>>, TfliteError> {
    let error = |problem: String| TfliteError::Malformed { place: place.to_owned(), problem };
    if vector.len() > OPERANDS_MAX {
        return Err(error(format!("{} tensors are listed, and at most {OPERANDS_MAX} are accepted", vector.len())));
    }
    let one = |bytes: &[u8; 4]| match i32::from_le_bytes(*bytes) {
        -1 => Ok(None),
        index => match usize::try_from(index) {
            Ok(index) if index < tensors => Ok(Some(index)),
            _ => Err(error(format!("tensor {index} is not there; the model has {tensors}"))),
        },
    };
    vector.elements().iter().map(one).collect()
}

fn operators<'a>(model: &Model<'a>, graph: &Subgraph<'a>, tensors: usize) -> Result<Vec<Operator<'a>>, TfliteError> {
    let mut names = Vec::new();
    for (index, table) in tables("operator code", model.operator_codes, NODES_MAX)?.into_iter().enumerate() {
        names.push(schema::operator_name(table).map_err(malformed(format!("operator code {index}")))?);
    }
    let (mut operators, mut operands) = (Vec::new(), 0);
    for (index, table) in tables("operator", graph.operators, NODES_MAX)?.into_iter().enumerate() {
        let place = format!("operator {index}");
        let raw = RawOperator::read(table).map_err(malformed(place.as_str()))?;
        let Some(name) = names.get(raw.code as usize).cloned() else {
            let problem = format!("operator code {} is not there; the model has {}", raw.code, names.len());
            return Err(TfliteError::Malformed { place, problem });
        };
        let place = format!("{place} ({name})");
        let inputs = indices(&place, raw.inputs, tensors)?;
        operands += raw.inputs.len() + raw.outputs.len();
        if operands > ALL_OPERANDS_MAX {
            let problem = format!("with it, operators list more than {ALL_OPERANDS_MAX} tensors");
            return Err(TfliteError::Malformed { place, problem });
        }
        // -1 among outputs would be one that nobody reads; TFLite has none.
        let outputs = indices(&place, raw.outputs, tensors)?.into_iter().flatten().collect();
        operators.push(Operator { index, name, inputs, outputs, kind: raw.kind, options: raw.options });
    }
    Ok(operators)
}
