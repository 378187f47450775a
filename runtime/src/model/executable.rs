//! A loaded graph, ready to run: in tract, with regions of the engine as operators in it, or in the engine alone.

use super::fused::{self, Built, Fate, Fault, Fusion, NodeFusion, Plan, Reason};
use super::{Engine, ModelError, ModelOptions, chain, datum_type, element_type, float, onnx, value};
use crate::tflite::Imported;
use sedge_engine::{Element, Node, Port, Program, Session};
use sedge_processor_sdk::{ElementType, Tensor, TensorSpec, TensorView};
use sedge_protocol::text::visible;
use std::collections::HashMap;
use std::sync::Arc;
use tract_core::runtime::RunOptions;
use tract_linalg::multithread::Executor;
use tract_onnx::pb;
use tract_onnx::prelude as tract;
use tract_onnx::prelude::{
    InferenceModel, InferenceModelExt as _, TValue, TVec, TractResult, TypedSimplePlan, TypedSimpleState,
};

pub(super) enum Executable {
    Tract {
        plan: Arc<TypedSimplePlan>,
        state: TypedSimpleState,
    },
    /// One region between inputs and outputs: no tensor is copied on the way in.
    Whole {
        built: Built,
        session: Session,
        /// For each input of the region, the place among those of the model.
        feeds: Vec<usize>,
        /// For each output of the region, the place among those of the model.
        yields: Vec<usize>,
    },
}

pub(super) struct Loaded {
    pub(super) executable: Executable,
    pub(super) inputs: Vec<TensorSpec>,
    pub(super) outputs: Vec<TensorSpec>,
    pub(super) fusion: Fusion,
}

pub(super) fn load(parsed: &mut onnx::Parsed, options: &ModelOptions) -> Result<Loaded, ModelError> {
    let graph = parsed.take_graph();
    if options.engine == Engine::Tract {
        return unfused(parsed, graph, options);
    }
    let source = fused::source(graph, parsed.summary().opset)?;
    let of_engine = options.of_engine();
    let mut refused = HashMap::new();
    for _ in 0..=fused::REFUSALS_MAX {
        let plan = Plan::new(&source, &refused, &of_engine)?;
        if !plan.has_regions() {
            parsed.supported(|_| true, |at| plan.why(at))?;
            let loaded = unfused(parsed, plan.graph(), options)?;
            return Ok(Loaded { fusion: plan.report(), ..loaded });
        }
        let (result, fault) = match whole(parsed, &plan, options) {
            Some(Ok(loaded)) => return Ok(loaded),
            Some(Err(fault)) => (None, Some(fault)),
            None => match inside(parsed, &plan, options) {
                Ok(loaded) => return Ok(loaded),
                Err(error) => (Some(error), plan.take_fault()),
            },
        };
        match fault {
            Some(Fault::Wrong(error)) => return Err(error),
            Some(Fault::Refused { node, reason }) if !refused.contains_key(&node) => {
                refused.insert(node, reason);
            }
            // Operators that nothing here has are no matter of fusion.
            _ => match result {
                Some(error @ ModelError::UnsupportedOperators { .. }) => return Err(error),
                _ => break,
            },
        }
    }
    // The regions did not work out, for whatever reason: a slow model is better than none.
    unfused(parsed, source.graph.clone(), options)
}

/// A TFLite model, which is wholly quantized or none.
pub(super) fn load_tflite(imported: Imported, options: &ModelOptions) -> Result<Loaded, ModelError> {
    let Imported { graph, inputs, outputs, .. } = imported;
    let all = 0..inputs.len();
    let is_float = |place: &usize| graph.inputs[*place].element == Element::F32;
    let edge = |(port, spec): (&Port, &TensorSpec)| fused::Edge {
        element: port.element,
        shape: spec.shape.iter().map(|size| usize::try_from(*size).unwrap_or(0)).collect(),
    };
    let fused = |node: &Node| NodeFusion {
        name: visible(&node.name, 100),
        operator: node.op.name().to_owned(),
        fate: Fate::Fused { region: 0 },
    };
    let fusion = Fusion { nodes: graph.nodes.iter().map(fused).collect(), regions: 1, whole: true };
    let built = Built {
        feeds: all.clone().collect(),
        floats: all.clone().filter(is_float).collect(),
        outputs: graph.outputs.iter().zip(&outputs).map(edge).collect(),
        program: Program::compile_owned(graph, &options.of_engine())?,
    };
    let session = built.program.session();
    let executable = Executable::Whole { session, feeds: all.collect(), yields: (0..outputs.len()).collect(), built };
    Ok(Loaded { executable, inputs, outputs, fusion })
}

