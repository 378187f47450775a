//! Classification: softmax where the model yields logits, then the best `top_k` labels.
//!
//! ```toml
//! [postprocessor]
//! component = "builtin:classify@1"   # or the classify.wasm beside this crate
//! [postprocessor.config]
//! top_k = 3                          # labels to report, default 5
//! threshold = 0.0                    # report no label that scores less, default 0
//! ```
//! The evidence is the output that the manifest's `[confidence]` names; without one, the model's only output, read as
//! scores.

use sedge_processor_sdk::{
    ConfidenceKind, Error, Meta, ModelInfo, Outcome, Postprocessor, Prediction, ScoredLabel, TensorSpec, TensorView,
    export_postprocessor, parse_config,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    top_k: usize,
    threshold: f32,
}

impl Default for Config {
    fn default() -> Self {
        Self { top_k: 5, threshold: 0.0 }
    }
}

/// The postprocessor; see the crate's documentation.
pub struct Classify {
    config: Config,
    evidence: TensorSpec,
    kind: ConfidenceKind,
    labels: Vec<String>,
}

impl Postprocessor for Classify {
    fn configure(config: &str, model: &ModelInfo) -> Result<Self, Error> {
        let config: Config = parse_config(config)?;
        if config.top_k == 0 {
            return Err(Error::InvalidConfig("top_k is 0; report at least one label".into()));
        }
        if !(0.0..=1.0).contains(&config.threshold) {
            return Err(Error::InvalidConfig(format!("threshold is {}; it lies between 0 and 1", config.threshold)));
        }
        let (evidence, kind) = match (&model.confidence, model.outputs.as_slice()) {
            (Some(source), outputs) => {
                let found = outputs.iter().find(|o| o.name == source.output);
                (
                    found.ok_or_else(|| Error::InvalidConfig(format!("the model has no output {}", source.output)))?,
                    source.kind,
                )
            }
            (None, [only]) => (only, ConfidenceKind::Scores),
            (None, several) => {
                return Err(Error::InvalidConfig(format!(
                    "the model has {} outputs; name the one with the classes under [confidence]",
                    several.len()
                )));
            }
        };
        evidence.require_real()?;
        Ok(Self { config, evidence: evidence.clone(), kind, labels: model.labels.clone() })
    }

    fn process(&mut self, _meta: &Meta, tensors: &[TensorView<'_>], _context: &str) -> Result<Outcome, Error> {
        let tensor = tensors
            .iter()
            .find(|t| t.name == self.evidence.name)
            .ok_or_else(|| Error::InvalidInput(format!("output {} is missing", self.evidence.name)))?;
        let mut scores = tensor.to_real(self.evidence.quantization)?;
        if !self.labels.is_empty() && scores.len() != self.labels.len() {
            return Err(Error::InvalidInput(format!(
                "output {} has {} classes, the bundle {} labels",
                tensor.name,
                scores.len(),
                self.labels.len()
            )));
        }
        if let Some(bad) = scores.iter().position(|s| !s.is_finite()) {
            return Err(Error::InvalidInput(format!("output {}: class {bad} is {}", tensor.name, scores[bad])));
        }
        match self.kind {
            ConfidenceKind::Logits => softmax(&mut scores),
            // The scale of quantized scores is rounded: the surest can come out a hair above 1.
            ConfidenceKind::Scores => {
                scores.iter_mut().filter(|s| (1.0..1.01).contains(*s)).for_each(|s| *s = 1.0);
            }
        }
        let mut order: Vec<usize> = (0..scores.len()).collect();
        // Ties go to the lower class, so that native and sandboxed runs agree.
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let confidence = order.first().map(|&best| scores[best]);
        let labels = order
            .into_iter()
            .take(self.config.top_k)
            .filter(|&class| scores[class] >= self.config.threshold)
            .map(|class| ScoredLabel {
                index: class as u32,
                label: self.labels.get(class).cloned().unwrap_or_else(|| class.to_string()),
                score: scores[class],
            })
            .collect();
        let prediction = Prediction { labels, confidence, ..Prediction::default() };
        Ok(Outcome { predictions: vec![prediction], payloads: Vec::new() })
    }
}

/// Softmax in place, shifted by the maximum so that no exponential overflows.
fn softmax(values: &mut [f32]) {
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for v in values.iter_mut() {
        *v = (*v - max).exp();
        sum += *v;
    }
    for v in values.iter_mut() {
        *v /= sum;
    }
}

export_postprocessor!(Classify);

#[cfg(test)]
mod tests {
    use super::*;
    use sedge_processor_sdk::{ConfidenceSource, ElementType, Tensor};

