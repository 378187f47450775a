//! Write a Sedge preprocessor or postprocessor in Rust and ship it as a sandboxed WebAssembly component.
//!
//! Implement [`Preprocessor`] or [`Postprocessor`] on a type of yours and name it to [`export_preprocessor!`] or
//! [`export_postprocessor!`]. On `wasm32` the macro exports the WIT package `sedge:processor@0.1.0`; on every other
//! target it does nothing, so the same crate is tested natively and can serve as a built-in.
//!
//! ```
//! use sedge_processor_sdk::{Error, Input, Meta, ModelInfo, Prepared, Preprocessor, Tensor, export_preprocessor};
//!
//! /// Feeds raw little-endian samples to the model as they are.
//! struct Passthrough { input: sedge_processor_sdk::TensorSpec }
//!
//! impl Preprocessor for Passthrough {
//!     fn configure(_config: &str, model: &ModelInfo) -> Result<Self, Error> {
//!         Ok(Self { input: model.single_input()?.clone() })
//!     }
//!     fn process(&mut self, _meta: &Meta, input: &Input<'_>) -> Result<Option<Prepared>, Error> {
//!         let Input::Raw(data) = input else {
//!             return Err(Error::Unsupported(format!("expected raw bytes, got {}", input.kind())));
//!         };
//!         Ok(Some(Tensor { data: data.to_vec(), ..Tensor::empty(&self.input)? }.into()))
//!     }
//! }
//! export_preprocessor!(Passthrough);
//! ```
//!
//! This crate knows nothing of the host's engine, of tract, wasmtime, bundles or fleets.

mod host;
mod tensor;
mod types;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod guest;

#[cfg(not(target_arch = "wasm32"))]
pub use host::{HostCalls, with_host};
pub use host::{Level, Phase, log, mark};
pub use types::{
    AudioChunk, ConfidenceKind, ConfidenceSource, ElementType, Error, ImageFrame, Input, Meta, ModelInfo, Outcome,
    Payload, PixelFormat, Prediction, Prepared, Quantity, Quantization, Region, SampleWindow, ScoredLabel, Tensor,
    TensorSpec, TensorView,
};

/// From a sample to the model's input tensors.
pub trait Preprocessor: Sized + 'static {
    /// Reads the bundle's `[preprocessor.config]` (a JSON object; see [`parse_config`]) and what the model expects.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a setting that is unknown or out of range, [`Error::Unsupported`] for a model
    /// whose inputs this processor cannot fill.
    fn configure(config: &str, model: &ModelInfo) -> Result<Self, Error>;

    /// Turns one sample into tensors; `None` when more samples are needed first.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] or [`Error::Unsupported`] for this sample; the next one is processed as usual.
    fn process(&mut self, meta: &Meta, input: &Input<'_>) -> Result<Option<Prepared>, Error>;

    /// Forgets what earlier samples left behind.
    fn reset(&mut self) {}
}

/// From the model's output tensors to predictions.
pub trait Postprocessor: Sized + 'static {
    /// As [`Preprocessor::configure`], for `[postprocessor.config]`.
    ///
    /// # Errors
    /// As [`Preprocessor::configure`].
    fn configure(config: &str, model: &ModelInfo) -> Result<Self, Error>;

    /// Turns the outputs for one sample into predictions. `context` is what the preprocessor left for it.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] or [`Error::Unsupported`] for this sample; the next one is processed as usual.
    fn process(&mut self, meta: &Meta, tensors: &[TensorView<'_>], context: &str) -> Result<Outcome, Error>;

    /// Forgets what earlier samples left behind.
    fn reset(&mut self) {}
}

/// Reads a configuration object. Give the type `#[serde(deny_unknown_fields)]`, so that a misspelt setting is named
/// rather than ignored. An empty text counts as `{}`.
///
/// # Errors
/// [`Error::InvalidConfig`] with the setting and the place.
pub fn parse_config<T: serde::de::DeserializeOwned>(config: &str) -> Result<T, Error> {
    let text = if config.trim().is_empty() { "{}" } else { config };
    serde_json::from_str(text).map_err(|e| Error::InvalidConfig(e.to_string()))
}

/// Exports a [`Preprocessor`] from a component. Once per crate.
#[macro_export]
macro_rules! export_preprocessor {
    ($processor:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Exported;
            ::std::thread_local! {
                static STATE: $crate::guest::State<$processor> = const { $crate::guest::State::new(None) };
            }
            impl $crate::guest::pre::Guest for Exported {
                fn configure(
                    config: ::std::string::String,
                    model: $crate::guest::pre::ModelInfo,
                ) -> ::std::result::Result<(), $crate::guest::pre::Error> {
                    $crate::guest::pre::configure(&STATE, &config, model)
                }
                fn process(
                    meta: $crate::guest::pre::Meta,
                    input: $crate::guest::pre::Input,
                ) -> ::std::result::Result<::std::option::Option<$crate::guest::pre::Prepared>, $crate::guest::pre::Error>
                {
                    $crate::guest::pre::process(&STATE, meta, input)
                }
                fn reset() {
                    $crate::guest::pre::reset(&STATE)
                }
            }
            $crate::guest::pre::bindings::export!(Exported with_types_in $crate::guest::pre::bindings);
        };
    };
}

/// Exports a [`Postprocessor`] from a component. Once per crate.
#[macro_export]
macro_rules! export_postprocessor {
    ($processor:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Exported;
            ::std::thread_local! {
                static STATE: $crate::guest::State<$processor> = const { $crate::guest::State::new(None) };
            }
            impl $crate::guest::post::Guest for Exported {
                fn configure(
                    config: ::std::string::String,
                    model: $crate::guest::post::ModelInfo,
                ) -> ::std::result::Result<(), $crate::guest::post::Error> {
                    $crate::guest::post::configure(&STATE, &config, model)
                }
                fn process(
                    meta: $crate::guest::post::Meta,
                    tensors: ::std::vec::Vec<$crate::guest::post::Tensor>,
                    context: ::std::string::String,
                ) -> ::std::result::Result<$crate::guest::post::Outcome, $crate::guest::post::Error> {
                    $crate::guest::post::process(&STATE, meta, tensors, &context)
                }
                fn reset() {
                    $crate::guest::post::reset(&STATE)
                }
            }
    $crate::guest::post::bindings::export!(Exported with_types_in $crate::guest::post::bindings);
        };
    };
}
