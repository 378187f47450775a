//! `sedge run`: a bundle over a file or a directory.

use super::{SandboxArguments, TrustArguments};
use crate::measure::Stages;
use crate::output::{self, FINISHED_WITH_FAILURES, OutputArguments};
use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use sedge_runtime::api::{Meta, Payload, ScoredLabel};
use sedge_runtime::{Outcome, Pipeline, Sample, VerifiedBundle};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A sample that fails is reported and the next one goes on; the exit code is 8 then.
#[derive(Args)]
pub(crate) struct Arguments {
    /// A packed bundle, directory or .tar.
    bundle: PathBuf,
    /// A sample, or a directory of samples. A labels.csv in it (file,label) gives the right answers.
    #[arg(short, long, value_name = "FILE|DIR")]
    input: PathBuf,
    #[command(flatten)]
    trust: TrustArguments,
    #[command(flatten)]
    sandbox: SandboxArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let bundle = VerifiedBundle::open(&arguments.bundle, &arguments.trust.trust()?)?;
    let samples = Samples::find(&arguments.input)?;
    let mut pipeline = Pipeline::load(&bundle, &arguments.sandbox.options()?)?;
    let (mut rows, mut stages, mut failures, mut score) = (Vec::new(), Stages::default(), 0usize, Score::default());
    let progress = output::progress(samples.files.len(), "running");
    for (seq, path) in samples.files.iter().enumerate() {
        let result = process(&mut pipeline, seq, path);
        progress.inc(1);
        let name = samples.name(path);
        match &result {
            Ok(outcome) => {
                stages.push(&outcome.timings);
                score.count(samples.labels.get(&name), best(outcome));
            }
            Err(_) => failures += 1,
        }
        rows.push((name, result));
    }
    progress.finish_and_clear();
    if arguments.output.output.is_json() {
        let samples: Vec<Value> = rows.iter().map(|(name, result)| sample_json(name, result)).collect();
        output::json(&json!({
            "bundle": bundle.manifest().bundle.name,
            "version": bundle.manifest().bundle.version,
            "digest": bundle.digest(),
            "samples": samples,
            "failures": failures,
            "accuracy": score.accuracy(),
            "p50_ms": stages.total.quantile_ms(0.5),
        }))?;
    } else {
        let table = rows.iter().filter_map(|(name, r)| r.as_ref().ok().map(|o| row(name, samples.labels.get(name), o)));
        output::line(output::table(&["sample", "prediction", "confidence", "ms", ""], table));
        for (name, error) in rows.iter().filter_map(|(name, r)| r.as_ref().err().map(|e| (name, e))) {
            output::note(format!("{name}: {}", output::chain(error)));
        }
        if let Some(accuracy) = score.accuracy() {
            output::line(format!("accuracy {:.2} % ({} of {})", accuracy * 100.0, score.right, score.counted));
        }
    }
    Ok(if failures > 0 { ExitCode::from(FINISHED_WITH_FAILURES) } else { ExitCode::SUCCESS })
}

/// Runs one file. The prediction's id is the place of the sample in this run.
pub(crate) fn process(pipeline: &mut Pipeline, seq: usize, path: &Path) -> Result<Outcome> {
    let sample = Sample::read(path)?;
    let meta =
        Meta { seq: seq as u64, source: "file".to_owned(), prediction_id: format!("run-{seq}"), ..Meta::default() };
    pipeline.process(&meta, &sample.input())?.context("the preprocessor wants more samples before it answers")
}

pub(crate) fn best(outcome: &Outcome) -> Option<&ScoredLabel> {
    outcome.predictions.first().and_then(|p| p.labels.first())
}

/// Right answers among those that are known.
#[derive(Default)]
pub(crate) struct Score {
    pub(crate) right: usize,
    pub(crate) counted: usize,
}

impl Score {
    pub(crate) fn count(&mut self, expected: Option<&String>, found: Option<&ScoredLabel>) {
        if let Some(expected) = expected {
            self.counted += 1;
            self.right += usize::from(found.is_some_and(|f| f.label == *expected));
        }
    }

