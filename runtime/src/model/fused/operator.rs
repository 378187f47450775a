//! A region, or a group of dynamically quantized layers, as an operator of tract.

use super::dynamic;
use super::import::{Built, Edge, Fault};
use super::region::Region;
use super::report::Reason;
use super::{Plan, run};
use sedge_engine::{DynamicSession, Element, Session};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::rules::{InferenceResult, Solver, TensorProxy};
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};
use tract_onnx::tract_hir::prelude::InferenceModel;

/// What stands in the file's graph instead of the region.
pub(super) fn name(number: usize) -> String {
    format!("sedge-region-{number}")
}

pub(super) fn datum_type(element: Element) -> DatumType {
    match element {
        Element::U8 => u8::datum_type(),
        Element::I8 => i8::datum_type(),
        Element::F32 => f32::datum_type(),
    }
}

/// Puts the operators in the place of the nodes that stand for them.
pub(super) fn place(model: &mut InferenceModel, plan: &Arc<Plan>) {
    for number in 0..plan.division.operators().count() {
        let stands = name(number);
        if let Some(node) = model.nodes_mut().iter_mut().find(|node| node.name == stands) {
            node.op = expand(Planned { plan: plan.clone(), number, built: Arc::default() });
        }
    }
}

/// A region before sizes are known.
#[derive(Clone)]
struct Planned {
    plan: Arc<Plan>,
    number: usize,
    /// The last one built, with the sizes it is for.
    #[allow(clippy::type_complexity)]
    built: Arc<Mutex<Option<(Vec<Vec<usize>>, Ready)>>>,
}

/// What is ready to run.
#[derive(Debug, Clone)]
pub(super) enum Ready {
    Region(Arc<Built>),
    Dynamic(Arc<dynamic::Built>),
}

/// Its memory.
#[derive(Debug)]
enum Memory {
    Region(Session),
    Dynamic(DynamicSession),
}

impl Ready {
    fn outputs(&self) -> &[Edge] {
        match self {
            Self::Region(built) => &built.outputs,
            Self::Dynamic(built) => &built.outputs,
        }
    }

    fn memory(&self) -> Memory {
        match self {
            Self::Region(built) => Memory::Region(built.program.session()),
            Self::Dynamic(built) => Memory::Dynamic(built.session()),
        }
    }
}

impl fmt::Debug for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&name(self.number))
    }
}

impl Planned {
    fn region(&self) -> TractResult<&Region> {
        self.plan.division.operators().nth(self.number).with_context(|| format!("no {}", name(self.number)))
    }

    fn build(&self, shapes: Vec<Vec<usize>>) -> TractResult<Ready> {
        let mut last = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, built)) = &*last
            && *of == shapes
        {
            return Ok(built.clone());
        }
        match self.plan.ready(self.number, &shapes) {
            Ok(built) => {
                *last = Some((shapes, built.clone()));
                Ok(built)
            }
            Err(fault) => {
                let text = format!("{} cannot be built: {fault:?}", name(self.number));
                self.plan.note(fault);
                bail!(text)
            }
        }
    }

    fn sizes<'a>(&self, shapes: impl Iterator<Item = &'a [TDim]>) -> TractResult<Vec<Vec<usize>>> {
        let known = |shape: &[TDim]| shape.iter().map(|d| d.to_usize().ok()).collect::<Option<Vec<usize>>>();
        let Some(shapes) = shapes.map(known).collect() else {
            let node = self.region()?.steps[0];
            self.plan.note(Fault::Refused { node, reason: Reason::Sizes("they are open".to_owned()) });
            bail!("sizes of {} are open", name(self.number));
        };
        Ok(shapes)
    }
}

impl Expansion for Planned {
    fn name(&self) -> StaticName {
        "SedgeRegion".into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.region()?.outputs.len())
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        let region = self.region()?;
        ensure!(
            inputs.len() == region.inputs.len() && outputs.len() == region.outputs.len(),
            "wrong number of tensors"
        );
        for ((_, element), input) in region.inputs.iter().zip(inputs) {
            solver.equals(&input.datum_type, datum_type(*element))?;
        }
        for ((_, element), output) in region.outputs.iter().zip(outputs) {
            solver.equals(&output.datum_type, datum_type(*element))?;
        }
        solver.given_all(inputs.iter().map(|input| &input.shape), move |solver, shapes: Vec<TVec<TDim>>| {
            let built = self.build(self.sizes(shapes.iter().map(|shape| &**shape))?)?;
            for (edge, output) in built.outputs().iter().zip(outputs) {
                let shape: TVec<TDim> = edge.shape.iter().map(|d| d.to_dim()).collect();
                solver.equals(&output.shape, shape)?;
            }
            Ok(())
        })
    }

    fn wire(&self, prefix: &str, target: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let facts = inputs.iter().map(|input| target.outlet_fact(*input)).collect::<TractResult<Vec<_>>>()?;
        let shapes = self.sizes(facts.iter().map(|fact| fact.shape.dims()))?;
        let built = self.build(shapes)?;
        target.wire_node(prefix, Fused { number: self.number, built }, inputs)
    }
}

