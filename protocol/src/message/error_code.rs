//! Stable names of what can go wrong on a device. Scripts, gates and documents rely on them: a code never changes its
//! meaning and is never used again for another one.

use super::check::{self, DETAIL_BYTES_MAX};
use super::{Invalid, word};
use serde::{Deserialize, Serialize};

/// What kind of failure a code is, as rollouts count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorClass {
    /// Somebody may be attacking; one alone may halt a rollout.
    Security,
    /// The bundle or its settings do not fit this device, or are wrong.
    Bundle,
    /// The new version ran and did harm.
    Health,
    /// The device lacks something.
    Device,
    /// Data did not arrive.
    Transport,
    /// Somebody decided so.
    Decision,
    /// A request, not a deployment, failed.
    Request,
    /// The software is at fault.
    Internal,
}

macro_rules! codes {
    ($($variant:ident = $text:literal, $class:ident, $meaning:literal;)+) => {
        word::open_words! {
            /// Why something failed.
            ErrorCode, "error code" { $(#[doc = $meaning] $variant = $text,)+ }
        }

        impl ErrorCode {
            /// What it means, in one line.
            pub fn meaning(&self) -> &str {
                match self {
                    $(Self::$variant => $meaning,)+
                    Self::Other(_) => "A code that this build does not know; the peer is newer.",
                }
            }

            /// What kind of failure it is; one that is not known counts as [`ErrorClass::Internal`].
            pub fn class(&self) -> ErrorClass {
                match self {
                    $(Self::$variant => ErrorClass::$class,)+
                    Self::Other(_) => ErrorClass::Internal,
                }
            }
        }
    };
}

codes! {
    SigInvalid = "E_SIG_INVALID", Security, "Signatures do not verify, or too few of the trusted keys have signed.";
    MetadataInvalid = "E_METADATA_INVALID", Security, "Update metadata is malformed or contradicts itself.";
    MetadataExpired = "E_METADATA_EXPIRED", Security, "Update metadata has expired; the running model is not affected.";
    MetadataRolledBack = "E_METADATA_ROLLED_BACK", Security, "Update metadata has a lower version than was seen before.";
    NotAuthorized = "E_NOT_AUTHORIZED", Security, "Publisher and director do not both name this bundle for this device.";
    BelowFloor = "E_BELOW_FLOOR", Security, "The version is older than the publisher's floor.";
    DigestMismatch = "E_DIGEST_MISMATCH", Security, "Content does not have the signed digest or length.";
    GrantRefused = "E_GRANT_REFUSED", Security, "A processor asks for a capability that this device's policy denies.";
    ManifestInvalid = "E_MANIFEST_INVALID", Bundle, "The bundle's manifest is malformed or contradicts the bundle.";
    SettingsInvalid = "E_SETTINGS_INVALID", Bundle, "Settings are malformed or do not fit the bundle.";
    NoVariant = "E_NO_VARIANT", Bundle, "The bundle has no model variant for this device.";
    RequirementUnmet = "E_REQUIREMENT_UNMET", Bundle, "The device lacks what the bundle requires: architecture, memory, agent version.";
    OpUnsupported = "E_OP_UNSUPPORTED", Bundle, "The model holds an operator that this agent cannot run.";
    SandboxRefused = "E_SANDBOX_REFUSED", Bundle, "A processor imports or does what the sandbox does not allow.";
    CompileFailed = "E_COMPILE_FAILED", Bundle, "A processor or the model could not be prepared for this device.";
    GoldenFailed = "E_GOLDEN_FAILED", Health, "A golden sample's output is outside its tolerance.";
    ShadowDisagrees = "E_SHADOW_DISAGREES", Health, "On live samples the new version disagrees with the active one too often.";
    ErrorRate = "E_ERROR_RATE", Health, "The new version fails on too many samples.";
    Latency = "E_LATENCY", Health, "The new version is slower than its limit.";
    MemoryExceeded = "E_MEMORY_EXCEEDED", Health, "The new version uses more memory than its limit.";
    WorkerCrashed = "E_WORKER_CRASHED", Health, "The worker crashed, more often than is allowed.";
    WorkerHung = "E_WORKER_HUNG", Health, "The worker stopped answering and was killed.";
    Unconfirmed = "E_UNCONFIRMED", Health, "The device restarted during trial or probation before the new version was committed.";
    NoSpace = "E_NO_SPACE", Device, "Not enough storage, even after clearing what may be cleared.";
    NoMemory = "E_NO_MEMORY", Device, "Not enough memory to load the new version.";
    StorageFailed = "E_STORAGE_FAILED", Device, "Storage could not be read or written.";
    NoRollbackTarget = "E_NO_ROLLBACK_TARGET", Device, "There is no earlier version to go back to.";
    Quarantined = "E_QUARANTINED", Device, "This version failed too often here and is not tried again.";
    DownloadFailed = "E_DOWNLOAD_FAILED", Transport, "Content could not be fetched within the allowed tries.";
    TimedOut = "E_TIMED_OUT", Transport, "A state's deadline passed.";
    OverBudget = "E_OVER_BUDGET", Transport, "The download would exceed the bytes allowed for it.";
    Operator = "E_OPERATOR", Decision, "An operator rolled back or cancelled, at the server or on the device.";
    Verdict = "E_VERDICT", Decision, "The server judged the new version and told the device to go back.";
    Superseded = "E_SUPERSEDED", Decision, "A newer generation took its place.";
    CommandUnknown = "E_COMMAND_UNKNOWN", Request, "This agent does not know the command.";
    RequestInvalid = "E_REQUEST_INVALID", Request, "The request is malformed or does not fit the present state.";
    RequestExpired = "E_REQUEST_EXPIRED", Request, "The request arrived after its time.";
    NotFound = "E_NOT_FOUND", Request, "What was asked for does not exist.";
    Busy = "E_BUSY", Request, "Too many requests at once; try again later.";
    Internal = "E_INTERNAL", Internal, "The agent or server is at fault; its log says more.";
}

/// A failure as it is reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which.
    pub code: ErrorCode,
    /// What, where and what to do, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Failure {
    /// A failure with a detail, shortened to what a message may carry and freed of control characters.
    pub fn new(code: ErrorCode, detail: &str) -> Self {
        let clean = |c: char| if c.is_control() && c != '\n' && c != '\t' { ' ' } else { c };
        let mut kept = String::new();
        for c in detail.chars().map(clean) {
            if kept.len() + c.len_utf8() > DETAIL_BYTES_MAX {
                break;
            }
            kept.push(c);
        }
        Self { code, detail: Some(kept).filter(|d| !d.is_empty()) }
    }

    pub(super) fn validate(&self, field: &str) -> Result<(), Invalid> {
        match &self.detail {
            Some(detail) => check::text(format_args!("{field}.detail"), detail, DETAIL_BYTES_MAX),
            None => Ok(()),
        }
    }
}
