//! What the tests share.

pub mod component;
pub mod onnx;
pub mod requirement;
