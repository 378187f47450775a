//! Preprocessor, model and postprocessor of one bundle, ready for samples.

use crate::bundle::{BundleError, VerifiedBundle};
use crate::convert;
use crate::model::{Model, ModelError, ModelOptions};
use crate::processor::{BuiltinError, PostStage, PreStage};
use crate::sandbox::{
    CallError, CompileError, CompiledCode, Compiler, Grants, Limits, LogSink, MemoryProfile, OutcomeError,
    PostprocessorInstance, PreprocessorInstance, Sandbox, SandboxError, Setup, check_outputs,
};
use sedge_processor_sdk::{
    Input, Meta, ModelInfo, Payload, Quantity, Quantization, Region, ScoredLabel, Tensor, TensorSpec, TensorView,
};
use sedge_protocol::Sha256Digest;
use sedge_protocol::manifest::{Grant, Processor, TensorDescription};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How to load a pipeline.
#[derive(Clone)]
pub struct PipelineOptions {
    /// Threads for the model.
    pub threads: usize,
    /// Memory layout of sandboxed processors.
    pub profile: MemoryProfile,
    /// Where WebAssembly is compiled.
    pub compiler: Compiler,
    /// Code compiled before, by the component's digest, for this profile.
    pub code: HashMap<Sha256Digest, CompiledCode>,
    /// Grants that the device's policy allows.
    pub grants_allowed: BTreeSet<Grant>,
    /// Where log lines of processors go.
    pub log: LogSink,
}

impl Default for PipelineOptions {
    fn default() -> Self {
        Self {
            threads: 1,
            profile: MemoryProfile::probe(),
            compiler: Compiler::InProcess,
            code: HashMap::new(),
            grants_allowed: BTreeSet::new(),
            log: Arc::new(|_| {}),
        }
    }
}

/// A loaded bundle.
pub struct Pipeline {
    pre: PreStage,
    model: Model,
    post: PostStage,
    info: ModelInfo,
    digest: Sha256Digest,
}

/// What the model says about a sample, or a part of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Names this prediction wherever labels, reports or explanations refer to it.
    pub id: String,
    /// Digest of the model file that made it.
    pub model: Sha256Digest,
    /// Best first.
    pub labels: Vec<ScoredLabel>,
    /// Values of a regression model.
    pub quantities: Vec<Quantity>,
    /// 0 to 1.
    pub confidence: Option<f32>,
    /// The part of the input that this is about.
    pub region: Option<Region>,
}

/// What came of one sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Typed predictions.
    pub predictions: Vec<Prediction>,
    /// Free-form results.
    pub payloads: Vec<Payload>,
    /// Where the time went.
    pub timings: Timings,
}

/// Where a sample's time went. The five parts add up to the total but for the glue between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Decoding the sample, as far as the preprocessor says.
    pub decode: Duration,
    /// The rest of the preprocessor's work.
    pub pre: Duration,
    /// The model.
    pub inference: Duration,
    /// The postprocessor's work.
    pub post: Duration,
    /// Getting data into and out of both sandboxes.
    pub crossing: Duration,
    /// Everything.
    pub total: Duration,
}

/// Why a bundle does not load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The bundle lacks something for this machine.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The sandbox does not start.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The model does not load.
    #[error("variant {variant} ({file}): {source}")]
    Model {
        /// Name of the variant.
        variant: String,
        /// Its file.
        file: String,
        /// What is wrong.
        source: ModelError,
    },
    /// The manifest and the model disagree.
    #[error("bundle.toml and {file} disagree on {what}: the manifest says {manifest}, the model {model}")]
    Mismatch {
        /// Its file.
        file: String,
        /// Input or output.
        what: String,
        /// What the manifest says.
        manifest: String,
        /// What the model says.
        model: String,
    },
    /// A component does not compile.
    #[error("{component}: {source}")]
    Compile {
        /// Its file.
        component: String,
        /// What is wrong.
        source: CompileError,
    },
    /// A built-in does not exist or refuses its settings.
    #[error("{component}: {source}")]
    Builtin {
        /// Its name.
        component: String,
        /// What is wrong.
        source: BuiltinError,
    },
    /// A processor does not start.
    #[error("{component}: {source}")]
    Processor {
        /// Its file.
        component: String,
        /// What is wrong.
        source: CallError,
    },
}

/// Why a sample was not processed.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// A processor did not answer.
    #[error(transparent)]
    Processor(#[from] CallError),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model yields something else than the manifest says.
    #[error("model: {0}")]
    Outputs(OutcomeError),
}

impl PipelineError {
    /// Whether only this sample failed, and the pipeline goes on as it was.
    pub const fn is_sample_failure(&self) -> bool {
        match self {
            Self::Processor(e) => e.is_sample_failure(),
            Self::Model(e) => matches!(e, ModelError::NotANumber { .. }),
            Self::Outputs(_) => true,
        }
    }
}