    fn model(kind: ConfidenceKind) -> ModelInfo {
        let spec = TensorSpec { name: "y".into(), ty: ElementType::Float32, shape: vec![1, 3], quantization: None };
        ModelInfo {
            name: "m".into(),
            version: "1.0.0".into(),
            digest: String::new(),
            inputs: vec![],
            outputs: vec![spec],
            labels: vec!["cat".into(), "dog".into(), "cow".into()],
            confidence: Some(ConfidenceSource { output: "y".into(), kind }),
        }
    }

    fn run(config: &str, kind: ConfidenceKind, values: &[f32]) -> Result<Prediction, Error> {
        let model = model(kind);
        let mut classify = Classify::configure(config, &model)?;
        let tensor = Tensor::from_real(&model.outputs[0], values)?;
        let mut outcome = classify.process(&Meta::default(), &[tensor.view()], "")?;
        Ok(outcome.predictions.remove(0))
    }

    #[test]
    fn logits_become_probabilities_best_first() {
        let p = run(r#"{"top_k": 2}"#, ConfidenceKind::Logits, &[1000.0, 1001.0, 990.0]).expect("valid");
        let names: Vec<_> = p.labels.iter().map(|l| (l.label.as_str(), l.index)).collect();
        assert_eq!(names, [("dog", 1), ("cat", 0)]);
        assert!((p.labels[0].score - 0.731_05).abs() < 1e-4, "{}", p.labels[0].score);
        assert_eq!(p.confidence, Some(p.labels[0].score));
    }

    #[test]
    fn scores_stay_as_they_are_and_ties_go_to_the_lower_class() {
        let p = run(r#"{"threshold": 0.3}"#, ConfidenceKind::Scores, &[0.2, 0.4, 0.4]).expect("valid");
        let classes: Vec<_> = p.labels.iter().map(|l| (l.index, l.score)).collect();
        assert_eq!(classes, [(1, 0.4), (2, 0.4)]);
    }

    #[test]
    fn integers_need_a_quantization() {
        let mut model = model(ConfidenceKind::Scores);
        model.outputs[0].ty = ElementType::Int8;
        let e = Classify::configure("{}", &model).err().expect("no scale").to_string();
        assert!(e.contains("tensor y is int8 and has no quantization"), "{e}");
        model.outputs[0].quantization = Some(sedge_processor_sdk::Quantization { scale: 0.00393, zero_point: -128 });
        let mut classify = Classify::configure("{}", &model).expect("a scale");
        let tensor = Tensor::from_real(&model.outputs[0], &[0.0, 1.1, 0.5]).expect("valid");
        let outcome = classify.process(&Meta::default(), &[tensor.view()], "").expect("valid");
        assert_eq!(outcome.predictions[0].confidence, Some(1.0));
    }

    #[test]
    fn bad_settings_and_values_are_named() {
        for (config, values, expected) in [
            (r#"{"topk": 2}"#, [0.0; 3], "unknown field `topk`"),
            (r#"{"top_k": 0}"#, [0.0; 3], "top_k is 0"),
            (r#"{"threshold": 2}"#, [0.0; 3], "threshold is 2"),
            ("{}", [0.0, f32::NAN, 0.0], "class 1 is NaN"),
        ] {
            let e = run(config, ConfidenceKind::Logits, &values).expect_err(config);
            assert!(e.to_string().contains(expected), "{config}: {e}");
        }
    }
}
