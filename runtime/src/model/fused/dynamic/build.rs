//! Layers of the file as layers of the engine. Here sizes are known.

use super::super::constant::{Constant, Elements};
use super::super::import::{Edge, Fault, Weights, window};
use super::super::operand::channels_last;
use super::super::report::Reason;
use super::super::source::{INT8, Parameters, Source, UINT8, integer, label};
use super::{Group, Layer, convolves};
use crate::model::ModelError;
use sedge_engine::{
    CompileError, Dims, Dynamic, DynamicLayer, DynamicProgram, DynamicSession, Element, Options, Pads, Port, Window,
};
use tract_onnx::pb::NodeProto;

const POINT: Window =
    Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pads: Pads { top: 0, left: 0, bottom: 0, right: 0 } };

/// A group that is ready to run.
#[derive(Debug)]
pub(in super::super) struct Built {
    program: DynamicProgram,
    pub(in super::super) outputs: Vec<Edge>,
}

impl Built {
    pub(in super::super) fn session(&self) -> DynamicSession {
        self.program.session()
    }

    pub(in super::super) fn run(
        &self,
        session: &mut DynamicSession,
        input: &[f32],
        outputs: &mut [&mut [f32]],
    ) -> Result<(), String> {
        self.program.run(session, input, outputs).map_err(|e| e.to_string())
    }
}

/// A constant, also one that is only given other sizes.
fn constant(source: &Source, name: &str, reader: &NodeProto) -> Result<Option<Constant>, ModelError> {
    if let Some(constant) = source.constant(name, reader)? {
        return Ok(Some(constant));
    }
    let Some((at, _)) = source.producer(name) else { return Ok(None) };
    let node = source.node(at);
    if node.op_type != "Reshape" {
        return Ok(None);
    }
    let Some(stored) = node.input.first().map(|name| source.constant(name, node)).transpose()?.flatten() else {
        return Ok(None);
    };
    let Some(given) = source.integers(node, 1)? else { return Ok(None) };
    let sizes = given.iter().filter(|size| **size > 0);
    let Some(known) = sizes.copied().try_fold(1_i64, i64::checked_mul) else { return Ok(None) };
    let count = stored.len() as i64;
    let open = given.iter().filter(|size| **size == -1).count();
    if given.iter().any(|size| *size == 0 || *size < -1)
        || open > 1
        || count % known != 0
        || (open == 0 && count != known)
    {
        return Ok(None);
    }
    let dims = given.iter().map(|size| if *size == -1 { count / known } else { *size } as usize).collect();
    Ok(Some(Constant { dims, ..stored }))
}

/// Whether a tensor of these sizes has one value for each of the channels, or one for all. The axis of channels has
/// `behind` others behind it.
fn along_channels(dims: &[usize], channels: usize, behind: usize) -> bool {
    dims.iter().rev().enumerate().all(|(place, size)| *size == 1 || (place == behind && *size == channels))
}

/// Whether what is added to a layer's result is a bias.
pub(super) fn is_bias(source: &Source, name: &str, node: &NodeProto, weights: &str) -> bool {
    let Some(dims) = source.stored(weights).map(|stored| &stored.dims) else { return false };
    let (axis, behind) = if convolves(node) { (0, dims.len().saturating_sub(2)) } else { (1, 0) };
    let channels = dims.get(axis).and_then(|size| usize::try_from(*size).ok());
    let Ok(Some(bias)) = constant(source, name, node) else { return false };
    bias.floats().is_some() && channels.is_some_and(|channels| along_channels(&bias.dims, channels, behind))
}

fn refuse<T>(node: usize, reason: Reason) -> Result<T, Fault> {
    Err(Fault::Refused { node, reason })
}