impl Pipeline {
    /// Readies a bundle. Golden samples are not checked here; see [`crate::golden::check`].
    ///
    /// # Errors
    /// [`LoadError`] naming the file at fault.
    pub fn load(bundle: &VerifiedBundle, options: &PipelineOptions) -> Result<Self, LoadError> {
        let variant = bundle.variant()?;
        let model = Model::load(bundle.file(&variant.file)?, &Self::model_options(bundle, options));
        let named = |source| LoadError::Model { variant: variant.name.clone(), file: variant.file.clone(), source };
        Self::load_with(bundle, options, model.map_err(named)?)
    }

    /// What a bundle's model is loaded with.
    pub fn model_options(bundle: &VerifiedBundle, options: &PipelineOptions) -> ModelOptions {
        let shapes = bundle.manifest().input.iter().map(|i| (i.name.clone(), i.shape.clone())).collect();
        ModelOptions { threads: options.threads, shapes, ..ModelOptions::default() }
    }

    /// Loads the model alone, for [`Pipeline::load_with`]. Its file is taken out of the bundle, and its memory freed on
    /// the way.
    ///
    /// # Errors
    /// [`LoadError::Model`], or of a bundle without one for this machine.
    pub fn take_model(bundle: &mut VerifiedBundle, options: &PipelineOptions) -> Result<Model, LoadError> {
        let options = Self::model_options(bundle, options);
        let variant = bundle.variant()?.clone();
        let model = Model::load_owned(bundle.take_file(&variant.file)?, &options);
        model.map_err(|source| LoadError::Model { variant: variant.name, file: variant.file, source })
    }

    /// Readies a bundle whose model is ready.
    ///
    /// # Errors
    /// As of [`Pipeline::load`].
    pub fn load_with(bundle: &VerifiedBundle, options: &PipelineOptions, model: Model) -> Result<Self, LoadError> {
        let manifest = bundle.manifest();
        let variant = bundle.variant()?;
        agree(&variant.file, "input", &manifest.input, model.inputs(), true)?;
        agree(&variant.file, "output", &manifest.output, model.outputs(), false)?;
        let digest = bundle.digest_of(&variant.file)?;
        let info = ModelInfo {
            name: manifest.bundle.name.to_string(),
            version: manifest.bundle.version.to_string(),
            digest: digest.to_string(),
            inputs: manifest.input.iter().map(convert::tensor_spec).collect(),
            outputs: manifest.output.iter().map(convert::tensor_spec).collect(),
            labels: bundle.labels().to_vec(),
            confidence: manifest.confidence.as_ref().map(|c| sedge_processor_sdk::ConfidenceSource {
                output: c.output.clone(),
                kind: convert::confidence_kind(c.kind),
            }),
        };
        let pre = load_pre(bundle, &manifest.preprocessor, &info, options)?;
        let post = load_post(bundle, &manifest.postprocessor, &info, options)?;
        Ok(Self { pre, model, post, info, digest })
    }

    /// The model and what it stands for.
    pub const fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Digest of the model's file.
    pub const fn model_digest(&self) -> Sha256Digest {
        self.digest
    }

    /// The model itself.
    pub const fn model(&self) -> &Model {
        &self.model
    }

    /// Processes one sample; `None` when the preprocessor wants more samples first.
    ///
    /// # Errors
    /// [`PipelineError`]; see [`PipelineError::is_sample_failure`].
    pub fn process(&mut self, meta: &Meta, input: &Input<'_>) -> Result<Option<Outcome>, PipelineError> {
        Ok(self.process_keeping_tensors(meta, input)?.map(|(outcome, _)| outcome))
    }

    /// As [`Pipeline::process`], with the model's outputs.
    ///
    /// # Errors
    /// As [`Pipeline::process`].
    pub fn process_keeping_tensors(
        &mut self,
        meta: &Meta,
        input: &Input<'_>,
    ) -> Result<Option<(Outcome, Vec<Tensor>)>, PipelineError> {
        let began = Instant::now();
        let (prepared, before) = self.pre.process(meta, input, &self.info)?;
        let Some(prepared) = prepared else { return Ok(None) };
        let views: Vec<TensorView<'_>> = prepared.tensors.iter().map(Tensor::view).collect();
        let started = Instant::now();
        let tensors = self.model.run(&views)?;
        let inference = started.elapsed();
        check_outputs(&tensors, &self.info).map_err(PipelineError::Outputs)?;
        let (outcome, after) = self.post.process(meta, &tensors, &prepared.context, &self.info)?;
        let timings = Timings {
            decode: before.decode,
            pre: before.total.saturating_sub(before.crossing + before.decode),
            inference,
            post: after.total.saturating_sub(after.crossing),
            crossing: before.crossing + after.crossing,
            total: began.elapsed(),
        };
        let several = outcome.predictions.len() > 1;
        let stamp = |(i, p): (usize, sedge_processor_sdk::Prediction)| Prediction {
            id: if several { format!("{}/{i}", meta.prediction_id) } else { meta.prediction_id.clone() },
            model: self.digest,
            labels: p.labels,
            quantities: p.quantities,
            confidence: p.confidence,
            region: p.region,
        };
        let predictions = outcome.predictions.into_iter().enumerate().map(stamp).collect();
        Ok(Some((Outcome { predictions, payloads: outcome.payloads, timings }, tensors)))
    }

