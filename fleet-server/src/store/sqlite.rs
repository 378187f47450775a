//! [`EdgeStore`] over SQLite.

use super::model::{
    ApiToken, AuditEntry, Denied, Device, Enrolment, EnrolmentOutcome, NewApiToken, NewEnrolmentToken, RenewalOutcome,
    Scope,
};
use super::{EdgeStore, Store, StoreError, query};
use crate::pki::{Issued, Serial};
use async_trait::async_trait;
use sedge_protocol::Sha256Digest;
use sedge_protocol::id::{DeviceId, Principal, ProjectId};
use sedge_protocol::text::visible;
use sedge_protocol::time::UnixSeconds;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use std::str::FromStr;

/// Unused tokens of one project; a script that runs wild makes no more.
const TOKENS_OUTSTANDING_MAX: i64 = 10_000;
/// API tokens in all.
const API_TOKENS_MAX: i64 = 1_000;
/// Rows of the audit; the oldest go first.
const AUDIT_ROWS_MAX: i64 = 100_000;
/// Characters of one text in the audit.
const AUDIT_TEXT_MAX: usize = 200;
/// Rows of one answer.
const LIMIT_MAX: u32 = 1_000;
/// How long a token is remembered after its end, so that it is called expired and not unknown.
const TOKEN_MEMORY_S: i64 = 86_400;
/// The use of an API token is written down at most this often.
const LAST_USED_STEP_S: i64 = 60;

#[async_trait]
impl EdgeStore for Store {
    async fn create_project(&self, project: &ProjectId, now: UnixSeconds) -> Result<bool, StoreError> {
        let done = sqlx::query("INSERT INTO project (name, created_at) VALUES (?, ?) ON CONFLICT DO NOTHING")
            .bind(project.as_str())
            .bind(now.0)
            .execute(self.pool())
            .await
            .map_err(query("make a project"))?;
        Ok(done.rows_affected() == 1)
    }

    async fn projects(&self, after: Option<&ProjectId>, limit: u32) -> Result<Vec<ProjectId>, StoreError> {
        let rows = sqlx::query("SELECT name FROM project WHERE name > ? ORDER BY name LIMIT ?")
            .bind(after.map_or("", ProjectId::as_str))
            .bind(limit.min(LIMIT_MAX))
            .fetch_all(self.pool())
            .await
            .map_err(query("list projects"))?;
        rows.iter().map(|row| parsed(row, "name", "project")).collect()
    }

