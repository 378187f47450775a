//! What the edge keeps.

use crate::pki::Serial;
use sedge_protocol::Sha256Digest;
use sedge_protocol::id::{DeviceId, Principal, ProjectId};
use sedge_protocol::time::UnixSeconds;
use serde::{Deserialize, Serialize};

/// What an API token lets its holder do; each includes the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// See everything.
    Read,
    /// Act on devices, bundles and rollouts.
    Operate,
    /// Make projects and API tokens.
    Admin,
}

impl Scope {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<Self> {
        [Self::Read, Self::Operate, Self::Admin].into_iter().find(|scope| scope.as_str() == word)
    }
}

/// A device that was enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Who it is.
    pub principal: Principal,
    /// When it last enrolled.
    pub enrolled_at: UnixSeconds,
    /// Its newest certificate.
    pub serial: Serial,
    /// The end of that.
    pub not_after: UnixSeconds,
    /// When it was last heard of.
    pub last_seen: Option<UnixSeconds>,
    /// When it was told never to come back.
    pub decommissioned_at: Option<UnixSeconds>,
}

/// An enrolment token to keep; of the secret only the hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEnrolmentToken {
    /// SHA-256 of the secret.
    pub hash: Sha256Digest,
    /// What its device will belong to.
    pub project: ProjectId,
    /// The only device that may use it, and which it may replace.
    pub device: Option<DeviceId>,
    /// Its end.
    pub expires_at: UnixSeconds,
}

/// A device that shows a token and was given a certificate, if the token still holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// SHA-256 of the token's secret.
    pub token: Sha256Digest,
    /// What it will be called.
    pub device: Principal,
    /// Digest of its public key.
    pub key: Sha256Digest,
    /// The certificate's number.
    pub serial: Serial,
    /// The certificate's end.
    pub not_after: UnixSeconds,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
}

/// How an enrolment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnrolmentOutcome {
    /// It is recorded and the token used up.
    Enrolled {
        /// Certificates of an earlier life of the device, which are now denied.
        replaced: Vec<Serial>,
    },
    /// The same key had done so before: the answer must have been lost.
    Again {
        /// The certificate that was given then, DER.
        certificate: Vec<u8>,
    },
    /// Nothing has changed.
    Refused(EnrolmentRefusal),
}

/// Why a device is not enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnrolmentRefusal {
    /// There is no such token.
    TokenUnknown,
    /// Its time is over.
    TokenExpired,
    /// Another key used it.
    TokenUsed,
    /// It was made for another device.
    TokenForOtherDevice,
    /// There is a device of that name, and the token does not name it.
    DeviceExists,
    /// The device was decommissioned after it had enrolled with this token.
    Decommissioned,
}

/// How a renewal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenewalOutcome {
    /// The new certificate is recorded.
    Renewed,
    /// There is no such device.
    DeviceUnknown,
    /// The device was decommissioned.
    Decommissioned,
    /// The certificate that was shown is denied.
    Denied,
}

/// What must not connect.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Denied {
    /// Devices, whatever their certificate.
    pub devices: Vec<Principal>,
    /// Certificates.
    pub serials: Vec<Serial>,
}

/// An API token to keep; of the secret only the hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewApiToken {
    /// SHA-256 of the whole token.
    pub hash: Sha256Digest,
    /// For people, unique; 1 to 64 visible characters.
    pub name: String,
    /// What it allows.
    pub scope: Scope,
    /// Its end.
    pub expires_at: Option<UnixSeconds>,
}

/// An API token, without its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// For people.
    pub name: String,
    /// What it allows.
    pub scope: Scope,
    /// Its beginning.
    pub created_at: UnixSeconds,
    /// Its end.
    pub expires_at: Option<UnixSeconds>,
    /// When it was last shown, to a minute.
    pub last_used: Option<UnixSeconds>,
}

/// Who did what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// When.
    pub at: UnixSeconds,
    /// A token's name, or a certificate's.
    pub actor: String,
    /// A word for what was done.
    pub action: String,
    /// To what.
    pub subject: String,
}
