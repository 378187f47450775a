//! Time as the machine sees it: told from outside, and kept as budgets.
//!
//! An instant means nothing after a restart, so every deadline is a [`Budget`] of milliseconds that is charged as time
//! passes and written down with the state. Power that is off is charged when a trusted clock knows how long it was,
//! and at least [`RESTART_CHARGE_MS`] per restart, so that a device caught in a restart loop still runs out of time.

use crate::id::Generation;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Least that a restart takes from every running budget; ends deployments on a device that restarts for ever.
pub const RESTART_CHARGE_MS: u64 = 30_000;
/// Ceiling of the first pause between attempts.
pub const BACKOFF_FIRST_MS: u64 = 5_000;
/// Ceiling of every pause between attempts.
pub const BACKOFF_MS_MAX: u64 = 3_600_000;

/// The present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Milliseconds since boot, from a clock that never goes back.
    pub boot_ms: u64,
    /// Seconds since 1970, only when the device has reason to trust them. A value before one trusted earlier is
    /// taken for untrusted.
    pub unix_s: Option<u64>,
}

/// Milliseconds left of some allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Budget {
    /// What is left.
    pub left_ms: u64,
}

impl Budget {
    /// So many seconds.
    pub const fn seconds(s: u32) -> Self {
        Self { left_ms: s as u64 * 1000 }
    }

    /// So many milliseconds.
    pub const fn millis(left_ms: u64) -> Self {
        Self { left_ms }
    }

    /// Whether nothing is left.
    pub const fn is_spent(self) -> bool {
        self.left_ms == 0
    }

    pub(super) fn charge(&mut self, ms: u64) {
        self.left_ms = self.left_ms.saturating_sub(ms);
    }
}

/// Pause before attempt `failures + 1`: exponential, capped, with full jitter. The jitter is a hash, so the same device
/// pauses the same way when it replays, and two devices pause differently.
pub fn backoff(seed: u64, generation: Generation, failures: u32) -> Budget {
    let doublings = failures.saturating_sub(1).min(20);
    let ceiling_ms = (BACKOFF_FIRST_MS << doublings).min(BACKOFF_MS_MAX);
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(generation.0.to_le_bytes());
    hash.update(failures.to_le_bytes());
    let draw = hash.finalize().iter().take(8).fold(0u64, |n, &b| n << 8 | u64::from(b));
    Budget::millis((1000 + draw % ceiling_ms).min(BACKOFF_MS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_cap_and_differ_between_devices() {
        let pause = |seed, failures| backoff(seed, Generation(7), failures).left_ms;
        for failures in [0, 1, 2, 5, 12, 40, u32::MAX] {
            for seed in 0..200 {
                assert!((1000..=BACKOFF_MS_MAX).contains(&pause(seed, failures)));
                assert_eq!(pause(seed, failures), pause(seed, failures));
            }
        }
        let most = |failures| (0..200).map(|seed| pause(seed, failures)).max().unwrap_or(0);
        assert!(most(1) <= 6_000 && most(4) > 20_000 && most(30) > BACKOFF_MS_MAX / 2);
        assert_ne!(pause(1, 3), pause(2, 3));
    }
}
