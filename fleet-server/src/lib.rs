//! Many devices.
//!
//! One process: an embedded MQTT broker, the certificate authority of the devices, the director's half of the update
//! metadata, artifacts in chunks, a database, and an HTTPS interface. Everything but the broker speaks to the broker only
//! as an MQTT client, so that another one can stand in its place.
//!
//! This crate cannot run a model.

pub mod broker;
pub mod clock;
pub mod config;
pub mod console;
pub mod deny;
pub mod enrol;
pub mod field;
mod files;
pub mod fleet;
pub mod http;
pub mod pki;
pub mod rollout;
pub mod rollouts;
pub mod server;
pub mod service;
pub mod store;
