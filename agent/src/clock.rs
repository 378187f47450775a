//! Time: milliseconds that never go back, and a date that may be wrong.
//!
//! What always holds: [`Clock::now`] is never before a time that is known to have passed, and what the system's clock
//! claims is never remembered (`sedge_protocol::time`).

use sedge_protocol::deployment::Now;
use sedge_protocol::time::{TrustedTime, UnixSeconds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// It is at least as late as this: the day on which this source was written.
const BUILT: UnixSeconds = UnixSeconds(1_793_491_200);

/// The device's clock; copies share what is known.
#[derive(Debug, Clone)]
pub struct Clock {
    trusted: Arc<Mutex<TrustedTime>>,
    started: Instant,
    /// A clock of a test: how much faster than real time, and which date it claims at the start.
    test: Option<(u32, UnixSeconds)>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { trusted: Arc::new(Mutex::new(TrustedTime::new(BUILT))), started: Instant::now(), test: None }
    }
}

impl Clock {
    /// A clock that runs `speed` times as fast, and says that it is `date` now.
    #[cfg(test)]
    pub(crate) fn fast(speed: u32, date: UnixSeconds) -> Self {
        Self { test: Some((speed, date)), ..Self::default() }
    }

    fn trusted(&self) -> MutexGuard<'_, TrustedTime> {
        self.trusted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since this clock was made.
    pub fn elapsed_ms(&self) -> u64 {
        let real = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        real.saturating_mul(self.test.map_or(1, |(speed, _)| speed.into()))
    }

    /// When [`Clock::elapsed_ms`] will be this.
    pub fn instant_at(&self, elapsed_ms: u64) -> Instant {
        let real = elapsed_ms / self.test.map_or(1, |(speed, _)| u64::from(speed));
        // A year ahead is as good as never, and cannot overflow.
        self.started + Duration::from_millis(real.saturating_add(1).min(31_536_000_000))
    }

    fn claimed(&self) -> UnixSeconds {
        if let Some((_, date)) = self.test {
            return date.plus(i64::try_from(self.elapsed_ms() / 1000).unwrap_or(0));
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixSeconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }

    /// What to take for now.
    pub fn now(&self) -> UnixSeconds {
        self.trusted().now(self.claimed())
    }

    /// Whether the system's clock is not behind what is known to have passed.
    pub fn is_plausible(&self) -> bool {
        self.claimed() >= self.trusted().known()
    }

    /// It is at least this late.
    pub fn learn(&self, known: UnixSeconds) {
        self.trusted().learn(known);
    }

    /// The latest time that is known to have passed; to be stored.
    pub fn known(&self) -> UnixSeconds {
        self.trusted().known()
    }

    /// The present as deployments see it.
    pub fn deployment_now(&self) -> Now {
        let unix_s = self.is_plausible().then(|| self.now().0).and_then(|s| u64::try_from(s).ok());
        Now { boot_ms: self.elapsed_ms(), unix_s }
    }

    /// Unix milliseconds for messages, right or wrong.
    pub fn ts_ms(&self) -> u64 {
        if self.test.is_none() && self.is_plausible() {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            return u64::try_from(since.as_millis()).unwrap_or(0);
        }
        u64::try_from(self.now().0).unwrap_or(0).saturating_mul(1000)
    }
}
