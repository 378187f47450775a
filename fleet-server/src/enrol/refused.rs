//! Why a device is refused: one stable word for programs, a sentence with a way out for people.

use crate::pki::{CsrError, PkiError};
use crate::store::{EnrolmentRefusal, StoreError};
use sedge_protocol::enrolment::Refusal;
use sedge_protocol::id::{Principal, ProjectId};
use std::error::Error;

/// Why a device, or a token for one, is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not our CBOR.
    #[error("the request is malformed: {0}; use a current agent")]
    Malformed(String),
    /// More than is read.
    #[error("the request has more than {0} bytes; send less")]
    TooLarge(usize),
    /// The body did not come in time.
    #[error("the request took longer than {0} s; try again over a better line")]
    TooSlow(u64),
    /// A certificate request that is none.
    #[error("{0}; make a new key and request")]
    Csr(#[from] CsrError),
    /// No such token.
    #[error("the token is unknown here; get a new one with `sedge device token`")]
    TokenUnknown,
    /// Too late.
    #[error("the token has expired; get a new one with `sedge device token`")]
    TokenExpired,
    /// Another key came first.
    #[error("the token was used by another device; get a new one with `sedge device token`")]
    TokenUsed,
    /// Another device.
    #[error("the token is for another device than {0}; get one for it with `sedge device token`")]
    TokenForOtherDevice(Principal),
    /// A name that is taken.
    #[error("there is a device {0} already; choose another id, or get a token that names this one to replace it")]
    DeviceExists(Principal),
    /// No such device.
    #[error("the device {0} is unknown here; enrol it")]
    DeviceUnknown(Principal),
    /// Ended by an operator.
    #[error("the device {0} was decommissioned, or this certificate replaced; enrol it with a token that names it")]
    Decommissioned(Principal),
    /// A renewal without a certificate of a device.
    #[error("show the device's certificate in the TLS handshake; if it has expired, enrol the device again")]
    CertificateMissing,
    /// A project that would make servers of its devices.
    #[error("no project may be called `server`; choose another name")]
    ProjectReserved,
    /// Too many tokens.
    #[error("the project {0} has 10,000 unused tokens; use them, or wait until they expire")]
    ProjectFull(ProjectId),
    /// Nothing to trust yet.
    #[error("the project {0} has no publisher root yet; hand it in with `sedge publisher init`")]
    RootsMissing(ProjectId),
    /// Too many requests from one address.
    #[error("too many requests from this address; try again in {0} s")]
    TooMany(u64),
    /// Our fault; the log says more.
    #[error("the server failed; its log says why; try again later")]
    Internal,
}

impl Refused {
    /// Logs the cause, which is not the device's business.
    pub(super) fn internal(what: &str, cause: &(dyn Error + 'static)) -> Self {
        tracing::error!(error = cause, "{what}");
        Self::Internal
    }

    pub(super) fn from_store(refusal: EnrolmentRefusal, device: &Principal) -> Self {
        match refusal {
            EnrolmentRefusal::TokenUnknown => Self::TokenUnknown,
            EnrolmentRefusal::TokenExpired => Self::TokenExpired,
            EnrolmentRefusal::TokenUsed => Self::TokenUsed,
            EnrolmentRefusal::TokenForOtherDevice => Self::TokenForOtherDevice(device.clone()),
            EnrolmentRefusal::DeviceExists => Self::DeviceExists(device.clone()),
            EnrolmentRefusal::Decommissioned => Self::Decommissioned(device.clone()),
        }
    }

    /// The stable word, the HTTP status, and whether the same request may succeed later.
    fn row(&self) -> (&'static str, u16, bool) {
        match self {
            Self::Malformed(_) => ("malformed", 400, false),
            Self::TooLarge(_) => ("too-large", 413, false),
            Self::TooSlow(_) => ("too-slow", 408, true),
            Self::Csr(_) => ("csr-invalid", 400, false),
            Self::TokenUnknown => ("token-unknown", 403, false),
            Self::TokenExpired => ("token-expired", 403, false),
            Self::TokenUsed => ("token-used", 403, false),
            Self::TokenForOtherDevice(_) => ("token-for-other-device", 403, false),
            Self::DeviceExists(_) => ("device-exists", 409, false),
            Self::DeviceUnknown(_) => ("device-unknown", 403, false),
            Self::Decommissioned(_) => ("decommissioned", 403, false),
            Self::CertificateMissing => ("certificate-missing", 401, false),
            Self::ProjectReserved => ("project-reserved", 400, false),
            Self::ProjectFull(_) => ("project-full", 409, true),
            Self::RootsMissing(_) => ("roots-missing", 503, true),
            Self::TooMany(_) => ("too-many", 429, true),
            Self::Internal => ("internal", 500, true),
        }
    }

    /// The stable word.
    pub fn code(&self) -> &'static str {
        self.row().0
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.row().1
    }

    /// What the device is told.
    pub fn to_refusal(&self) -> Refusal {
        Refusal { code: self.code().into(), message: self.to_string() }
    }
}

impl From<StoreError> for Refused {
    fn from(e: StoreError) -> Self {
        Self::internal("the database failed", &e)
    }
}

impl From<PkiError> for Refused {
    fn from(e: PkiError) -> Self {
        Self::internal("no certificate could be made", &e)
    }
}

/// The words in Markdown, as `docs/protocol/enrolment.md` shows them.
#[cfg(test)]
pub(super) fn codes_table() -> String {
    use std::fmt::Write as _;
    let device: Principal = "project:device".parse().expect("a name");
    let project = device.project.clone();
    let all = [
        Refused::Malformed("where and why".into()),
        Refused::TooLarge(sedge_protocol::enrolment::BODY_BYTES_MAX),
        Refused::TooSlow(10),
        Refused::Csr(CsrError::Signature),
        Refused::TokenUnknown,
        Refused::TokenExpired,
        Refused::TokenUsed,
        Refused::TokenForOtherDevice(device.clone()),
        Refused::DeviceExists(device.clone()),
        Refused::DeviceUnknown(device.clone()),
        Refused::Decommissioned(device),
        Refused::CertificateMissing,
        Refused::RootsMissing(project),
        Refused::TooMany(7),
        Refused::Internal,
    ];
    let mut out = String::from("| code | status | try again | message |\n| --- | --- | --- | --- |\n");
    for refused in &all {
        let (code, status, again) = refused.row();
        let again = if again { "yes" } else { "no" };
        // Writing to a string does not fail.
        let _ = writeln!(out, "| `{code}` | {status} | {again} | {refused} |");
    }
    out
}
