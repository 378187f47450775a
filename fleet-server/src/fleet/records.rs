//! What devices have said, stored under keys that make a repetition harmless.
//!
//! If power dies: a batch is one transaction, and nobody is told that something is stored before it is committed.

use super::session::{Record, Said};
use super::store::{Doing as _, StoreError, signed, unsigned};
use sedge_protocol::id::{ComponentName, DeviceId, Principal, ProjectId};
use sedge_protocol::message::{ComponentReport, Event, Reported, Status};
use serde::Serialize;
use sqlx::{Sqlite, SqlitePool, Transaction};
use std::collections::BTreeMap;

/// Reports that are kept of a component, and events of a device; bounds what one device can fill.
const KEPT_MAX: i64 = 500;

/// The latest report of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Latest {
    /// Generation that it answers.
    pub generation: u64,
    /// Number of the report.
    pub seq: u64,
    /// When it arrived, by the server's clock, Unix milliseconds.
    pub received_ms: u64,
    /// What it says.
    pub report: ComponentReport,
}

/// The latest status of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Presence {
    /// What it said.
    pub status: Status,
    /// Whether it speaks JSON.
    pub json: bool,
    /// When it arrived, by the server's clock, Unix milliseconds.
    pub received_ms: u64,
}

/// Statuses, reports and events of all devices.
#[derive(Debug, Clone)]
pub struct Records {
    pool: SqlitePool,
}

fn text<T: Serialize>(doing: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::foreign(doing, e))
}

impl Records {
    /// Records in this database.
    pub fn new(pool: SqlitePool) -> Self {
        Self { pool }
    }

    /// Stores all of them or none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn store(&self, batch: &[Record], now_ms: u64) -> Result<(), StoreError> {
        let doing = "store what devices said";
        let mut transaction = self.pool.begin().await.doing(doing)?;
        for Record { device, json, said } in batch {
            match said {
                Said::Status(status) => store_status(&mut transaction, device, status, *json, now_ms).await?,
                Said::Reported(reported) => store_report(&mut transaction, device, reported, now_ms).await?,
                Said::Event(event) => store_event(&mut transaction, device, event, now_ms).await?,
            }
        }
        transaction.commit().await.doing(doing)
    }

    /// The latest report of each component.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn reported(&self, device: &Principal) -> Result<BTreeMap<ComponentName, Latest>, StoreError> {
        let doing = "read reports";
        // Rows come oldest first, so that the newest of a component stays.
        let select = "SELECT component, generation, seq, received_ms, report FROM reported \
                      WHERE project = ? AND device = ? ORDER BY component, generation, attempt, seq";
        let rows: Vec<(String, i64, i64, i64, String)> = sqlx::query_as(select)
            .bind(device.project.as_str())
            .bind(device.device.as_str())
            .fetch_all(&self.pool)
            .await
            .doing(doing)?;
        let mut latest = BTreeMap::new();
        for (component, generation, seq, received, report) in rows {
            let component: ComponentName = component.parse().map_err(|e| StoreError::foreign(doing, e))?;
            let report = serde_json::from_str(&report).map_err(|e| StoreError::foreign(doing, e))?;
            let (generation, seq, received_ms) = (unsigned(generation), unsigned(seq), unsigned(received));
            latest.insert(component, Latest { generation, seq, received_ms, report });
        }
        Ok(latest)
    }

    /// The latest report of a component of every device of a project that has ever told its status.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn latest(
        &self,
        project: &ProjectId,
        component: &ComponentName,
    ) -> Result<BTreeMap<DeviceId, Latest>, StoreError> {
        let doing = "read the latest reports";
        let select = "SELECT r.device, r.generation, r.seq, r.received_ms, r.report FROM status s JOIN reported r \
                      ON r.project = s.project AND r.device = s.device AND r.component = ?2 \
                      AND (r.generation, r.attempt, r.seq) = (SELECT generation, attempt, seq FROM reported \
                      WHERE project = s.project AND device = s.device AND component = ?2 \
                      ORDER BY generation DESC, attempt DESC, seq DESC LIMIT 1) WHERE s.project = ?1";
        let rows: Vec<(String, i64, i64, i64, String)> = sqlx::query_as(select)
            .bind(project.as_str())
            .bind(component.as_str())
            .fetch_all(&self.pool)
            .await
            .doing(doing)?;
        let read = |(device, generation, seq, received, report): (String, i64, i64, i64, String)| {
            let device = device.parse().map_err(|e| StoreError::foreign(doing, e))?;
            let report = serde_json::from_str(&report).map_err(|e| StoreError::foreign(doing, e))?;
            let (generation, seq, received_ms) = (unsigned(generation), unsigned(seq), unsigned(received));
            Ok((device, Latest { generation, seq, received_ms, report }))
        };
        rows.into_iter().map(read).collect()
    }

    /// The latest events of a device, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn events(&self, device: &Principal, count_max: u32) -> Result<Vec<Event>, StoreError> {
        let doing = "read events";
        let select = "SELECT event FROM event WHERE project = ? AND device = ? \
                      ORDER BY received_ms DESC, seq DESC LIMIT ?";
        let rows: Vec<(String,)> = sqlx::query_as(select)
            .bind(device.project.as_str())
            .bind(device.device.as_str())
            .bind(count_max)
            .fetch_all(&self.pool)
            .await
            .doing(doing)?;
        rows.iter().map(|(event,)| serde_json::from_str(event).map_err(|e| StoreError::foreign(doing, e))).collect()
    }

    /// The latest status of a device.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn presence(&self, device: &Principal) -> Result<Option<Presence>, StoreError> {
        let found = self.presences(Some((&device.project, Some(device)))).await?;
        Ok(found.into_iter().next().map(|(_, presence)| presence))
    }

    /// The latest status of every device: of all, of a project, or of one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn presences(
        &self,
        of: Option<(&ProjectId, Option<&Principal>)>,
    ) -> Result<Vec<(Principal, Presence)>, StoreError> {
        let doing = "read statuses";
        let select = "SELECT project || ':' || device, status, json, received_ms FROM status \
                      WHERE (?1 IS NULL OR project = ?1) AND (?2 IS NULL OR device = ?2) ORDER BY project, device";
        let rows: Vec<(String, String, bool, i64)> = sqlx::query_as(select)
            .bind(of.map(|(project, _)| project.as_str()))
            .bind(of.and_then(|(_, device)| device).map(|device| device.device.as_str()))
            .fetch_all(&self.pool)
            .await
            .doing(doing)?;
        let mut found = Vec::new();
        for (device, status, json, received) in rows {
            let device = device.parse().map_err(|e| StoreError::foreign(doing, e))?;
            let status = serde_json::from_str(&status).map_err(|e| StoreError::foreign(doing, e))?;
            found.push((device, Presence { status, json, received_ms: unsigned(received) }));
        }
        Ok(found)
    }
}

