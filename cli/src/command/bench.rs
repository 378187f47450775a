//! `sedge bench`: how fast, and where the time goes.

mod layers;
mod saved;
mod serve;

use super::{SandboxArguments, TrustArguments, fusion};
use crate::golden_npz::{self, Agreement};
use crate::measure::{Latencies, Quantiles, Stages, peak_rss_bytes};
use crate::output::{self, FAILED, OutputArguments};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use sedge_protocol::Sha256Digest;
use sedge_runtime::api::{ElementType, Meta, Tensor, TensorSpec, TensorView};
use sedge_runtime::bundle::Trust;
use sedge_runtime::model::Engine;
use sedge_runtime::{Model, ModelOptions, Pipeline, Sample, VerifiedBundle};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Calls before the measurement, so that caches and branch predictors are warm.
const WARM_UP: usize = 20;
/// Enough for any quantile that is printed; bounds memory on very fast models.
const ITERATIONS_MAX: usize = 1_000_000;
/// A model can declare inputs larger than any memory.
const INPUT_ELEMENTS_MAX: usize = 1 << 28;

/// Runs on one thread unless told otherwise. Compare figures only from one machine and one run.
#[derive(Args)]
pub(crate) struct Arguments {
    /// A packed bundle, or a model without one: MODEL.onnx, or MODEL.tflite when it is quantized.
    #[arg(value_name = "BUNDLE|MODEL")]
    subject: PathBuf,
    /// Samples for a bundle; its golden samples when not given.
    #[arg(short, long, value_name = "FILE|DIR")]
    input: Option<PathBuf>,
    /// How long to measure.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = measuring_time)]
    seconds: f64,
    /// Reference outputs for a model; MODEL.golden.npz beside it when that is there.
    #[arg(long, value_name = "FILE.npz")]
    golden: Option<PathBuf>,
    /// Largest accepted difference to the reference: quanta for integer outputs, absolute for floats.
    #[arg(long, value_name = "X")]
    tolerance: Option<f32>,
    /// What runs the quantized parts of a model.
    #[arg(long, value_enum, default_value_t)]
    engine: EngineName,
    /// Measure whenever told to: `run SECONDS` on standard input answers one JSON object, until that ends.
    #[arg(long, conflicts_with_all = ["golden", "input", "tolerance"])]
    serve: bool,
    /// Tell for each operator of a model what it takes, how fast it is, and what share of the core's peak that is.
    #[arg(long, conflicts_with_all = ["golden", "input", "tolerance", "serve"])]
    layers: bool,
    /// With --layers: the slowest first, not in the order of the run.
    #[arg(long, requires = "layers")]
    by_time: bool,
    /// With --serve: measure a model that is opened from its saved form, which another process makes before.
    #[arg(long, requires = "serve", conflicts_with = "engine")]
    from_saved: bool,
    /// Save the model and print the digest of its file; what --from-saved has another process do.
    #[arg(long, value_name = "FILE", hide = true, conflicts_with = "serve")]
    save_to: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustArguments,
    #[command(flatten)]
    sandbox: SandboxArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, clap::ValueEnum)]
enum EngineName {
    /// Fused integer operators, and tract for the rest.
    #[default]
    Fused,
    /// tract alone.
    Tract,
}

impl EngineName {
    const fn engine(self) -> Engine {
        match self {
            Self::Fused => Engine::Fused,
            Self::Tract => Engine::Tract,
        }
    }
}

fn measuring_time(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 3600.0 => Ok(seconds),
        _ => Err("give more than 0 and at most 3600".to_owned()),
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.serve {
        return serve::serve(arguments);
    }
    if arguments.layers {
        return layers::run(arguments);
    }
    if let Some(to) = &arguments.save_to {
        return saved::save(arguments, to);
    }
    if is_model(&arguments.subject) { bench_model(arguments) } else { bench_bundle(arguments) }
}

/// Whether a path is a model without a bundle.
pub(super) fn is_model(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "onnx" || e == "tflite")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}

/// A model from its file, and how long that took. The file's bytes are freed on the way.
fn load(path: &Path, options: &ModelOptions) -> Result<(Model, Duration)> {
    let began = Instant::now();
    let model = Model::load_owned(read(path)?, options).with_context(|| path.display().to_string())?;
    Ok((model, began.elapsed()))
}

