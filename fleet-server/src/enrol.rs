//! How devices come, stay and go: tokens, enrolment, renewal, decommissioning.
//!
//! A token's secret is known to whoever made it and to its device; only its hash is kept. A device that asks again with
//! the same key, while the token lasts, gets the same certificate, so a lost answer strands nobody. Every change is one
//! transaction: after a power cut the token is used and the device recorded, or neither.

mod refused;
#[cfg(test)]
mod tests;

pub use refused::Refused;

use crate::deny::DenyList;
use crate::pki::{DeviceKey, Peer, Pki};
use crate::service::{DeviceLink, FirstRoots, FleetService};
use crate::store::{AuditEntry, EdgeStore, Enrolment, EnrolmentOutcome, NewEnrolmentToken, RenewalOutcome, StoreError};
use sedge_protocol::Sha256Digest;
use sedge_protocol::cbor::{self, Bytes, Limits};
use sedge_protocol::enrolment::{
    BODY_BYTES_MAX, EnrolmentAnswer, EnrolmentRequest, EnrolmentToken, RenewalAnswer, RenewalRequest, SECRET_BYTES,
};
use sedge_protocol::id::{DeviceId, Principal, ProjectId};
use sedge_protocol::time::UnixSeconds;
use sedge_protocol::topic::Caller;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// The name that no project may have: certificates of servers begin with it.
pub const RESERVED_PROJECT: &str = "server";

/// Enrols devices.
pub struct Enroller {
    /// What is recorded.
    pub store: Arc<dyn EdgeStore>,
    /// What signs.
    pub pki: Arc<Pki>,
    /// What is refused.
    pub deny: Arc<DenyList>,
    /// What ends connections.
    pub link: Arc<dyn DeviceLink>,
    /// Where the first roots come from.
    pub fleet: Arc<dyn FleetService>,
    /// The enrolment service's address, for tokens.
    pub server: String,
    /// The broker's address, for devices.
    pub broker: String,
}

