//! The field in the database: one row for each device.
//!
//! If power dies: a batch is one transaction. What was heard since the last one is lost, and the next heartbeats bring
//! it again, but for counts of a boot that ended meanwhile.

use super::state::DeviceField;
use crate::fleet::StoreError;
use crate::fleet::store::{Doing as _, signed};
use sedge_protocol::id::Principal;
use sqlx::SqlitePool;

/// Rows of all devices.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pool: SqlitePool,
}

/// A row.
#[derive(Debug)]
pub(super) struct Row {
    device: Principal,
    state: String,
    heard_ms: u64,
}

impl Row {
    pub(super) fn new(device: &Principal, field: &DeviceField) -> Result<Self, StoreError> {
        let state = serde_json::to_string(field).map_err(|e| StoreError::foreign("write down a heartbeat", e))?;
        Ok(Self { device: device.clone(), state, heard_ms: field.received_ms() })
    }
}

impl Rows {
    pub(super) fn new(pool: SqlitePool) -> Self {
        Self { pool }
    }

    /// Stores all of them or none.
    pub(super) async fn store(&self, batch: &[Row]) -> Result<(), StoreError> {
        let doing = "store heartbeats";
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await.doing(doing)?;
        for Row { device, state, heard_ms } in batch {
            sqlx::query("INSERT OR REPLACE INTO field VALUES (?, ?, ?, ?)")
                .bind(device.project.as_str())
                .bind(device.device.as_str())
                .bind(state)
                .bind(signed(*heard_ms))
                .execute(&mut *transaction)
                .await
                .doing(doing)?;
        }
        transaction.commit().await.doing(doing)
    }

    /// What is stored of every device. A row that cannot be read is left out: its device will tell anew.
    pub(super) async fn all(&self) -> Result<Vec<(Principal, DeviceField)>, StoreError> {
        let rows: Vec<(String, String)> = sqlx::query_as("SELECT project || ':' || device, state FROM field")
            .fetch_all(&self.pool)
            .await
            .doing("read heartbeats")?;
        let mut found = Vec::with_capacity(rows.len());
        for (name, state) in rows {
            match (name.parse(), serde_json::from_str(&state)) {
                (Ok(device), Ok(field)) => found.push((device, field)),
                (Err(e), _) => tracing::warn!(name, "heartbeats of what is no device are left out: {e}"),
                (_, Err(e)) => tracing::warn!(name, "the stored heartbeat cannot be read and is left out: {e}"),
            }
        }
        Ok(found)
    }

    pub(super) async fn forget(&self, device: &Principal) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM field WHERE project = ? AND device = ?")
            .bind(device.project.as_str())
            .bind(device.device.as_str())
            .execute(&self.pool)
            .await
            .doing("forget heartbeats")?;
        Ok(())
    }
}
