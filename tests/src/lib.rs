//! What the tests share.

pub mod component;
