//! What Sedge devices, servers and tools agree on: identifiers, digests, the bundle manifest, its packed form and its
//! signatures; the update metadata that says what a device may run; the messages between device and server.
//!
//! Everything here is a value or a pure function over bytes. This crate has no clock, no disk, no network and no
//! async, and has never heard of an inference engine.

pub mod cbor;
pub mod deployment;
pub mod digest;
pub mod enrolment;
pub mod id;
pub mod limits;
pub mod manifest;
pub mod message;
pub mod oci;
pub mod reference;
pub mod signature;
pub mod text;
pub mod time;
pub mod topic;
pub mod tuf;
pub mod uptane;
pub mod ustar;

pub use digest::{BundleDigest, Sha256Digest};
pub use manifest::Manifest;
pub use semver::Version;