/// Builds a group for an input of this shape.
pub(in super::super) fn build(
    source: &Source,
    group: &Group,
    shape: &[usize],
    options: &Options,
) -> Result<Built, Fault> {
    let first = group.region.steps[0];
    let conv = convolves(source.node(first));
    let (input, order) = match *shape {
        [n, c, h, w] if conv => (Dims::new(n, h, w, c), Port::CHANNELS_FIRST),
        [n, c, w] if conv => (Dims::new(n, 1, w, c), Port::CHANNELS_FIRST),
        [ref before @ .., depth] if !conv => {
            let rows = before.iter().try_fold(1_usize, |rows, size| rows.checked_mul(*size));
            let Some(rows) = rows else { return refuse(first, Reason::Sizes(format!("{shape:?}"))) };
            (Dims::new(1, 1, rows, depth), Port::CHANNELS_LAST)
        }
        _ => return refuse(first, Reason::Sizes(format!("{shape:?}"))),
    };
    let mut layers = Vec::with_capacity(group.layers.len());
    for layer in &group.layers {
        layers.push(layer.read(source, input, shape.len())?);
    }
    let name = label(source.node(first)).to_owned();
    let program = DynamicProgram::compile(&Dynamic { name, input, order, layers }, options).map_err(|e| match e {
        CompileError::Graph(error) => {
            let at = group.region.steps.iter().find(|at| label(source.node(**at)) == error.node);
            Fault::Refused { node: at.copied().unwrap_or(first), reason: Reason::Sizes(error.problem.to_string()) }
        }
        other => Fault::Wrong(ModelError::Engine(other)),
    })?;
    let edge = |dims: Dims| {
        let shape = match (conv, shape.len()) {
            (true, 3) => vec![dims.n, dims.c, dims.w],
            (true, _) => vec![dims.n, dims.c, dims.h, dims.w],
            (false, rank) => shape[..rank - 1].iter().copied().chain([dims.c]).collect(),
        };
        Edge { element: Element::F32, shape }
    };
    Ok(Built { outputs: program.outputs().map(edge).collect(), program })
}

impl Layer {
    fn read(&self, source: &Source, input: Dims, rank: usize) -> Result<DynamicLayer, Fault> {
        let node = source.node(self.at);
        let conv = convolves(node);
        let Some(stored) = source.constant(&self.weights, node)? else {
            return refuse(self.at, Reason::VaryingWeights);
        };
        let (dims, axis) = (stored.dims.clone(), usize::from(!conv));
        if dims.len() != if conv { rank } else { 2 } {
            return refuse(self.at, Reason::Sizes(format!("weights {dims:?}")));
        }
        let channels = dims[axis];
        let floats = |name: &str| -> Result<Option<Vec<f32>>, Fault> {
            let Some(constant) = constant(source, name, node)? else { return Ok(None) };
            let behind = if conv { rank - 2 } else { 0 };
            // With more axes it would give its own to the result.
            let fits = constant.dims.len() <= rank && along_channels(&constant.dims, channels, behind);
            Ok(constant.floats().filter(|_| fits).map(<[f32]>::to_vec))
        };
        let Some(scales) = floats(&self.scale)? else { return refuse(self.at, Reason::VaryingScale) };
        let bias = match &self.bias {
            None => vec![],
            Some(name) => match floats(name)? {
                Some(one) if one.len() == 1 => vec![one[0]; channels],
                Some(each) => each,
                None => return refuse(self.at, Reason::VaryingInput("bias")),
            },
        };
        let (zero_points, ty) = match &self.zero_point {
            None => (vec![0], UINT8),
            Some(name) => match source.constant(name, node)?.map(|constant| constant.elements) {
                Some(Elements::U8(all)) => (all.into_iter().map(i32::from).collect(), UINT8),
                Some(Elements::I8(all)) => (all.into_iter().map(i32::from).collect(), INT8),
                _ => return refuse(self.at, Reason::OtherType),
            },
        };
        if zero_points.len() != 1 && zero_points.len() != channels {
            return refuse(self.at, Reason::Sizes(format!("{} zero points of weights", zero_points.len())));
        }
        let parameters = Parameters { scales: scales.clone(), zero_points, ty, axis: axis as i64 };
        let Some(weights) = Weights::with(node, stored, parameters, self.zero_point.is_none())? else {
            return refuse(self.at, Reason::OtherType);
        };
        let order = if conv { channels_last(rank) } else { vec![1, 0] };
        let found = weights.transposed(&order).and_then(|weights| weights.as_int8());
        let Some((weights, weight_zero_points)) = found else {
            return refuse(self.at, Reason::WeightZeroPoint);
        };
        let (window, groups) = if conv {
            let kernel = if rank == 3 { [1, dims[2]] } else { [dims[2], dims[3]] };
            let groups = usize::try_from(integer(node, "group", 1)).unwrap_or(0);
            if groups == 0 || dims[1].checked_mul(groups) != Some(input.c) {
                let sizes = format!("{} channels in groups of {}", input.c, dims[1]);
                return refuse(self.at, Reason::Sizes(sizes));
            }
            (window(source, self.at, input, rank, Some(kernel))?, groups)
        } else {
            (POINT, 1)
        };
        let name = label(node).to_owned();
        Ok(DynamicLayer { name, channels, window, groups, weights, weight_zero_points, scales, bias })
    }
}
