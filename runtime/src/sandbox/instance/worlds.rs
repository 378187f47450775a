//! The two worlds behind one interface, and the way between their records and the SDK's. Arguments are borrowed all
//! the way into the guest's memory, so a frame is copied once.

use super::Data;
use crate::sandbox::bindings::{post, pre};
use crate::sandbox::host::HostState;
use crate::sandbox::limits::Grants;
use pre::sedge::processor::{clock, kv, log, random, trace};
use sedge_processor_sdk as api;
use sedge_protocol::manifest::Grant;
use wasmtime::Store;
use wasmtime::component::{InstancePre, Linker};

/// What both worlds do alike.
pub(crate) trait World: Sized {
    /// The component with its imports resolved.
    type Prepared;
    fn prepare(instance: InstancePre<HostState>) -> wasmtime::Result<Self::Prepared>;
    fn instantiate(prepared: &Self::Prepared, store: &mut Store<HostState>) -> wasmtime::Result<Self>;
    fn configure(
        &self,
        store: &mut Store<HostState>,
        config: &str,
        model: &api::ModelInfo,
    ) -> wasmtime::Result<Result<(), api::Error>>;
    fn reset(&self, store: &mut Store<HostState>) -> wasmtime::Result<()>;
}

pub(crate) struct PreWorld(pre::PreprocessorFull);
pub(crate) struct PostWorld(post::PostprocessorFull);

/// Offers `log` and `trace`, and of the rest what is granted.
pub(super) fn link(linker: &mut Linker<HostState>, grants: &Grants) -> wasmtime::Result<()> {
    pre::sedge::processor::types::add_to_linker::<_, Data>(linker, |s| s)?;
    pre::sedge::processor::sample::add_to_linker::<_, Data>(linker, |s| s)?;
    log::add_to_linker::<_, Data>(linker, |s| s)?;
    trace::add_to_linker::<_, Data>(linker, |s| s)?;
    if grants.has(Grant::Kv) {
        kv::add_to_linker::<_, Data>(linker, |s| s)?;
    }
    if grants.has(Grant::Clock) {
        clock::add_to_linker::<_, Data>(linker, |s| s)?;
    }
    if grants.has(Grant::Random) {
        random::add_to_linker::<_, Data>(linker, |s| s)?;
    }
    Ok(())
}

/// Both worlds have types of their own for the same records.
macro_rules! conversions {
    ($module:ident, $wit:path) => {
        mod $module {
            use sedge_processor_sdk as api;
            use $wit as wit;

            pub(super) const fn element(ty: api::ElementType) -> wit::ElementType {
                use api::ElementType as E;
                match ty {
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
                }
            }

            pub(super) fn specs(specs: &[api::TensorSpec]) -> Vec<wit::TensorSpec<'_>> {
                fn one(s: &api::TensorSpec) -> wit::TensorSpec<'_> {
                    let quant = |q: api::Quantization| wit::Quantization { scale: q.scale, zero_point: q.zero_point };
                    wit::TensorSpec {
                        name: &s.name,
                        ty: element(s.ty),
                        shape: &s.shape,
                        quant: s.quantization.map(quant),
                    }
                }
                specs.iter().map(one).collect()
            }

            /// Calls `call` with the model's description, whose lists must live as long as the call.
            pub(super) fn with_model<R>(model: &api::ModelInfo, call: impl FnOnce(wit::ModelInfo<'_>) -> R) -> R {
                let (inputs, outputs) = (specs(&model.inputs), specs(&model.outputs));
                let labels: Vec<&str> = model.labels.iter().map(String::as_str).collect();
                let confidence = model.confidence.as_ref().map(|c| wit::ConfidenceSource {
                    output: &c.output,
                    kind: match c.kind {
                        api::ConfidenceKind::Logits => wit::ConfidenceKind::Logits,
                        api::ConfidenceKind::Scores => wit::ConfidenceKind::Scores,
                    },
                });
                call(wit::ModelInfo {
                    name: &model.name,
                    version: &model.version,
                    digest: &model.digest,
                    inputs: &inputs,
                    outputs: &outputs,
                    labels: &labels,
                    confidence,
                })
            }

            pub(super) fn meta(m: &api::Meta) -> wit::Meta<'_> {
                wit::Meta {
                    seq: m.seq,
                    timestamp_ns: m.timestamp_ns,
                    source: &m.source,
                    prediction_id: &m.prediction_id,
                    extra: &m.extra,
                }
            }

            /// The guest's message, bounded and without control characters.
            pub(super) fn error(e: wit::Error) -> api::Error {
                let text = |m: String| sedge_protocol::text::visible(&m, 500);
                match e {
                    wit::Error::InvalidConfig(m) => api::Error::InvalidConfig(text(m)),
                    wit::Error::InvalidInput(m) => api::Error::InvalidInput(text(m)),
                    wit::Error::Unsupported(m) => api::Error::Unsupported(text(m)),
                    wit::Error::Internal(m) => api::Error::Internal(text(m)),
                }
            }
        }
    };
}

