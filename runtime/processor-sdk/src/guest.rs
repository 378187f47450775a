//! Glue between the generated bindings and the traits of this crate. Only in components.
#![allow(missing_docs, clippy::missing_errors_doc, unreachable_pub)]

use crate::{Level, Phase};
use std::cell::RefCell;
use std::thread::LocalKey;

/// The configured processor of this component.
pub type State<P> = RefCell<Option<P>>;

const NOT_CONFIGURED: &str = "process was called before configure";

pub(crate) fn log(level: Level, message: &str) {
    use pre::bindings::sedge::processor::log as host;
    let level = match level {
        Level::Trace => host::Level::Trace,
        Level::Debug => host::Level::Debug,
        Level::Info => host::Level::Info,
        Level::Warn => host::Level::Warn,
        Level::Error => host::Level::Error,
    };
    host::log(level, message);
}

pub(crate) fn mark(phase: Phase) {
    use pre::bindings::sedge::processor::trace as host;
    host::mark(match phase {
        Phase::Entered => host::Phase::Entered,
        Phase::Decoded => host::Phase::Decoded,
        Phase::Leaving => host::Phase::Leaving,
    });
}

/// Conversions that both worlds need; each world's bindings have types of their own.
macro_rules! conversions {
    ($wit:path) => {
        use $wit as wit;

        fn element(ty: wit::ElementType) -> crate::ElementType {
            use crate::ElementType as E;
            match ty {
                wit::ElementType::Uint8 => E::Uint8,
                wit::ElementType::Int8 => E::Int8,
                wit::ElementType::Uint16 => E::Uint16,
                wit::ElementType::Int16 => E::Int16,
                wit::ElementType::Int32 => E::Int32,
                wit::ElementType::Int64 => E::Int64,
                wit::ElementType::Float16 => E::Float16,
                wit::ElementType::Bfloat16 => E::Bfloat16,
                wit::ElementType::Float32 => E::Float32,
                wit::ElementType::Float64 => E::Float64,
                wit::ElementType::Boolean => E::Boolean,
            }
        }

        fn spec(s: wit::TensorSpec) -> crate::TensorSpec {
            crate::TensorSpec {
                name: s.name,
                ty: element(s.ty),
                shape: s.shape,
                quantization: s.quant.map(|q| crate::Quantization { scale: q.scale, zero_point: q.zero_point }),
            }
        }

        fn model_info(m: wit::ModelInfo) -> crate::ModelInfo {
            crate::ModelInfo {
                name: m.name,
                version: m.version,
                digest: m.digest,
                inputs: m.inputs.into_iter().map(spec).collect(),
                outputs: m.outputs.into_iter().map(spec).collect(),
                labels: m.labels,
                confidence: m.confidence.map(|c| crate::ConfidenceSource {
                    output: c.output,
                    kind: match c.kind {
                        wit::ConfidenceKind::Logits => crate::ConfidenceKind::Logits,
                        wit::ConfidenceKind::Scores => crate::ConfidenceKind::Scores,
                    },
                }),
            }
        }

        fn meta(m: wit::Meta) -> crate::Meta {
            crate::Meta {
                seq: m.seq,
                timestamp_ns: m.timestamp_ns,
                source: m.source,
                prediction_id: m.prediction_id,
                extra: m.extra,
            }
        }

        fn error(e: crate::Error) -> wit::Error {
            match e {
                crate::Error::InvalidConfig(m) => wit::Error::InvalidConfig(m),
                crate::Error::InvalidInput(m) => wit::Error::InvalidInput(m),
                crate::Error::Unsupported(m) => wit::Error::Unsupported(m),
                crate::Error::Internal(m) => wit::Error::Internal(m),
            }
        }
    };
}

pub mod pre {
    use super::{LocalKey, NOT_CONFIGURED, State};
    use crate::{Phase, Preprocessor, mark};

    pub mod bindings {
        #![allow(missing_docs, unsafe_op_in_unsafe_fn, unused_qualifications, clippy::all)]
        wit_bindgen::generate!({
            path: "../wit",
            world: "preprocessor",
            pub_export_macro: true,
            default_bindings_module: "sedge_processor_sdk::guest::pre::bindings",
        });
    }
    pub use bindings::exports::sedge::processor::pre::{Error, Guest, Input, Meta, ModelInfo, Prepared};
    conversions!(bindings::sedge::processor::types);

    pub fn configure<P: Preprocessor>(
        state: &'static LocalKey<State<P>>,
        config: &str,
        model: ModelInfo,
    ) -> Result<(), Error> {
        let processor = P::configure(config, &model_info(model)).map_err(error)?;
        state.with(|s| *s.borrow_mut() = Some(processor));
        Ok(())
    }

