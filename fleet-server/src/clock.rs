//! The one place that reads the machine's clock; decisions take the time as an argument.

use sedge_protocol::time::UnixSeconds;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the machine's clock says.
pub fn now() -> UnixSeconds {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixSeconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
