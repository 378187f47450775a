//! The database: SQLite in one file, write-ahead logged.
//!
//! What is asked of it stands in traits, one per concern ([`EdgeStore`] here), with one suite of tests that is generic
//! over the trait, so that PostgreSQL can stand beside it. What was answered survives a crash of the process. After a power
//! cut the last statements may be missing (`synchronous = NORMAL`), never a part of one, and none that gave or took a
//! certificate: those go through a connection that syncs (`FULL`), or a token could be used again and a device that was
//! decommissioned come back.

#[cfg(test)]
mod conformance;
mod edge;
mod enrolment;
mod model;
mod sqlite;

pub use edge::EdgeStore;
pub use model::{
    ApiToken, AuditEntry, Denied, Device, Enrolment, EnrolmentOutcome, EnrolmentRefusal, NewApiToken,
    NewEnrolmentToken, RenewalOutcome, Scope,
};

use crate::files;
use sqlx::SqlitePool;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, SqlSafeStr as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Every change of the schema, in order: number, name, text. Each concern has its own files; none is ever edited once it
/// was released.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "edge", include_str!("../migrations/0001_edge.sql")),
    (2, "fleet", include_str!("../migrations/0002_fleet.sql")),
    (3, "field", include_str!("../migrations/0003_field.sql")),
    (4, "console", include_str!("../migrations/0004_console.sql")),
    (5, "rollout", include_str!("../migrations/0005_rollout.sql")),
];

/// Connections: one writes at a time, the others read beside it.
const CONNECTIONS_MAX: u32 = 4;
/// How long a writer waits for another.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the database does not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file.
    #[error("cannot open the database {}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: sqlx::Error,
    },
    /// Its tables.
    #[error("cannot bring the database {} up to date; a newer version of the server may have written it", path.display())]
    Migrate {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: sqlx::migrate::MigrateError,
    },
    /// A statement.
    #[error("cannot {what} in the database")]
    Query {
        /// What was tried.
        what: &'static str,
        /// The cause.
        source: sqlx::Error,
    },
    /// A value that this program does not write.
    #[error("the database holds a {what} that is none")]
    Damaged {
        /// What it should be.
        what: &'static str,
    },
}

/// The database.
#[derive(Debug, Clone)]
pub struct Store {
    pool: SqlitePool,
    /// One connection, for what must survive a power cut.
    synced: SqlitePool,
}

impl Store {
    /// Opens the database, makes it when there is none, and brings its tables up to date.
    ///
    /// # Errors
    /// When the file cannot be opened, or was written by a newer version.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        // Other files of the database take over its mode.
        files::create_private(path)
            .map_err(|e| StoreError::Open { path: path.to_owned(), source: sqlx::Error::Io(e) })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            .disable_statement_logging();
        let open = |source| StoreError::Open { path: path.to_owned(), source };
        let synced = options.clone().synchronous(SqliteSynchronous::Full);
        let pool =
            SqlitePoolOptions::new().max_connections(CONNECTIONS_MAX).connect_with(options).await.map_err(open)?;
        let synced = SqlitePoolOptions::new().max_connections(1).connect_with(synced).await.map_err(open)?;
        let migrations = MIGRATIONS.iter().map(|&(version, name, sql)| {
            Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
        });
        Migrator::with_migrations(migrations.collect())
            .run(&pool)
            .await
            .map_err(|source| StoreError::Migrate { path: path.to_owned(), source })?;
        Ok(Self { pool, synced })
    }

    /// The connections, for concerns with tables of their own.
    pub fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// The connection that syncs, for what must survive a power cut.
    pub(crate) fn synced(&self) -> &SqlitePool {
        &self.synced
    }

    /// Writes everything out and closes the file.
    pub async fn close(&self) {
        self.synced.close().await;
        self.pool.close().await;
    }
}

/// Names what a statement was for when it fails.
pub(crate) fn query(what: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| StoreError::Query { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_migrations_is_run() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let mut files: Vec<String> = std::fs::read_dir(directory)
            .expect("there")
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        files.sort();
        let run: Vec<String> = MIGRATIONS.iter().map(|(version, name, _)| format!("{version:04}_{name}.sql")).collect();
        assert_eq!(files, run);
    }
}
