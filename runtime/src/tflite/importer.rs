//! From the file's operators to the graph.

use super::contents::Contents;
use super::operator::{Operator, reader};
use super::schema::element;
use super::value::{State, dims_of};
use super::{Imported, TfliteError};
use crate::model::{OperatorCount, Softmax, Summary};
use sedge_engine::{Element, Graph, Port, Quantization, ValueId};
use sedge_processor_sdk::{ElementType, TensorSpec};
use std::collections::{BTreeMap, HashMap};

/// So many unsupported operators are listed.
const LISTED_MAX: usize = 10;

/// A file on its way into a graph.
pub(super) struct Importer<'a> {
    pub(super) contents: Contents<'a>,
    /// Of each tensor.
    pub(super) states: Vec<State>,
    /// Inputs that something reads, by their place.
    ports: Vec<Option<Port>>,
    pub(super) graph: Graph,
    /// Scales of what goes into the softmax that yields a value.
    pub(super) softmax: HashMap<ValueId, f32>,
    /// Of all weights that were read.
    pub(super) weight_bytes: usize,
}

impl<'a> Importer<'a> {
    /// Begins with nothing but the file.
    pub(super) fn new(contents: Contents<'a>) -> Self {
        let (states, ports) = (vec![State::Unset; contents.tensors.len()], vec![None; contents.inputs.len()]);
        Self { contents, states, ports, graph: Graph::default(), softmax: HashMap::new(), weight_bytes: 0 }
    }

    /// Builds the graph.
    pub(super) fn import(mut self) -> Result<Imported, TfliteError> {
        self.supported()?;
        for place in 0..self.contents.inputs.len() {
            self.enter(place)?;
        }
        let operators = std::mem::take(&mut self.contents.operators);
        for operator in &operators {
            // Shapes that are computed say what the file's tensors say already.
            if self.computes_shapes(operator) {
                continue;
            }
            let Some(read) = reader(&operator.name) else { return Err(operator.refuse("it is not read")) };
            read(&mut self, operator)?;
        }
        self.leave()?;
        let spec = |tensor: &usize, what: &str, place: usize| self.spec(*tensor, what, place);
        let inputs: Vec<_> = self.contents.inputs.iter().enumerate().map(|(i, t)| spec(t, "input", i)).collect();
        let outputs = self.contents.outputs.iter().enumerate().map(|(i, t)| spec(t, "output", i)).collect();
        let softmax_of = |port: &Port| self.softmax.get(&port.value).map(|&s| Softmax { input_scale: Some(s) });
        let softmax = self.graph.outputs.iter().map(softmax_of).collect();
        let summary = self.summary(&operators);
        sedge_engine::check(&self.graph).map_err(TfliteError::Graph)?;
        Ok(Imported { graph: self.graph, inputs, outputs, softmax, summary })
    }

    /// All that stands in the way at once: who mends one operator wants to know of the next.
    fn supported(&self) -> Result<(), TfliteError> {
        let bytes = |tensor: &usize| [element::INT8, element::UINT8].contains(&self.contents.tensors[*tensor].element);
        if !self.contents.operators.iter().any(|o| o.outputs.iter().any(bytes)) {
            return Err(TfliteError::NotQuantized);
        }
        let unknown = self.contents.operators.iter().filter(|o| reader(&o.name).is_none() && !self.computes_shapes(o));
        let mut operators: Vec<_> = unknown.map(|o| format!("{} (operator {})", o.name, o.index)).collect();
        if operators.len() > LISTED_MAX {
            let more = operators.len() - LISTED_MAX;
            operators.truncate(LISTED_MAX);
            operators.push(format!("and {more} more"));
        }
        if operators.is_empty() { Ok(()) } else { Err(TfliteError::UnsupportedOperators { operators }) }
    }

    fn computes_shapes(&self, operator: &Operator<'_>) -> bool {
        let integer = |tensor: usize| [element::INT32, element::INT64].contains(&self.contents.tensors[tensor].element);
        let yields = !operator.outputs.is_empty() && operator.outputs.iter().all(|&tensor| integer(tensor));
        yields && (operator.name == "SHAPE" || operator.inputs.iter().flatten().all(|&tensor| integer(tensor)))
    }

