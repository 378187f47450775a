//! A pipeline's two processors, sandboxed or built in. Both kinds are one source, and both are checked alike.

use crate::sandbox::{CallError, GuestTimes, LogSink, OutcomeError, PostprocessorInstance, PreprocessorInstance};
use crate::sandbox::{RateLimitedLog, check_outcome, check_prepared, native_call};
use sedge_processor_classify::Classify;
use sedge_processor_image::Image;
use sedge_processor_sdk::{
    Error, Input, Meta, ModelInfo, Outcome, Postprocessor, Prepared, Preprocessor, Tensor, TensorView,
};

/// Preprocessors that this runtime carries.
pub const BUILTIN_PREPROCESSORS: &[&str] = &["builtin:image@1", "builtin:tensor@1"];
/// Postprocessors that this runtime carries.
pub const BUILTIN_POSTPROCESSORS: &[&str] = &["builtin:classify@1", "builtin:tensor@1"];

/// No built-in has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no `{name}`; this runtime carries {}", known.join(", "))]
pub struct UnknownBuiltin {
    name: String,
    known: &'static [&'static str],
}

/// A preprocessor of either kind.
pub(crate) enum PreStage {
    Builtin(Box<dyn BuiltinPre>, RateLimitedLog),
    Sandboxed(Box<PreprocessorInstance>),
}

/// A postprocessor of either kind.
pub(crate) enum PostStage {
    Builtin(Box<dyn BuiltinPost>, RateLimitedLog),
    Sandboxed(Box<PostprocessorInstance>),
}

