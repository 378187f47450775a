//! Where tensors lie: each in one place of an arena, with room around its pictures for the padding that its readers want.
//!
//! A window that reaches over the edge then reads bytes like any other, and no kernel knows of borders. The room holds the
//! zero point; it is written again before each use, since other tensors may have lain there.

use crate::check::{ARENA_BYTES_MAX, GraphError, Problem, TENSOR_BYTES_MAX, fault};
use crate::graph::{Dims, Graph, Node, Op, Pads, Value, ValueId};
use crate::isa::SLACK_BYTES;

/// Places begin at multiples of this: a cache line.
const ALIGN_BYTES: usize = 64;

/// A tensor's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Of the first pixel, inside of the padding.
    pub(crate) offset: usize,
    /// Bytes from one row to the next, and from one picture to the next.
    pub(crate) row: usize,
    pub(crate) picture: usize,
    pub(crate) dims: Dims,
    pub(crate) pads: Pads,
}

impl Place {
    /// None where that is more than a tensor may have.
    pub(crate) fn new(dims: Dims, pads: Pads) -> Option<Self> {
        let along = |size: usize, before: usize, after: usize| size.checked_add(before)?.checked_add(after);
        let row = along(dims.w, pads.left, pads.right)?.checked_mul(dims.c)?;
        let picture = along(dims.h, pads.top, pads.bottom)?.checked_mul(row)?;
        let all = picture.checked_mul(dims.n).filter(|all| *all <= TENSOR_BYTES_MAX);
        all.map(|_| Self { offset: pads.top * row + pads.left * dims.c, row, picture, dims, pads })
    }

    /// Bytes with the padding of all pictures.
    pub(crate) fn bytes(&self) -> usize {
        self.dims.n * self.picture
    }

    /// First byte of everything.
    pub(crate) fn start(&self) -> usize {
        self.offset - (self.pads.top * self.row + self.pads.left * self.dims.c)
    }

    /// Where a pixel begins.
    pub(crate) fn pixel(&self, n: usize, y: usize, x: usize) -> usize {
        self.offset + n * self.picture + y * self.row + x * self.dims.c
    }

    /// Whether rows follow each other without a gap.
    pub(crate) fn is_dense(&self) -> bool {
        self.pads == Pads::default()
    }

    /// The stretches of neighbouring bytes that hold it: how many, and how long each is.
    pub(crate) fn stretches(&self) -> (usize, usize) {
        let Dims { n, h, w, c } = self.dims;
        if self.is_dense() { (1, n * h * w * c) } else { (n * h, w * c) }
    }

    /// Where such a stretch begins.
    pub(crate) fn stretch(&self, index: usize) -> usize {
        if self.is_dense() { self.offset } else { self.pixel(index / self.dims.h, index % self.dims.h, 0) }
    }
}

/// Places of all tensors, and the arena's size.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) places: Vec<Place>,
    pub(crate) bytes: usize,
}

/// The padding that each tensor's readers want, at most.
fn wanted(graph: &Graph) -> Vec<Pads> {
    let mut pads = vec![Pads::default(); graph.values.len()];
    for node in &graph.nodes {
        if let Op::Conv(conv) = &node.op {
            let (of, wants) = (&mut pads[node.inputs[0].0], conv.window.pads);
            of.top = of.top.max(wants.top);
            of.left = of.left.max(wants.left);
            of.bottom = of.bottom.max(wants.bottom);
            of.right = of.right.max(wants.right);
        }
    }
    pads
}

/// The tensor that a node's output can share the bytes of.
fn shares(node: &Node) -> Option<ValueId> {
    matches!(node.op, Op::Reshape).then(|| node.inputs[0])
}

impl Plan {
    /// Gives each tensor its place: the largest first, each at the lowest place that no tensor has which is needed at the
    /// same time.
    ///
    /// # Errors
    /// When there is more than [`TENSOR_BYTES_MAX`] or [`ARENA_BYTES_MAX`] of it.
    pub(crate) fn new(graph: &Graph) -> Result<Self, GraphError> {
        let count = graph.values.len();
        let pads = wanted(graph);
        // Tensors that share bytes, by the first of them.
        let mut owner: Vec<usize> = (0..count).collect();
        for node in &graph.nodes {
            let out = node.output.0;
            if let Some(from) = shares(node)
                && pads[out] == Pads::default()
                && graph.values[from.0].constant.is_none()
            {
                let root = owner[from.0];
                let padded = |(value, of): (usize, &usize)| *of == root && pads[value] != Pads::default();
                if !owner.iter().enumerate().any(padded) {
                    owner[out] = root;
                }
            }
        }
        let lives = lives(graph, &owner);
        let place = |(value, pads): (&Value, &Pads)| {
            let too_large = || fault(&value.name, Problem::Size(value.dims));
            Place::new(value.dims, *pads).ok_or_else(too_large)
        };
        let mut places: Vec<Place> = graph.values.iter().zip(&pads).map(place).collect::<Result<_, _>>()?;
        let mut order: Vec<usize> = (0..count).filter(|&value| owner[value] == value).collect();
        order.sort_by_key(|&value| (std::cmp::Reverse(places[value].bytes()), value));
        let mut taken: Vec<(usize, usize, usize)> = Vec::new();
        let mut bytes = 0;
        for value in order {
            let size = places[value].bytes().next_multiple_of(ALIGN_BYTES);
            let (begin, end) = lives[value];
            let mut busy: Vec<(usize, usize)> = taken
                .iter()
                .filter(|(of, _, _)| lives[*of].0 <= end && begin <= lives[*of].1)
                .map(|(_, from, to)| (*from, *to))
                .collect();
            busy.sort_unstable();
            let mut start = 0;
            for (from, to) in busy {
                if start + size <= from {
                    break;
                }
                start = start.max(to);
            }
            taken.push((value, start, start + size));
            places[value].offset += start;
            bytes = bytes.max(start + size);
            if bytes > ARENA_BYTES_MAX {
                return Err(fault(&graph.values[value].name, Problem::Arena));
            }
        }
        for value in 0..count {
            if owner[value] != value {
                places[value].offset = places[owner[value]].offset;
            }
        }
        Ok(Self { places, bytes: bytes + SLACK_BYTES })
    }
}

/// From which step to which each tensor is needed. Inputs and constants are there before the first; outputs and constants
/// stay.
fn lives(graph: &Graph, owner: &[usize]) -> Vec<(usize, usize)> {
    let mut lives = vec![(usize::MAX, 0); graph.values.len()];
    let mut use_at = |value: ValueId, step: usize| {
        let of = &mut lives[owner[value.0]];
        *of = (of.0.min(step), of.1.max(step));
    };
    for (value, of) in graph.values.iter().enumerate() {
        if of.constant.is_some() {
            use_at(ValueId(value), 0);
            use_at(ValueId(value), usize::MAX);
        }
    }
    graph.inputs.iter().for_each(|port| use_at(port.value, 0));
    for (step, node) in graph.nodes.iter().enumerate() {
        node.inputs.iter().for_each(|input| use_at(*input, step + 1));
        use_at(node.output, step + 1);
    }
    graph.outputs.iter().for_each(|port| use_at(port.value, usize::MAX));
    lives
}
