//! The transactions that make, renew and end devices. Each begins as a writer, so that what it reads stays true until it
//! commits, and is on the disk before it is answered.

use super::model::{Enrolment, EnrolmentOutcome, EnrolmentRefusal, RenewalOutcome};
use super::{Store, StoreError, query};
use crate::pki::{Issued, Serial};
use sedge_protocol::id::Principal;
use sedge_protocol::time::UnixSeconds;
use sqlx::{Row as _, Sqlite, SqliteConnection, Transaction};

const WRITER: &str = "BEGIN IMMEDIATE";

impl Store {
    async fn write(&self, what: &'static str) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.synced.begin_with(WRITER).await.map_err(query(what))
    }

    pub(super) async fn enrol_device(
        &self,
        enrolment: &Enrolment,
        now: UnixSeconds,
    ) -> Result<EnrolmentOutcome, StoreError> {
        const WHAT: &str = "enrol a device";
        let mut tx = self.write(WHAT).await?;
        let outcome = enrol(&mut tx, enrolment, now).await.map_err(query(WHAT))?;
        if matches!(outcome, EnrolmentOutcome::Enrolled { .. }) {
            tx.commit().await.map_err(query(WHAT))?;
        }
        Ok(outcome)
    }

    pub(super) async fn renew_device(
        &self,
        device: &Principal,
        shown: &Serial,
        issued: &Issued,
        now: UnixSeconds,
    ) -> Result<RenewalOutcome, StoreError> {
        const WHAT: &str = "renew a certificate";
        let mut tx = self.write(WHAT).await?;
        let outcome = renew(&mut tx, device, shown, issued, now).await.map_err(query(WHAT))?;
        if outcome == RenewalOutcome::Renewed {
            tx.commit().await.map_err(query(WHAT))?;
        }
        Ok(outcome)
    }

    pub(super) async fn end_device(
        &self,
        device: &Principal,
        now: UnixSeconds,
    ) -> Result<Option<Vec<Serial>>, StoreError> {
        const WHAT: &str = "decommission a device";
        let mut tx = self.write(WHAT).await?;
        let ended = end(&mut tx, device, now).await.map_err(query(WHAT))?;
        tx.commit().await.map_err(query(WHAT))?;
        Ok(ended)
    }
}

async fn enrol(
    tx: &mut SqliteConnection,
    enrolment: &Enrolment,
    now: UnixSeconds,
) -> Result<EnrolmentOutcome, sqlx::Error> {
    use EnrolmentOutcome::{Again, Enrolled, Refused};
    let Principal { project, device } = &enrolment.device;
    // 1. The token, of this project.
    let token = sqlx::query(
        "SELECT device, expires_at, used_by, key_digest, certificate FROM enrolment_token WHERE hash = ? AND project = ?",
    )
    .bind(&enrolment.token.as_bytes()[..])
    .bind(project.as_str())
    .fetch_optional(&mut *tx)
    .await?;
    let Some(token) = token else { return Ok(Refused(EnrolmentRefusal::TokenUnknown)) };
    if token.try_get::<i64, _>("expires_at")? <= now.0 {
        return Ok(Refused(EnrolmentRefusal::TokenExpired));
    }
    let known = sqlx::query("SELECT decommissioned_at FROM device WHERE project = ? AND id = ?")
        .bind(project.as_str())
        .bind(device.as_str())
        .fetch_optional(&mut *tx)
        .await?;
    // 2. Used: the same device with the same key hears the same again.
    if let Some(used_by) = token.try_get::<Option<String>, _>("used_by")? {
        let key: Option<Vec<u8>> = token.try_get("key_digest")?;
        if used_by != device.as_str() || key.as_deref() != Some(&enrolment.key.as_bytes()[..]) {
            return Ok(Refused(EnrolmentRefusal::TokenUsed));
        }
        if let Some(known) = known
            && known.try_get::<Option<i64>, _>("decommissioned_at")?.is_some()
        {
            return Ok(Refused(EnrolmentRefusal::Decommissioned));
        }
        return Ok(Again { certificate: token.try_get::<Option<Vec<u8>>, _>("certificate")?.unwrap_or_default() });
    }
    // 3. A name that is taken needs a token that says so: any other could take over a device.
    match token.try_get::<Option<String>, _>("device")? {
        Some(named) if named != device.as_str() => return Ok(Refused(EnrolmentRefusal::TokenForOtherDevice)),
        None if known.is_some() => return Ok(Refused(EnrolmentRefusal::DeviceExists)),
        _ => {}
    }
    // 4. What the device had before is worth nothing now.
    let replaced = deny(tx, &enrolment.device, now).await?;
    sqlx::query(
        "INSERT INTO device (project, id, enrolled_at, serial, not_after) VALUES (?, ?, ?, ?, ?) \
         ON CONFLICT (project, id) DO UPDATE SET enrolled_at = excluded.enrolled_at, serial = excluded.serial, \
         not_after = excluded.not_after, last_seen = NULL, decommissioned_at = NULL",
    )
    .bind(project.as_str())
    .bind(device.as_str())
    .bind(now.0)
    .bind(enrolment.serial.as_str())
    .bind(enrolment.not_after.0)
    .execute(&mut *tx)
    .await?;
    record(tx, &enrolment.device, &enrolment.serial, enrolment.not_after).await?;
    // 5. The token is used up.
    sqlx::query("UPDATE enrolment_token SET used_at = ?, used_by = ?, key_digest = ?, certificate = ? WHERE hash = ?")
        .bind(now.0)
        .bind(device.as_str())
        .bind(&enrolment.key.as_bytes()[..])
        .bind(&enrolment.certificate)
        .bind(&enrolment.token.as_bytes()[..])
        .execute(&mut *tx)
        .await?;
    Ok(Enrolled { replaced })
}

