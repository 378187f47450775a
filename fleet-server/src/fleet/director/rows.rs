//! The director's rows in the database.

use super::{Assignments, DeviceState, Director, Signed};
use crate::fleet::store::{Doing as _, StoreError, signed as to_signed, unsigned};
use sedge_protocol::id::{DeviceId, Generation, Principal, ProjectId};
use sedge_protocol::time::UnixSeconds;
use std::collections::BTreeMap;

/// Generations of a device that are remembered to go back to.
const HISTORY_MAX: i64 = 100;

type Row = (i64, String, i64, i64, i64, Vec<u8>, Vec<u8>, Vec<u8>);

impl Director {
    /// A root: of this version, or the newest.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn root(&self, project: &ProjectId, version: Option<u64>) -> Result<Option<Vec<u8>>, StoreError> {
        let select = "SELECT file FROM director_root WHERE project = ? AND (? IS NULL OR version = ?) \
                      ORDER BY version DESC LIMIT 1";
        let row: Option<(Vec<u8>,)> = sqlx::query_as(select)
            .bind(project.as_str())
            .bind(version.map(to_signed))
            .bind(version.map(to_signed))
            .fetch_optional(&self.pool)
            .await
            .doing("read the director's root")?;
        Ok(row.map(|(file,)| file))
    }

    /// What a device is to run, or `None` before anybody has said so.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn state(&self, device: &Principal) -> Result<Option<DeviceState>, StoreError> {
        let doing = "read a desired state";
        let select = "SELECT generation, assignments, snapshot_version, timestamp_version, root_version, targets, \
                      snapshot, timestamp FROM director_device WHERE project = ? AND device = ?";
        let row: Option<Row> = sqlx::query_as(select)
            .bind(device.project.as_str())
            .bind(device.device.as_str())
            .fetch_optional(&self.pool)
            .await
            .doing(doing)?;
        let Some((generation, assignments, snapshot_version, timestamp_version, root_version, t, s, ts)) = row else {
            return Ok(None);
        };
        let generation = Generation(unsigned(generation));
        Ok(Some(DeviceState {
            generation,
            assignments: serde_json::from_str(&assignments).map_err(|e| StoreError::foreign(doing, e))?,
            signed: Signed {
                generation,
                snapshot_version: unsigned(snapshot_version),
                timestamp_version: unsigned(timestamp_version),
                targets: t,
                snapshot: s,
                timestamp: ts,
            },
            root_version: unsigned(root_version),
        }))
    }

    /// What every device of a project is to run.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn assignments(
        &self,
        project: &ProjectId,
    ) -> Result<BTreeMap<DeviceId, (Generation, Assignments)>, StoreError> {
        let doing = "read desired states";
        let select = "SELECT device, generation, assignments FROM director_device WHERE project = ?";
        let rows: Vec<(String, i64, String)> =
            sqlx::query_as(select).bind(project.as_str()).fetch_all(&self.pool).await.doing(doing)?;
        let read = |(device, generation, assignments): (String, i64, String)| {
            let device = device.parse().map_err(|e| StoreError::foreign(doing, e))?;
            let assignments = serde_json::from_str(&assignments).map_err(|e| StoreError::foreign(doing, e))?;
            Ok((device, (Generation(unsigned(generation)), assignments)))
        };
        rows.into_iter().map(read).collect()
    }

    /// Writes `next` if `before` is still what is there. Whether it was.
    pub(super) async fn replace(
        &self,
        device: &Principal,
        before: Option<&DeviceState>,
        next: &DeviceState,
        actor: Option<&str>,
        now: UnixSeconds,
    ) -> Result<bool, StoreError> {
        let doing = "write a desired state";
        let (project, name) = (device.project.as_str(), device.device.as_str());
        let assignments = serde_json::to_string(&next.assignments).map_err(|e| StoreError::foreign(doing, e))?;
        let Signed { snapshot_version, timestamp_version, targets, snapshot, timestamp, .. } = &next.signed;
        let mut transaction = self.pool.begin().await.doing(doing)?;
        let insert = "INSERT INTO director_device (generation, assignments, snapshot_version, timestamp_version, due, \
                      root_version, targets, snapshot, timestamp, project, device) \
                      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
        let update = "UPDATE director_device SET generation = ?, assignments = ?, snapshot_version = ?, \
                      timestamp_version = ?, due = ?, root_version = ?, targets = ?, snapshot = ?, timestamp = ? \
                      WHERE project = ? AND device = ? AND generation = ? AND timestamp_version = ?";
        let mut query = sqlx::query(if before.is_some() { update } else { insert })
            .bind(to_signed(next.generation.0))
            .bind(&assignments)
            .bind(to_signed(*snapshot_version))
            .bind(to_signed(*timestamp_version))
            .bind(next.signed.next_due(&self.validity).0)
            .bind(to_signed(next.root_version))
            .bind(targets)
            .bind(snapshot)
            .bind(timestamp)
            .bind(project)
            .bind(name);
        if let Some(before) = before {
            query = query.bind(to_signed(before.generation.0)).bind(to_signed(before.signed.timestamp_version));
        }
        if query.execute(&mut *transaction).await.doing(doing)?.rows_affected() != 1 {
            return Ok(false);
        }
        if let Some(actor) = actor {
            sqlx::query("INSERT INTO director_history VALUES (?, ?, ?, ?, ?, ?)")
                .bind(project)
                .bind(name)
                .bind(to_signed(next.generation.0))
                .bind(&assignments)
                .bind(actor)
                .bind(now.0)
                .execute(&mut *transaction)
                .await
                .doing(doing)?;
            sqlx::query("DELETE FROM director_history WHERE project = ? AND device = ? AND generation <= ?")
                .bind(project)
                .bind(name)
                .bind(to_signed(next.generation.0) - HISTORY_MAX)
                .execute(&mut *transaction)
                .await
                .doing(doing)?;
        }
        transaction.commit().await.doing(doing)?;
        Ok(true)
    }

    /// Devices whose signatures are to be renewed by `now`, those that wait longest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn due(&self, now: UnixSeconds, count_max: u32) -> Result<Vec<Principal>, StoreError> {
        let select = "SELECT project || ':' || device FROM director_device WHERE due <= ? ORDER BY due LIMIT ?";
        self.devices(sqlx::query_as(select).bind(now.0).bind(count_max)).await
    }

    /// Every device that has a desired state.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn all(&self, project: Option<&ProjectId>) -> Result<Vec<Principal>, StoreError> {
        let select = "SELECT project || ':' || device FROM director_device WHERE ? IS NULL OR project = ?";
        let project = project.map(|project| project.as_str().to_owned());
        self.devices(sqlx::query_as(select).bind(project.clone()).bind(project)).await
    }

    async fn devices<'q>(
        &self,
        query: sqlx::query::QueryAs<'q, sqlx::Sqlite, (String,), sqlx::sqlite::SqliteArguments>,
    ) -> Result<Vec<Principal>, StoreError> {
        let rows: Vec<(String,)> = query.fetch_all(&self.pool).await.doing("list devices")?;
        Ok(rows.into_iter().filter_map(|(device,)| device.parse().ok()).collect())
    }
}