impl Enroller {
    /// Makes a token for one device, which may be named; then it may also replace the device of that name.
    ///
    /// # Errors
    /// When the project is reserved, has no roots or too many tokens, or the database fails.
    pub async fn grant(
        &self,
        project: &ProjectId,
        device: Option<&DeviceId>,
        expires_at: UnixSeconds,
        now: UnixSeconds,
    ) -> Result<EnrolmentToken, Refused> {
        refuse_reserved(project)?;
        let roots = self.roots(project).await?;
        // A project begins with its publisher's root, which the fleet part takes in.
        self.store.create_project(project, now).await?;
        let mut secret = vec![0; SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(|e| Refused::internal("no random bytes", &e))?;
        let token = NewEnrolmentToken {
            hash: Sha256Digest::of(&secret),
            project: project.clone(),
            device: device.cloned(),
            expires_at,
        };
        if !self.store.add_enrolment_token(&token, now).await? {
            return Err(Refused::ProjectFull(project.clone()));
        }
        Ok(EnrolmentToken {
            server: self.server.clone(),
            project: project.clone(),
            secret: Bytes(secret),
            authority: Bytes(self.pki.root().to_vec()),
            publisher_root: Sha256Digest::of(&roots.publisher),
            director_root: Sha256Digest::of(&roots.director),
        })
    }

    /// Answers the body of an enrolment request.
    ///
    /// # Errors
    /// Why the device is refused; nothing has changed then.
    pub async fn enrol(&self, body: &[u8], now: UnixSeconds) -> Result<EnrolmentAnswer, Refused> {
        // 1. A request of ours, with a key that the sender has.
        let request: EnrolmentRequest = decode(body)?;
        let key = DeviceKey::from_request(&request.csr.0)?;
        if request.secret.0.len() != SECRET_BYTES {
            return Err(Refused::TokenUnknown);
        }
        // 2. The token says which project, and so the device's name.
        let token = Sha256Digest::of(&request.secret.0);
        let project = self.store.token_project(&token).await?.ok_or(Refused::TokenUnknown)?;
        refuse_reserved(&project)?;
        let device = Principal { project, device: request.device };
        // 3. Without roots the device could not trust anything.
        let roots = self.roots(&device.project).await?;
        // 4. A certificate, which is worth nothing before it is recorded.
        let issued = self.pki.issue_device(&key, &device, now)?;
        let enrolment = Enrolment {
            token,
            device: device.clone(),
            key: key.digest(),
            serial: issued.serial,
            not_after: issued.not_after,
            certificate: issued.certificate.to_vec(),
        };
        // 5. Record it and use the token up, together.
        let certificate = match self.store.enrol(&enrolment, now).await? {
            EnrolmentOutcome::Refused(refusal) => return Err(Refused::from_store(refusal, &device)),
            EnrolmentOutcome::Again { certificate } => certificate,
            EnrolmentOutcome::Enrolled { replaced } => {
                self.deny.deny_serials(&replaced);
                self.deny.readmit(&device);
                if !replaced.is_empty() {
                    self.link.disconnect(&device).await;
                }
                tracing::info!(%device, serial = %enrolment.serial, "device enrolled");
                self.note(&device.to_string(), "enrolled", &format!("certificate {}", enrolment.serial), now).await;
                self.fleet.device_enrolled(&device).await;
                enrolment.certificate
            }
        };
        Ok(EnrolmentAnswer {
            certificate: Bytes(certificate),
            broker: self.broker.clone(),
            publisher_root: Bytes(roots.publisher),
            director_root: Bytes(roots.director),
            time: now,
        })
    }

    /// Answers the body of a renewal request of a device that showed its certificate.
    ///
    /// # Errors
    /// Why the device is refused; nothing has changed then.
    pub async fn renew(&self, peer: Option<&Peer>, body: &[u8], now: UnixSeconds) -> Result<RenewalAnswer, Refused> {
        let Some(Peer { caller: Caller::Device(device), serial }) = peer else {
            return Err(Refused::CertificateMissing);
        };
        let request: RenewalRequest = decode(body)?;
        let key = DeviceKey::from_request(&request.csr.0)?;
        let issued = self.pki.issue_device(&key, device, now)?;
        match self.store.renew(device, serial, &issued, now).await? {
            RenewalOutcome::Renewed => {
                tracing::info!(%device, serial = %issued.serial, "certificate renewed");
                Ok(RenewalAnswer { certificate: Bytes(issued.certificate.to_vec()) })
            }
            RenewalOutcome::DeviceUnknown => Err(Refused::DeviceUnknown(device.clone())),
            RenewalOutcome::Decommissioned | RenewalOutcome::Denied => Err(Refused::Decommissioned(device.clone())),
        }
    }

    /// Ends a device for good: its certificates are denied and its connections ended. False when there is none.
    ///
    /// # Errors
    /// When the database fails; the device may then be refused until the next start, or for good.
    pub async fn decommission(&self, device: &Principal, actor: &str, now: UnixSeconds) -> Result<bool, StoreError> {
        if self.store.device(device).await?.is_none() {
            return Ok(false);
        }
        self.deny.deny_device(device);
        let Some(serials) = self.store.decommission(device, now).await? else { return Ok(false) };
        self.deny.deny_serials(&serials);
        self.link.disconnect(device).await;
        tracing::info!(%device, actor, "device decommissioned");
        self.note(actor, "decommissioned", &device.to_string(), now).await;
        self.fleet.device_decommissioned(device).await;
        Ok(true)
    }

    /// Writes the audit; what cannot be written is at least in the log.
    pub(crate) async fn note(&self, actor: &str, action: &str, subject: &str, now: UnixSeconds) {
        let entry = AuditEntry { at: now, actor: actor.into(), action: action.into(), subject: subject.into() };
        if let Err(e) = self.store.audit(&entry).await {
            tracing::error!(error = &e as &dyn std::error::Error, actor, action, subject, "not in the audit");
        }
    }

    async fn roots(&self, project: &ProjectId) -> Result<FirstRoots, Refused> {
        let roots = self.fleet.first_roots(project).await;
        roots
            .map_err(|e| Refused::internal("the first roots cannot be read", &*e))?
            .ok_or_else(|| Refused::RootsMissing(project.clone()))
    }
}

/// A project whose devices would have the names of servers.
pub(crate) fn refuse_reserved(project: &ProjectId) -> Result<(), Refused> {
    if project.as_str() == RESERVED_PROJECT { Err(Refused::ProjectReserved) } else { Ok(()) }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    cbor::decode_strict(body, Limits::bytes(BODY_BYTES_MAX)).map_err(|e| Refused::Malformed(e.to_string()))
}
