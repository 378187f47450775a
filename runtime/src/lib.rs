//! A verified bundle in, predictions out.
//!
//! [`VerifiedBundle::open`] checks a packed bundle against the keys that are trusted; [`Pipeline::load`] readies its
//! preprocessor, model and postprocessor; [`Pipeline::process`] turns one sample into an [`Outcome`]. The model runs in
//! tract, processors in a WebAssembly sandbox. No type of either engine leaves this crate.
//!
//! This crate has never heard of fleets, rollouts or MQTT, and opens no network connection.

pub mod bundle;
pub mod cache;
mod convert;
pub mod golden;
pub mod model;
pub mod pack;
pub mod pipeline;
pub mod processor;
pub mod quantize;
pub mod sample;
pub mod sandbox;
mod tar_index;
pub mod tflite;

pub use bundle::{BundleError, VerifiedBundle};
pub use model::{Model, ModelError, ModelOptions};
pub use pipeline::{LoadError, Outcome, Pipeline, PipelineError, PipelineOptions, Prediction, Timings};
pub use sample::Sample;
pub use sedge_processor_sdk as api;