    pub(crate) fn accuracy(&self) -> Option<f64> {
        (self.counted > 0).then(|| self.right as f64 / self.counted as f64)
    }
}

/// Files to run and what is known about them.
pub(crate) struct Samples {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) labels: HashMap<String, String>,
}

impl Samples {
    pub(crate) fn find(input: &Path) -> Result<Self> {
        let place = || format!("{} cannot be read", input.display());
        if !std::fs::metadata(input).with_context(place)?.is_dir() {
            return Ok(Self { files: vec![input.to_owned()], labels: HashMap::new() });
        }
        let mut files = Vec::new();
        for entry in std::fs::read_dir(input).with_context(place)? {
            let path = entry.with_context(place)?.path();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if path.is_file() && name != "labels.csv" && !name.starts_with('.') {
                files.push(path);
            }
        }
        if files.is_empty() {
            bail!("{} holds no samples", input.display());
        }
        files.sort();
        let csv = input.join("labels.csv");
        let labels = if csv.is_file() { read_labels(&csv)? } else { HashMap::new() };
        Ok(Self { files, labels })
    }

    pub(crate) fn name(&self, path: &Path) -> String {
        path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

fn read_labels(path: &Path) -> Result<HashMap<String, String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let mut labels = HashMap::new();
    for (i, line) in text.lines().enumerate().skip(1).filter(|(_, l)| !l.trim().is_empty()) {
        let Some((file, label)) = line.split_once(',') else {
            bail!("{}, line {}: `{line}` is not file,label", path.display(), i + 1);
        };
        labels.insert(file.trim().to_owned(), label.trim().to_owned());
    }
    Ok(labels)
}

fn row(name: &str, expected: Option<&String>, outcome: &Outcome) -> Vec<String> {
    let prediction = outcome.predictions.first();
    let label = best(outcome).map(|l| l.label.clone());
    let right = match (expected, &label) {
        (Some(expected), found) if found.as_ref() != Some(expected) => format!("wrong, it is {expected}"),
        _ => String::new(),
    };
    let confidence = prediction.and_then(|p| p.confidence).map_or(String::new(), |c| format!("{c:.3}"));
    let label = label.unwrap_or_else(|| {
        let one = |p: &Payload| format!("{} bytes of {}", p.body.len(), p.content_type);
        outcome.payloads.iter().map(one).collect::<Vec<_>>().join(", ")
    });
    vec![name.to_owned(), label, confidence, format!("{:.3}", crate::measure::ms(outcome.timings.total)), right]
}

/// The body as text where it is text, else in base64.
fn payload_json(payload: &Payload) -> Value {
    let textual = payload.content_type.starts_with("text/") || payload.content_type.starts_with("application/json");
    let body = match std::str::from_utf8(&payload.body) {
        Ok(text) if textual => json!({"text": text}),
        _ => json!({"base64": BASE64_STANDARD.encode(&payload.body)}),
    };
    json!({
        "content_type": payload.content_type,
        "topic_suffix": payload.topic_suffix,
        "bytes": payload.body.len(),
        "body": body,
    })
}

fn sample_json(name: &str, result: &Result<Outcome>) -> Value {
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(error) => return json!({"file": name, "error": output::chain(error)}),
    };
    let label = |l: &ScoredLabel| json!({"index": l.index, "label": l.label, "score": l.score});
    let predictions: Vec<Value> = outcome
        .predictions
        .iter()
        .map(|p| {
            json!({
                "id": p.id,
                "model": p.model,
                "labels": p.labels.iter().map(label).collect::<Vec<_>>(),
                "quantities": p.quantities.iter().map(|q| json!({"name": q.name, "value": q.value, "unit": q.unit})).collect::<Vec<_>>(),
                "confidence": p.confidence,
                "region": p.region.map(|r| json!({"x": r.x, "y": r.y, "width": r.width, "height": r.height})),
            })
        })
        .collect();
    let payloads: Vec<Value> = outcome.payloads.iter().map(payload_json).collect();
    let latency_ms = crate::measure::ms(outcome.timings.total);
    json!({"file": name, "predictions": predictions, "payloads": payloads, "latency_ms": latency_ms})
}