    async fn add_enrolment_token(&self, token: &NewEnrolmentToken, now: UnixSeconds) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "INSERT INTO enrolment_token (hash, project, device, created_at, expires_at) \
             SELECT ?, name, ?, ?, ? FROM project WHERE name = ? AND ? > (SELECT count(*) FROM enrolment_token \
             WHERE project = ? AND used_at IS NULL AND expires_at > ?)",
        )
        .bind(&token.hash.as_bytes()[..])
        .bind(token.device.as_ref().map(DeviceId::as_str))
        .bind(now.0)
        .bind(token.expires_at.0)
        .bind(token.project.as_str())
        .bind(TOKENS_OUTSTANDING_MAX)
        .bind(token.project.as_str())
        .bind(now.0)
        .execute(self.pool())
        .await
        .map_err(query("keep an enrolment token"))?;
        Ok(done.rows_affected() == 1)
    }

    async fn token_project(&self, hash: &Sha256Digest) -> Result<Option<ProjectId>, StoreError> {
        let row = sqlx::query("SELECT project FROM enrolment_token WHERE hash = ?")
            .bind(&hash.as_bytes()[..])
            .fetch_optional(self.pool())
            .await
            .map_err(query("look up an enrolment token"))?;
        row.map(|row| parsed(&row, "project", "project")).transpose()
    }

    async fn enrol(&self, enrolment: &Enrolment, now: UnixSeconds) -> Result<EnrolmentOutcome, StoreError> {
        self.enrol_device(enrolment, now).await
    }

    async fn renew(
        &self,
        device: &Principal,
        shown: &Serial,
        issued: &Issued,
        now: UnixSeconds,
    ) -> Result<RenewalOutcome, StoreError> {
        self.renew_device(device, shown, issued, now).await
    }

    async fn device(&self, device: &Principal) -> Result<Option<Device>, StoreError> {
        let row = sqlx::query("SELECT * FROM device WHERE project = ? AND id = ?")
            .bind(device.project.as_str())
            .bind(device.device.as_str())
            .fetch_optional(self.pool())
            .await
            .map_err(query("look up a device"))?;
        row.as_ref().map(read_device).transpose()
    }

    async fn devices(
        &self,
        project: &ProjectId,
        after: Option<&DeviceId>,
        limit: u32,
    ) -> Result<Vec<Device>, StoreError> {
        let rows = sqlx::query("SELECT * FROM device WHERE project = ? AND id > ? ORDER BY id LIMIT ?")
            .bind(project.as_str())
            .bind(after.map_or("", DeviceId::as_str))
            .bind(limit.min(LIMIT_MAX))
            .fetch_all(self.pool())
            .await
            .map_err(query("list devices"))?;
        rows.iter().map(read_device).collect()
    }

    async fn devices_seen(&self, devices: &[Principal], at: UnixSeconds) -> Result<(), StoreError> {
        const WHAT: &str = "note that devices were heard of";
        let mut tx = self.pool().begin_with("BEGIN IMMEDIATE").await.map_err(query(WHAT))?;
        for device in devices {
            sqlx::query("UPDATE device SET last_seen = max(coalesce(last_seen, 0), ?) WHERE project = ? AND id = ?")
                .bind(at.0)
                .bind(device.project.as_str())
                .bind(device.device.as_str())
                .execute(&mut *tx)
                .await
                .map_err(query(WHAT))?;
        }
        tx.commit().await.map_err(query(WHAT))
    }

    async fn decommission(&self, device: &Principal, now: UnixSeconds) -> Result<Option<Vec<Serial>>, StoreError> {
        self.end_device(device, now).await
    }

    async fn denied(&self, now: UnixSeconds) -> Result<Denied, StoreError> {
        const WHAT: &str = "list what is denied";
        let devices =
            sqlx::query("SELECT project || ':' || id AS name FROM device WHERE decommissioned_at IS NOT NULL")
                .fetch_all(self.pool())
                .await
                .map_err(query(WHAT))?;
        let serials = sqlx::query("SELECT serial FROM denied_serial WHERE not_after >= ?")
            .bind(now.0)
            .fetch_all(self.pool())
            .await
            .map_err(query(WHAT))?;
        Ok(Denied {
            devices: devices.iter().map(|row| parsed(row, "name", "device")).collect::<Result<_, _>>()?,
            serials: serials
                .iter()
                .map(|row| Ok(Serial::from_hex(&text(row, "serial")?)))
                .collect::<Result<_, StoreError>>()?,
        })
    }

    async fn add_api_token(&self, token: &NewApiToken, now: UnixSeconds) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "INSERT INTO api_token (hash, name, scope, created_at, expires_at) SELECT ?, ?, ?, ?, ? \
             WHERE ? > (SELECT count(*) FROM api_token) ON CONFLICT (name) DO NOTHING",
        )
        .bind(&token.hash.as_bytes()[..])
        .bind(&token.name)
        .bind(token.scope.as_str())
        .bind(now.0)
        .bind(token.expires_at.map(|at| at.0))
        .bind(API_TOKENS_MAX)
        .execute(self.pool())
        .await
        .map_err(query("keep an API token"))?;
        Ok(done.rows_affected() == 1)
    }

    async fn use_api_token(&self, hash: &Sha256Digest, now: UnixSeconds) -> Result<Option<ApiToken>, StoreError> {
        const WHAT: &str = "look up an API token";
        let row = sqlx::query("SELECT * FROM api_token WHERE hash = ? AND (expires_at IS NULL OR expires_at > ?)")
            .bind(&hash.as_bytes()[..])
            .bind(now.0)
            .fetch_optional(self.pool())
            .await
            .map_err(query(WHAT))?;
        let Some(token) = row.as_ref().map(read_api_token).transpose()? else { return Ok(None) };
        if token.last_used.is_none_or(|at| at.plus(LAST_USED_STEP_S) <= now) {
            sqlx::query("UPDATE api_token SET last_used = ? WHERE hash = ?")
                .bind(now.0)
                .bind(&hash.as_bytes()[..])
                .execute(self.pool())
                .await
                .map_err(query(WHAT))?;
        }
        Ok(Some(token))
    }

    async fn api_tokens(&self) -> Result<Vec<ApiToken>, StoreError> {
        let rows = sqlx::query("SELECT * FROM api_token ORDER BY name LIMIT ?")
            .bind(API_TOKENS_MAX)
            .fetch_all(self.pool())
            .await
            .map_err(query("list API tokens"))?;
        rows.iter().map(read_api_token).collect()
    }

    async fn remove_api_token(&self, name: &str) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM api_token WHERE name = ?")
            .bind(name)
            .execute(self.pool())
            .await
            .map_err(query("end an API token"))?;
        Ok(done.rows_affected() == 1)
    }

    async fn audit(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO audit (at, actor, action, subject) VALUES (?, ?, ?, ?)")
            .bind(entry.at.0)
            .bind(visible(&entry.actor, AUDIT_TEXT_MAX))
            .bind(visible(&entry.action, AUDIT_TEXT_MAX))
            .bind(visible(&entry.subject, AUDIT_TEXT_MAX))
            .execute(self.pool())
            .await
            .map_err(query("write the audit"))?;
        Ok(())
    }

    async fn audit_entries(&self, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        let rows = sqlx::query("SELECT at, actor, action, subject FROM audit ORDER BY id DESC LIMIT ?")
            .bind(limit.min(LIMIT_MAX))
            .fetch_all(self.pool())
            .await
            .map_err(query("read the audit"))?;
        let entry = |row: &SqliteRow| {
            Ok(AuditEntry {
                at: time(row, "at")?,
                actor: text(row, "actor")?,
                action: text(row, "action")?,
                subject: text(row, "subject")?,
            })
        };
        rows.iter().map(entry).collect()
    }

    async fn prune(&self, now: UnixSeconds) -> Result<(), StoreError> {
        const WHAT: &str = "forget what has expired";
        for sql in [
            "DELETE FROM enrolment_token WHERE expires_at < ?1 - ?2",
            "DELETE FROM certificate WHERE not_after < ?1 - ?2",
            "DELETE FROM denied_serial WHERE not_after < ?1 - ?2",
        ] {
            let step = sqlx::query(sql).bind(now.0).bind(TOKEN_MEMORY_S);
            step.execute(self.pool()).await.map_err(query(WHAT))?;
        }
        sqlx::query("DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - ?")
            .bind(AUDIT_ROWS_MAX)
            .execute(self.pool())
            .await
            .map_err(query(WHAT))?;
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(self.pool()).await.map(drop).map_err(query("ask anything"))
    }
}