async fn renew(
    tx: &mut SqliteConnection,
    device: &Principal,
    shown: &Serial,
    issued: &Issued,
    now: UnixSeconds,
) -> Result<RenewalOutcome, sqlx::Error> {
    let known = sqlx::query("SELECT decommissioned_at FROM device WHERE project = ? AND id = ?")
        .bind(device.project.as_str())
        .bind(device.device.as_str())
        .fetch_optional(&mut *tx)
        .await?;
    let Some(known) = known else { return Ok(RenewalOutcome::DeviceUnknown) };
    if known.try_get::<Option<i64>, _>("decommissioned_at")?.is_some() {
        return Ok(RenewalOutcome::Decommissioned);
    }
    let denied = sqlx::query("SELECT 1 FROM denied_serial WHERE serial = ?").bind(shown.as_str());
    if denied.fetch_optional(&mut *tx).await?.is_some() {
        return Ok(RenewalOutcome::Denied);
    }
    sqlx::query(
        "UPDATE device SET serial = ?, not_after = ?, last_seen = max(coalesce(last_seen, 0), ?) \
         WHERE project = ? AND id = ?",
    )
    .bind(issued.serial.as_str())
    .bind(issued.not_after.0)
    .bind(now.0)
    .bind(device.project.as_str())
    .bind(device.device.as_str())
    .execute(&mut *tx)
    .await?;
    record(tx, device, &issued.serial, issued.not_after).await?;
    Ok(RenewalOutcome::Renewed)
}

async fn end(
    tx: &mut SqliteConnection,
    device: &Principal,
    now: UnixSeconds,
) -> Result<Option<Vec<Serial>>, sqlx::Error> {
    let done = sqlx::query(
        "UPDATE device SET decommissioned_at = coalesce(decommissioned_at, ?) WHERE project = ? AND id = ?",
    )
    .bind(now.0)
    .bind(device.project.as_str())
    .bind(device.device.as_str())
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(None);
    }
    deny(tx, device, now).await.map(Some)
}

/// Denies every certificate of a device that has not expired.
async fn deny(tx: &mut SqliteConnection, device: &Principal, now: UnixSeconds) -> Result<Vec<Serial>, sqlx::Error> {
    let rows = sqlx::query(
        "INSERT INTO denied_serial (serial, denied_at, not_after) \
         SELECT serial, ?, not_after FROM certificate WHERE project = ? AND device = ? AND not_after >= ? \
         ON CONFLICT (serial) DO UPDATE SET not_after = excluded.not_after RETURNING serial",
    )
    .bind(now.0)
    .bind(device.project.as_str())
    .bind(device.device.as_str())
    .bind(now.0)
    .fetch_all(&mut *tx)
    .await?;
    rows.iter().map(|row| Ok(Serial::from_hex(&row.try_get::<String, _>("serial")?))).collect()
}

async fn record(
    tx: &mut SqliteConnection,
    device: &Principal,
    serial: &Serial,
    not_after: UnixSeconds,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO certificate (serial, project, device, not_after) VALUES (?, ?, ?, ?)")
        .bind(serial.as_str())
        .bind(device.project.as_str())
        .bind(device.device.as_str())
        .bind(not_after.0)
        .execute(tx)
        .await?;
    Ok(())
}
