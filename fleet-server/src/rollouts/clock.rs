//! The time that deadlines go by. A test may move it on.

use crate::fleet::store::now_ms;
use std::time::Duration;
use tokio::sync::watch;

/// The machine's clock, and what it is put forward by.
#[derive(Debug, Clone)]
pub struct Clock {
    ahead_ms: watch::Sender<u64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { ahead_ms: watch::channel(0).0 }
    }
}

impl Clock {
    /// Milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        now_ms().saturating_add(*self.ahead_ms.borrow())
    }

    /// Puts it forward; who waits for a time looks again.
    pub fn advance(&self, by: Duration) {
        let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.ahead_ms.send_modify(|ahead_ms| *ahead_ms = ahead_ms.saturating_add(by_ms));
    }

    pub(super) fn moved(&self) -> watch::Receiver<u64> {
        self.ahead_ms.subscribe()
    }
}
