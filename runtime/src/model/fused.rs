//! Quantized parts of a graph as operators of the engine.
//!
//! [`recognise`] tells from the graph alone which nodes have an integer form, [`region`] joins them into regions and
//! leaves tract the rest, [`import`] makes a graph of the engine of a region once its sizes are known, and [`operator`]
//! runs it inside tract. What only sizes reveal sends a node back to tract, and the graph is divided anew.

mod constant;
mod dynamic;
mod import;
mod kinds;
mod operand;
mod operator;
mod recognise;
mod region;
mod report;
mod source;
mod tidy;

use super::{ModelError, onnx};
use sedge_engine::Session;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tract_onnx::pb;
use tract_onnx::prelude::InferenceModel;

pub(in crate::model) use import::{Built, Edge, Fault};
pub(in crate::model) use operator::{ProfiledRegion, profiled};
pub(in crate::model) use region::Region;
pub use report::{Fate, Fusion, NodeFusion, Reason};
pub(in crate::model) use source::{Source, label};

/// Nodes that may go back to tract one after the other, before all of a graph does.
pub(in crate::model) const REFUSALS_MAX: usize = 64;

/// A graph, divided between regions and tract.
pub(in crate::model) struct Plan {
    source: Arc<Source>,
    verdicts: Vec<recognise::Verdict>,
    division: region::Division,
    fault: Mutex<Option<Fault>>,
    options: sedge_engine::Options,
}

impl Plan {
    /// Divides a graph; nodes in `refused` are left to tract.
    ///
    /// # Errors
    /// [`ModelError`] for what is wrong in the file.
    pub(in crate::model) fn new(
        source: &Arc<Source>,
        refused: &HashMap<usize, Reason>,
        options: &sedge_engine::Options,
    ) -> Result<Arc<Self>, ModelError> {
        let mut verdicts = recognise::recognise(source, refused)?;
        let dynamic = dynamic::find(source, &mut verdicts, refused);
        let division = region::divide(source, &mut verdicts, dynamic);
        Ok(Arc::new(Self {
            source: source.clone(),
            verdicts,
            division,
            fault: Mutex::new(None),
            options: options.clone(),
        }))
    }

    /// Whether anything runs outside of tract.
    pub(in crate::model) fn has_regions(&self) -> bool {
        self.division.operators().next().is_some()
    }

    pub(in crate::model) fn report(&self) -> Fusion {
        self.division.report(&self.source, &self.verdicts)
    }

    /// The graph as the file has it.
    pub(in crate::model) fn graph(&self) -> pb::GraphProto {
        self.source.graph.clone()
    }

    /// Whether tract must run this node.
    pub(in crate::model) fn keeps(&self, at: usize) -> bool {
        self.division.keeps(at)
    }

    /// Why a quantized operator, which tract may not have, is left to it all the same.
    pub(in crate::model) fn why(&self, at: usize) -> Option<String> {
        match &self.verdicts[at] {
            recognise::Verdict::Left(reason)
                if kinds::quantized(self.source.node(at)) || dynamic::multiplies(self.source.node(at)) =>
            {
                Some(reason.to_string())
            }
            _ => None,
        }
    }

    /// The one region that is the whole model.
    pub(in crate::model) fn whole(&self) -> Option<&Region> {
        let [region] = self.division.regions.as_slice() else { return None };
        self.division.is_whole(&self.source).then_some(region)
    }

    pub(in crate::model) fn build(&self, number: usize, shapes: &[Vec<usize>]) -> Result<Built, Fault> {
        self.division.build(&self.source, &self.verdicts, number, shapes, &self.options)
    }

    /// The operator with a number, for inputs of these sizes.
    fn ready(&self, number: usize, shapes: &[Vec<usize>]) -> Result<operator::Ready, Fault> {
        let Some(group) = self.division.dynamic(number) else {
            return Ok(operator::Ready::Region(Arc::new(self.build(number, shapes)?)));
        };
        // It has one input.
        let shape = shapes.first().map_or(&[][..], Vec::as_slice);
        Ok(operator::Ready::Dynamic(Arc::new(dynamic::build(&self.source, group, shape, &self.options)?)))
    }

    /// What tract gets: the rest of the graph, with the regions in it.
    pub(in crate::model) fn infer(self: &Arc<Self>, parsed: &onnx::Parsed) -> Result<InferenceModel, ModelError> {
        let mut model = parsed.infer(self.division.rest(&self.source, operator::name))?;
        operator::place(&mut model, self);
        Ok(model)
    }

    fn note(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    }

    /// Why a region could not be built inside tract.
    pub(in crate::model) fn take_fault(&self) -> Option<Fault> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Runs a region on tensors as they stand outside.
pub(in crate::model) fn run(
    built: &Built,
    session: &mut Session,
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]],
) -> Result<(), String> {
    if built.floats.iter().any(|input| holds_nan(inputs[*input])) {
        return Err("a value to quantize is NaN: the model or its input is not numerically sound".to_owned());
    }
    let result = if built.feeds.iter().copied().eq(0..inputs.len()) {
        built.program.run(session, inputs, outputs)
    } else {
        let fed: Vec<&[u8]> = built.feeds.iter().map(|feed| inputs[*feed]).collect();
        built.program.run(session, &fed, outputs)
    };
    result.map_err(|e| e.to_string())
}

fn holds_nan(bytes: &[u8]) -> bool {
    let exponent = |b: &[u8]| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]) & 0x7fff_ffff;
    // Without a way out in the middle, so that it vectorises.
    bytes.chunks_exact(4).fold(false, |found, b| found | (exponent(b) > 0x7f80_0000))
}

/// The graph of a file, as it is asked about here.
pub(in crate::model) fn source(graph: pb::GraphProto, opset: i64) -> Result<Arc<Source>, ModelError> {
    Source::new(graph, opset).map(Arc::new)
}
