//! The table of access as an ACL file of Mosquitto 2.x.
//!
//! With `use_identity_as_username true`, `%u` in a `pattern` line is the certificate's common name. It must fill its
//! level, so a pattern cannot say "bundles of this device's project": bundle topics are granted only where all devices
//! belong to one project, see [`Tenancy`]. Elsewhere servers send chunks to each device on `in/chunk`. Mosquitto
//! checks reading when a message is delivered, not when it is subscribed to. Tried with Mosquitto 2.0.11.

use super::PREFIX;
use super::rules::{Access, Family, RULES};
use crate::id::ServerName;
use std::fmt::Write as _;

/// Whether a broker serves one project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tenancy {
    /// One: its devices may read every bundle topic.
    OneProject,
    /// Several: bundle topics are not granted.
    Several,
}

/// The ACL file for a broker that these servers use.
pub fn mosquitto_acl(servers: &[ServerName], tenancy: Tenancy) -> String {
    let mut out = String::from(
        "# Written by Sedge from its table of topics. It needs, in mosquitto.conf:\n\
         #   require_certificate true\n\
         #   use_identity_as_username true\n\
         #   allow_anonymous false\n",
    );
    // Writing to a string does not fail. Grants to `user` come first: a `topic` line belongs to the user above it.
    for server in servers {
        let _ = write!(out, "\nuser server:{server}\n");
        for rule in RULES {
            let verb = match rule.server {
                Access::Publish => "write",
                Access::Subscribe => "read",
                Access::Both => "readwrite",
            };
            let family = if rule.family == Family::Device { "d" } else { "b" };
            let _ = writeln!(out, "topic {verb} {PREFIX}/{family}/+/{}", rule.levels);
        }
    }
    out.push_str("\n# Each device, by its common name.\n");
    for rule in RULES {
        let verb = if rule.device == Access::Publish { "write" } else { "read" };
        match (rule.family, tenancy) {
            (Family::Device, _) => _ = writeln!(out, "pattern {verb} {PREFIX}/d/%u/{}", rule.levels),
            (Family::Bundle, Tenancy::OneProject) => _ = writeln!(out, "pattern {verb} {PREFIX}/b/+/{}", rule.levels),
            (Family::Bundle, Tenancy::Several) => {}
        }
    }
    out
}