/// Calls `once` until the time is up.
fn repeat(seconds: f64, mut once: impl FnMut(usize) -> Result<()>) -> Result<Duration> {
    for i in 0..WARM_UP {
        once(i)?;
    }
    let began = Instant::now();
    let limit = Duration::from_secs_f64(seconds);
    let mut i = 0;
    while i < ITERATIONS_MAX && (i == 0 || began.elapsed() < limit) {
        once(WARM_UP + i)?;
        i += 1;
    }
    Ok(began.elapsed())
}

fn bench_model(arguments: &Arguments) -> Result<ExitCode> {
    let path = &arguments.subject;
    let options = arguments.model_options();
    let file = Sha256Digest::of(&read(path)?);
    let (mut model, load) = load(path, &options)?;
    let opened = saved::measure(&model, file, &options)?;
    let tensors = model.inputs().iter().map(random_tensor).collect::<Result<Vec<_>>>()?;
    let views: Vec<TensorView<'_>> = tensors.iter().map(Tensor::view).collect();
    let mut latencies = Latencies::default();
    let mut outputs = Vec::new();
    repeat(arguments.seconds, |i| {
        let began = Instant::now();
        model.run_into(&views, &mut outputs)?;
        if i >= WARM_UP {
            latencies.push(began.elapsed());
        }
        Ok(())
    })?;
    let agreements = compare(&mut model, arguments, path)?;
    let q = Quantiles::from(&latencies);
    let holds = agreements.iter().all(Agreement::holds);
    if arguments.output.output.is_json() {
        output::json(&json!({
            "subject": path,
            "threads": arguments.sandbox.threads(),
            "engine": arguments.engine.engine(),
            "fusion": fusion::json(model.fusion(), false),
            "iterations": latencies.len(),
            "p50_ms": q.p50_ms,
            "p95_ms": q.p95_ms,
            "min_ms": q.min_ms,
            "mean_ms": q.mean_ms,
            "throughput_per_s": 1e3 / q.mean_ms,
            "load_ms": crate::measure::ms(load),
            "saved": opened.as_ref().map(saved::Opened::json),
            "stages": {"inference": {"p50_ms": q.p50_ms, "p95_ms": q.p95_ms, "min_ms": q.min_ms, "share": 1.0}},
            "peak_rss_bytes": peak_rss_bytes(),
            "golden": agreements,
        }))?;
    } else {
        output::line(format!(
            "{} on {} thread(s), {} runs",
            path.display(),
            arguments.sandbox.threads(),
            latencies.len()
        ));
        output::line(figures(&q));
        let saved =
            opened.map_or_else(String::new, |o| format!(", {:.1} ms from the saved form", crate::measure::ms(o.load)));
        output::line(format!("load {:.1} ms{saved}, peak memory {}", crate::measure::ms(load), mib(peak_rss_bytes())));
        output::line(fusion::summary(model.fusion()));
        for a in &agreements {
            output::line(format!(
                "{} {}: largest difference {} over {} inputs (accepted {}), {:.2} % of the elements differ, \
                 the best class is the same in {}",
                if a.holds() { "agrees with" } else { "DISAGREES with" },
                a.reference,
                a.difference_max,
                a.inputs,
                a.tolerance,
                a.unequal_share * 100.0,
                a.same_best
            ));
        }
    }
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

impl Arguments {
    fn model_options(&self) -> ModelOptions {
        ModelOptions { threads: self.sandbox.threads(), engine: self.engine.engine(), ..ModelOptions::default() }
    }
}

fn compare(model: &mut Model, arguments: &Arguments, path: &Path) -> Result<Vec<Agreement>> {
    let beside = path.with_extension("golden.npz");
    let golden = match &arguments.golden {
        Some(given) => given,
        None if beside.is_file() => &beside,
        None => return Ok(Vec::new()),
    };
    let tolerance = arguments.tolerance.unwrap_or_else(|| tolerance(model));
    golden_npz::compare(model, golden, tolerance)
}

/// How far a model's output may be from another engine's; docs/models.md gives the reasons.
fn tolerance(model: &Model) -> f32 {
    const QUANTA: f32 = 2.0;
    let integer = |o: &&TensorSpec| !matches!(o.ty, ElementType::Float32);
    let Some(output) = model.outputs().first().filter(integer) else { return 1e-4 };
    let before = model.softmax(0).and_then(|s| s.input_scale);
    match (before, output.quantization) {
        // Two quanta in each of two logits; where these tie, a softmax turns a difference d into d / 4.
        (Some(logit), Some(score)) => QUANTA.max((0.25 * 2.0 * QUANTA * logit / score.scale).round()),
        _ => QUANTA,
    }
}

fn bench_bundle(arguments: &Arguments) -> Result<ExitCode> {
    let trust = arguments.trust.trust_if_named()?;
    if matches!(trust, Trust::Unsigned) && !arguments.output.output.is_json() {
        output::note("measuring without a trusted key: signatures are not checked");
    }
    let bundle = VerifiedBundle::open(&arguments.subject, &trust)?;
    let samples = samples(arguments, &bundle)?;
    let began = Instant::now();
    let mut pipeline = Pipeline::load(&bundle, &arguments.sandbox.options()?)?;
    let load = began.elapsed();
    let mut stages = Stages::default();
    let meta = Meta { source: "bench".to_owned(), prediction_id: "bench".to_owned(), ..Meta::default() };
    repeat(arguments.seconds, |i| {
        let outcome = pipeline.process(&meta, &samples[i % samples.len()].input())?;
        if let Some(outcome) = outcome.filter(|_| i >= WARM_UP) {
            stages.push(&outcome.timings);
        }
        Ok(())
    })?;
    let q = Quantiles::from(&stages.total);
    if arguments.output.output.is_json() {
        output::json(&json!({
            "subject": arguments.subject,
            "bundle": bundle.manifest().bundle.name,
            "version": bundle.manifest().bundle.version,
            "signatures_checked": !matches!(trust, Trust::Unsigned),
            "threads": arguments.sandbox.threads(),
            "iterations": stages.total.len(),
            "p50_ms": q.p50_ms,
            "p95_ms": q.p95_ms,
            "min_ms": q.min_ms,
            "mean_ms": q.mean_ms,
            "throughput_per_s": 1e3 / q.mean_ms,
            "load_ms": crate::measure::ms(load),
            "stages": stages.json(),
            "peak_rss_bytes": peak_rss_bytes(),
        }))?;
    } else {
        let header = &bundle.manifest().bundle;
        let threads = arguments.sandbox.threads();
        output::line(format!("{} {} on {threads} thread(s), {} runs", header.name, header.version, stages.total.len()));
        output::line(figures(&q));
        output::line(format!("load {:.1} ms, peak memory {}", crate::measure::ms(load), mib(peak_rss_bytes())));
        output::line(stages.table());
    }
    Ok(ExitCode::SUCCESS)
}

fn samples(arguments: &Arguments, bundle: &VerifiedBundle) -> Result<Vec<Sample>> {
    let samples: Vec<Sample> = match &arguments.input {
        Some(input) => {
            let files = super::run::Samples::find(input)?.files;
            files.iter().map(|f| Sample::read(f).with_context(|| f.display().to_string())).collect::<Result<_>>()?
        }
        None => {
            let golden = &bundle.manifest().golden;
            golden.iter().map(|g| Ok(Sample::new(&g.input, bundle.file(&g.input)?.to_vec()))).collect::<Result<_>>()?
        }
    };
    if samples.is_empty() {
        bail!("the bundle has no golden samples to measure with; give some with --input");
    }
    Ok(samples)
}

fn figures(q: &Quantiles) -> String {
    let throughput = format!("{:.0} a second", 1e3 / q.mean_ms);
    format!("p50 {:.4} ms, p95 {:.4} ms, min {:.4} ms, {throughput}", q.p50_ms, q.p95_ms, q.min_ms)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The same values in every run: -1 to 1, or the whole range of an integer type.
fn random_tensor(spec: &TensorSpec) -> Result<Tensor> {
    let mut tensor = Tensor::empty(spec)?;
    let elements = tensor.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d as usize));
    let elements = elements.filter(|&n| n <= INPUT_ELEMENTS_MAX).with_context(|| {
        format!("input `{}` of shape {:?} is too large to be made up; give samples in a bundle", spec.name, spec.shape)
    })?;
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    tensor.data = match spec.ty {
        ElementType::Float32 => {
            (0..elements).flat_map(|_| ((next() >> 40) as f32 / 8_388_608.0 - 1.0).to_le_bytes()).collect()
        }
        ElementType::Uint8 | ElementType::Int8 => (0..elements).map(|_| (next() >> 56) as u8).collect(),
        // Indices and masks: small numbers are valid more often than random ones.
        other => vec![0; elements * other.size_bytes()],
    };
    Ok(tensor)
}
