//! The publisher's rows in the database.

use super::Publisher;
use crate::fleet::store::{Doing as _, StoreError, signed, unsigned};
use sedge_protocol::id::ProjectId;
use sedge_protocol::message::PublisherVersions;
use sedge_protocol::time::UnixSeconds;
use sedge_protocol::tuf::{Role, TrustedSet};

impl Publisher {
    /// All projects.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn projects(&self) -> Result<Vec<ProjectId>, StoreError> {
        let rows: Vec<(String,)> = sqlx::query_as("SELECT project FROM fleet_project ORDER BY project")
            .fetch_all(&self.pool)
            .await
            .doing("list projects")?;
        Ok(rows.into_iter().filter_map(|(project,)| project.parse().ok()).collect())
    }

    /// Keeps a file that `set` has taken, and points devices to it if everything is complete now.
    pub(super) async fn keep(
        &self,
        project: &ProjectId,
        role: &Role,
        version: u64,
        file: &[u8],
        set: &TrustedSet,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let doing = "keep publisher metadata";
        let mut transaction = self.pool.begin().await.doing(doing)?;
        // What a root with other keys took back; its numbers may come again.
        for (gone, role) in [(set.timestamp().is_none(), "timestamp"), (set.snapshot().is_none(), "snapshot")] {
            if gone {
                sqlx::query("DELETE FROM publisher_file WHERE project = ? AND role = ?")
                    .bind(project.as_str())
                    .bind(role)
                    .execute(&mut *transaction)
                    .await
                    .doing(doing)?;
            }
        }
        sqlx::query("INSERT INTO publisher_file VALUES (?, ?, ?, ?)")
            .bind(project.as_str())
            .bind(role.name())
            .bind(signed(version))
            .bind(file)
            .execute(&mut *transaction)
            .await
            .doing(doing)?;
        let root = signed(set.root().header.version);
        sqlx::query("UPDATE fleet_project SET root_version = ? WHERE project = ?")
            .bind(root)
            .bind(project.as_str())
            .execute(&mut *transaction)
            .await
            .doing(doing)?;
        if let (Ok(view), Some(timestamp), Some(snapshot)) = (set.view(now), set.timestamp(), set.snapshot()) {
            let complete = "UPDATE fleet_project SET timestamp_version = ?, snapshot_version = ?, targets_version = ? \
                            WHERE project = ?";
            sqlx::query(complete)
                .bind(signed(timestamp.header.version))
                .bind(signed(snapshot.header.version))
                .bind(signed(view.targets().header.version))
                .bind(project.as_str())
                .execute(&mut *transaction)
                .await
                .doing(doing)?;
            // Nobody asks for a timestamp by its number.
            sqlx::query("DELETE FROM publisher_file WHERE project = ? AND role = 'timestamp' AND version < ?")
                .bind(project.as_str())
                .bind(signed(timestamp.header.version))
                .execute(&mut *transaction)
                .await
                .doing(doing)?;
        }
        transaction.commit().await.doing(doing)
    }

    /// A file: of this version, or the newest that devices are pointed to.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn file(
        &self,
        project: &ProjectId,
        role: &Role,
        version: Option<u64>,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let doing = "read publisher metadata";
        let version = match (version, role) {
            (Some(version), _) => version,
            (None, Role::Delegated(_)) => {
                let newest = "SELECT file FROM publisher_file WHERE project = ? AND role = ? ORDER BY version DESC";
                let row: Option<(Vec<u8>,)> = sqlx::query_as(newest)
                    .bind(project.as_str())
                    .bind(role.name())
                    .fetch_optional(&self.pool)
                    .await
                    .doing(doing)?;
                return Ok(row.map(|(file,)| file));
            }
            (None, role) => {
                let Some(versions) = self.versions(project).await? else { return Ok(None) };
                match role {
                    Role::Root => versions.root_version,
                    Role::Timestamp => versions.timestamp_version,
                    Role::Snapshot => versions.snapshot_version,
                    _ => versions.targets_version,
                }
            }
        };
        let row: Option<(Vec<u8>,)> =
            sqlx::query_as("SELECT file FROM publisher_file WHERE project = ? AND role = ? AND version = ?")
                .bind(project.as_str())
                .bind(role.name())
                .bind(signed(version))
                .fetch_optional(&self.pool)
                .await
                .doing(doing)?;
        Ok(row.map(|(file,)| file))
    }

    /// Versions that devices are pointed to; 0 where there is none yet.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn versions(&self, project: &ProjectId) -> Result<Option<PublisherVersions>, StoreError> {
        let select = "SELECT root_version, timestamp_version, snapshot_version, targets_version FROM fleet_project \
                      WHERE project = ?";
        let row: Option<(i64, i64, i64, i64)> = sqlx::query_as(select)
            .bind(project.as_str())
            .fetch_optional(&self.pool)
            .await
            .doing("read publisher versions")?;
        Ok(row.map(|(root, timestamp, snapshot, targets)| PublisherVersions {
            root_version: unsigned(root),
            timestamp_version: unsigned(timestamp),
            snapshot_version: unsigned(snapshot),
            targets_version: unsigned(targets),
        }))
    }
}