async fn store_status(
    transaction: &mut Transaction<'_, Sqlite>,
    device: &Principal,
    status: &Status,
    json: bool,
    now_ms: u64,
) -> Result<(), StoreError> {
    let doing = "store a status";
    sqlx::query("INSERT OR REPLACE INTO status VALUES (?, ?, ?, ?, ?, ?)")
        .bind(device.project.as_str())
        .bind(device.device.as_str())
        .bind(text(doing, status)?)
        .bind(matches!(status, Status::Online(_)))
        .bind(json)
        .bind(signed(now_ms))
        .execute(&mut **transaction)
        .await
        .doing(doing)?;
    Ok(())
}

async fn store_report(
    transaction: &mut Transaction<'_, Sqlite>,
    device: &Principal,
    reported: &Reported,
    now_ms: u64,
) -> Result<(), StoreError> {
    let doing = "store a report";
    for (component, key) in reported.keys() {
        let Some(report) = reported.components.get(component) else { continue };
        let insert = "INSERT INTO reported VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
        sqlx::query(insert)
            .bind(device.project.as_str())
            .bind(device.device.as_str())
            .bind(component.as_str())
            .bind(signed(key.generation.0))
            .bind(key.attempt)
            .bind(signed(key.seq))
            .bind(text(doing, report)?)
            .bind(signed(now_ms))
            .execute(&mut **transaction)
            .await
            .doing(doing)?;
        let prune = "DELETE FROM reported WHERE project = ?1 AND device = ?2 AND component = ?3 AND \
                     (generation, attempt, seq) < (SELECT generation, attempt, seq FROM reported \
                     WHERE project = ?1 AND device = ?2 AND component = ?3 \
                     ORDER BY generation DESC, attempt DESC, seq DESC LIMIT 1 OFFSET ?4)";
        sqlx::query(prune)
            .bind(device.project.as_str())
            .bind(device.device.as_str())
            .bind(component.as_str())
            .bind(KEPT_MAX - 1)
            .execute(&mut **transaction)
            .await
            .doing(doing)?;
    }
    Ok(())
}

async fn store_event(
    transaction: &mut Transaction<'_, Sqlite>,
    device: &Principal,
    event: &Event,
    now_ms: u64,
) -> Result<(), StoreError> {
    let doing = "store an event";
    sqlx::query("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING")
        .bind(device.project.as_str())
        .bind(device.device.as_str())
        .bind(event.id.as_str())
        .bind(signed(event.seq))
        .bind(text(doing, event)?)
        .bind(signed(now_ms))
        .execute(&mut **transaction)
        .await
        .doing(doing)?;
    let prune = "DELETE FROM event WHERE project = ?1 AND device = ?2 AND received_ms < (SELECT received_ms FROM event \
                 WHERE project = ?1 AND device = ?2 ORDER BY received_ms DESC LIMIT 1 OFFSET ?3)";
    sqlx::query(prune)
        .bind(device.project.as_str())
        .bind(device.device.as_str())
        .bind(KEPT_MAX - 1)
        .execute(&mut **transaction)
        .await
        .doing(doing)?;
    Ok(())
}
