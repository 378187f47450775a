//! `sedge demo pipeline`: the digits bundle over real scans, from a fresh key to a picture of the mistakes.

use super::super::run::{Samples, Score, best, process};
use super::super::{keys, pipeline_options};
use super::{copy, publisher::unpack_digits};
use crate::measure::{Quantiles, Stages};
use crate::output::{self, OutputArguments};
use crate::picture;
use anyhow::{Context as _, Result};
use clap::Args;
use sedge_protocol::signature::{SecretKey, TrustPolicy};
use sedge_runtime::bundle::Trust;
use sedge_runtime::pack::Layout;
use sedge_runtime::{Pipeline, VerifiedBundle, golden};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Needs no network, and leaves nothing behind but a picture.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Where the picture goes.
    #[arg(long, value_name = "FILE.png", default_value = "sedge-demo-confusion-matrix.png")]
    picture: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let json_output = arguments.output.output.is_json();
    let say = |text: String| {
        if !json_output {
            output::line(text);
        }
    };
    let work = tempfile::tempdir().context("making a directory for the demo")?;
    let digits = unpack_digits(work.path())?;

    let key = keys::generate()?;
    let bundle = sign_and_open(&digits.join("v1"), &work.path().join("digits.tar"), &key)?;
    let header = &bundle.manifest().bundle;
    say(format!("{} {} ({}) is signed and every hash holds", header.name, header.version, bundle.digest()));
    let mut sandboxed = Pipeline::load(&bundle, &pipeline_options()?)?;
    let golden = golden::check(&mut sandboxed, &bundle)?;
    say(format!("{} golden samples come out as promised", golden.len()));

    // The same processors compiled into this program tell what the sandbox costs.
    let native = sign_and_open(&builtin_twin(&digits.join("v1"))?, &work.path().join("native.tar"), &key)?;
    let mut native = Pipeline::load(&native, &pipeline_options()?)?;

    let samples = Samples::find(&digits.join("images/field"))?;
    let labels = bundle.labels().to_vec();
    let mut counts = vec![vec![0usize; labels.len()]; labels.len()];
    let (mut stages, mut native_stages, mut score) = (Stages::default(), Stages::default(), Score::default());
    let progress = output::progress(samples.files.len(), "predicting");
    for (seq, path) in samples.files.iter().enumerate() {
        let outcome = process(&mut sandboxed, seq, path)?;
        native_stages.push(&process(&mut native, seq, path)?.timings);
        stages.push(&outcome.timings);
        let expected = samples.labels.get(&samples.name(path));
        score.count(expected, best(&outcome));
        let row = expected.and_then(|e| labels.iter().position(|l| l == e));
        if let (Some(row), Some(found)) = (row, best(&outcome)) {
            counts[row][found.index as usize] += 1;
        }
        progress.inc(1);
    }
    progress.finish_and_clear();

    let accuracy = score.accuracy().context("the demo's images carry no labels")?;
    let (total, builtin) = (Quantiles::from(&stages.total), Quantiles::from(&native_stages.total));
    let sandbox_ms = (total.p50_ms - builtin.p50_ms).max(0.0);
    let title = format!("{} {}: {:.1} % right", header.name, header.version, accuracy * 100.0);
    let subtitle = format!("{} of {} camera images, {:.2} ms each", score.right, score.counted, total.p50_ms);
    picture::confusion_matrix(&arguments.picture, &title, &subtitle, &labels, &counts)?;

    say(format!("\n{} of {} images right: {:.2} %\n", score.right, score.counted, accuracy * 100.0));
    say(stages.table());
    say(format!(
        "\nthe sandbox takes {sandbox_ms:.3} ms of {:.3} ms ({:.1} %): with the same processors built in, p50 is {:.3} ms",
        total.p50_ms,
        100.0 * sandbox_ms / total.p50_ms,
        builtin.p50_ms
    ));
    say(format!("what was taken for what: {}", arguments.picture.display()));
    if json_output {
        output::json(&json!({
            "result": "ok",
            "bundle": header.name,
            "version": header.version,
            "images": score.counted,
            "accuracy": accuracy,
            "golden": golden.len(),
            "p50_ms": total.p50_ms,
            "p95_ms": total.p95_ms,
            "stages": stages.json(),
            "builtin_p50_ms": builtin.p50_ms,
            "sandbox_ms": sandbox_ms,
            "sandbox_share": sandbox_ms / total.p50_ms,
            "confusion": counts,
            "picture": arguments.picture,
        }))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Packs, signs, writes and opens a bundle, as a publisher and a device would.
fn sign_and_open(directory: &Path, to: &Path, key: &SecretKey) -> Result<VerifiedBundle> {
    let mut layout = Layout::pack(directory)?;
    layout.sign(key)?;
    layout.write(to)?;
    let policy = TrustPolicy::new(vec![key.public()], 1)?;
    Ok(VerifiedBundle::open(to, &Trust::Signed(policy))?)
}

/// The same bundle with built-in processors in place of its components.
fn builtin_twin(directory: &Path) -> Result<PathBuf> {
    let twin = directory.with_file_name("native");
    copy(directory, &twin)?;
    let path = twin.join("bundle.toml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let text = text
        .replace("component = \"image.wasm\"", "component = \"builtin:image@1\"")
        .replace("component = \"classify.wasm\"", "component = \"builtin:classify@1\"");
    let text: String = text.split("[sources]").next().unwrap_or_default().to_owned();
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    Ok(twin)
}
