//! What Sedge devices, servers and tools agree on: identifiers, digests, the bundle manifest, its packed form and its
//! signatures.
//!
//! Everything here is a value or a pure function over bytes. This crate has no clock, no disk, no network and no
//! async, and has never heard of an inference engine.

pub mod deployment;
pub mod digest;
pub mod id;
pub mod manifest;
pub mod oci;
pub mod reference;
pub mod signature;

pub use digest::{BundleDigest, Sha256Digest};
pub use manifest::Manifest;
pub use semver::Version;
