//! Between the manifest's vocabulary and that of processors.

use sedge_processor_sdk as api;
use sedge_protocol::manifest::{ConfidenceKind, ElementType, TensorDescription};

pub(crate) const fn element_type(ty: ElementType) -> api::ElementType {
    match ty {
        ElementType::Uint8 => api::ElementType::Uint8,
        ElementType::Int8 => api::ElementType::Int8,
        ElementType::Uint16 => api::ElementType::Uint16,
        ElementType::Int16 => api::ElementType::Int16,
        ElementType::Int32 => api::ElementType::Int32,
        ElementType::Int64 => api::ElementType::Int64,
        ElementType::Float16 => api::ElementType::Float16,
        ElementType::Bfloat16 => api::ElementType::Bfloat16,
        ElementType::Float32 => api::ElementType::Float32,
        ElementType::Float64 => api::ElementType::Float64,
        ElementType::Boolean => api::ElementType::Boolean,
    }
}

pub(crate) const fn confidence_kind(kind: ConfidenceKind) -> api::ConfidenceKind {
    match kind {
        ConfidenceKind::Logits => api::ConfidenceKind::Logits,
        ConfidenceKind::Scores => api::ConfidenceKind::Scores,
    }
}

pub(crate) fn tensor_spec(t: &TensorDescription) -> api::TensorSpec {
    api::TensorSpec {
        name: t.name.clone(),
        ty: element_type(t.dtype),
        shape: t.shape.clone(),
        quantization: t.quantization.map(|q| api::Quantization { scale: q.scale, zero_point: q.zero_point }),
    }
}