    pub fn process<P: Preprocessor>(
        state: &'static LocalKey<State<P>>,
        m: Meta,
        input: Input,
    ) -> Result<Option<Prepared>, Error> {
        mark(Phase::Entered);
        let input = match &input {
            Input::Raw(d) => crate::Input::Raw(d),
            Input::Text(t) => crate::Input::Text(t),
            Input::Image(i) => crate::Input::Image(crate::ImageFrame {
                width: i.width,
                height: i.height,
                stride: i.stride,
                format: pixel_format(i.format),
                data: &i.data,
            }),
            Input::Audio(a) => crate::Input::Audio(crate::AudioChunk {
                sample_rate: a.sample_rate,
                channels: a.channels,
                ty: element(a.ty),
                data: &a.data,
            }),
            Input::Samples(w) => crate::Input::Samples(crate::SampleWindow {
                rate_hz: w.rate_hz,
                channels: w.channels,
                ty: element(w.ty),
                data: &w.data,
            }),
        };
        let m = meta(m);
        let result = state.with(|s| match s.borrow_mut().as_mut() {
            Some(processor) => processor.process(&m, &input),
            None => Err(crate::Error::Internal(NOT_CONFIGURED.into())),
        });
        let result = result
            .map_err(error)?
            .map(|p| Prepared { tensors: p.tensors.into_iter().map(tensor).collect(), context: p.context });
        mark(Phase::Leaving);
        Ok(result)
    }

    pub fn reset<P: Preprocessor>(state: &'static LocalKey<State<P>>) {
        state.with(|s| s.borrow_mut().as_mut().map(Preprocessor::reset));
    }

    fn pixel_format(f: bindings::sedge::processor::sample::PixelFormat) -> crate::PixelFormat {
        use crate::PixelFormat as P;
        use bindings::sedge::processor::sample as wit;
        match f {
            wit::PixelFormat::Rgb8 => P::Rgb8,
            wit::PixelFormat::Bgr8 => P::Bgr8,
            wit::PixelFormat::Rgba8 => P::Rgba8,
            wit::PixelFormat::Gray8 => P::Gray8,
            wit::PixelFormat::Nv12 => P::Nv12,
            wit::PixelFormat::Yuyv => P::Yuyv,
            wit::PixelFormat::Jpeg => P::Jpeg,
            wit::PixelFormat::Png => P::Png,
        }
    }

    fn tensor(t: crate::Tensor) -> wit::Tensor {
        use crate::ElementType as E;
        let ty = match t.ty {
            E::Uint8 => wit::ElementType::Uint8,
            E::Int8 => wit::ElementType::Int8,
            E::Uint16 => wit::ElementType::Uint16,
            E::Int16 => wit::ElementType::Int16,
            E::Int32 => wit::ElementType::Int32,
            E::Int64 => wit::ElementType::Int64,
            E::Float16 => wit::ElementType::Float16,
            E::Bfloat16 => wit::ElementType::Bfloat16,
            E::Float32 => wit::ElementType::Float32,
            E::Float64 => wit::ElementType::Float64,
            E::Boolean => wit::ElementType::Boolean,
        };
        wit::Tensor { name: t.name, ty, shape: t.shape, data: t.data }
    }
}

pub mod post {
    use super::{LocalKey, NOT_CONFIGURED, State};
    use crate::{Phase, Postprocessor, TensorView, mark};

    pub mod bindings {
        #![allow(missing_docs, unsafe_op_in_unsafe_fn, unused_qualifications, clippy::all)]
        wit_bindgen::generate!({
            path: "../wit",
            world: "postprocessor",
            pub_export_macro: true,
            default_bindings_module: "sedge_processor_sdk::guest::post::bindings",
        });
    }
    use bindings::exports::sedge::processor::post as export;
    pub use export::{Error, Guest, Meta, ModelInfo, Outcome, Tensor};
    conversions!(bindings::sedge::processor::types);

    pub fn configure<P: Postprocessor>(
        state: &'static LocalKey<State<P>>,
        config: &str,
        model: ModelInfo,
    ) -> Result<(), Error> {
        let processor = P::configure(config, &model_info(model)).map_err(error)?;
        state.with(|s| *s.borrow_mut() = Some(processor));
        Ok(())
    }

    pub fn process<P: Postprocessor>(
        state: &'static LocalKey<State<P>>,
        m: Meta,
        tensors: Vec<Tensor>,
        context: &str,
    ) -> Result<Outcome, Error> {
        mark(Phase::Entered);
        let views: Vec<TensorView<'_>> = tensors
            .iter()
            .map(|t| TensorView { name: &t.name, ty: element(t.ty), shape: &t.shape, data: &t.data })
            .collect();
        let m = meta(m);
        let outcome = state.with(|s| match s.borrow_mut().as_mut() {
            Some(processor) => processor.process(&m, &views, context),
            None => Err(crate::Error::Internal(NOT_CONFIGURED.into())),
        });
        let outcome = outcome.map_err(error)?;
        let outcome = Outcome {
            predictions: outcome.predictions.into_iter().map(prediction).collect(),
            payloads: outcome
                .payloads
                .into_iter()
                .map(|p| export::Payload { content_type: p.content_type, body: p.body, topic_suffix: p.topic_suffix })
                .collect(),
        };
        mark(Phase::Leaving);
        Ok(outcome)
    }

    pub fn reset<P: Postprocessor>(state: &'static LocalKey<State<P>>) {
        state.with(|s| s.borrow_mut().as_mut().map(Postprocessor::reset));
    }

    fn prediction(p: crate::Prediction) -> export::Prediction {
        export::Prediction {
            labels: p
                .labels
                .into_iter()
                .map(|l| export::ScoredLabel { index: l.index, label: l.label, score: l.score })
                .collect(),
            quantities: p
                .quantities
                .into_iter()
                .map(|q| export::Quantity { name: q.name, value: q.value, unit: q.unit })
                .collect(),
            confidence: p.confidence,
            region: p.region.map(|r| export::Region { x: r.x, y: r.y, width: r.width, height: r.height }),
        }
    }
}
