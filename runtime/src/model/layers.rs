//! Where the time of a run goes: each operator of the regions by itself, and each of tract's.
//!
//! Times are the shortest of many, since everything that disturbs a run makes it longer. Operators of tract are timed from
//! outside; those of a region by [`sedge_engine::Program::profile`], besides the run.

use super::executable::Executable;
use super::fused::{self, Built, ProfiledRegion};
use super::{Model, ModelError, chain, guarded, value};
use sedge_engine::{Session, Timing};
use sedge_processor_sdk::{Tensor, TensorSpec, TensorView};
use sedge_protocol::text::visible;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tract_onnx::prelude::{TValue, TVec, TypedModel};
use tract_onnx::tract_core::internal::{Cost, TractResult};

/// Fewer runs tell little.
const RUNS_MIN: usize = 3;

/// What each operator of a model took.
#[derive(Debug, Clone)]
pub struct Layers {
    /// In the order in which they run.
    pub layers: Vec<Layer>,
    /// The shortest whole run; what the layers leave of it goes into calling them and into tract's tensors.
    pub whole: Duration,
    /// Instruction set of the regions; none where there is no region.
    pub isa: Option<&'static str>,
}

/// One operator.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Layer {
    /// Its name, or that of what it yields.
    pub name: String,
    /// What it does.
    pub operator: String,
    /// The region that it is part of; none for what tract runs.
    pub region: Option<usize>,
    /// The shape of what it yields: channels last in a region, in tract as it lies there. Empty where nothing is yielded.
    pub shape: Vec<usize>,
    /// Products that it sums up in one run, as far as they are known.
    pub products: u64,
    /// The shortest of the measured times.
    #[serde(skip)]
    pub time: Duration,
}

/// What this core's multipliers could do, in products per second; none where that is not known.
#[derive(Debug, Clone, Copy)]
pub struct Peaks {
    /// Of bytes, with the instruction set of the regions.
    pub bytes: Option<f64>,
    /// Of 32-bit floats, with the widest registers.
    pub floats: Option<f64>,
}

impl Layers {
    /// Measures what the core could do at best. Takes some milliseconds.
    pub fn peaks(&self) -> Peaks {
        Peaks { bytes: self.isa.and_then(sedge_engine::peak), floats: sedge_engine::peak_f32() }
    }
}