    /// Makes both processors forget earlier samples, as when the source changes.
    ///
    /// # Errors
    /// [`PipelineError`] when one of them fails.
    pub fn reset(&mut self) -> Result<(), PipelineError> {
        self.pre.reset()?;
        Ok(self.post.reset()?)
    }
}

/// The manifest must say what the model says: all inputs, and of the outputs those that the bundle uses.
fn agree(
    file: &str,
    what: &str,
    manifest: &[TensorDescription],
    model: &[TensorSpec],
    all: bool,
) -> Result<(), LoadError> {
    let mismatch = |what: String, manifest: String, model: String| {
        Err(LoadError::Mismatch { file: file.to_owned(), what, manifest, model })
    };
    let names = || format!("{:?}", model.iter().map(|t| t.name.as_str()).collect::<Vec<_>>());
    if all && manifest.len() != model.len() {
        let declared: Vec<_> = manifest.iter().map(|t| t.name.as_str()).collect();
        return mismatch(format!("its {what}s"), format!("{declared:?}"), names());
    }
    for declared in manifest.iter().map(convert::tensor_spec) {
        let Some(found) = model.iter().find(|t| t.name == declared.name) else {
            return mismatch(
                format!("{what} `{}`", declared.name),
                "it exists".to_owned(),
                format!("it has {}", names()),
            );
        };
        let same = declared.shape.len() == found.shape.len()
            && declared.shape.iter().zip(&found.shape).all(|(&d, &f)| d == f || d == -1 || f == -1);
        let of = |t: &TensorSpec| format!("{} {:?}", t.ty, t.shape);
        if declared.ty != found.ty || !same {
            return mismatch(format!("{what} `{}`", declared.name), of(&declared), of(found));
        }
        if let (Some(says), Some(has)) = (declared.quantization, found.quantization)
            && (says.zero_point != has.zero_point || (says.scale - has.scale).abs() > 1e-5 * has.scale)
        {
            let of = |q: Quantization| format!("scale {} and zero point {}", q.scale, q.zero_point);
            return mismatch(format!("the quantization of {what} `{}`", declared.name), of(says), of(has));
        }
    }
    Ok(())
}

fn config(processor: &Processor) -> String {
    serde_json::Value::Object(processor.config.clone()).to_string()
}

fn load_pre(
    bundle: &VerifiedBundle,
    processor: &Processor,
    info: &ModelInfo,
    options: &PipelineOptions,
) -> Result<PreStage, LoadError> {
    let component = || processor.component.clone();
    let Some(file) = processor.file() else {
        return PreStage::builtin(&processor.component, &config(processor), info, options.log.clone())
            .map_err(|source| LoadError::Builtin { component: component(), source });
    };
    sandboxed(bundle, file, processor, info, options, PreprocessorInstance::start)
        .map(|i| PreStage::Sandboxed(Box::new(i)))
}

fn load_post(
    bundle: &VerifiedBundle,
    processor: &Processor,
    info: &ModelInfo,
    options: &PipelineOptions,
) -> Result<PostStage, LoadError> {
    let component = || processor.component.clone();
    let Some(file) = processor.file() else {
        return PostStage::builtin(&processor.component, &config(processor), info, options.log.clone())
            .map_err(|source| LoadError::Builtin { component: component(), source });
    };
    sandboxed(bundle, file, processor, info, options, PostprocessorInstance::start)
        .map(|i| PostStage::Sandboxed(Box::new(i)))
}

fn sandboxed<I>(
    bundle: &VerifiedBundle,
    file: &str,
    processor: &Processor,
    info: &ModelInfo,
    options: &PipelineOptions,
    start: impl FnOnce(Setup<'_>) -> Result<I, CallError>,
) -> Result<I, LoadError> {
    let wasm = bundle.file(file)?;
    let fresh;
    let code = match options.code.get(&Sha256Digest::of(wasm)) {
        Some(code) => code,
        None => {
            fresh = options
                .compiler
                .compile(wasm, options.profile)
                .map_err(|source| LoadError::Compile { component: file.to_owned(), source })?;
            &fresh
        }
    };
    start(Setup {
        sandbox: Sandbox::shared(options.profile)?,
        code,
        config: &config(processor),
        model: info,
        grants: &Grants::agreed(&processor.grants, &options.grants_allowed),
        limits: Limits::of(&bundle.manifest().limits),
        log: options.log.clone(),
    })
    .map_err(|source| LoadError::Processor { component: file.to_owned(), source })
}
