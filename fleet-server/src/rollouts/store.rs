//! Rollouts in the database.
//!
//! If power dies: what a batch of events changed is one transaction, and it is committed before anything is done about
//! it. What was done and not stored is done again, which is harmless.

use crate::fleet::StoreError;
use crate::fleet::store::{Doing as _, signed, unsigned};
use crate::rollout::{Core, FORMAT, Note, Plan, Saved, SavedDevice};
use sedge_protocol::BundleDigest;
use sedge_protocol::id::{BundleName, ComponentName, ProjectId, RolloutId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, FromRow, Row as _, Sqlite, SqlitePool, Transaction};

/// Number of a rollout's row; grows.
pub(super) type Number = i64;

/// A rollout, without its plan and devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its project.
    pub project: ProjectId,
    /// Its id.
    pub id: RolloutId,
    /// What it updates.
    pub component: ComponentName,
    /// Name of the bundle.
    pub bundle: BundleName,
    /// The bundle.
    pub digest: BundleDigest,
    /// Name of its state.
    pub state: String,
    /// Whether that may still change.
    pub active: bool,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// By whom.
    pub created_by: String,
    /// When it ended, Unix milliseconds.
    pub ended_ms: Option<u64>,
}

/// An entry of the timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineEntry {
    /// Grows from entry to entry.
    pub seq: u64,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// Who did it; none for the server.
    pub actor: Option<String>,
    /// In words.
    pub text: String,
    /// What.
    pub note: Note,
}

/// A rollout as it is stored.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) number: Number,
    pub(super) head: Head,
    pub(super) plan: Plan,
    pub(super) saved: Saved,
}

/// What a batch of events has changed of one rollout.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) number: Number,
    pub(super) saved: Saved,
    pub(super) notes: Vec<Note>,
}

/// The rows.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pool: SqlitePool,
}

struct HeadRow {
    number: Number,
    project: String,
    id: String,
    component: String,
    bundle: String,
    digest: String,
    state: String,
    active: bool,
    created_ms: i64,
    created_by: String,
    ended_ms: Option<i64>,
}

impl<'r> FromRow<'r, SqliteRow> for HeadRow {
    fn from_row(row: &'r SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            number: row.try_get("number")?,
            project: row.try_get("project")?,
            id: row.try_get("id")?,
            component: row.try_get("component")?,
            bundle: row.try_get("bundle")?,
            digest: row.try_get("digest")?,
            state: row.try_get("state")?,
            active: row.try_get("active")?,
            created_ms: row.try_get("created_ms")?,
            created_by: row.try_get("created_by")?,
            ended_ms: row.try_get("ended_ms")?,
        })
    }
}

const HEAD: &str = "SELECT number, project, id, component, bundle, digest, state, active, created_ms, created_by, \
                    ended_ms FROM rollout";

fn text<T: Serialize>(doing: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::foreign(doing, e))
}

fn read<T: DeserializeOwned>(doing: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::foreign(doing, e))
}

impl HeadRow {
    fn head(self) -> Result<(Number, Head), StoreError> {
        let wrong = |problem: String| StoreError::foreign("read a rollout", problem);
        let head = Head {
            project: self.project.parse().map_err(|e| wrong(format!("{e}")))?,
            id: self.id.parse().map_err(|e| wrong(format!("{e}")))?,
            component: self.component.parse().map_err(|e| wrong(format!("{e}")))?,
            bundle: self.bundle.parse().map_err(|e| wrong(format!("{e}")))?,
            digest: BundleDigest(self.digest.parse().map_err(|e| wrong(format!("{e}")))?),
            state: self.state,
            active: self.active,
            created_ms: unsigned(self.created_ms),
            created_by: self.created_by,
            ended_ms: self.ended_ms.map(unsigned),
        };
        Ok((self.number, head))
    }
}

impl Rows {
    pub(super) fn new(pool: SqlitePool) -> Self {
        Self { pool }
    }

    /// Keeps a new rollout; none when the project has one of this id.
    pub(super) async fn insert(&self, head: &Head, plan: &Plan, core: &Core) -> Result<Option<Number>, StoreError> {
        let doing = "keep a rollout";
        let insert = "INSERT INTO rollout (project, id, component, bundle, digest, plan, core, state, active, \
                      created_ms, created_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
        let done = sqlx::query(insert)
            .bind(head.project.as_str())
            .bind(head.id.as_str())
            .bind(head.component.as_str())
            .bind(head.bundle.as_str())
            .bind(head.digest.0.to_string())
            .bind(text(doing, plan)?)
            .bind(text(doing, core)?)
            .bind(&head.state)
            .bind(head.active)
            .bind(signed(head.created_ms))
            .bind(&head.created_by)
            .execute(&self.pool)
            .await
            .doing(doing)?;
        Ok((done.rows_affected() == 1).then(|| done.last_insert_rowid()))
    }

    /// Stores all changes or none.
    pub(super) async fn save(&self, changes: &[Change], now_ms: u64) -> Result<(), StoreError> {
        let doing = "store what happened to a rollout";
        let mut transaction = self.pool.begin().await.doing(doing)?;
        for change in changes {
            change.save(&mut transaction, now_ms).await?;
        }
        transaction.commit().await.doing(doing)
    }

    /// A rollout.
    pub(super) async fn load(&self, project: &ProjectId, id: &RolloutId) -> Result<Option<Stored>, StoreError> {
        let doing = "read a rollout";
        let select = format!("{HEAD} WHERE project = ? AND id = ?");
        let row: Option<HeadRow> = sqlx::query_as(AssertSqlSafe(select))
            .bind(project.as_str())
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await
            .doing(doing)?;
        match row {
            Some(row) => self.whole(row).await.map(Some),
            None => Ok(None),
        }
    }

