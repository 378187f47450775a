//! What the edge asks of a database.

use super::StoreError;
use super::model::{
    ApiToken, AuditEntry, Denied, Device, Enrolment, EnrolmentOutcome, NewApiToken, NewEnrolmentToken, RenewalOutcome,
};
use crate::pki::{Issued, Serial};
use async_trait::async_trait;
use sedge_protocol::Sha256Digest;
use sedge_protocol::id::{DeviceId, Principal, ProjectId};
use sedge_protocol::time::UnixSeconds;

/// Projects, devices, tokens and the audit. Each operation happens whole or not at all; all fail only with the
/// database itself.
///
/// Secrets come as hashes: 256 random bits cannot be guessed from how long the lookup of their hash takes.
#[async_trait]
pub trait EdgeStore: Send + Sync {
    /// Makes a project. False when there is one of that name.
    async fn create_project(&self, project: &ProjectId, now: UnixSeconds) -> Result<bool, StoreError>;
    /// Projects by name, those after `after`.
    async fn projects(&self, after: Option<&ProjectId>, limit: u32) -> Result<Vec<ProjectId>, StoreError>;

    /// Keeps a token. False when its project does not exist, or has more than can be needed outstanding.
    async fn add_enrolment_token(&self, token: &NewEnrolmentToken, now: UnixSeconds) -> Result<bool, StoreError>;
    /// The project of a token, used or not.
    async fn token_project(&self, hash: &Sha256Digest) -> Result<Option<ProjectId>, StoreError>;
    /// Uses a token up and records its device; of any number at once, one succeeds.
    async fn enrol(&self, enrolment: &Enrolment, now: UnixSeconds) -> Result<EnrolmentOutcome, StoreError>;
    /// Records the next certificate of a device that showed `shown`. The earlier one stays good until it expires,
    /// because the answer may be lost.
    async fn renew(
        &self,
        device: &Principal,
        shown: &Serial,
        issued: &Issued,
        now: UnixSeconds,
    ) -> Result<RenewalOutcome, StoreError>;

    /// One device.
    async fn device(&self, device: &Principal) -> Result<Option<Device>, StoreError>;
    /// Devices of a project by id, those after `after`.
    async fn devices(
        &self,
        project: &ProjectId,
        after: Option<&DeviceId>,
        limit: u32,
    ) -> Result<Vec<Device>, StoreError>;
    /// Notes that devices were heard of; times only grow, unknown devices are passed over.
    async fn devices_seen(&self, devices: &[Principal], at: UnixSeconds) -> Result<(), StoreError>;
    /// Ends a device and denies its certificates, which are returned; none when there is no such device. Doing it again
    /// changes nothing.
    async fn decommission(&self, device: &Principal, now: UnixSeconds) -> Result<Option<Vec<Serial>>, StoreError>;
    /// What must not connect.
    async fn denied(&self, now: UnixSeconds) -> Result<Denied, StoreError>;

    /// Keeps an API token. False when there is one of that name, or too many.
    async fn add_api_token(&self, token: &NewApiToken, now: UnixSeconds) -> Result<bool, StoreError>;
    /// The token that was shown, unless it has expired; notes its use.
    async fn use_api_token(&self, hash: &Sha256Digest, now: UnixSeconds) -> Result<Option<ApiToken>, StoreError>;
    /// All API tokens by name.
    async fn api_tokens(&self) -> Result<Vec<ApiToken>, StoreError>;
    /// Ends an API token. False when there is none of that name.
    async fn remove_api_token(&self, name: &str) -> Result<bool, StoreError>;

    /// Notes who did what; long texts are cut.
    async fn audit(&self, entry: &AuditEntry) -> Result<(), StoreError>;
    /// The newest entries, newest first.
    async fn audit_entries(&self, limit: u32) -> Result<Vec<AuditEntry>, StoreError>;

    /// Forgets what no longer matters: tokens a day after their end, expired certificates, the oldest of the audit.
    async fn prune(&self, now: UnixSeconds) -> Result<(), StoreError>;
    /// Whether the database answers.
    async fn ping(&self) -> Result<(), StoreError>;
}
