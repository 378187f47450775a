//! What the database knows, as the console shows it. It knows no rollout.

use super::cache::FleetCache;
use super::scan::{self, Bundles, DeviceRows, Placed};
use super::standing::{self, Known};
use super::view::{
    BundleLabel, ConsoleData, DeviceQuery, DeviceRow, DevicesPage, Facet, FleetView, Online, RolloutView,
};
use crate::service::AnyError;
use crate::store::{Store, StoreError, query};
use async_trait::async_trait;
use sedge_protocol::Sha256Digest;
use sedge_protocol::id::ProjectId;
use sedge_protocol::message::ComponentReport;
use sedge_protocol::time::UnixSeconds;
use sqlx::{ConnectOptions as _, SqliteConnection};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How often the database is asked whether anything changed.
const LOOK_STEP: Duration = Duration::from_secs(1);
const PROJECTS_MAX: u32 = 100;

/// Devices with one of their components: what it should run and what was last said of it. Parameters: 1 project, 2 the
/// last id before, 3 part of the id in lower case, 4 whether it is connected, 5 rows, 6 the component of those that
/// should run something there; of the others it is their first.
const DEVICES: &str = "\
    SELECT id, online, heard_s, generation, component, json_extract(assignments, '$.\"' || component || '\".digest') AS wanted, \
        (SELECT r.generation || ' ' || r.report FROM reported r WHERE r.project = ?1 AND r.device = id \
         AND r.component = first.component ORDER BY r.generation DESC, r.attempt DESC, r.seq DESC LIMIT 1) AS report \
    FROM (SELECT d.id, s.online, a.assignments, coalesce(a.generation, 0) AS generation, \
            nullif(max(coalesce(d.last_seen, 0), coalesce(s.received_ms, 0) / 1000), 0) AS heard_s, \
            coalesce((SELECT key FROM json_each(a.assignments) WHERE key = ?6), \
                (SELECT min(key) FROM json_each(a.assignments)), (SELECT min(r.component) FROM reported r \
                WHERE r.project = d.project AND r.device = d.id)) AS component \
        FROM device d \
        LEFT JOIN status s ON s.project = d.project AND s.device = d.id \
        LEFT JOIN director_device a ON a.project = d.project AND a.device = d.id \
        WHERE d.project = ?1 AND d.decommissioned_at IS NULL AND d.id > ?2 \
            AND (?3 = '' OR instr(lower(d.id), ?3) > 0) \
            AND (?4 IS NULL OR coalesce(s.online, 0) = ?4) \
        ORDER BY d.id LIMIT ?5) AS first \
    ORDER BY id";

type Row = (String, Option<bool>, Option<i64>, i64, Option<String>, Option<String>, Option<String>);

/// The console's figures out of the database.
#[derive(Debug)]
pub struct StoredData {
    store: Store,
    watched: Arc<Watched>,
    cache: FleetCache,
    looking: JoinHandle<()>,
}

/// What tells that the database has changed.
#[derive(Debug)]
struct Watched {
    /// SQLite gives each connection a number that grows when another one has committed; so this one writes nothing.
    connection: tokio::sync::Mutex<(SqliteConnection, i64)>,
    changes: watch::Sender<u64>,
}

impl Watched {
    /// Looks for changes, tells of them, and gives their number.
    async fn look(&self) -> Result<u64, StoreError> {
        let mut held = self.connection.lock().await;
        let (connection, seen) = &mut *held;
        let version = data_version(connection).await?;
        if version != *seen {
            *seen = version;
            self.changes.send_modify(|number| *number += 1);
        }
        Ok(*self.changes.borrow())
    }
}

impl Drop for StoredData {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

impl StoredData {
    /// Begins to watch the database.
    ///
    /// # Errors
    /// When there is no further connection to it.
    pub async fn open(store: Store) -> Result<Self, StoreError> {
        const WHAT: &str = "watch for changes";
        let mut connection = store.pool().connect_options().connect().await.map_err(query(WHAT))?;
        let seen = data_version(&mut connection).await?;
        // A number of an earlier start must not look like one of this.
        let first = u64::try_from(crate::clock::now().0).unwrap_or(0) * 1_000_000;
        let connection = tokio::sync::Mutex::new((connection, seen));
        let watched = Arc::new(Watched { connection, changes: watch::channel(first).0 });
        let looking = tokio::spawn({
            let watched = watched.clone();
            async move {
                loop {
                    tokio::time::sleep(LOOK_STEP).await;
                    if let Err(e) = watched.look().await {
                        tracing::error!(error = &e as &dyn std::error::Error, "pages are not told of changes");
                    }
                }
            }
        });
        Ok(Self { store, watched, cache: FleetCache::default(), looking })
    }

    /// The number of the last change, looked for now.
    pub(super) async fn change(&self) -> Result<u64, StoreError> {
        self.watched.look().await
    }

    /// A project's bundles.
    pub(super) async fn bundles(&self, project: &ProjectId) -> Result<Bundles, StoreError> {
        let rows: Vec<(String, String, String)> =
            sqlx::query_as("SELECT digest, name, version FROM artifact WHERE project = ? ORDER BY at, digest")
                .bind(project.as_str())
                .fetch_all(self.store.pool())
                .await
                .map_err(query("list bundles"))?;
        let label = |(digest, name, version)| BundleLabel { name, version, digest };
        Ok(Bundles::new(rows.into_iter().map(label)))
    }

