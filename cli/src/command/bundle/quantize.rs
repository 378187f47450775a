//! `sedge bundle quantize`: a float model in 8 bits, and what that costs.

use crate::chart::{Bar, Chart, shortened};
use crate::output::{self, Format, OutputArguments};
use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use sedge_runtime::quantize::{FloatModel, LayerError, Method, Options, Report, SampleSet, Stage};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const PERCENTILE: f64 = 99.99;

/// Weights become int8 with a scale for each channel, activations int8 with ranges measured on your samples. Both models
/// then run side by side, and the error of each layer is told.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The float model: ONNX, opset 13 or later.
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,
    /// Samples to measure ranges on, as the model will see them: .npy or .npz, one sample or a batch in each. In an .npz
    /// the arrays have the names of the inputs, or `x` for a single one.
    #[arg(long, value_name = "DIR|FILE")]
    calibrate: PathBuf,
    /// Where to write the quantized model.
    #[arg(long, value_name = "OUT.onnx")]
    to: PathBuf,
    /// Other samples for the comparison; classes in an array `y` of an .npz give the accuracy.
    #[arg(long, value_name = "DIR|FILE")]
    evaluate: Option<PathBuf>,
    /// How ranges are chosen.
    #[arg(long, value_enum, default_value = "minmax")]
    method: MethodName,
    /// Percent of the values that a range keeps at either end, for `--method percentile`; 99.99 when not given.
    #[arg(long, value_name = "PERCENT", value_parser = percentile)]
    percentile: Option<f64>,
    /// Leave a node in float, by its name or the name of what it yields; may be given several times.
    #[arg(long, value_name = "NODE")]
    keep_float: Vec<String>,
    /// Make inputs and outputs int8 themselves.
    #[arg(long)]
    integer_io: bool,
    /// Draw the error of each layer.
    #[arg(long, value_name = "FILE.svg")]
    report: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MethodName {
    /// The whole range.
    Minmax,
    /// All but the outermost values.
    Percentile,
    /// The range whose 8-bit form tells most of the distribution; give it some hundred samples.
    Entropy,
}

fn percentile(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(percent) if (50.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("give 50 to 100".to_owned()),
    }
}

