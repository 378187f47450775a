//! What is stored of a rollout. The plan is stored once; after each event only [`Core`] and the devices that changed are,
//! so that a heartbeat writes one row in a fleet of any size.

use super::machine::Rollout;
use super::plan::Plan;
use super::state::{Core, Device};
use sedge_protocol::id::DeviceId;
use serde::{Deserialize, Serialize};

/// Format of the record.
pub const FORMAT: u16 = 1;

/// A rollout's state, or the part of it that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// Format of this record.
    pub format: u16,
    /// All but the devices.
    pub core: Core,
    /// Devices that are not as they were planned; in a part, those that changed.
    pub devices: Vec<SavedDevice>,
}

/// A row of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedDevice {
    /// Its number: its place in the plan, and after those in the order of joining.
    pub number: u32,
    /// Its id, when it is not in the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined: Option<DeviceId>,
    /// Where it is.
    pub device: Device,
}

/// A record that is none of this plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Of another format.
    #[error("the rollout is stored in format {format}; this build reads {FORMAT}: use the build that wrote it")]
    Format {
        /// Which.
        format: u16,
    },
    /// Not of this plan.
    #[error("the stored rollout does not fit its plan: {problem}")]
    Mismatch {
        /// What.
        problem: &'static str,
    },
}

impl Rollout {
    /// All of it.
    pub fn saved(&self) -> Saved {
        let rows = (0..self.devices.len()).filter(|&number| self.joined(number) || self.devices[number].is_changed());
        Saved { format: FORMAT, core: self.core.clone(), devices: rows.map(|number| self.row(number)).collect() }
    }

    /// What has changed since this was last asked; to be stored before the effects are performed.
    pub fn take_changes(&mut self) -> Saved {
        let mut numbers = std::mem::take(&mut self.dirty);
        numbers.sort_unstable();
        numbers.dedup();
        let devices = numbers.into_iter().map(|number| self.row(number as usize)).collect();
        Saved { format: FORMAT, core: self.core.clone(), devices }
    }

    fn joined(&self, number: usize) -> bool {
        number >= self.plan.devices.len()
    }

    fn row(&self, number: usize) -> SavedDevice {
        let joined = self.joined(number).then(|| self.ids[number].clone());
        SavedDevice { number: u32::try_from(number).unwrap_or(u32::MAX), joined, device: self.devices[number].clone() }
    }

    /// A rollout as it was stored. Sums and counts are made anew from the devices.
    ///
    /// # Errors
    /// [`RestoreError`] for a record of another format or plan.
    pub fn restore(plan: Plan, saved: Saved) -> Result<Self, RestoreError> {
        let mismatch = |problem| RestoreError::Mismatch { problem };
        if saved.format != FORMAT {
            return Err(RestoreError::Format { format: saved.format });
        }
        if saved.core.waves.len() != plan.waves.len() || saved.core.wave > plan.waves.len() {
            return Err(mismatch("it has other waves"));
        }
        let planned = plan.devices.len();
        let total = planned + saved.core.joined as usize;
        let mut ids: Vec<Option<DeviceId>> = plan.devices.iter().cloned().map(Some).collect();
        let mut devices = vec![Device::default(); total];
        ids.resize(total, None);
        for row in saved.devices {
            let number = row.number as usize;
            if number >= total || row.joined.is_some() != (number >= planned) {
                return Err(mismatch("it has other devices"));
            }
            ids[number] = row.joined.or(ids[number].take());
            devices[number] = row.device;
        }
        let ids: Option<Vec<DeviceId>> = ids.into_iter().collect();
        let ids = ids.ok_or(mismatch("a device that joined is missing"))?;
        Self::assemble(plan, saved.core, ids, devices).ok_or(mismatch("a device occurs twice"))
    }
}

impl Device {
    fn is_changed(&self) -> bool {
        *self != Self::default()
    }
}