    /// Whether there is such a project.
    pub(super) async fn has(&self, project: &ProjectId) -> Result<bool, StoreError> {
        let known: Option<i64> = sqlx::query_scalar("SELECT 1 FROM project WHERE name = ?")
            .bind(project.as_str())
            .fetch_optional(self.store.pool())
            .await
            .map_err(query("look up a project"))?;
        Ok(known.is_some())
    }

    /// A project's devices. `component` is the one to show of those that have it; empty for the first of each.
    pub(super) async fn rows<'a>(
        &'a self,
        project: &'a ProjectId,
        component: &'a str,
    ) -> Result<StoredRows<'a>, StoreError> {
        Ok(StoredRows { store: &self.store, project, component, bundles: self.bundles(project).await? })
    }
}

/// A project's devices as the database knows them.
pub(super) struct StoredRows<'a> {
    store: &'a Store,
    project: &'a ProjectId,
    component: &'a str,
    bundles: Bundles,
}

impl StoredRows<'_> {
    pub(super) fn bundles(&self) -> &Bundles {
        &self.bundles
    }

    /// Devices with the component that is shown of each.
    pub(super) async fn read(
        &self,
        after: &str,
        asked: &DeviceQuery,
        rows_max: u32,
    ) -> Result<Vec<(DeviceRow, Option<String>)>, StoreError> {
        let online = match asked.facet {
            Some(Facet::Online) => Some(true),
            Some(Facet::Offline) => Some(false),
            _ => None,
        };
        let rows: Vec<Row> = sqlx::query_as(DEVICES)
            .bind(self.project.as_str())
            .bind(after)
            .bind(asked.search.to_lowercase())
            .bind(online)
            .bind(rows_max)
            .bind(self.component)
            .fetch_all(self.store.pool())
            .await
            .map_err(query("list devices"))?;
        rows.into_iter().map(|row| device(row, &self.bundles)).collect()
    }
}

#[async_trait]
impl DeviceRows for StoredRows<'_> {
    async fn rows(&self, after: &str, asked: &DeviceQuery, rows_max: u32) -> Result<Vec<Placed>, AnyError> {
        let rows = self.read(after, asked, rows_max).await?;
        Ok(rows.into_iter().map(|(row, _)| Placed { row, group: 0 }).collect())
    }
}

async fn data_version(connection: &mut SqliteConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar("PRAGMA data_version").fetch_one(connection).await.map_err(query("look for changes"))
}

fn device(row: Row, bundles: &Bundles) -> Result<(DeviceRow, Option<String>), StoreError> {
    let (id, connected, heard, generation, component, wanted, report) = row;
    let damaged = |_| StoreError::Damaged { what: "report" };
    let report = match &report {
        None => None,
        Some(text) => {
            let (answers, report) = text.split_once(' ').ok_or(StoreError::Damaged { what: "report" })?;
            let report: ComponentReport = serde_json::from_str(report).map_err(damaged)?;
            Some((report, answers.parse().unwrap_or(0)))
        }
    };
    // The director writes digests with the name of the hash before them.
    let wanted = wanted.map(|digest| digest.strip_prefix("sha256:").unwrap_or(&digest).to_owned());
    let (state, reason) = standing::of(&Known {
        online: connected == Some(true),
        wanted: wanted.as_deref(),
        generation: u64::try_from(generation).unwrap_or(0),
        report: report.as_ref().map(|(report, answers)| (report, *answers)),
    });
    let running = report.and_then(|(report, _)| report.running).as_ref().map(Sha256Digest::hex);
    let row = DeviceRow {
        id,
        online: match connected {
            Some(true) => Online::Online,
            Some(false) => Online::Offline,
            None => Online::Never,
        },
        runs: running.map(|digest| bundles.label(digest)),
        served: None,
        wanted: wanted.map(|digest| bundles.label(digest)),
        state,
        reason,
        heard_at: heard.map(UnixSeconds),
    };
    Ok((row, component))
}

#[async_trait]
impl ConsoleData for StoredData {
    async fn projects(&self) -> Result<Vec<ProjectId>, AnyError> {
        Ok(crate::store::EdgeStore::projects(&self.store, None, PROJECTS_MAX).await?)
    }

    async fn fleet(&self, project: &ProjectId) -> Result<Option<FleetView>, AnyError> {
        if !self.has(project).await? {
            return Ok(None);
        }
        // Before anything is read, so that nothing older is kept for a later change.
        let version = (self.change().await?, 0);
        let scan = async {
            let rows = self.rows(project, "").await?;
            scan::fleet(&rows, &[String::new()], rows.bundles()).await
        };
        self.cache.get(project, version, scan).await.map(Some)
    }

    async fn rollout(&self, _: &ProjectId) -> Result<Option<RolloutView>, AnyError> {
        Ok(None)
    }

    async fn devices(&self, project: &ProjectId, asked: &DeviceQuery) -> Result<DevicesPage, AnyError> {
        scan::page(&self.rows(project, "").await?, asked).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.watched.changes.subscribe()
    }
}

#[cfg(test)]
mod tests;
