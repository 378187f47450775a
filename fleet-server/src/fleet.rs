//! The fleet: which bundles exist, what each device is to run, and the conversation with devices about it.
//!
//! It knows devices by their names alone; who may call himself so is for the broker and the certificate authority to
//! say, and who may change what, for the HTTP server.

pub mod artifact;
pub mod carousel;
pub mod director;
pub mod publisher;
pub mod session;
mod store;
#[cfg(test)]
mod testing;

pub use store::StoreError;
