//! Reference outputs beside an ONNX model: `MODEL.golden.npz` with inputs `x` and one array per engine that ran them.

use anyhow::{Context as _, Result, bail};
use ndarray::{ArrayD, Axis};
use ndarray_npy::NpzReader;
use sedge_runtime::Model;
use sedge_runtime::api::{ElementType, Tensor, TensorSpec};
use serde::Serialize;
use std::fs::File;
use std::path::Path;

/// How far a model's outputs are from one engine's.
#[derive(Serialize)]
pub(crate) struct Agreement {
    /// Engine that made the reference.
    pub(crate) reference: String,
    /// Inputs compared.
    pub(crate) inputs: usize,
    /// Largest difference; in quanta for integer outputs.
    pub(crate) difference_max: f32,
    /// Largest difference accepted.
    pub(crate) tolerance: f32,
    /// Share of output elements that differ at all.
    pub(crate) unequal_share: f64,
    /// Inputs for which both have their largest value in the same place.
    pub(crate) same_best: usize,
}

impl Agreement {
    pub(crate) fn holds(&self) -> bool {
        self.difference_max <= self.tolerance
    }
}

/// Runs the model over the file's inputs and compares with every reference in it.
pub(crate) fn compare(model: &mut Model, path: &Path, tolerance: f32) -> Result<Vec<Agreement>> {
    let place = || path.display().to_string();
    let mut npz = NpzReader::new(File::open(path).with_context(place)?).with_context(place)?;
    let (input, output) = match (model.inputs(), model.outputs()) {
        ([input], [output]) => (input.clone(), output.clone()),
        _ => bail!("{}: only models with one input and one output are compared", path.display()),
    };
    let x = read(&mut npz, "x", input.ty).with_context(place)?;
    let mut outputs = Vec::new();
    for sample in x.axis_iter(Axis(0)) {
        let values: Vec<f32> = sample.iter().copied().collect();
        // The file holds what goes in, not what it stands for.
        let shape = sample.shape().iter().map(|&d| d as i32).collect();
        let spec = TensorSpec { shape, quantization: None, ..input.clone() };
        let tensor = Tensor::from_real(&spec, &values).map_err(anyhow::Error::from)?;
        outputs.push(model.run(&[tensor.view()])?.remove(0).view().to_real(None)?);
    }
    if outputs.is_empty() {
        bail!("{}: `x` holds no inputs, so nothing was compared", path.display());
    }
    let names: Vec<String> = npz.names()?;
    let mut agreements = Vec::new();
    for reference in names.iter().map(|n| n.trim_end_matches(".npy")).filter(|n| *n != "x") {
        let expected = read(&mut npz, reference, output.ty).with_context(place)?;
        if expected.shape().first() != Some(&outputs.len()) {
            bail!("{}: {reference} has shape {:?} for {} inputs", path.display(), expected.shape(), outputs.len());
        }
        let (mut difference_max, mut unequal, mut elements, mut same_best) = (0.0f32, 0, 0usize, 0);
        for (found, expected) in outputs.iter().zip(expected.axis_iter(Axis(0))) {
            if found.len() != expected.len() {
                bail!(
                    "{}: {reference} has {} elements, the model yields {}",
                    path.display(),
                    expected.len(),
                    found.len()
                );
            }
            same_best += usize::from(best(found.iter()) == best(expected.iter()));
            for (f, e) in found.iter().zip(&expected) {
                let difference = (f - e).abs();
                difference_max = if difference.is_nan() { f32::INFINITY } else { difference_max.max(difference) };
                unequal += usize::from(f != e);
                elements += 1;
            }
        }
        agreements.push(Agreement {
            reference: reference.to_owned(),
            inputs: outputs.len(),
            difference_max,
            tolerance,
            unequal_share: unequal as f64 / elements.max(1) as f64,
            same_best,
        });
    }
    if agreements.is_empty() {
        bail!("{}: it holds no reference outputs beside `x`, so nothing was compared", path.display());
    }
    Ok(agreements)
}

/// Place of the largest value.
fn best<'a>(values: impl Iterator<Item = &'a f32>) -> Option<usize> {
    values.enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(i, _)| i)
}

fn read(npz: &mut NpzReader<File>, name: &str, ty: ElementType) -> Result<ArrayD<f32>> {
    let file = if npz.names()?.iter().any(|n| n == name) { name.to_owned() } else { format!("{name}.npy") };
    Ok(match ty {
        ElementType::Float32 => npz.by_name(&file)?,
        ElementType::Int8 => npz.by_name::<_, ndarray::IxDyn>(&file).map(|a: ArrayD<i8>| a.mapv(f32::from))?,
        ElementType::Uint8 => npz.by_name::<_, ndarray::IxDyn>(&file).map(|a: ArrayD<u8>| a.mapv(f32::from))?,
        other => bail!("arrays of {other} are not compared"),
    })
}
