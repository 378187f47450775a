//! What 8 bits cost: float and quantized model over the same samples, tensor by tensor.

use super::layer::Kind;
use super::observe::Probe;
use super::plan::{LeftInFloat, Plan};
use super::samples::SampleSet;
use super::write::Written;
use super::{QuantizeError, Stage, proto};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use tract_onnx::pb;

/// How a quantized model compares with the float model that it was made from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Samples compared.
    pub samples: usize,
    /// In the graph's order.
    pub layers: Vec<LayerError>,
    /// In the model's order.
    pub outputs: Vec<OutputError>,
    /// Where samples have labels.
    pub accuracy: Option<Accuracy>,
    /// Nodes that compute in float.
    pub left_in_float: Vec<LeftInFloat>,
    /// Size of the float model's file.
    pub bytes_before: usize,
    /// Size of the quantized model's file.
    pub bytes_after: usize,
}

/// How far a layer's output is from the float model's, all errors before it included.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerError {
    /// Name of the operator's node.
    pub layer: String,
    /// Operators that are one in 8 bits.
    pub operators: Vec<String>,
    /// Name of what it yields.
    pub tensor: String,
    /// Signal to quantization noise in decibels, `10 log10(sum x^2 / sum (x - x')^2)`; `None` where there is no noise.
    pub sqnr_db: Option<f64>,
    /// Mean of the absolute differences.
    pub error_mean: f64,
    /// Largest absolute difference.
    pub error_max: f32,
}

/// How far an output is from the float model's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutputError {
    /// Its name.
    pub output: String,
    /// Cosine of the angle between both, over all samples; `None` where one of them is all zero.
    pub cosine: Option<f64>,
    /// Signal to quantization noise in decibels; `None` where there is no noise.
    pub sqnr_db: Option<f64>,
    /// Mean of the absolute differences.
    pub error_mean: f64,
    /// Largest absolute difference.
    pub error_max: f32,
    /// Samples for which both have their largest value in the same place.
    pub same_best: usize,
}

/// Share of samples whose best class of the first output is the labelled one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Accuracy {
    /// Samples with a label.
    pub labelled: usize,
    /// Of the float model.
    pub float: f64,
    /// Of the quantized model.
    pub quantized: f64,
}

/// Sums over pairs of values.
#[derive(Default)]
struct Sums {
    signal: f64,
    quantized: f64,
    product: f64,
    noise: f64,
    error: f64,
    error_max: f32,
    values: usize,
    same_best: usize,
}

impl Sums {
    fn add(&mut self, float: &[f32], quantized: &[f32]) {
        for (&x, &y) in float.iter().zip(quantized) {
            let (error, wide) = ((x - y).abs(), (f64::from(x), f64::from(y)));
            self.signal += wide.0 * wide.0;
            self.quantized += wide.1 * wide.1;
            self.product += wide.0 * wide.1;
            self.noise += f64::from(error) * f64::from(error);
            self.error += f64::from(error);
            self.error_max = self.error_max.max(error);
        }
        self.values += float.len();
        self.same_best += usize::from(best(float) == best(quantized));
    }

    fn sqnr_db(&self) -> Option<f64> {
        // A tensor that is all zero in float has no signal to relate the noise to: below any other.
        const NONE_DB: f64 = -100.0;
        match (self.noise > 0.0, self.signal > 0.0) {
            (false, _) => None,
            (true, false) => Some(NONE_DB),
            (true, true) => Some((10.0 * (self.signal / self.noise).log10()).max(NONE_DB)),
        }
    }

    fn cosine(&self) -> Option<f64> {
        let lengths = self.signal.sqrt() * self.quantized.sqrt();
        (lengths > 0.0).then(|| (self.product / lengths).clamp(-1.0, 1.0))
    }

    fn error_mean(&self) -> f64 {
        self.error / self.values.max(1) as f64
    }
}

