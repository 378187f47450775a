//! `sedge bundle inspect`: what a bundle holds, and what a model is made of.

use super::super::{TrustArguments, fusion};
use crate::measure::ms;
use crate::output::{self, Format};
use anyhow::{Context as _, Result};
use sedge_protocol::manifest::TensorDescription;
use sedge_protocol::oci;
use sedge_runtime::api::TensorSpec;
use sedge_runtime::bundle::Trust;
use sedge_runtime::{Model, ModelOptions, VerifiedBundle};
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// The model as this machine loads it, or why it does not.
fn load_here(bundle: &VerifiedBundle) -> Result<(String, Model, f64)> {
    let variant = bundle.variant()?;
    let began = Instant::now();
    let shapes = bundle.manifest().input.iter().map(|i| (i.name.clone(), i.shape.clone())).collect();
    let model = Model::load(bundle.file(&variant.file)?, &ModelOptions { shapes, ..ModelOptions::default() })
        .with_context(|| format!("variant {} ({})", variant.name, variant.file))?;
    Ok((variant.name.clone(), model, ms(began.elapsed())))
}

pub(super) fn bundle(path: &Path, nodes: bool, trust: &TrustArguments, format: Format) -> Result<ExitCode> {
    let trust = trust.trust_if_named()?;
    let bundle = VerifiedBundle::open(path, &trust)?;
    let model = load_here(&bundle);
    let manifest = bundle.manifest();
    if format.is_json() {
        output::json(&json!({
            "digest": bundle.digest(),
            "media_type": oci::BUNDLE_TYPE,
            "signatures_checked": !matches!(trust, Trust::Unsigned),
            "signers": bundle.signers(),
            "manifest": manifest,
            "labels": bundle.labels(),
            "files": bundle.files().map(|(path, bytes)| json!({"path": path, "bytes": bytes.len()})).collect::<Vec<_>>(),
            "variant": model.as_ref().ok().map(|(name, ..)| name),
            "model": model.as_ref().ok().map(|(_, model, _)| model.summary()),
            "fusion": model.as_ref().ok().map(|(_, model, _)| fusion::json(model.fusion(), true)),
            "model_load_ms": model.as_ref().ok().map(|(.., load_ms)| load_ms),
            "model_error": model.as_ref().err().map(output::chain),
            "reference_rows": bundle.reference().map(|r| r.rows),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let header = &manifest.bundle;
    output::line(output::bold(format!("{} {}", header.name, header.version)));
    let signers: Vec<String> = bundle.signers().iter().map(ToString::to_string).collect();
    let signed = match trust {
        Trust::Unsigned => "not checked; name keys with --trusted-key".to_owned(),
        _ => signers.join(", "),
    };
    let shape = |t: &TensorDescription| format!("{} {:?} {:?}", t.name, t.dtype, t.shape).to_lowercase();
    let mut rows = vec![
        ("digest", bundle.digest().to_string()),
        ("signed by", signed),
        ("about", header.description.clone()),
        ("license", header.license.clone()),
        ("inputs", manifest.input.iter().map(shape).collect::<Vec<_>>().join(", ")),
        ("outputs", manifest.output.iter().map(shape).collect::<Vec<_>>().join(", ")),
        ("preprocessor", manifest.preprocessor.component.clone()),
        ("postprocessor", manifest.postprocessor.component.clone()),
        ("labels", bundle.labels().len().to_string()),
        ("golden samples", manifest.golden.len().to_string()),
        ("reference", bundle.reference().map_or("none".to_owned(), |r| format!("{} rows, {}", r.rows, r.dataset))),
    ];
    match &model {
        Ok((variant, model, load_ms)) => {
            rows.push(("variant here", format!("{variant}, loads in {load_ms:.1} ms")));
            rows.extend(made_of(model));
        }
        Err(error) => rows.push(("model", format!("does not run here: {}", output::chain(error)))),
    }
    output::line(output::table(&["", ""], rows.into_iter().map(|(k, v)| vec![k.to_owned(), v])));
    output::line(output::table(
        &["file", "bytes"],
        bundle.files().map(|(path, bytes)| vec![path.to_owned(), bytes.len().to_string()]),
    ));
    if let (true, Ok((_, model, _))) = (nodes, &model) {
        output::line(output::table(&["node", "operator", "runs in"], fusion::rows(model.fusion())));
    }
    Ok(ExitCode::SUCCESS)
}

/// What a model is made of, for people.
fn made_of(model: &Model) -> [(&'static str, String); 4] {
    let summary = model.summary();
    let int8 = 100.0 * summary.parameters_int8 as f64 / summary.parameters.max(1) as f64;
    let operators: Vec<String> = summary.operators.iter().map(|o| format!("{} {}", o.count, o.operator)).collect();
    [
        ("model", format!("{} nodes, opset {}, by {}", summary.nodes, summary.opset, summary.producer)),
        ("weights", format!("{} values, {int8:.0} % of them in 8 bits", summary.parameters)),
        ("operators", operators.join(", ")),
        ("in integers", fusion::summary(model.fusion())),
    ]
}

pub(super) fn model(path: &Path, nodes: bool, format: Format) -> Result<ExitCode> {
    let bytes = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let began = Instant::now();
    let model = Model::load(&bytes, &ModelOptions::default()).with_context(|| path.display().to_string())?;
    let load_ms = ms(began.elapsed());
    let tensor = |t: &TensorSpec| json!({"name": t.name, "dtype": t.ty.name(), "shape": t.shape});
    if format.is_json() {
        output::json(&json!({
            "subject": path,
            "bytes": bytes.len(),
            "inputs": model.inputs().iter().map(tensor).collect::<Vec<_>>(),
            "outputs": model.outputs().iter().map(tensor).collect::<Vec<_>>(),
            "model": model.summary(),
            "fusion": fusion::json(model.fusion(), true),
            "model_load_ms": load_ms,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(output::bold(path.display()));
    let shape = |t: &TensorSpec| format!("{} {} {:?}", t.name, t.ty, t.shape);
    let mut rows = vec![
        ("file", format!("{} bytes, loads in {load_ms:.1} ms", bytes.len())),
        ("inputs", model.inputs().iter().map(shape).collect::<Vec<_>>().join(", ")),
        ("outputs", model.outputs().iter().map(shape).collect::<Vec<_>>().join(", ")),
    ];
    rows.extend(made_of(&model));
    output::line(output::table(&["", ""], rows.into_iter().map(|(k, v)| vec![k.to_owned(), v])));
    if nodes {
        output::line(output::table(&["node", "operator", "runs in"], fusion::rows(model.fusion())));
    }
    Ok(ExitCode::SUCCESS)
}