/// An operator that is ready to run.
#[derive(Debug, Clone)]
struct Fused {
    number: usize,
    built: Ready,
}

impl PartialEq for Fused {
    fn eq(&self, other: &Self) -> bool {
        match (&self.built, &other.built) {
            (Ready::Region(one), Ready::Region(two)) => Arc::ptr_eq(one, two),
            (Ready::Dynamic(one), Ready::Dynamic(two)) => Arc::ptr_eq(one, two),
            _ => false,
        }
    }
}

impl Eq for Fused {}

impl Op for Fused {
    fn name(&self) -> StaticName {
        "SedgeFused".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Fused {
    not_out_of_plan!();

    fn state(&self, _context: &EvalContext<'_>) -> TractResult<Option<Box<dyn OpState>>> {
        let (memory, built) = (self.built.memory(), self.built.clone());
        Ok(Some(Box::new(State { number: self.number, memory, built })))
    }
}

impl TypedOp for Fused {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(self.built.outputs().iter().map(|edge| datum_type(edge.element).fact(&*edge.shape)).collect())
    }

    as_op!();
}

/// The memory of an operator.
#[derive(Debug)]
struct State {
    number: usize,
    built: Ready,
    memory: Memory,
}

impl Clone for State {
    fn clone(&self) -> Self {
        Self { number: self.number, memory: self.built.memory(), built: self.built.clone() }
    }
}

impl OpState for State {
    fn eval(&mut self, _context: &EvalContext<'_>, _op: &dyn Op, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let outputs = self.built.outputs().iter();
        // SAFETY: every element is written by the run below, or the tensors are dropped unread; both are plain numbers.
        let fresh = outputs.map(|edge| unsafe { Tensor::uninitialized_dt(datum_type(edge.element), &edge.shape) });
        let mut outputs = fresh.collect::<TractResult<TVec<Tensor>>>()?;
        let result = match (&self.built, &mut self.memory) {
            (Ready::Region(built), Memory::Region(session)) => {
                let bytes: TVec<&[u8]> = inputs.iter().map(|value| value.as_bytes()).collect();
                let mut places: TVec<&mut [u8]> = outputs.iter_mut().map(Tensor::as_bytes_mut).collect();
                run(built, session, &bytes, &mut places)
            }
            (Ready::Dynamic(built), Memory::Dynamic(session)) => {
                let input = inputs.first().context("no input")?.try_as_plain_ram()?;
                let views = outputs.iter_mut().map(Tensor::try_as_plain_ram_mut);
                let mut views = views.collect::<TractResult<TVec<_>>>()?;
                let places = views.iter_mut().map(|view| view.as_slice_mut::<f32>());
                let mut places = places.collect::<TractResult<TVec<&mut [f32]>>>()?;
                built.run(session, input.as_slice::<f32>()?, &mut places)
            }
            _ => Err("the memory is another operator's".to_owned()),
        };
        result.map_err(|problem| anyhow!(problem))?;
        Ok(outputs.into_iter().map(IntoTValue::into_tvalue).collect())
    }

    fn reset_lanes(&mut self, _lanes: &[LaneId]) -> TractResult<()> {
        // Nothing outlives a run.
        Ok(())
    }
}

/// What a region is profiled with.
pub(in crate::model) struct ProfiledRegion<'a> {
    pub(in crate::model) number: usize,
    pub(in crate::model) built: &'a Built,
    pub(in crate::model) session: &'a mut Session,
}

/// The region that an operator's memory belongs to.
pub(in crate::model) fn profiled(state: &mut dyn OpState) -> Option<ProfiledRegion<'_>> {
    match state.downcast_mut()? {
        State { number, built: Ready::Region(built), memory: Memory::Region(session) } => {
            Some(ProfiledRegion { number: *number, built, session })
        }
        _ => None,
    }
}
