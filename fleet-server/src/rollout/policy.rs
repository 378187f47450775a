//! How a device is to deploy: the key `deployment` of a component's settings, which the agent takes out before the
//! pipeline sees them. Read here with the same types, so that what a device would refuse is refused before any has it.

use super::spec::SpecError;
use sedge_protocol::BundleDigest;
use sedge_protocol::deployment::{ColdSwap, CommitRule, Deadlines, Order, ShadowLimits};
use sedge_protocol::id::Generation;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The key of the settings.
pub(super) const DEPLOYMENT: &str = "deployment";

/// What `settings.deployment` may say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the fields of `Order`")]
pub struct DevicePolicy {
    pub commit: Option<CommitRule>,
    pub shadow: Option<ShadowLimits>,
    pub probation_s: Option<u32>,
    pub attempts_max: Option<u8>,
    pub download_bytes_max: Option<u64>,
    pub deadlines: Option<Deadlines>,
    pub not_after_unix_s: Option<u64>,
    pub cold_swap: Option<ColdSwap>,
}

impl DevicePolicy {
    /// Reads the policy of settings.
    ///
    /// # Errors
    /// What a device would say of it.
    pub fn of(settings: &Map<String, Value>, digest: BundleDigest) -> Result<Self, SpecError> {
        let wrong = |problem: String| SpecError::Field { field: "settings.deployment".to_owned(), problem };
        let Some(value) = settings.get(DEPLOYMENT) else { return Ok(Self::default()) };
        let policy: Self = serde_json::from_value(value.clone()).map_err(|e| wrong(e.to_string()))?;
        policy.order(digest).fault().map_or(Ok(policy), |fault| Err(wrong(fault.to_owned())))
    }

    /// Seconds of good health that a device must show.
    pub fn probation_s(&self, digest: BundleDigest) -> u32 {
        self.order(digest).probation_s
    }

    fn order(&self, digest: BundleDigest) -> Order {
        let order = Order::new(Generation(1), digest, 1);
        Order {
            commit: self.commit.unwrap_or(order.commit),
            shadow: self.shadow.clone().unwrap_or_else(|| order.shadow.clone()),
            probation_s: self.probation_s.unwrap_or(order.probation_s),
            attempts_max: self.attempts_max.unwrap_or(order.attempts_max),
            deadlines: self.deadlines.unwrap_or(order.deadlines),
            ..order
        }
    }
}
