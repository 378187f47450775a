//! One device of a fleet.
//!
//! Two kinds of process. The *control plane* ([`plane`] is its view of the other) holds the identity key, the line to the
//! broker, the update metadata, the journal and the slots. The *data plane* feeds samples to one worker process per slot;
//! a worker holds the model and the sandbox, and no key, no network and no credential.
//!
//! This crate knows its own desired deployment, never a rollout, and has never heard of other devices.

pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod dataplane;
pub mod disk;
pub mod download;
pub mod endpoint;
pub mod enrol;
mod error;
pub mod fetch;
pub mod http;
pub mod identity;
pub mod journal;
pub mod latency;
pub mod local;
pub mod logging;
pub mod logs;
pub mod outbox;
pub mod plane;
pub mod program;
pub mod renewal;
pub mod sink;
pub mod site_mqtt;
pub mod slots;
pub mod source;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod transport;
pub mod update;
pub mod worker;
