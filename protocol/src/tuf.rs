//! Update metadata: The Update Framework 1.0 in JSON, with Ed25519 signatures.
//!
//! [`TrustedSet`] is a client: it takes root, timestamp, snapshot and targets in this order, verifies each against the
//! one before, and answers which files exist. It says what to fetch next and how much of it to read; fetching and
//! storing are the caller's. [`sign`] makes metadata. [`crate::uptane`] puts two repositories together.
//!
//! ```text
//! while let Some(request) = set.next_root() { fetch or break; set.update_root(..)?; store }
//! set.finish_root(now)?;
//! fetch set.next_timestamp(); set.update_timestamp(..)?; store
//! if let Some(request) = set.next_snapshot()? { fetch; set.update_snapshot(..)?; store }
//! if let Some(request) = set.next_targets()? { fetch; set.update_targets(..)?; store }
//! set.view(now)?.find(path)
//! ```

pub mod canonical;
mod delegation;
mod envelope;
mod error;
mod key;
mod metadata;
pub mod repository;
mod request;
mod search;
pub mod sign;
mod stored;
mod trusted;

pub use delegation::{DelegatedRole, Delegations};
pub use envelope::SIGNATURES_MAX;
pub use error::{Attack, Role, UpdateError};
pub use key::{ForeignKey, ForeignVerifier, Key, KeyId, RoleKeys, Signature};
pub use metadata::{Hashes, Header, MetaFile, Payload, Root, SPEC_VERSION, Snapshot, TargetFile, Targets, Timestamp};
pub use request::{Request, file_name};
pub use search::{SEARCHED_ROLES_MAX, Search, View};
pub use stored::Stored;
pub use trusted::{
    Change, ROOT_BYTES_MAX, ROOT_UPDATES_MAX, SNAPSHOT_BYTES_MAX, TARGETS_BYTES_MAX, TIMESTAMP_BYTES_MAX, TrustedSet,
};