fn text(row: &SqliteRow, column: &'static str) -> Result<String, StoreError> {
    row.try_get(column).map_err(query("read a text"))
}

fn time(row: &SqliteRow, column: &'static str) -> Result<UnixSeconds, StoreError> {
    row.try_get(column).map(UnixSeconds).map_err(query("read a time"))
}

fn maybe_time(row: &SqliteRow, column: &'static str) -> Result<Option<UnixSeconds>, StoreError> {
    row.try_get::<Option<i64>, _>(column).map(|at| at.map(UnixSeconds)).map_err(query("read a time"))
}

fn parsed<T: FromStr>(row: &SqliteRow, column: &'static str, what: &'static str) -> Result<T, StoreError> {
    text(row, column)?.parse().map_err(|_| StoreError::Damaged { what })
}

fn read_device(row: &SqliteRow) -> Result<Device, StoreError> {
    Ok(Device {
        principal: Principal { project: parsed(row, "project", "project")?, device: parsed(row, "id", "device id")? },
        enrolled_at: time(row, "enrolled_at")?,
        serial: Serial::from_hex(&text(row, "serial")?),
        not_after: time(row, "not_after")?,
        last_seen: maybe_time(row, "last_seen")?,
        decommissioned_at: maybe_time(row, "decommissioned_at")?,
    })
}

fn read_api_token(row: &SqliteRow) -> Result<ApiToken, StoreError> {
    Ok(ApiToken {
        name: text(row, "name")?,
        scope: Scope::from_word(&text(row, "scope")?).ok_or(StoreError::Damaged { what: "scope" })?,
        created_at: time(row, "created_at")?,
        expires_at: maybe_time(row, "expires_at")?,
        last_used: maybe_time(row, "last_used")?,
    })
}
