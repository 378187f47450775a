//! What the tests share.

pub mod component;
pub mod onnx;
pub mod quantized;
pub mod requirement;
