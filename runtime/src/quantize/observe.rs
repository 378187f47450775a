//! Runs a model with tensors from its inside as further outputs.

use super::calibrate::{BINS, Histogram, Method, Range};
use super::plan::Plan;
use super::proto;
use super::samples::{Sample, SampleSet};
use super::{QuantizeError, Stage};
use crate::model::{Model, ModelOptions};
use sedge_processor_sdk::{Quantization, Tensor, TensorView};
use std::collections::{BTreeMap, BTreeSet};
use tract_onnx::pb;

/// A model whose outputs are the tensors asked for.
pub(super) struct Probe {
    model: Model,
}

impl Probe {
    pub(super) fn new(
        model: &pb::ModelProto,
        tensors: &BTreeSet<&str>,
        samples: &SampleSet,
    ) -> Result<Self, QuantizeError> {
        let mut model = model.clone();
        if let Some(graph) = &mut model.graph {
            // Without a type: what it is follows from the nodes.
            let output = |name: &&str| pb::ValueInfoProto { name: (*name).to_owned(), ..pb::ValueInfoProto::default() };
            graph.output = tensors.iter().map(output).collect();
        }
        let options = ModelOptions { shapes: samples.shapes(), ..ModelOptions::default() };
        Ok(Self { model: Model::load(&proto::encode(&model), &options)? })
    }

    /// Values of the tensors for one sample, by name.
    pub(super) fn run(&mut self, sample: &Sample) -> Result<BTreeMap<String, Vec<f32>>, QuantizeError> {
        let views: Vec<TensorView<'_>> = sample.tensors.iter().map(Tensor::view).collect();
        let outputs =
            self.model.run(&views).map_err(|source| QuantizeError::Run { sample: sample.name.clone(), source })?;
        outputs.into_iter().map(|tensor| Ok((tensor.name.clone(), finite(&tensor, sample)?))).collect()
    }
}

fn finite(tensor: &Tensor, sample: &Sample) -> Result<Vec<f32>, QuantizeError> {
    let (sample, name) = (sample.name.clone(), tensor.name.clone());
    if let Some(index) = tensor.view().first_not_finite() {
        return Err(QuantizeError::NotFinite { sample, tensor: name, index });
    }
    tensor.view().to_real(None).map_err(|e| QuantizeError::Sample {
        file: sample.into(),
        tensor: name,
        problem: e.to_string(),
    })
}

/// Scale and zero point of every tensor that has its own.
pub(super) fn ranges(
    model: &pb::ModelProto,
    plan: &Plan,
    samples: &SampleSet,
    method: Method,
    progress: &mut dyn FnMut(Stage, usize, usize),
) -> Result<BTreeMap<String, Quantization>, QuantizeError> {
    // Of a softmax: 256 steps from 0 to 1.
    const PROBABILITY: Quantization = Quantization { scale: 1.0 / 256.0, zero_point: -128 };
    let (known, looked_at): (BTreeSet<&str>, BTreeSet<&str>) =
        plan.own_scales().into_iter().partition(|root| plan.is_probability(root));
    let inputs: BTreeSet<&str> = proto::graph(model).input.iter().map(|i| i.name.as_str()).collect();
    let inside: BTreeSet<&str> = looked_at.difference(&inputs).copied().collect();
    let mut probe = Probe::new(model, &inside, samples)?;
    let mut each = |stage, visit: &mut dyn FnMut(&str, &[f32])| {
        progress(stage, 0, samples.len());
        samples.each(|seq, sample| {
            for tensor in sample.tensors.iter().filter(|t| looked_at.contains(t.name.as_str())) {
                visit(&tensor.name, &finite(tensor, sample)?);
            }
            probe.run(sample)?.iter().for_each(|(name, values)| visit(name, values));
            progress(stage, seq + 1, samples.len());
            Ok(())
        })
    };
    let mut ranges: BTreeMap<String, Range> = BTreeMap::new();
    each(Stage::Ranges, &mut |name, values| match ranges.get_mut(name) {
        Some(range) => range.widen(values),
        None => ranges.entry(name.to_owned()).or_default().widen(values),
    })?;
    if method != Method::MinMax {
        let mut histograms: BTreeMap<String, Histogram> =
            ranges.iter().map(|(name, range)| (name.clone(), Histogram::new(*range, BINS))).collect();
        each(Stage::Histograms, &mut |name, values| {
            if let Some(histogram) = histograms.get_mut(name) {
                histogram.add(values);
            }
        })?;
        for (name, histogram) in &histograms {
            let range = match method {
                Method::Percentile(percent) => histogram.percentile(percent),
                Method::Entropy => histogram.entropy(),
                Method::MinMax => continue,
            };
            ranges.insert(name.clone(), range);
        }
    }
    let known = known.into_iter().map(|root| (root.to_owned(), PROBABILITY));
    Ok(ranges.into_iter().map(|(name, range)| (name, range.quantization())).chain(known).collect())
}