conversions!(pre_types, crate::sandbox::bindings::pre::sedge::processor::types);
conversions!(post_types, crate::sandbox::bindings::post::sedge::processor::types);

impl World for PreWorld {
    type Prepared = pre::PreprocessorFullPre<HostState>;

    fn prepare(instance: InstancePre<HostState>) -> wasmtime::Result<Self::Prepared> {
        pre::PreprocessorFullPre::new(instance)
    }

    fn instantiate(prepared: &Self::Prepared, store: &mut Store<HostState>) -> wasmtime::Result<Self> {
        prepared.instantiate(store).map(Self)
    }

    fn configure(
        &self,
        store: &mut Store<HostState>,
        config: &str,
        model: &api::ModelInfo,
    ) -> wasmtime::Result<Result<(), api::Error>> {
        let guest = self.0.sedge_processor_pre();
        let configured = pre_types::with_model(model, |m| guest.call_configure(store, config, m))?;
        Ok(configured.map_err(pre_types::error))
    }

    fn reset(&self, store: &mut Store<HostState>) -> wasmtime::Result<()> {
        self.0.sedge_processor_pre().call_reset(store)
    }
}

impl World for PostWorld {
    type Prepared = post::PostprocessorFullPre<HostState>;

    fn prepare(instance: InstancePre<HostState>) -> wasmtime::Result<Self::Prepared> {
        post::PostprocessorFullPre::new(instance)
    }

    fn instantiate(prepared: &Self::Prepared, store: &mut Store<HostState>) -> wasmtime::Result<Self> {
        prepared.instantiate(store).map(Self)
    }

    fn configure(
        &self,
        store: &mut Store<HostState>,
        config: &str,
        model: &api::ModelInfo,
    ) -> wasmtime::Result<Result<(), api::Error>> {
        let guest = self.0.sedge_processor_post();
        let configured = post_types::with_model(model, |m| guest.call_configure(store, config, m))?;
        Ok(configured.map_err(post_types::error))
    }

    fn reset(&self, store: &mut Store<HostState>) -> wasmtime::Result<()> {
        self.0.sedge_processor_post().call_reset(store)
    }
}