/// [`Preprocessor`] without its constructor, so that it can be boxed.
pub(crate) trait BuiltinPre: Send {
    fn process(&mut self, meta: &Meta, input: &Input<'_>) -> Result<Option<Prepared>, Error>;
    fn reset(&mut self);
}

impl<P: Preprocessor + Send> BuiltinPre for P {
    fn process(&mut self, meta: &Meta, input: &Input<'_>) -> Result<Option<Prepared>, Error> {
        Preprocessor::process(self, meta, input)
    }
    fn reset(&mut self) {
        Preprocessor::reset(self);
    }
}

/// [`Postprocessor`] without its constructor, so that it can be boxed.
pub(crate) trait BuiltinPost: Send {
    fn process(&mut self, meta: &Meta, tensors: &[TensorView<'_>], context: &str) -> Result<Outcome, Error>;
    fn reset(&mut self);
}

impl<P: Postprocessor + Send> BuiltinPost for P {
    fn process(&mut self, meta: &Meta, tensors: &[TensorView<'_>], context: &str) -> Result<Outcome, Error> {
        Postprocessor::process(self, meta, tensors, context)
    }
    fn reset(&mut self) {
        Postprocessor::reset(self);
    }
}

fn unknown<T>(name: &str, known: &'static [&'static str]) -> Result<T, BuiltinError> {
    Err(BuiltinError::Unknown(UnknownBuiltin { name: name.to_owned(), known }))
}

/// Why a built-in cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BuiltinError {
    /// No such built-in.
    #[error(transparent)]
    Unknown(#[from] UnknownBuiltin),
    /// It refuses its settings or the model.
    #[error(transparent)]
    Configure(Error),
}

impl PreStage {
    pub(crate) fn builtin(name: &str, config: &str, model: &ModelInfo, log: LogSink) -> Result<Self, BuiltinError> {
        let stage: Box<dyn BuiltinPre> = match name {
            "builtin:image@1" => Box::new(Image::configure(config, model).map_err(BuiltinError::Configure)?),
            "builtin:tensor@1" => {
                Box::new(<RawTensor as Preprocessor>::configure(config, model).map_err(BuiltinError::Configure)?)
            }
            _ => return unknown(name, BUILTIN_PREPROCESSORS),
        };
        Ok(Self::Builtin(stage, RateLimitedLog::new("preprocessor", log)))
    }

    pub(crate) fn process(
        &mut self,
        meta: &Meta,
        input: &Input<'_>,
        model: &ModelInfo,
    ) -> Result<(Option<Prepared>, GuestTimes), CallError> {
        let (prepared, times) = match self {
            Self::Builtin(stage, log) => native_call("preprocessor", log, || stage.process(meta, input))?,
            Self::Sandboxed(instance) => instance.process(meta, input)?,
        };
        if let Some(prepared) = &prepared {
            check_prepared(prepared, model).map_err(|e| CallError::bad_output("preprocessor", e))?;
        }
        Ok((prepared, times))
    }

    pub(crate) fn reset(&mut self) -> Result<(), CallError> {
        match self {
            Self::Builtin(stage, _) => {
                stage.reset();
                Ok(())
            }
            Self::Sandboxed(instance) => instance.reset(),
        }
    }
}

impl PostStage {
    pub(crate) fn builtin(name: &str, config: &str, model: &ModelInfo, log: LogSink) -> Result<Self, BuiltinError> {
        let stage: Box<dyn BuiltinPost> = match name {
            "builtin:classify@1" => Box::new(Classify::configure(config, model).map_err(BuiltinError::Configure)?),
            "builtin:tensor@1" => {
                Box::new(<RawTensor as Postprocessor>::configure(config, model).map_err(BuiltinError::Configure)?)
            }
            _ => return unknown(name, BUILTIN_POSTPROCESSORS),
        };
        Ok(Self::Builtin(stage, RateLimitedLog::new("postprocessor", log)))
    }

    pub(crate) fn process(
        &mut self,
        meta: &Meta,
        tensors: &[Tensor],
        context: &str,
        model: &ModelInfo,
    ) -> Result<(Outcome, GuestTimes), CallError> {
        let views: Vec<TensorView<'_>> = tensors.iter().map(Tensor::view).collect();
        let (outcome, times) = match self {
            Self::Builtin(stage, log) => native_call("postprocessor", log, || stage.process(meta, &views, context))?,
            Self::Sandboxed(instance) => instance.process(meta, &views, context)?,
        };
        check_outcome(&outcome, model).map_err(|e: OutcomeError| CallError::bad_output("postprocessor", e))?;
        Ok((outcome, times))
    }

    pub(crate) fn reset(&mut self) -> Result<(), CallError> {
        match self {
            Self::Builtin(stage, _) => {
                stage.reset();
                Ok(())
            }
            Self::Sandboxed(instance) => instance.reset(),
        }
    }
}

/// `builtin:tensor@1`: as a preprocessor, raw little-endian bytes are the model's only input; as a postprocessor, the
/// outputs leave as they are, one `application/octet-stream` payload per output.
struct RawTensor {
    model: ModelInfo,
}

impl Preprocessor for RawTensor {
    fn configure(_config: &str, model: &ModelInfo) -> Result<Self, Error> {
        model.single_input()?.fixed_shape()?;
        Ok(Self { model: model.clone() })
    }

    fn process(&mut self, _meta: &Meta, input: &Input<'_>) -> Result<Option<Prepared>, Error> {
        let Input::Raw(data) = input else {
            return Err(Error::Unsupported(format!("this processor takes raw bytes, the sample is {}", input.kind())));
        };
        Ok(Some(Tensor { data: data.to_vec(), ..Tensor::empty(self.model.single_input()?)? }.into()))
    }
}

impl Postprocessor for RawTensor {
    fn configure(_config: &str, model: &ModelInfo) -> Result<Self, Error> {
        Ok(Self { model: model.clone() })
    }

    fn process(&mut self, _meta: &Meta, tensors: &[TensorView<'_>], _context: &str) -> Result<Outcome, Error> {
        let payloads = tensors
            .iter()
            .map(|t| sedge_processor_sdk::Payload {
                content_type: "application/octet-stream".to_owned(),
                body: t.data.to_vec(),
                topic_suffix: None,
            })
            .collect();
        Ok(Outcome { predictions: Vec::new(), payloads })
    }
}