impl Model {
    /// Runs for so long and tells what each operator takes on one thread.
    ///
    /// # Errors
    /// As of [`Model::run`].
    pub fn layers(&mut self, inputs: &[TensorView<'_>], time: Duration) -> Result<Layers, ModelError> {
        let mut outputs = Vec::new();
        // Checks the inputs, and warms everything up.
        self.run_into(inputs, &mut outputs)?;
        let given: Vec<_> =
            self.inputs.iter().filter_map(|spec| inputs.iter().find(|view| view.name == spec.name)).collect();
        let (executable, specs) = (&mut self.executable, &self.inputs);
        let result = guarded(|| executable.layers(specs, &given, &mut outputs, time));
        if result.is_err() {
            self.executable.renew()?;
        }
        result
    }
}

impl Executable {
    fn layers(
        &mut self,
        specs: &[TensorSpec],
        inputs: &[&TensorView<'_>],
        outputs: &mut [Tensor],
        time: Duration,
    ) -> Result<Layers, ModelError> {
        let mut profile = Profile::default();
        let mut whole = Duration::MAX;
        let begin = Instant::now();
        let mut runs = 0;
        while runs < RUNS_MIN || begin.elapsed() < time {
            let at = Instant::now();
            self.run(specs, inputs, outputs)?;
            whole = whole.min(at.elapsed());
            self.profile(specs, inputs, &mut profile)?;
            runs += 1;
        }
        let mut layers = Vec::new();
        for measured in profile.nodes.into_values() {
            match measured {
                Measured::Node(layer) => layers.push(layer),
                Measured::Region { number, timings } => layers.extend(timings.iter().map(|t| of_region(number, t))),
            }
        }
        Ok(Layers { layers, whole, isa: profile.isa })
    }

    fn profile(
        &mut self,
        specs: &[TensorSpec],
        inputs: &[&TensorView<'_>],
        profile: &mut Profile,
    ) -> Result<(), ModelError> {
        let run = |problem| ModelError::Run { problem };
        match self {
            Self::Whole { built, session, feeds, .. } => {
                let bytes: Vec<&[u8]> = feeds.iter().map(|at| inputs[*at].data).collect();
                profile.region((0, 0), built, session, &bytes).map_err(run)
            }
            Self::Tract { plan, state } => {
                let given = specs.iter().zip(inputs).map(|(spec, view)| value(spec, view));
                let values = given.collect::<Result<TVec<TValue>, _>>()?;
                let mut order = 0;
                let model = plan.model();
                let evaluated = state.run_plan_with_eval(values, |context, mut state, node, inputs| {
                    order += 1;
                    if let Some(ProfiledRegion { number, built, session }) =
                        state.as_mut().and_then(|state| fused::profiled(&mut **state))
                    {
                        let bytes: Vec<&[u8]> = inputs.iter().map(|value| value.as_bytes()).collect();
                        profile.region((order, number), built, session, &bytes).map_err(tract_error)?;
                        return tract_core::plan::eval(context, state, node, inputs);
                    }
                    let at = Instant::now();
                    let results = tract_core::plan::eval(context, state, node, inputs);
                    profile.node(order, at.elapsed(), || of_tract(model, node.id));
                    results
                });
                evaluated.map(|_| ()).map_err(|e| run(chain(&e)))
            }
        }
    }
}

fn tract_error(problem: String) -> tract_onnx::prelude::TractError {
    tract_onnx::tract_core::internal::anyhow!(problem)
}

/// What has been measured so far, in the order of the run.
#[derive(Default)]
struct Profile {
    nodes: BTreeMap<usize, Measured>,
    isa: Option<&'static str>,
}

enum Measured {
    Node(Layer),
    Region { number: usize, timings: Vec<Timing> },
}

impl Profile {
    fn node(&mut self, order: usize, took: Duration, layer: impl FnOnce() -> Layer) {
        let entry = self.nodes.entry(order).or_insert_with(|| Measured::Node(layer()));
        if let Measured::Node(layer) = entry {
            layer.time = layer.time.min(took);
        }
    }

    fn region(
        &mut self,
        (order, number): (usize, usize),
        built: &Built,
        session: &mut Session,
        inputs: &[&[u8]],
    ) -> Result<(), String> {
        let fed: Vec<&[u8]> = built.feeds.iter().map(|feed| inputs[*feed]).collect();
        let new = built.program.profile(session, &fed, 1).map_err(|e| e.to_string())?;
        self.isa = Some(built.program.isa());
        match self.nodes.get_mut(&order) {
            Some(Measured::Region { timings, .. }) => {
                timings.iter_mut().zip(&new).for_each(|(best, new)| best.time = best.time.min(new.time));
            }
            _ => {
                self.nodes.insert(order, Measured::Region { number, timings: new });
            }
        }
        Ok(())
    }
}

fn of_region(number: usize, timing: &Timing) -> Layer {
    Layer {
        name: visible(&timing.name, 100),
        operator: timing.kind.to_owned(),
        region: Some(number),
        shape: timing.output.map_or(Vec::new(), |dims| dims.array().to_vec()),
        products: timing.products,
        time: timing.time,
    }
}

fn of_tract(model: &TypedModel, id: usize) -> Layer {
    let node = model.node(id);
    let fact = node.outputs.first().and_then(|output| output.fact.shape.as_concrete());
    let products = || -> TractResult<u64> {
        let (inputs, _) = model.node_facts(id)?;
        let costs = node.op.cost(&inputs)?;
        let multiply = costs.iter().filter(|(cost, _)| matches!(cost, Cost::FMA(_)));
        multiply.map(|(_, count)| Ok(u64::try_from(count.to_i64()?)?)).sum()
    };
    Layer {
        name: visible(&node.name, 100),
        operator: node.op.name().into_owned(),
        region: None,
        shape: fact.map_or(Vec::new(), <[usize]>::to_vec),
        products: if sums_products(&node.op.name()) { products().unwrap_or(0) } else { 0 },
        time: Duration::MAX,
    }
}

/// Whether an operator of tract is one of those whose time goes into products. Others tell of a cost as well.
fn sums_products(operator: &str) -> bool {
    ["MatMul", "EinSum", "Conv", "Depthwise"].iter().any(|kind| operator.contains(kind))
}