pub(super) fn pre_process(
    world: &PreWorld,
    store: &mut Store<HostState>,
    meta: &api::Meta,
    input: &api::Input<'_>,
) -> wasmtime::Result<Result<Option<api::Prepared>, api::Error>> {
    use pre::sedge::processor::sample as wit;
    let input = match *input {
        api::Input::Raw(d) => wit::Input::Raw(d),
        api::Input::Text(t) => wit::Input::Text(t),
        api::Input::Image(i) => wit::Input::Image(wit::ImageFrame {
            width: i.width,
            height: i.height,
            stride: i.stride,
            format: pixel_format(i.format),
            data: i.data,
        }),
        api::Input::Audio(a) => wit::Input::Audio(wit::AudioChunk {
            sample_rate: a.sample_rate,
            channels: a.channels,
            ty: pre_types::element(a.ty),
            data: a.data,
        }),
        api::Input::Samples(s) => wit::Input::Samples(wit::SampleWindow {
            rate_hz: s.rate_hz,
            channels: s.channels,
            ty: pre_types::element(s.ty),
            data: s.data,
        }),
    };
    let result = world.0.sedge_processor_pre().call_process(store, pre_types::meta(meta), input)?;
    Ok(result.map_err(pre_types::error).map(|prepared| {
        prepared.map(|p| api::Prepared { tensors: p.tensors.into_iter().map(tensor).collect(), context: p.context })
    }))
}

pub(super) fn post_process(
    world: &PostWorld,
    store: &mut Store<HostState>,
    meta: &api::Meta,
    tensors: &[api::TensorView<'_>],
    context: &str,
) -> wasmtime::Result<Result<api::Outcome, api::Error>> {
    use post::sedge::processor::types as wit;
    let tensors: Vec<wit::Tensor<'_>> = tensors
        .iter()
        .map(|t| wit::Tensor { name: t.name, ty: post_types::element(t.ty), shape: t.shape, data: t.data })
        .collect();
    let result = world.0.sedge_processor_post().call_process(store, post_types::meta(meta), &tensors, context)?;
    Ok(result.map_err(post_types::error).map(|o| api::Outcome {
        predictions: o.predictions.into_iter().map(prediction).collect(),
        payloads: o
            .payloads
            .into_iter()
            .map(|p| api::Payload { content_type: p.content_type, body: p.body, topic_suffix: p.topic_suffix })
            .collect(),
    }))
}

const fn pixel_format(format: api::PixelFormat) -> pre::sedge::processor::sample::PixelFormat {
    use api::PixelFormat as P;
    use pre::sedge::processor::sample::PixelFormat as W;
    match format {
        P::Rgb8 => W::Rgb8,
        P::Bgr8 => W::Bgr8,
        P::Rgba8 => W::Rgba8,
        P::Gray8 => W::Gray8,
        P::Nv12 => W::Nv12,
        P::Yuyv => W::Yuyv,
        P::Jpeg => W::Jpeg,
        P::Png => W::Png,
    }
}

fn tensor(t: pre::sedge::processor::types::Tensor) -> api::Tensor {
    use api::ElementType as E;
    use pre::sedge::processor::types::ElementType as W;
    let ty = match t.ty {
        W::Uint8 => E::Uint8,
        W::Int8 => E::Int8,
        W::Uint16 => E::Uint16,
        W::Int16 => E::Int16,
        W::Int32 => E::Int32,
        W::Int64 => E::Int64,
        W::Float16 => E::Float16,
        W::Bfloat16 => E::Bfloat16,
        W::Float32 => E::Float32,
        W::Float64 => E::Float64,
        W::Boolean => E::Boolean,
    };
    api::Tensor { name: t.name, ty, shape: t.shape, data: t.data }
}

fn prediction(p: post::exports::sedge::processor::post::Prediction) -> api::Prediction {
    let label = |l: post::exports::sedge::processor::post::ScoredLabel| api::ScoredLabel {
        index: l.index,
        label: l.label,
        score: l.score,
    };
    let quantity = |q: post::exports::sedge::processor::post::Quantity| api::Quantity {
        name: q.name,
        value: q.value,
        unit: q.unit,
    };
    api::Prediction {
        labels: p.labels.into_iter().map(label).collect(),
        quantities: p.quantities.into_iter().map(quantity).collect(),
        confidence: p.confidence,
        region: p.region.map(|r| api::Region { x: r.x, y: r.y, width: r.width, height: r.height }),
    }
}
