//! `status.json` in the state directory: how the device fares, for `sedge-agent status` and whoever looks.

use super::Control;
use super::perform::slot_name;
use crate::transport::Transport;
use sedge_protocol::id::{ComponentName, Generation, Principal};
use sedge_protocol::{BundleDigest, Version};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tracing::debug;

/// How the device fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusFile {
    /// The device.
    pub device: Principal,
    /// Version of the agent.
    pub agent_version: Version,
    /// When this was written, Unix milliseconds by the device's clock.
    pub ts_ms: u64,
    /// Whether there is a connection to the broker.
    pub connected: bool,
    /// Whether the clock is not behind what is known to have passed.
    pub clock_plausible: bool,
    /// Highest generation seen.
    pub generation: Generation,
    /// Code by which the last desired state was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Messages that wait to be sent.
    pub outbox_messages: usize,
    /// Telemetry and events dropped since the start.
    pub outbox_dropped: u64,
    /// Each component.
    pub components: BTreeMap<ComponentName, ComponentStatus>,
}

/// How a component fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentStatus {
    /// Where its deployment is.
    pub phase: String,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<sedge_protocol::deployment::Waiting>,
    /// The committed bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<BundleDigest>,
    /// Its slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// Generation of the committed bundle.
    pub committed: Generation,
    /// Whose worker answers samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<BundleDigest>,
    /// Reports that the server has not acknowledged.
    pub reports: usize,
    /// Whether its journal cannot be written now.
    #[serde(default)]
    pub parked: bool,
}

impl<T: Transport> Control<T> {
    /// The status as it is now.
    pub fn status(&self) -> StatusFile {
        let components = self.components.iter().map(|(name, component)| {
            let machine = &component.machine;
            let status = ComponentStatus {
                phase: machine.phase().to_string(),
                waiting: machine.waiting(),
                active: machine.active().map(|active| active.bundle.digest),
                slot: machine.active().map(|active| slot_name(active.slot).to_owned()),
                committed: machine.record().anchor.committed,
                serving: component.serving,
                reports: machine.record().anchor.reports.len(),
                parked: component.is_parked(),
            };
            (name.clone(), status)
        });
        StatusFile {
            device: self.device.clone(),
            agent_version: env!("CARGO_PKG_VERSION").parse().unwrap_or(Version::new(0, 0, 0)),
            ts_ms: self.clock.ts_ms(),
            connected: self.line.is_some(),
            clock_plausible: self.clock.is_plausible(),
            generation: self.updater.marks().generation,
            refused: self.refused.as_ref().map(|(_, code)| code.to_string()),
            outbox_messages: self.outbox.len(),
            outbox_dropped: self.outbox.dropped(),
            components: components.collect(),
        }
    }

    pub(super) fn write_status(&self) {
        let json = serde_json::to_vec_pretty(&self.status()).unwrap_or_default();
        if let Err(e) = self.disk.replace(&self.config.state_dir.join("status.json"), &json) {
            debug!(error = %e, "the status file could not be written");
        }
    }
}
