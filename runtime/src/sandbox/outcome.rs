//! Nothing a guest returns is believed before it has passed here. Built-in processors pass here too.

use super::limits::CONTEXT_BYTES_MAX;
use sedge_processor_sdk::{ModelInfo, Outcome, Payload, Prediction, Prepared, Tensor, TensorSpec};
use sedge_protocol::text::visible;

const PREDICTIONS_MAX: usize = 1024;
const LABELS_MAX: usize = 1024;
const QUANTITIES_MAX: usize = 256;
const TEXT_BYTES_MAX: usize = 256;
const PAYLOADS_MAX: usize = 16;
/// All payloads of one sample; together with the rest of a message they stay below 120 KiB.
const PAYLOAD_BYTES_MAX: usize = 96 << 10;
const TOPIC_LEVELS_MAX: usize = 2;
const TOPIC_LEVEL_LENGTH_MAX: usize = 32;

/// What is wrong with what a processor returned.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OutcomeError {
    /// Not the tensors that the model needs.
    #[error("it returned tensors {given}; the model's inputs are {expected}")]
    WrongTensors {
        /// Names returned.
        given: String,
        /// Names needed.
        expected: String,
    },
    /// A tensor of another type or shape than declared.
    #[error("tensor `{tensor}` is {given}; bundle.toml says {expected}")]
    WrongTensor {
        /// Its name.
        tensor: String,
        /// Type and shape returned.
        given: String,
        /// Type and shape needed.
        expected: String,
    },
    /// A tensor whose shape is not its data.
    #[error("tensor `{tensor}` claims shape {shape:?} of {ty}, which is {expected} bytes, and holds {found}")]
    LyingShape {
        /// Its name.
        tensor: String,
        /// The shape it claims.
        shape: Vec<u32>,
        /// Its element type.
        ty: &'static str,
        /// Bytes that the shape needs, or that they cannot be counted.
        expected: String,
        /// Bytes it has.
        found: usize,
    },
    /// NaN or infinity where a finite number belongs.
    #[error("{what} is {value}, not a finite number")]
    NotFinite {
        /// Which value.
        what: String,
        /// The value.
        value: f64,
    },
    /// A value outside of its range.
    #[error("{what} is {value}, outside of {range}")]
    OutOfRange {
        /// Which value.
        what: String,
        /// The value.
        value: String,
        /// What it may be.
        range: String,
    },
    /// Too many or too long.
    #[error("{what}: {found}; at most {limit}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How much.
        found: usize,
        /// How much is accepted.
        limit: usize,
    },
    /// A topic suffix that could reach another topic.
    #[error("topic suffix `{0}` is not one or two levels of a-z, 0-9, `_` and `-`")]
    TopicSuffix(String),
    /// A content type that is none.
    #[error("content type `{0}` is not printable ASCII of the form type/subtype")]
    ContentType(String),
}

/// Tensors for the model: exactly its inputs, in their types and shapes, with as much data as they claim.
pub(crate) fn check_prepared(prepared: &Prepared, model: &ModelInfo) -> Result<(), OutcomeError> {
    at_most("bytes of context", prepared.context.len(), CONTEXT_BYTES_MAX)?;
    let tensors = &prepared.tensors;
    let matches = tensors.len() == model.inputs.len()
        && model.inputs.iter().all(|i| tensors.iter().filter(|t| t.name == i.name).count() == 1);
    if !matches {
        return Err(OutcomeError::WrongTensors {
            given: format!("{:?}", tensors.iter().take(8).map(|t| shorten(&t.name)).collect::<Vec<_>>()),
            expected: format!("{:?}", model.inputs.iter().map(|i| i.name.as_str()).collect::<Vec<_>>()),
        });
    }
    tensors.iter().try_for_each(|t| {
        let spec = model.inputs.iter().find(|i| i.name == t.name);
        spec.map_or(Ok(()), |spec| check_tensor(t, spec))
    })
}

fn check_tensor(tensor: &Tensor, spec: &TensorSpec) -> Result<(), OutcomeError> {
    if !fits(tensor, spec) {
        return Err(wrong_tensor(tensor, spec));
    }
    let bytes = tensor.shape.iter().try_fold(tensor.ty.size_bytes(), |n, &d| n.checked_mul(d as usize));
    if bytes != Some(tensor.data.len()) {
        return Err(OutcomeError::LyingShape {
            tensor: shorten(&tensor.name),
            shape: tensor.shape.clone(),
            ty: tensor.ty.name(),
            expected: bytes.map_or("too many".to_owned(), |b| b.to_string()),
            found: tensor.data.len(),
        });
    }
    match tensor.view().first_not_finite() {
        Some(i) => Err(OutcomeError::NotFinite {
            what: format!("tensor `{}`, element {i}", shorten(&tensor.name)),
            value: tensor.view().to_real(None).ok().and_then(|v| v.get(i).copied()).map_or(f64::NAN, f64::from),
        }),
        None => Ok(()),
    }
}

