//! What tests share: a certificate authority, a scripted broker, a disk with faults, and two repositories.

pub(crate) mod broker;
pub(crate) mod disk;
pub(crate) mod fleet;
pub(crate) mod pki;
