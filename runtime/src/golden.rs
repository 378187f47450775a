//! Golden samples: what a bundle promises to answer, checked before it is trusted with anything else.

use crate::bundle::{BundleError, VerifiedBundle};
use crate::pipeline::{Pipeline, PipelineError};
use crate::sample::Sample;
use ndarray_npy::ReadNpyExt as _;
use sedge_processor_sdk::{Meta, Tensor};
use sedge_protocol::manifest::Golden;

/// How one golden sample came out.
#[derive(Debug, Clone, PartialEq)]
pub struct GoldenResult {
    /// Path of the sample in the bundle.
    pub input: String,
    /// Largest difference to an expected output.
    pub difference_max: f32,
    /// What that difference may be.
    pub tolerance: f32,
}

/// Why a bundle does not keep its promise.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// The sample could not be processed.
    #[error("golden sample {input}")]
    Process {
        /// Path of the sample.
        input: String,
        /// What failed.
        #[source]
        source: PipelineError,
    },
    /// The preprocessor asks for more samples.
    #[error("golden sample {input}: the preprocessor wants more than one sample before it answers")]
    NoAnswer {
        /// Path of the sample.
        input: String,
    },
    /// An expected output is missing or unreadable.
    #[error("golden sample {input}: {problem}")]
    Expectation {
        /// Path of the sample.
        input: String,
        /// What is wrong.
        problem: String,
    },
    /// Another label came out.
    #[error("golden sample {input}: expected label `{expected}`, got `{found}`")]
    Label {
        /// Path of the sample.
        input: String,
        /// What the bundle promises.
        expected: String,
        /// What came out.
        found: String,
    },
    /// An output differs too much.
    #[error(
        "golden sample {input}: output `{output}`, element {index} is {found}, expected {expected} within {tolerance}"
    )]
    Output {
        /// Path of the sample.
        input: String,
        /// Name of the output.
        output: String,
        /// First element that differs too much.
        index: usize,
        /// What came out.
        found: f32,
        /// What the bundle promises.
        expected: f32,
        /// What the difference may be.
        tolerance: f32,
    },
    /// A file of the bundle is missing.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Runs every golden sample of the bundle through the pipeline.
///
/// # Errors
/// [`GoldenError`] for the first sample that does not come out as promised.
pub fn check(pipeline: &mut Pipeline, bundle: &VerifiedBundle) -> Result<Vec<GoldenResult>, GoldenError> {
    bundle.manifest().golden.iter().map(|g| check_one(pipeline, bundle, g)).collect()
}

fn check_one(pipeline: &mut Pipeline, bundle: &VerifiedBundle, golden: &Golden) -> Result<GoldenResult, GoldenError> {
    let input = || golden.input.clone();
    let sample = Sample::new(&golden.input, bundle.file(&golden.input)?.to_vec());
    let meta = Meta { source: "golden".to_owned(), prediction_id: input(), ..Meta::default() };
    let failed = |source| GoldenError::Process { input: input(), source };
    pipeline.reset().map_err(failed)?;
    let (outcome, tensors) = pipeline
        .process_keeping_tensors(&meta, &sample.input())
        .map_err(failed)?
        .ok_or_else(|| GoldenError::NoAnswer { input: input() })?;
    if let Some(expected) = &golden.label {
        let best = outcome.predictions.first().and_then(|p| p.labels.first()).map(|l| l.label.clone());
        if best.as_ref() != Some(expected) {
            let found = best.unwrap_or_else(|| "no label".to_owned());
            return Err(GoldenError::Label { input: input(), expected: expected.clone(), found });
        }
    }
    let mut difference_max = 0.0f32;
    for (output, file) in &golden.expect {
        let expected = read_npy(bundle.file(file)?)
            .map_err(|problem| GoldenError::Expectation { input: input(), problem: format!("{file}: {problem}") })?;
        let difference = compare(golden, output, &expected, &tensors)?;
        difference_max = difference_max.max(difference);
    }
    Ok(GoldenResult { input: input(), difference_max, tolerance: golden.atol })
}

fn compare(golden: &Golden, output: &str, expected: &[f32], tensors: &[Tensor]) -> Result<f32, GoldenError> {
    let expectation = |problem: String| GoldenError::Expectation { input: golden.input.clone(), problem };
    let tensor = tensors
        .iter()
        .find(|t| t.name == output)
        .ok_or_else(|| expectation(format!("the model has no output `{output}`")))?;
    let found = tensor.view().to_real(None).map_err(|e| expectation(e.to_string()))?;
    if found.len() != expected.len() {
        return Err(expectation(format!(
            "output `{output}` has {} elements, expected {}",
            found.len(),
            expected.len()
        )));
    }
    let mut difference_max = 0.0f32;
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        if difference.is_nan() || difference > golden.atol {
            return Err(GoldenError::Output {
                input: golden.input.clone(),
                output: output.to_owned(),
                index,
                found,
                expected,
                tolerance: golden.atol,
            });
        }
        difference_max = difference_max.max(difference);
    }
    Ok(difference_max)
}

/// Elements of a `.npy` file of floats or bytes.
fn read_npy(bytes: &[u8]) -> Result<Vec<f32>, String> {
    use ndarray::ArrayD;
    let float = ArrayD::<f32>::read_npy(bytes).map(|a| a.into_iter().collect());
    let float = float.or_else(|_| ArrayD::<i8>::read_npy(bytes).map(|a| a.into_iter().map(f32::from).collect()));
    float
        .or_else(|_| ArrayD::<u8>::read_npy(bytes).map(|a| a.into_iter().map(f32::from).collect()))
        .map_err(|e| format!("not a .npy file of float32, int8 or uint8: {e}"))
}
