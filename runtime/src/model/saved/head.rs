//! What is said at the beginning of a saved model: what it was made from and for, and all of it but its program.

use super::importer::IMPORTER;
use super::{FORMAT, SavedModelError};
use crate::model::executable::element_of;
use crate::model::{ModelOptions, Summary};
use sedge_engine::{Element, Program};
use sedge_processor_sdk::{ElementType, Quantization, TensorSpec};
use sedge_protocol::Sha256Digest;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// All that decides whether a saved model is of use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// Digest of the model's file.
    pub(super) model: [u8; 32],
    /// Sizes that were asked for.
    pub(super) shapes: Vec<(String, Vec<i32>)>,
    /// Builds of this crate and of the engine.
    pub(super) runtime: String,
    pub(super) engine: String,
    pub(super) isa: String,
}

impl Origin {
    pub(super) fn of(model: Sha256Digest, shapes: &[(String, Vec<i32>)], isa: String) -> Self {
        Self {
            model: *model.as_bytes(),
            shapes: shapes.to_vec(),
            runtime: format!("{} {FORMAT} {IMPORTER:016x}", env!("CARGO_PKG_VERSION")),
            engine: sedge_engine::build(),
            isa,
        }
    }

    pub(super) fn wanted(model: Sha256Digest, options: &ModelOptions) -> Self {
        let best = || sedge_engine::isas().first().map_or("none", |isa| isa).to_owned();
        Self::of(model, &options.shapes, options.of_engine().isa.unwrap_or_else(best))
    }

    /// What differs first.
    pub(super) fn holds(&self, wanted: &Self) -> Result<(), SavedModelError> {
        let stale = |what, found, expected| Err(SavedModelError::Stale { what, found, expected });
        if self.model != wanted.model {
            let hex = |digest| Sha256Digest::from(digest).to_string();
            return stale("the file", hex(self.model), hex(wanted.model));
        }
        if self.shapes != wanted.shapes {
            let text = |shapes: &[(String, Vec<i32>)]| {
                let one = |(name, shape): &(String, Vec<i32>)| format!("{name} {shape:?}");
                let all: Vec<String> = shapes.iter().map(one).collect();
                if all.is_empty() { "as in the file".to_owned() } else { all.join(", ") }
            };
            return stale("inputs", text(&self.shapes), text(&wanted.shapes));
        }
        for (what, found, expected) in [
            ("runtime", &self.runtime, &wanted.runtime),
            ("engine", &self.engine, &wanted.engine),
            ("instruction set", &self.isa, &wanted.isa),
        ] {
            if found != expected {
                return stale(what, found.clone(), expected.clone());
            }
        }
        Ok(())
    }
}

/// A tensor at the edge of the model.
#[derive(Serialize, Deserialize)]
pub(super) struct Spec {
    name: String,
    element: Element,
    shape: Vec<i32>,
    quantization: Option<(f32, i32)>,
}

impl Spec {
    pub(super) fn of(spec: &TensorSpec) -> Self {
        let element = match spec.ty {
            ElementType::Uint8 => Element::U8,
            ElementType::Int8 => Element::I8,
            _ => Element::F32,
        };
        let quantization = spec.quantization.map(|q| (q.scale, q.zero_point));
        Self { name: spec.name.clone(), element, shape: spec.shape.clone(), quantization }
    }

    pub(super) fn spec(self) -> TensorSpec {
        let quantization = self.quantization.map(|(scale, zero_point)| Quantization { scale, zero_point });
        TensorSpec { name: self.name, ty: element_of(self.element), shape: self.shape, quantization }
    }

    fn bytes(&self) -> Option<usize> {
        bytes(self.element, self.shape.iter().map(|size| usize::try_from(*size).ok()))
    }
}

fn bytes(element: Element, mut shape: impl Iterator<Item = Option<usize>>) -> Option<usize> {
    shape.try_fold(element_of(element).size_bytes(), |bytes, size| bytes.checked_mul(size?))
}

/// All of a loaded model but its program.
#[derive(Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) origin: Origin,
    /// As of [`super::digest`].
    pub(super) weights: [u8; 32],
    pub(super) inputs: Vec<Spec>,
    pub(super) outputs: Vec<Spec>,
    /// Of each output: whether it leaves a softmax, and the scale of what goes in.
    pub(super) softmax: Vec<Option<Option<f32>>>,
    pub(super) summary: Summary,
    /// Name and operator of each node, and whether it is constant; the others are fused.
    pub(super) nodes: Vec<(String, String, bool)>,
    /// As of [`crate::model::executable::Executable::Whole`].
    pub(super) feeds: Vec<usize>,
    pub(super) yields: Vec<usize>,
    /// As of [`crate::model::fused::Built`].
    pub(super) ports: Vec<usize>,
    pub(super) floats: Vec<usize>,
    pub(super) edges: Vec<(Element, Vec<usize>)>,
}

impl Head {
    /// Whether running the program can rely on what is said here.
    pub(super) fn fits(&self, program: &Program) -> bool {
        let below = |places: &[usize], count: usize| places.iter().all(|place| *place < count);
        let distinct = |places: &[usize]| places.iter().collect::<HashSet<_>>().len() == places.len();
        let inputs = self.ports.iter().map(|port| self.inputs.get(*self.feeds.get(*port)?)?.bytes());
        let edges = self.edges.iter().map(|(element, shape)| bytes(*element, shape.iter().copied().map(Some)));
        let outputs = self.yields.iter().map(|place| self.outputs.get(*place)?.bytes());
        below(&self.feeds, self.inputs.len())
            && distinct(&self.feeds)
            && distinct(&self.yields)
            && below(&self.ports, self.feeds.len())
            && below(&self.floats, self.feeds.len())
            && inputs.eq(program.input_bytes().map(Some))
            && edges.eq(program.output_bytes().map(Some))
            && outputs.eq(program.output_bytes().map(Some))
    }
}