fn rejected(e: &tract::TractError) -> ModelError {
    ModelError::Rejected { problem: chain(e) }
}

/// Everything in tract.
fn unfused(parsed: &onnx::Parsed, graph: pb::GraphProto, options: &ModelOptions) -> Result<Loaded, ModelError> {
    parsed.supported(|_| true, |_| None)?;
    let node = |node: &pb::NodeProto| NodeFusion {
        name: visible(fused::label(node), 100),
        operator: visible(&node.op_type, 100),
        fate: Fate::Left { reason: Reason::Off },
    };
    let nodes = graph.node.iter().map(node).collect();
    planned(parsed, parsed.infer(graph)?, options, Fusion { nodes, regions: 0, whole: false })
}

/// Regions inside tract.
fn inside(parsed: &onnx::Parsed, plan: &Arc<Plan>, options: &ModelOptions) -> Result<Loaded, ModelError> {
    parsed.supported(|at| plan.keeps(at), |at| plan.why(at))?;
    planned(parsed, plan.infer(parsed)?, options, plan.report())
}

fn planned(
    parsed: &onnx::Parsed,
    mut model: InferenceModel,
    options: &ModelOptions,
    fusion: Fusion,
) -> Result<Loaded, ModelError> {
    for ix in 0..model.inputs.len() {
        let input = &parsed.inputs[ix];
        let fact = tract::InferenceFact::dt_shape(datum_type(input)?, &shape(input, options)?);
        model.set_input_fact(ix, fact).map_err(|e| rejected(&e))?;
    }
    let model = optimized(model, options.engine).map_err(|e| rejected(&e))?;
    let inputs = specs(&parsed.inputs, (0..model.inputs.len()).map(|ix| model.input_fact(ix)))?;
    let outputs = specs(&parsed.outputs, (0..model.outputs.len()).map(|ix| model.output_fact(ix)))?;
    let executor = match options.threads {
        0 | 1 => Executor::SingleThread,
        n => Executor::multithread_with_name(n, "sedge-model"),
    };
    let run = RunOptions { executor: Some(executor), ..RunOptions::default() };
    let plan: Arc<TypedSimplePlan> = TypedSimplePlan::new_with_options(model, &run).map_err(|e| rejected(&e))?;
    let state = plan.spawn().map_err(|e| rejected(&e))?;
    Ok(Loaded { executable: Executable::Tract { plan, state }, inputs, outputs, fusion })
}

/// As tract optimizes it, with operators of ours where they are faster.
fn optimized(model: InferenceModel, engine: Engine) -> TractResult<tract::TypedModel> {
    if engine == Engine::Tract {
        return model.into_optimized();
    }
    let mut model = model.into_typed()?.into_decluttered()?;
    float::replace(&mut model)?;
    model.optimize()?;
    Ok(model)
}

/// The engine alone, where one region is the whole model.
fn whole(parsed: &onnx::Parsed, plan: &Plan, options: &ModelOptions) -> Option<Result<Loaded, Fault>> {
    let fused::Region { inputs, outputs, .. } = plan.whole()?;
    let place = |ports: &[onnx::Port], name: &str| ports.iter().position(|port| port.name == name);
    let mut feeds = Vec::with_capacity(inputs.len());
    let mut shapes = Vec::with_capacity(inputs.len());
    for (name, element) in inputs {
        let at = place(&parsed.inputs, name)?;
        let port = &parsed.inputs[at];
        if datum_type(port).ok().and_then(element_type) != Some(element_of(*element)) {
            return None;
        }
        match shape(port, options) {
            Ok(shape) => shapes.push(shape),
            Err(error) => return Some(Err(Fault::Wrong(error))),
        }
        feeds.push(at);
    }
    let yields = outputs.iter().map(|(name, _)| place(&parsed.outputs, name)).collect::<Option<Vec<usize>>>()?;
    // tract types the inputs and outputs that the region does not have, or has twice.
    if feeds.len() != parsed.inputs.len() || yields.len() != parsed.outputs.len() {
        return None;
    }
    let built = match plan.build(0, &shapes) {
        Ok(built) => built,
        Err(fault) => return Some(Err(fault)),
    };
    let spec = |port: &onnx::Port, ty, shape: &[usize]| TensorSpec {
        name: port.name.clone(),
        ty,
        shape: shape.iter().map(|d| i32::try_from(*d).unwrap_or(-1)).collect(),
        quantization: port.edge.quantization,
    };
    let find = |places: &[usize], at: usize| places.iter().position(|place| *place == at);
    let input = |(at, port): (usize, &onnx::Port)| {
        let k = find(&feeds, at)?;
        Some(spec(port, element_of(inputs[k].1), &shapes[k]))
    };
    let output = |(at, port): (usize, &onnx::Port)| {
        let edge = &built.outputs[find(&yields, at)?];
        Some(spec(port, element_of(edge.element), &edge.shape))
    };
    let specs_in = parsed.inputs.iter().enumerate().map(input).collect::<Option<Vec<_>>>()?;
    let specs_out = parsed.outputs.iter().enumerate().map(output).collect::<Option<Vec<_>>>()?;
    let session = built.program.session();
    let executable = Executable::Whole { built, session, feeds, yields };
    Some(Ok(Loaded { executable, inputs: specs_in, outputs: specs_out, fusion: plan.report() }))
}