    fn enter(&mut self, place: usize) -> Result<(), TfliteError> {
        let tensor = self.contents.inputs[place];
        if !matches!(self.states[tensor], State::Unset) {
            return Err(self.refuse(tensor, "it is an input of the model twice"));
        }
        let element = match self.contents.tensors[tensor].element {
            element::INT8 => Element::I8,
            element::UINT8 => Element::U8,
            element::FLOAT32 => {
                self.states[tensor] = State::FloatInput(place);
                return Ok(());
            }
            other => return Err(self.refuse(tensor, format!("an input cannot be of {}", element::name(other)))),
        };
        let quantization = self.quantization(tensor)?;
        let value =
            self.graph.value(&self.contents.tensors[tensor].name, dims_of(&self.contents.shapes[tensor]), quantization);
        self.ports[place] = Some(Port { value, element, order: Port::CHANNELS_LAST });
        self.states[tensor] = State::Bytes(value);
        Ok(())
    }

    /// The value of a float input, quantized on its way in.
    pub(super) fn enter_float(
        &mut self,
        operator: &Operator<'_>,
        place: usize,
        to: Quantization,
    ) -> Result<ValueId, TfliteError> {
        if let Some(port) = self.ports[place] {
            if self.graph.values[port.value.0].quantization == to {
                return Ok(port.value);
            }
            return Err(operator.refuse("the model's input is quantized in two ways; quantize it once and reuse that"));
        }
        let tensor = self.contents.inputs[place];
        let value = self.graph.value(&self.contents.tensors[tensor].name, dims_of(&self.contents.shapes[tensor]), to);
        self.ports[place] = Some(Port { value, element: Element::F32, order: Port::CHANNELS_LAST });
        Ok(value)
    }

    fn leave(&mut self) -> Result<(), TfliteError> {
        for (place, port) in self.ports.iter().enumerate() {
            let Some(port) = port else {
                return Err(self.refuse(self.contents.inputs[place], "no operator quantizes this input of the model"));
            };
            self.graph.inputs.push(*port);
        }
        for place in 0..self.contents.outputs.len() {
            let tensor = self.contents.outputs[place];
            let (value, element) = match (&self.states[tensor], self.contents.tensors[tensor].element) {
                (State::Real(value, reals), element::FLOAT32) => {
                    let from = self.graph.values[value.0].quantization;
                    if **reals != std::array::from_fn(|byte| sedge_engine::dequantize(byte as u8, from)) {
                        return Err(self.refuse(tensor, "an output that a float operator computes cannot be read"));
                    }
                    (*value, Element::F32)
                }
                (_, element::INT8) => (self.value(tensor)?, Element::I8),
                (_, element::UINT8) => (self.value(tensor)?, Element::U8),
                (_, other) => {
                    return Err(self.refuse(tensor, format!("an output cannot be of {}", element::name(other))));
                }
            };
            self.graph.outputs.push(Port { value, element, order: Port::CHANNELS_LAST });
        }
        Ok(())
    }

    fn spec(&self, tensor: usize, what: &str, place: usize) -> TensorSpec {
        let t = &self.contents.tensors[tensor];
        let ty = match t.element {
            element::INT8 => ElementType::Int8,
            element::UINT8 => ElementType::Uint8,
            _ => ElementType::Float32,
        };
        let quantization = self.quantization(tensor).ok().map(|q| sedge_processor_sdk::Quantization {
            scale: q.scale,
            zero_point: i32::from(q.zero_point) - if ty == ElementType::Int8 { 128 } else { 0 },
        });
        // Sizes come from 32 bits and fit there again.
        let shape = self.contents.shapes[tensor].iter().map(|&size| size as i32).collect();
        let name = if t.name.is_empty() { format!("{what}_{place}") } else { t.name.clone() };
        TensorSpec { name, ty, shape, quantization }
    }

    fn summary(&self, operators: &[Operator<'_>]) -> Summary {
        let mut counts = BTreeMap::<&str, usize>::new();
        operators.iter().for_each(|o| *counts.entry(&o.name).or_default() += 1);
        let (mut parameters, mut parameters_int8) = (0, 0);
        for (tensor, t) in self.contents.tensors.iter().enumerate() {
            if matches!(self.constant(tensor), Ok(Some(_))) {
                let elements: usize = self.contents.shapes[tensor].iter().product();
                parameters += elements as u64;
                parameters_int8 +=
                    if [element::INT8, element::UINT8].contains(&t.element) { elements as u64 } else { 0 };
            }
        }
        let counts = counts.into_iter().map(|(operator, count)| OperatorCount { operator: operator.to_owned(), count });
        Summary {
            producer: self.contents.model.description.clone(),
            opset: self.contents.model.version.into(),
            nodes: operators.len(),
            parameters,
            parameters_int8,
            operators: counts.collect(),
        }
    }
}
