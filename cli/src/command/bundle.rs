//! `sedge bundle`: from a model file to a signed bundle.

mod inspect;
mod quantize;

use super::bench::is_model;
use super::{SandboxArguments, TrustArguments};
use crate::measure::{Latencies, peak_rss_bytes};
use crate::output::{self, FAILED, Format, OutputArguments};
use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use sedge_protocol::id::BundleName;
use sedge_protocol::manifest::{Grant, Limits};
use sedge_runtime::api::{ElementType, Meta, TensorSpec};
use sedge_runtime::bundle::Trust;
use sedge_runtime::pack::Layout;
use sedge_runtime::{Model, ModelOptions, Pipeline, Sample, VerifiedBundle, golden};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Start a bundle: write a bundle.toml that fits an ONNX model, with built-in processors.
    Init {
        /// Directory to write to; made when it is not there.
        directory: PathBuf,
        /// The model; it is copied into the directory.
        #[arg(long, value_name = "MODEL.onnx")]
        model: PathBuf,
        /// Name of the bundle; the directory's when not given.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Turn a float ONNX model into an int8 one, with ranges measured on samples, and tell what it costs.
    Quantize(quantize::Arguments),
    /// Pack a directory with a bundle.toml.
    Build {
        /// The directory.
        directory: PathBuf,
        /// Where to: a .tar file or a directory.
        #[arg(long, value_name = "PATH")]
        to: PathBuf,
        /// Sign it right away.
        #[arg(long, value_name = "NAME.key")]
        sign: Vec<PathBuf>,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Load a packed bundle, run its golden samples and hold its latency against its limits.
    Check {
        /// The bundle.
        bundle: PathBuf,
        #[command(flatten)]
        sandbox: SandboxArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Add a signature to a packed bundle.
    Sign {
        /// The bundle.
        bundle: PathBuf,
        /// The secret key.
        #[arg(long, value_name = "NAME.key")]
        key: PathBuf,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Show what a packed bundle holds, and who signed it when trusted keys are given; or what a model is made of.
    Inspect {
        /// The bundle, or a model without one: MODEL.onnx, or MODEL.tflite when it is quantized.
        #[arg(value_name = "BUNDLE|MODEL")]
        bundle: PathBuf,
        /// List every node of the model: which run as fused integer operators, and why the others do not.
        #[arg(long)]
        nodes: bool,
        #[command(flatten)]
        trust: TrustArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
}

impl Command {
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Init { output, .. }
            | Self::Build { output, .. }
            | Self::Check { output, .. }
            | Self::Sign { output, .. }
            | Self::Inspect { output, .. } => output.output,
            Self::Quantize(arguments) => arguments.output.output,
        }
    }
}

pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    let format = command.format();
    match command {
        Command::Init { directory, model, name, .. } => init(directory, model, name.as_deref(), format),
        Command::Quantize(arguments) => quantize::run(arguments),
        Command::Build { directory, to, sign, .. } => build(directory, to, sign, format),
        Command::Check { bundle, sandbox, .. } => check(bundle, sandbox, format),
        Command::Sign { bundle, key, .. } => sign(bundle, key, format),
        Command::Inspect { bundle, nodes, .. } if is_model(bundle) => inspect::model(bundle, *nodes, format),
        Command::Inspect { bundle, nodes, trust, .. } => inspect::bundle(bundle, *nodes, trust, format),
    }
}

/// One result: a JSON object, or lines for people.
fn tell(format: Format, value: &Value, lines: &[String]) -> Result<ExitCode> {
    if format.is_json() {
        output::json(value)?;
    } else {
        lines.iter().for_each(output::line);
    }
    Ok(ExitCode::SUCCESS)
}

fn init(directory: &Path, model_path: &Path, name: Option<&str>, format: Format) -> Result<ExitCode> {
    let bytes = std::fs::read(model_path).with_context(|| format!("{} cannot be read", model_path.display()))?;
    let model = Model::load(&bytes, &ModelOptions::default()).with_context(|| model_path.display().to_string())?;
    let (manifest, copy) = (directory.join("bundle.toml"), directory.join("model.onnx"));
    let same = |path: &Path| matches!((path.canonicalize(), model_path.canonicalize()), (Ok(a), Ok(b)) if a == b);
    if let Some(there) = [&manifest, &copy].into_iter().find(|p| p.exists() && !same(p)) {
        bail!("{} exists already; edit it, or choose another directory", there.display());
    }
    let name = name.map_or_else(|| plain_name(directory), str::to_owned);
    let name: BundleName = name.parse().context("--name")?;
    std::fs::create_dir_all(directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    std::fs::write(&manifest, starting_manifest(&name, &model)).with_context(|| manifest.display().to_string())?;
    std::fs::write(&copy, &bytes).with_context(|| copy.display().to_string())?;
    let value = json!({"manifest": manifest, "inputs": model.inputs().len(), "outputs": model.outputs().len()});
    let lines = [
        format!("{} is a start; read it and fill in what it asks for", manifest.display()),
        format!("then: sedge bundle build {} --to {name}.tar", directory.display()),
    ];
    tell(format, &value, &lines)
}

fn plain_name(directory: &Path) -> String {
    let name = directory.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(64).collect();
    let plain = plain.trim_matches('-');
    if plain.is_empty() { "model".to_owned() } else { plain.to_owned() }
}

/// How a tensor is declared in bundle.toml.
fn declared(kind: &str, tensor: &TensorSpec) -> String {
    let quantization = tensor.quantization.map_or(String::new(), |q| {
        format!("quantization = {{ scale = {:?}, zero_point = {} }}\n", q.scale, q.zero_point)
    });
    let (name, shape) = (&tensor.name, &tensor.shape);
    format!("[[{kind}]]\nname = {name:?}\ndtype = \"{}\"\nshape = {shape:?}\n{quantization}", tensor.ty)
}

/// Channels and layout of a model that reads one image.
fn image(model: &Model) -> Option<(i32, &'static str)> {
    let [input] = model.inputs() else { return None };
    match input.shape.as_slice() {
        [1, c @ (1 | 3), h, w] if *h >= 16 && *w >= 16 => Some((*c, "nchw")),
        [1, h, w, c @ (1 | 3)] if *h >= 16 && *w >= 16 => Some((*c, "nhwc")),
        _ => None,
    }
}

fn starting_manifest(name: &BundleName, model: &Model) -> String {
    let inputs = model.inputs().iter().map(|t| declared("input", t));
    let tensors: Vec<String> = inputs.chain(model.outputs().iter().map(|t| declared("output", t))).collect();
    let pre = match image(model) {
        Some((channels, layout)) => format!(
            "# All settings: runtime/processors/image/src/lib.rs.\n\
             component = \"builtin:image@1\"\n\n[preprocessor.config]\ncolor = \"{}\"\nlayout = \"{layout}\"\n\
             # How the model was trained: \"fixed\" for value/255, with mean and std where it had them.\n{}",
            if channels == 1 { "gray" } else { "rgb" },
            if takes_bytes(&model.inputs()[0]) { "levels = \"raw\"\n" } else { "levels = \"fixed\"\n" },
        ),
        None => {
            "# Samples are raw little-endian bytes of the input tensor.\ncomponent = \"builtin:tensor@1\"\n".to_owned()
        }
    };
    let (post, confidence) = match model.outputs() {
        [one] if image(model).is_some() && one.require_real().is_ok() => {
            let (kind, why) = match model.softmax(0) {
                Some(_) => ("scores", "The model ends in a softmax."),
                None => ("logits", "\"scores\" when the model's output adds up to 1."),
            };
            (
                "component = \"builtin:classify@1\"\n\n[postprocessor.config]\ntop_k = 5\n",
                format!("# {why}\n[confidence]\noutput = {:?}\nkind = \"{kind}\"\n\n", one.name),
            )
        }
        _ => ("component = \"builtin:tensor@1\"\n", String::new()),
    };
    format!(
        "schema = \"{}\"\n\n[bundle]\nname = \"{name}\"\nversion = \"0.1.0\"\n# An SPDX expression.\nlicense = \"LicenseRef-Proprietary\"\n\
         description = \"\"\n\n[[variant]]\nname = \"default\"\nfile = \"model.onnx\"\nformat = \"onnx\"\n\n{}\n{confidence}[preprocessor]\n{pre}\n\
         [postprocessor]\n{post}\n# Names of the classes, one a line.\n# [labels]\n# file = \"labels.txt\"\n\n\
         # Samples with known answers; every device checks them before it trusts the bundle.\n\
         # [[golden]]\n# input = \"golden/0.png\"\n# label = \"cat\"\n",
        sedge_protocol::manifest::SCHEMA,
        tensors.join("\n"),
    )
}

/// Whether pixels go in as the bytes they are: unquantized uint8, or a scale that turns 0 to 255 into itself.
fn takes_bytes(input: &TensorSpec) -> bool {
    input.ty == ElementType::Uint8 && input.quantization.is_none_or(|q| q.scale == 1.0 && q.zero_point == 0)
}

fn build(directory: &Path, to: &Path, keys: &[PathBuf], format: Format) -> Result<ExitCode> {
    let mut layout = Layout::pack(directory)?;
    for key in keys {
        layout.sign(&super::secret_key(key)?)?;
    }
    layout.write(to)?;
    let digest = layout.digest()?;
    let signed = if keys.is_empty() { "unsigned; sign it with `sedge bundle sign`" } else { "signed" };
    let value = json!({"bundle": to, "digest": digest, "signatures": keys.len()});
    tell(format, &value, &[format!("{} {digest} ({signed})", to.display())])
}

fn sign(bundle: &Path, key: &Path, format: Format) -> Result<ExitCode> {
    let key = super::secret_key(key)?;
    // Nobody should put their name to a bundle that is damaged or malformed.
    let verified = VerifiedBundle::open(bundle, &Trust::Unsigned)?.digest();
    let mut layout = Layout::read(bundle)?;
    if layout.digest()? != verified {
        bail!("{} changed while it was being signed; nothing was written", bundle.display());
    }
    layout.sign(&key)?;
    layout.write(bundle)?;
    let (digest, id) = (layout.digest()?, key.public().id());
    tell(format, &json!({"digest": digest, "key_id": id}), &[format!("{digest} signed by {id}")])
}

/// Runs after the golden samples to judge latency; enough for a 95th percentile.
const LATENCY_RUNS: usize = 200;

fn check(path: &Path, sandbox: &SandboxArguments, format: Format) -> Result<ExitCode> {
    let bundle = VerifiedBundle::open(path, &Trust::Unsigned)?;
    let before = peak_rss_bytes();
    let mut options = sandbox.options()?;
    // What the bundle asks for is granted: the check is about the bundle, not about a device's policy.
    options.grants_allowed = [Grant::Clock, Grant::Random, Grant::Kv].into();
    let mut pipeline = Pipeline::load(&bundle, &options)?;
    let results = golden::check(&mut pipeline, &bundle)?;
    let mut advice = advice(&bundle, &pipeline);
    let latency_p95_ms = latency(&mut pipeline, &bundle)?;
    let memory_mib = peak_rss_bytes().saturating_sub(before) >> 20;
    if memory_mib > bundle.manifest().limits.memory_mib.into() {
        advice.push(format!("it took {memory_mib} MiB of memory here, more than limits.memory_mib"));
    }
    let limit = bundle.manifest().limits.latency_p95_ms.get("default").copied();
    let slow = matches!((latency_p95_ms, limit), (Some(p95), Some(limit)) if p95 > limit);
    if slow {
        advice.push("slower on this machine than limits.latency_p95_ms.default".to_owned());
    }
    let value = json!({
        "result": if slow { "too-slow" } else { "ok" },
        "digest": bundle.digest(),
        "golden": results.iter().map(|r| json!({"input": r.input, "difference_max": r.difference_max, "tolerance": r.tolerance})).collect::<Vec<_>>(),
        "latency_p95_ms": latency_p95_ms,
        "latency_limit_ms": limit,
        "memory_mib": memory_mib,
        "advice": advice,
    });
    let worst = results.iter().map(|r| r.difference_max).fold(0.0, f32::max);
    let mut lines = vec![
        format!("every hash of {} holds, and it loads", bundle.digest()),
        format!("{} golden samples come out as promised (largest difference {worst})", results.len()),
    ];
    lines.extend(latency_p95_ms.map(|p95| match limit {
        Some(limit) => format!("latency p95 {p95:.3} ms here, its limit is {limit} ms"),
        None => format!("latency p95 {p95:.3} ms here; it sets no limit"),
    }));
    lines.extend(advice.iter().map(|a| format!("note: {a}")));
    tell(format, &value, &lines)?;
    Ok(if slow { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

/// What a careful publisher would still do.
fn advice(bundle: &VerifiedBundle, pipeline: &Pipeline) -> Vec<String> {
    let manifest = bundle.manifest();
    let mut advice = Vec::new();
    if manifest.golden.is_empty() {
        advice.push("no golden samples: no device can tell whether it computes what you computed".to_owned());
    }
    if manifest.reference.is_none() {
        advice.push("no reference statistics: drift cannot be seen".to_owned());
    }
    if manifest.confidence.is_none() {
        advice.push("no [confidence]: doubtful predictions cannot be told from sure ones".to_owned());
    }
    if manifest.limits.latency_p95_ms.is_empty() {
        advice.push("no limits.latency_p95_ms: a slower version would not be noticed".to_owned());
    }
    if manifest.limits == Limits::default() {
        advice.push("no [limits]: the defaults apply (512 MiB, 250 ms in the sandbox)".to_owned());
    }
    let summary = pipeline.model().summary();
    if summary.parameters_int8 == 0 {
        advice.push("the model holds no int8 weights; quantized it would be smaller and faster".to_owned());
    }
    advice
}

fn latency(pipeline: &mut Pipeline, bundle: &VerifiedBundle) -> Result<Option<f64>> {
    let golden = &bundle.manifest().golden;
    let mut latencies = Latencies::default();
    for g in golden.iter().cycle().take(if golden.is_empty() { 0 } else { LATENCY_RUNS }) {
        let sample = Sample::new(&g.input, bundle.file(&g.input)?.to_vec());
        if let Some(outcome) = pipeline.process(&Meta::default(), &sample.input())? {
            latencies.push(outcome.timings.total);
        }
    }
    Ok((latencies.len() > 0).then(|| latencies.quantile_ms(0.95)))
}