/// The model's outputs, where a size was left open in the model and the manifest names it.
pub(crate) fn check_outputs(tensors: &[Tensor], model: &ModelInfo) -> Result<(), OutcomeError> {
    let declared = |t: &&Tensor| model.outputs.iter().find(|o| o.name == t.name);
    let pairs = tensors.iter().filter_map(|t| Some((t, declared(&t)?)));
    for (tensor, spec) in pairs {
        if !fits(tensor, spec) {
            return Err(wrong_tensor(tensor, spec));
        }
    }
    Ok(())
}

fn fits(tensor: &Tensor, spec: &TensorSpec) -> bool {
    let same = |(&given, &wanted): (&u32, &i32)| wanted == -1 || i64::from(given) == i64::from(wanted);
    tensor.ty == spec.ty && tensor.shape.len() == spec.shape.len() && tensor.shape.iter().zip(&spec.shape).all(same)
}

fn wrong_tensor(tensor: &Tensor, spec: &TensorSpec) -> OutcomeError {
    let shape: Vec<u32> = tensor.shape.iter().copied().take(8).collect();
    OutcomeError::WrongTensor {
        tensor: shorten(&tensor.name),
        given: format!("{} {shape:?}", tensor.ty),
        expected: format!("{} {:?}", spec.ty, spec.shape),
    }
}

/// Predictions and payloads of one sample.
pub(crate) fn check_outcome(outcome: &Outcome, model: &ModelInfo) -> Result<(), OutcomeError> {
    at_most("predictions", outcome.predictions.len(), PREDICTIONS_MAX)?;
    at_most("payloads", outcome.payloads.len(), PAYLOADS_MAX)?;
    at_most("bytes of payload", outcome.payloads.iter().map(|p| p.body.len()).sum(), PAYLOAD_BYTES_MAX)?;
    outcome.predictions.iter().enumerate().try_for_each(|(i, p)| check_prediction(i, p, model))?;
    outcome.payloads.iter().try_for_each(check_payload)
}

fn check_prediction(i: usize, prediction: &Prediction, model: &ModelInfo) -> Result<(), OutcomeError> {
    at_most("labels of one prediction", prediction.labels.len(), LABELS_MAX)?;
    at_most("quantities of one prediction", prediction.quantities.len(), QUANTITIES_MAX)?;
    for l in &prediction.labels {
        at_most("bytes of a label", l.label.len(), TEXT_BYTES_MAX)?;
        finite(|| format!("prediction {i}, score of `{}`", shorten(&l.label)), l.score.into())?;
        let known = model.labels.get(l.index as usize);
        if !model.labels.is_empty() && known != Some(&l.label) {
            return Err(OutcomeError::OutOfRange {
                what: format!("prediction {i}, label"),
                value: format!("{} `{}`", l.index, shorten(&l.label)),
                range: format!("the bundle's {} labels", model.labels.len()),
            });
        }
    }
    for q in &prediction.quantities {
        at_most("bytes of a quantity's name and unit", q.name.len() + q.unit.len(), TEXT_BYTES_MAX)?;
        finite(|| format!("prediction {i}, quantity `{}`", shorten(&q.name)), q.value)?;
    }
    if let Some(confidence) = prediction.confidence {
        fraction(|| format!("prediction {i}, confidence"), confidence)?;
    }
    if let Some(r) = prediction.region {
        for (side, value) in [("x", r.x), ("y", r.y), ("width", r.width), ("height", r.height)] {
            fraction(|| format!("prediction {i}, region {side}"), value)?;
        }
    }
    Ok(())
}

fn check_payload(payload: &Payload) -> Result<(), OutcomeError> {
    let content_type = &payload.content_type;
    let printable = content_type.len() <= TEXT_BYTES_MAX && content_type.bytes().all(|b| (0x20..0x7f).contains(&b));
    if !printable || content_type.split('/').filter(|part| !part.is_empty()).count() != 2 {
        return Err(OutcomeError::ContentType(shorten(content_type)));
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    let level = |l: &str| !l.is_empty() && l.len() <= TOPIC_LEVEL_LENGTH_MAX && l.chars().all(plain);
    match &payload.topic_suffix {
        Some(suffix) if suffix.split('/').count() > TOPIC_LEVELS_MAX || !suffix.split('/').all(level) => {
            Err(OutcomeError::TopicSuffix(shorten(suffix)))
        }
        _ => Ok(()),
    }
}

fn at_most(what: &'static str, found: usize, limit: usize) -> Result<(), OutcomeError> {
    if found > limit { Err(OutcomeError::TooMuch { what, found, limit }) } else { Ok(()) }
}

fn finite(what: impl FnOnce() -> String, value: f64) -> Result<(), OutcomeError> {
    if value.is_finite() { Ok(()) } else { Err(OutcomeError::NotFinite { what: what(), value }) }
}

fn fraction(what: impl FnOnce() -> String, value: f32) -> Result<(), OutcomeError> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(OutcomeError::OutOfRange { what: what(), value: value.to_string(), range: "0 to 1".to_owned() })
}

fn shorten(text: &str) -> String {
    visible(text, 64)
}
