//! The records of `sedge:processor@0.1.0` as plain Rust types. Inputs are borrowed: a frame is not copied on its way
//! to a native processor.

use std::fmt;

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum ElementType {
    Uint8,
    Int8,
    Uint16,
    Int16,
    Int32,
    Int64,
    Float16,
    Bfloat16,
    Float32,
    Float64,
    Boolean,
}

impl ElementType {
    /// Bytes of one element.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::Uint8 | Self::Int8 | Self::Boolean => 1,
            Self::Uint16 | Self::Int16 | Self::Float16 | Self::Bfloat16 => 2,
            Self::Int32 | Self::Float32 => 4,
            Self::Int64 | Self::Float64 => 8,
        }
    }

    /// Name in manifests and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uint8 => "uint8",
            Self::Int8 => "int8",
            Self::Uint16 => "uint16",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::Boolean => "boolean",
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `real = scale * (stored - zero_point)`
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub struct Quantization {
    pub scale: f32,
    pub zero_point: i32,
}

/// What the model expects or yields under one name. A dimension of -1 may take any size.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct TensorSpec {
    pub name: String,
    pub ty: ElementType,
    pub shape: Vec<i32>,
    pub quantization: Option<Quantization>,
}

/// Dense, row-major, little-endian, without padding.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Tensor {
    pub name: String,
    pub ty: ElementType,
    pub shape: Vec<u32>,
    pub data: Vec<u8>,
}

/// A [`Tensor`] that somebody else owns.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub struct TensorView<'a> {
    pub name: &'a str,
    pub ty: ElementType,
    pub shape: &'a [u32],
    pub data: &'a [u8],
}

/// Layout of an image's pixels, or the format that it is encoded in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum PixelFormat {
    Rgb8,
    Bgr8,
    Rgba8,
    Gray8,
    Nv12,
    Yuyv,
    Jpeg,
    Png,
}

/// One image. `stride` is in bytes from one row to the next; it, `width` and `height` are 0 for encoded formats.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub struct ImageFrame<'a> {
    pub width: u32,
    pub height: u32,
    pub stride: u32,
    pub format: PixelFormat,
    pub data: &'a [u8],
}

/// Sound with interleaved channels.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub struct AudioChunk<'a> {
    pub sample_rate: u32,
    pub channels: u16,
    pub ty: ElementType,
    pub data: &'a [u8],
}

/// A window of sensor readings with interleaved channels.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub struct SampleWindow<'a> {
    pub rate_hz: f32,
    pub channels: u16,
    pub ty: ElementType,
    pub data: &'a [u8],
}

/// One sample as a source delivers it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub enum Input<'a> {
    Raw(&'a [u8]),
    Image(ImageFrame<'a>),
    Audio(AudioChunk<'a>),
    Samples(SampleWindow<'a>),
    Text(&'a str),
}

impl Input<'_> {
    /// What it is, for messages.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Raw(_) => "raw bytes",
            Self::Image(_) => "an image",
            Self::Audio(_) => "audio",
            Self::Samples(_) => "a sample window",
            Self::Text(_) => "text",
        }
    }

    /// Bytes of payload.
    pub const fn len_bytes(&self) -> usize {
        match self {
            Self::Raw(d) => d.len(),
            Self::Image(i) => i.data.len(),
            Self::Audio(a) => a.data.len(),
            Self::Samples(s) => s.data.len(),
            Self::Text(t) => t.len(),
        }
    }
}

/// One sample on its way through the pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// Grows by one with each sample of a source.
    pub seq: u64,
    /// Nanoseconds since the Unix epoch; 0 where the device does not know the time.
    pub timestamp_ns: u64,
    /// Name of the source that the sample came from.
    pub source: String,
    /// Names this prediction wherever labels, reports or explanations refer to it.
    pub prediction_id: String,
    /// JSON from the source, or empty.
    pub extra: String,
}

/// Whether an output holds logits or scores (probabilities).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ConfidenceKind {
    Logits,
    Scores,
}

/// Which of the model's outputs holds the evidence that confidence is computed from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ConfidenceSource {
    pub output: String,
    pub kind: ConfidenceKind,
}

/// The model that a processor works for.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// Name of the bundle.
    pub name: String,
    /// Version of the bundle.
    pub version: String,
    /// `sha256:` and 64 hex digits of the model file.
    pub digest: String,
    /// What the model expects.
    pub inputs: Vec<TensorSpec>,
    /// What the model yields.
    pub outputs: Vec<TensorSpec>,
    /// Names of the classes; may be empty.
    pub labels: Vec<String>,
    /// Where confidence comes from.
    pub confidence: Option<ConfidenceSource>,
}

/// Tensors for the model and a note for the postprocessor.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// One per input of the model.
    pub tensors: Vec<Tensor>,
    /// Handed unread to the postprocessor of the same sample: the letterbox of an image, say. At most 4 KiB.
    pub context: String,
}

impl From<Tensor> for Prepared {
    fn from(tensor: Tensor) -> Self {
        Self { tensors: vec![tensor], context: String::new() }
    }
}

/// A class, its name and its score.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct ScoredLabel {
    pub index: u32,
    pub label: String,
    pub score: f32,
}

/// A measured quantity of a regression model.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Quantity {
    pub name: String,
    pub value: f64,
    pub unit: String,
}

/// Left, top, width and height as fractions of the input, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub struct Region {
    pub x: f32,
    pub y: f32,
    pub width: f32,
    pub height: f32,
}

/// What the model says about a sample or a part of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Prediction {
    /// Best first.
    pub labels: Vec<ScoredLabel>,
    /// Values of a regression model.
    pub quantities: Vec<Quantity>,
    /// 0 to 1, from the manifest's confidence source.
    pub confidence: Option<f32>,
    /// The part of the input that this is about.
    pub region: Option<Region>,
}

/// Free-form result beside the typed one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Payload {
    pub content_type: String,
    pub body: Vec<u8>,
    pub topic_suffix: Option<String>,
}

/// What a postprocessor makes of one sample.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs)]
pub struct Outcome {
    pub predictions: Vec<Prediction>,
    pub payloads: Vec<Payload>,
}

/// An item that failed. It is counted and the next sample goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// A setting is unknown or out of range.
    InvalidConfig(String),
    /// This sample is not what it claims to be.
    InvalidInput(String),
    /// This sample or model is valid, but not for this processor.
    Unsupported(String),
    /// A defect of the processor itself.
    Internal(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidConfig(m) => write!(f, "invalid configuration: {m}"),
            Self::InvalidInput(m) => write!(f, "invalid input: {m}"),
            Self::Unsupported(m) => write!(f, "unsupported: {m}"),
            Self::Internal(m) => write!(f, "internal error of the processor: {m}"),
        }
    }
}

impl std::error::Error for Error {}