fn shape(port: &onnx::Port, options: &ModelOptions) -> Result<Vec<usize>, ModelError> {
    let given = options.shapes.iter().find(|(name, _)| *name == port.name).map(|(_, shape)| shape);
    port.concrete_shape(given)
}

pub(super) const fn element_of(element: Element) -> ElementType {
    match element {
        Element::U8 => ElementType::Uint8,
        Element::I8 => ElementType::Int8,
        Element::F32 => ElementType::Float32,
    }
}

fn specs<'a>(
    declared: &[onnx::Port],
    facts: impl Iterator<Item = TractResult<&'a tract::TypedFact>>,
) -> Result<Vec<TensorSpec>, ModelError> {
    let one = |(port, fact): (&onnx::Port, TractResult<&tract::TypedFact>)| {
        let fact = fact.map_err(|e| rejected(&e))?;
        let ty = element_type(fact.datum_type).ok_or_else(|| ModelError::UnsupportedType {
            tensor: port.name.clone(),
            ty: format!("{:?}", fact.datum_type),
        })?;
        let shape =
            fact.shape.iter().map(|d| d.to_i64().ok().and_then(|d| i32::try_from(d).ok()).unwrap_or(-1)).collect();
        Ok(TensorSpec { name: port.name.clone(), ty, shape, quantization: port.edge.quantization })
    };
    declared.iter().zip(facts).map(one).collect()
}

impl Executable {
    /// Runs on inputs that fit, in the model's order, and writes the outputs over those in `outputs`.
    pub(super) fn run(
        &mut self,
        specs: &[TensorSpec],
        inputs: &[&TensorView<'_>],
        outputs: &mut [Tensor],
    ) -> Result<(), ModelError> {
        match self {
            Self::Tract { state, .. } => {
                let given = specs.iter().zip(inputs).map(|(spec, view)| value(spec, view));
                let values = given.collect::<Result<TVec<TValue>, _>>()?;
                let results = state.run(values).map_err(|e| ModelError::Run { problem: chain(&e) })?;
                for (output, value) in outputs.iter_mut().zip(&results) {
                    output.shape.clear();
                    output.shape.extend(value.shape().iter().map(|d| *d as u32));
                    output.data.clear();
                    output.data.extend_from_slice(value.as_bytes());
                }
                Ok(())
            }
            Self::Whole { built, session, feeds, yields } => {
                for (edge, place) in built.outputs.iter().zip(yields.iter()) {
                    let output = &mut outputs[*place];
                    let bytes = element_of(edge.element).size_bytes();
                    output.data.resize(edge.shape.iter().product::<usize>() * bytes, 0);
                    output.shape.clear();
                    output.shape.extend(edge.shape.iter().map(|d| *d as u32));
                }
                let bytes: TVec<&[u8]> = feeds.iter().map(|at| inputs[*at].data).collect();
                let mut slots: TVec<Option<&mut [u8]>> =
                    outputs.iter_mut().map(|output| Some(output.data.as_mut_slice())).collect();
                // Each output has one place.
                let mut places: TVec<&mut [u8]> = yields.iter().filter_map(|at| slots[*at].take()).collect();
                fused::run(built, session, &bytes, &mut places).map_err(|problem| ModelError::Run { problem })
            }
        }
    }

    /// Forgets what a run that panicked left behind.
    pub(super) fn renew(&mut self) -> Result<(), ModelError> {
        match self {
            Self::Tract { plan, state } => {
                *state = plan.spawn().map_err(|e| ModelError::Run { problem: chain(&e) })?;
            }
            Self::Whole { built, session, .. } => *session = built.program.session(),
        }
        Ok(())
    }
}