    /// The active ones, and of each project and component the last.
    pub(super) async fn live(&self) -> Result<Vec<Stored>, StoreError> {
        let select = format!(
            "{HEAD} WHERE active OR number IN (SELECT max(number) FROM rollout GROUP BY project, component) \
             ORDER BY number"
        );
        let rows: Vec<HeadRow> =
            sqlx::query_as(AssertSqlSafe(select)).fetch_all(&self.pool).await.doing("read rollouts")?;
        let mut live = Vec::with_capacity(rows.len());
        for row in rows {
            live.push(self.whole(row).await?);
        }
        Ok(live)
    }

    async fn whole(&self, row: HeadRow) -> Result<Stored, StoreError> {
        let doing = "read a rollout's state";
        let (number, head) = row.head()?;
        // One snapshot, or core and devices could be of different moments.
        let mut transaction = self.pool.begin().await.doing(doing)?;
        let (plan, core): (String, String) = sqlx::query_as("SELECT plan, core FROM rollout WHERE number = ?")
            .bind(number)
            .fetch_one(&mut *transaction)
            .await
            .doing(doing)?;
        let devices: Vec<(String,)> =
            sqlx::query_as("SELECT row FROM rollout_device WHERE rollout = ? ORDER BY number")
                .bind(number)
                .fetch_all(&mut *transaction)
                .await
                .doing(doing)?;
        transaction.rollback().await.doing(doing)?;
        let devices: Result<Vec<SavedDevice>, _> = devices.iter().map(|(row,)| read(doing, row)).collect();
        let saved = Saved { format: FORMAT, core: read(doing, &core)?, devices: devices? };
        Ok(Stored { number, head, plan: read(doing, &plan)?, saved })
    }

    /// Rollouts of a project, newest first, from before this one on.
    pub(super) async fn page(
        &self,
        project: &ProjectId,
        active: bool,
        before: Option<&RolloutId>,
        count_max: u32,
    ) -> Result<Vec<Head>, StoreError> {
        let select = format!(
            "{HEAD} WHERE project = ?1 AND (active OR NOT ?2) AND (?3 IS NULL OR number < \
             (SELECT number FROM rollout WHERE project = ?1 AND id = ?3)) ORDER BY number DESC LIMIT ?4"
        );
        let rows: Vec<HeadRow> = sqlx::query_as(AssertSqlSafe(select))
            .bind(project.as_str())
            .bind(active)
            .bind(before.map(RolloutId::as_str))
            .bind(count_max)
            .fetch_all(&self.pool)
            .await
            .doing("list rollouts")?;
        rows.into_iter().map(|row| row.head().map(|(_, head)| head)).collect()
    }

    /// What happened to a rollout: the oldest after `after`, or without it the newest, newest first.
    pub(super) async fn notes(
        &self,
        project: &ProjectId,
        id: &RolloutId,
        after: Option<u64>,
        count_max: u32,
    ) -> Result<Vec<(u64, u64, Note)>, StoreError> {
        let doing = "read what happened to a rollout";
        let of = "SELECT n.seq, n.at_ms, n.note FROM rollout_note n JOIN rollout r ON r.number = n.rollout \
                  WHERE r.project = ? AND r.id = ?";
        let select = match after {
            Some(_) => format!("{of} AND n.seq > ? ORDER BY n.seq LIMIT ?"),
            None => format!("{of} AND ? IS NULL ORDER BY n.seq DESC LIMIT ?"),
        };
        let rows: Vec<(i64, i64, String)> = sqlx::query_as(AssertSqlSafe(select))
            .bind(project.as_str())
            .bind(id.as_str())
            .bind(after.map(signed))
            .bind(count_max)
            .fetch_all(&self.pool)
            .await
            .doing(doing)?;
        rows.iter().map(|(seq, at, note)| Ok((unsigned(*seq), unsigned(*at), read(doing, note)?))).collect()
    }
}

impl Change {
    async fn save(&self, transaction: &mut Transaction<'_, Sqlite>, now_ms: u64) -> Result<(), StoreError> {
        let doing = "store what happened to a rollout";
        let state = &self.saved.core.state;
        let update = "UPDATE rollout SET core = ?, state = ?, active = ?, \
                      ended_ms = CASE WHEN ? THEN NULL ELSE coalesce(ended_ms, ?) END WHERE number = ?";
        sqlx::query(update)
            .bind(text(doing, &self.saved.core)?)
            .bind(state.name())
            .bind(!state.is_final())
            .bind(!state.is_final())
            .bind(signed(now_ms))
            .bind(self.number)
            .execute(&mut **transaction)
            .await
            .doing(doing)?;
        for device in &self.saved.devices {
            sqlx::query("INSERT OR REPLACE INTO rollout_device VALUES (?, ?, ?)")
                .bind(self.number)
                .bind(device.number)
                .bind(text(doing, device)?)
                .execute(&mut **transaction)
                .await
                .doing(doing)?;
        }
        for note in &self.notes {
            sqlx::query("INSERT INTO rollout_note (rollout, at_ms, note) VALUES (?, ?, ?)")
                .bind(self.number)
                .bind(signed(now_ms))
                .bind(text(doing, note)?)
                .execute(&mut **transaction)
                .await
                .doing(doing)?;
        }
        Ok(())
    }
}