impl Arguments {
    fn options(&self) -> Result<Options> {
        if self.percentile.is_some() && self.method != MethodName::Percentile {
            bail!("--percentile goes with --method percentile");
        }
        let method = match self.method {
            MethodName::Minmax => Method::MinMax,
            MethodName::Percentile => Method::Percentile(self.percentile.unwrap_or(PERCENTILE)),
            MethodName::Entropy => Method::Entropy,
        };
        Ok(Options { method, keep_float: self.keep_float.clone(), integer_io: self.integer_io })
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let options = arguments.options()?;
    let path = &arguments.model;
    let bytes = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let place = || path.display().to_string();
    let model = FloatModel::parse(&bytes).with_context(place)?;
    drop(bytes);
    let calibration = model.samples(&arguments.calibrate)?;
    let evaluation = arguments.evaluate.as_ref().map(|e| model.samples(e)).transpose()?;
    let evaluation: &SampleSet = evaluation.as_ref().unwrap_or(&calibration);
    let mut progress: Option<(Stage, ProgressBar)> = None;
    let quantized = model.quantize(&calibration, evaluation, &options, &mut |stage, done, of| {
        show(&mut progress, stage, done, of);
    });
    if let Some((_, bar)) = progress {
        bar.finish_and_clear();
    }
    let quantized = quantized.with_context(place)?;
    let written = |path: &Path, bytes: &[u8]| {
        std::fs::write(path, bytes).with_context(|| format!("{} cannot be written", path.display()))
    };
    written(&arguments.to, &quantized.onnx)?;
    if let Some(picture) = &arguments.report {
        written(picture, chart(path, &quantized.report).to_svg().as_bytes())?;
    }
    tell(arguments, &quantized.report)
}

fn show(progress: &mut Option<(Stage, ProgressBar)>, stage: Stage, done: usize, of: usize) {
    let what = match stage {
        Stage::Ranges => "ranges",
        Stage::Histograms => "histograms",
        Stage::Comparison => "comparing",
    };
    if progress.as_ref().is_none_or(|(shown, _)| *shown != stage)
        && let Some((_, before)) = progress.replace((stage, output::progress(of, what)))
    {
        before.finish_and_clear();
    }
    if let Some((_, bar)) = progress {
        bar.set_position(done as u64);
    }
}

/// A layer whose noise is one percent of its signal.
const NOISY_DB: f64 = 20.0;

fn chart(model: &Path, report: &Report) -> Chart {
    let name = model.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let bar =
        |layer: &LayerError| Bar { label: layer.layer.clone(), note: layer.operators.join(", "), value: layer.sqnr_db };
    Chart {
        title: format!("{name} in 8 bits: signal to quantization noise by layer"),
        subtitle: format!(
            "Longer is better. {} samples; each layer with all errors before it. {:.1} kB became {:.1} kB.",
            report.samples,
            report.bytes_before as f64 / 1e3,
            report.bytes_after as f64 / 1e3
        ),
        unit: "dB",
        mark_below: NOISY_DB,
        mark: "1 % noise",
        bars: report.layers.iter().map(bar).collect(),
    }
}

fn tell(arguments: &Arguments, report: &Report) -> Result<ExitCode> {
    let to = &arguments.to;
    if arguments.output.output == Format::Json {
        let mut value = serde_json::to_value(report)?;
        value["model"] = json!(to);
        output::json(&value)?;
        return Ok(ExitCode::SUCCESS);
    }
    const NAME: usize = 48;
    const LEFT_SHOWN: usize = 12;
    let decibels = |value: Option<f64>| value.map_or("exact".to_owned(), |v| format!("{v:.1}"));
    let row = |layer: &LayerError| {
        vec![
            shortened(&layer.layer, NAME),
            layer.operators.join(", "),
            decibels(layer.sqnr_db),
            figure(layer.error_mean),
            figure(layer.error_max.into()),
        ]
    };
    let header = ["layer", "operators", "SQNR in dB", "mean error", "largest error"];
    output::line(output::table(&header, report.layers.iter().map(row)));
    for o in &report.outputs {
        output::line(format!(
            "output {}: cosine {}, mean error {}, largest {}; the best class is the same in {} of {}",
            shortened(&o.output, NAME),
            o.cosine.map_or("undefined".to_owned(), |c| format!("{c:.5}")),
            figure(o.error_mean),
            figure(o.error_max.into()),
            o.same_best,
            report.samples
        ));
    }
    if let Some(a) = report.accuracy {
        let (float, quantized) = (100.0 * a.float, 100.0 * a.quantized);
        output::line(format!("accuracy {float:.2} % in float, {quantized:.2} % in 8 bits, of {} samples", a.labelled));
    }
    for left in report.left_in_float.iter().take(LEFT_SHOWN) {
        output::line(format!("in float: {} ({}), {}", shortened(&left.node, NAME), left.operator, left.reason));
    }
    if report.left_in_float.len() > LEFT_SHOWN {
        output::line(format!("in float: {} more, which -o json lists", report.left_in_float.len() - LEFT_SHOWN));
    }
    let share = 100.0 * report.bytes_after as f64 / report.bytes_before.max(1) as f64;
    let (before, after) = (report.bytes_before, report.bytes_after);
    output::line(format!("{} has {after} bytes, {share:.0} % of {before}", to.display()));
    if let Some(worst) = worst(report) {
        output::note(format!(
            "noise is more than 1 % of the signal from `{}` on; more samples, --method percentile, or \
             --keep-float for the layers where it grows may help",
            shortened(worst, NAME)
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The first layer in which noise is plain to see.
fn worst(report: &Report) -> Option<&str> {
    let noisy = |layer: &&LayerError| layer.sqnr_db.is_some_and(|db| db < NOISY_DB);
    report.layers.iter().find(noisy).map(|l| l.layer.as_str())
}

fn figure(value: f64) -> String {
    if value != 0.0 && value.abs() < 1e-3 { format!("{value:.1e}") } else { format!("{value:.4}") }
}
