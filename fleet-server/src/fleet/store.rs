//! What the modules here have in common towards the database.

use sedge_protocol::time::UnixSeconds;
use std::time::{SystemTime, UNIX_EPOCH};

/// The database failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("the database failed to {operation}")]
pub struct StoreError {
    operation: &'static str,
    #[source]
    source: sqlx::Error,
}

/// Says what was being done.
pub(crate) trait Doing<T> {
    fn doing(self, operation: &'static str) -> Result<T, StoreError>;
}

impl<T> Doing<T> for Result<T, sqlx::Error> {
    fn doing(self, operation: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError { operation, source })
    }
}

impl StoreError {
    /// A row that does not hold what this program writes.
    pub(crate) fn foreign(operation: &'static str, problem: impl std::fmt::Display) -> Self {
        Self { operation, source: sqlx::Error::Decode(problem.to_string().into()) }
    }
}

/// SQLite's integers are signed; versions and lengths stay far below.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// The server's clock.
pub(crate) fn now() -> UnixSeconds {
    UnixSeconds(signed(now_ms() / 1000))
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