/// Place of the first largest value.
fn best(values: &[f32]) -> Option<usize> {
    let larger = |best: Option<usize>, ix: usize| match best {
        Some(best) if values[best] >= values[ix] => Some(best),
        _ => Some(ix),
    };
    (0..values.len()).fold(None, larger)
}

/// Runs both models; sizes of files are for the caller to fill in.
pub(super) fn compare(
    model: &pb::ModelProto,
    written: &Written,
    plan: &Plan,
    samples: &SampleSet,
    progress: &mut dyn FnMut(Stage, usize, usize),
) -> Result<Report, QuantizeError> {
    let graph = proto::graph(model);
    let inputs: BTreeSet<&str> = graph.input.iter().map(|i| i.name.as_str()).collect();
    let outputs: Vec<&str> =
        graph.output.iter().map(|o| o.name.as_str()).filter(|name| !inputs.contains(name)).collect();
    let layers = plan.layers.iter().filter(|l| l.kind != Kind::Moves);
    // What a tensor of the float model is called in the quantized one.
    let twin = |tensor: &str| written.dequantized.get(tensor).cloned();
    let inside: Vec<_> = layers.filter_map(|layer| Some((layer, twin(&layer.output)?))).collect();
    let pairs: BTreeMap<&str, String> = inside
        .iter()
        .map(|(layer, twin)| (layer.output.as_str(), twin.clone()))
        .chain(outputs.iter().map(|&o| (o, o.to_owned())))
        .collect();
    let mut float = Probe::new(model, &pairs.keys().copied().collect(), samples)?;
    let mut quantized = Probe::new(&written.model, &pairs.values().map(String::as_str).collect(), samples)?;
    let mut sums: BTreeMap<&str, Sums> = pairs.keys().map(|&tensor| (tensor, Sums::default())).collect();
    let (mut labelled, mut right) = (0, [0, 0]);
    progress(Stage::Comparison, 0, samples.len());
    samples.each(|seq, sample| {
        let (float, quantized) = (float.run(sample)?, quantized.run(sample)?);
        for (tensor, sums) in &mut sums {
            if let (Some(x), Some(y)) = (float.get(*tensor), pairs.get(tensor).and_then(|t| quantized.get(t))) {
                sums.add(x, y);
            }
        }
        if let (Some(label), Some(output)) = (sample.label, outputs.first()) {
            labelled += 1;
            for (right, values) in right.iter_mut().zip([float.get(*output), quantized.get(*output)]) {
                *right += usize::from(values.and_then(|v| best(v)) == Some(label));
            }
        }
        progress(Stage::Comparison, seq + 1, samples.len());
        Ok(())
    })?;
    let operator = |ix: &usize| graph.node[*ix].op_type.clone();
    let layer_error = |(layer, _): &(&super::layer::Layer, String)| {
        let sums = sums.get(layer.output.as_str())?;
        Some(LayerError {
            layer: layer.nodes.first().map_or(String::new(), |&ix| proto::name(&graph.node[ix])),
            operators: layer.nodes.iter().map(operator).collect(),
            tensor: layer.output.clone(),
            sqnr_db: sums.sqnr_db(),
            error_mean: sums.error_mean(),
            error_max: sums.error_max,
        })
    };
    let output_error = |output: &&str| {
        let sums = sums.get(output)?;
        Some(OutputError {
            output: (*output).to_owned(),
            cosine: sums.cosine(),
            sqnr_db: sums.sqnr_db(),
            error_mean: sums.error_mean(),
            error_max: sums.error_max,
            same_best: sums.same_best,
        })
    };
    let share = |right: usize| right as f64 / labelled as f64;
    Ok(Report {
        samples: samples.len(),
        layers: inside.iter().filter_map(layer_error).collect(),
        outputs: outputs.iter().filter_map(output_error).collect(),
        accuracy: (labelled > 0).then(|| Accuracy { labelled, float: share(right[0]), quantized: share(right[1]) }),
        left_in_float: plan.left.clone(),
        bytes_before: 0,
        bytes_after: 0,
    })
}
