//! The publisher's repository, as far as a server has to do with it: it keeps what was signed elsewhere and gives it out
//! by number. It verifies all the same, in the order of the specification, so that a mistake or an attack is seen where
//! it happens and not on ten thousand devices.
//!
//! What always holds: a file is kept only if a client that has followed this repository from the first root would take
//! it; and devices are pointed to metadata that are complete and were valid together, never to a half of an upload.
//!
//! If power dies: each file is one transaction. An upload that was cut off is gone on with.

mod rows;

use super::store::{Doing as _, StoreError};
use sedge_protocol::BundleDigest;
use sedge_protocol::id::{BundleName, ProjectId};
use sedge_protocol::time::UnixSeconds;
use sedge_protocol::tuf::{Change, Role, Search, Stored, TrustedSet, UpdateError};
use sedge_protocol::uptane::{Release, target_name};
use serde::{Deserialize, Serialize};
use sqlx::SqlitePool;
use tokio::sync::Mutex;

/// Why publisher metadata are not taken or cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PublisherError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such project.
    #[error("there is no project `{project}`; create it with the publisher's first root")]
    NoProject { project: ProjectId },
    /// The project has another first root, or more than the first.
    #[error(
        "project `{project}` exists, and its first root never changes; upload further roots as `2.root.json` and so on"
    )]
    Exists { project: ProjectId },
    /// The name is none that a repository has.
    #[error(
        "`{name}` is no file of a repository: expected for instance `2.root.json`, `7.targets.json` or `timestamp.json`"
    )]
    Name { name: String },
    /// The file is another than its name says.
    #[error("`{name}` holds version {found}; upload it under its own number")]
    OtherVersion { name: String, found: u64 },
    /// There are other bytes under this number.
    #[error("`{name}` differs from the file of this number that is held already; sign the change as the next version")]
    Differs { name: String },
    /// The metadata are refused.
    #[error("project `{project}`: `{name}` is refused")]
    Refused { project: ProjectId, name: String, source: UpdateError },
    /// The metadata held cannot be used.
    #[error("project `{project}`: the publisher's metadata are not valid now; upload newer ones")]
    NotValid { project: ProjectId, source: UpdateError },
    /// No valid release names the bundle.
    #[error(
        "project `{project}`: no valid release of the publisher names `{target}`; add it to targets, sign and upload them"
    )]
    NotReleased { project: ProjectId, target: String },
}

/// What has become of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Whether it was new.
    pub new: bool,
    /// Whether everything is complete and valid now: devices are pointed to it.
    pub complete: bool,
}

/// A bundle that the publisher has released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// What the publisher says of it.
    pub release: Release,
    /// Length of its OCI image manifest, in bytes.
    pub manifest_bytes: u64,
}

/// The publishers' repositories of all projects.
#[derive(Debug)]
pub struct Publisher {
    pool: SqlitePool,
    /// One import at a time: each is held against what is there.
    importing: Mutex<()>,
}

/// Version and role by which a repository names a file.
fn parse_name(name: &str) -> Option<(Option<u64>, Role)> {
    let stem = name.strip_suffix(".json").filter(|_| name.len() <= 200)?;
    let numbered = stem.split_once('.').and_then(|(number, rest)| Some((number, number.parse::<u64>().ok()?, rest)));
    let (version, role) = match numbered {
        Some((text, version, rest)) if version > 0 && version.to_string() == text => (Some(version), rest),
        _ => (None, stem),
    };
    let mut bytes = Vec::new();
    let mut rest = role.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let (hex, after) = after.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    let role = Role::named(&String::from_utf8(bytes).ok().filter(|role| !role.is_empty())?);
    (version.is_some() != (role == Role::Timestamp)).then_some((version, role))
}

/// The number a file gives itself; of a file that was verified.
fn version_of(file: &[u8]) -> u64 {
    #[derive(Deserialize)]
    struct File {
        signed: Header,
    }
    #[derive(Deserialize)]
    struct Header {
        version: u64,
    }
    serde_json::from_slice(file).map_or(0, |file: File| file.signed.version)
}

/// Gives a file to the client that stands for all of them. Whether it was new.
fn accept(set: &mut TrustedSet, role: &Role, file: &[u8]) -> Result<bool, UpdateError> {
    match role {
        Role::Root => set.update_root(file).map(|()| true),
        Role::Timestamp => Ok(set.update_timestamp(file)? == Change::Updated),
        Role::Snapshot => set.update_snapshot(file).map(|()| true),
        Role::Targets => set.update_targets(file).map(|()| true),
        Role::Delegated(_) => {
            // The file does not say who delegates to it; the roles that do are few.
            let mut refused = UpdateError::NotDelegated { role: role.clone(), delegator: Role::Targets };
            for delegator in set.export().targets.into_keys() {
                match set.update_delegated_targets(role, &delegator, file) {
                    Ok(()) => return Ok(true),
                    Err(UpdateError::NotDelegated { .. }) => {}
                    Err(e) => refused = e,
                }
            }
            Err(refused)
        }
    }
}

impl Publisher {
    /// Repositories kept in this database.
    pub fn new(pool: SqlitePool) -> Self {
        Self { pool, importing: Mutex::new(()) }
    }

    /// Begins a project with the publisher's first root. The same again changes nothing.
    ///
    /// # Errors
    /// [`PublisherError::Refused`] for a root that its own keys have not signed, [`PublisherError::Exists`] when the
    /// project has another.
    pub async fn create(&self, project: &ProjectId, first_root: &[u8]) -> Result<(), PublisherError> {
        let name = "1.root.json".to_owned();
        let refused = |source| PublisherError::Refused { project: project.clone(), name: name.clone(), source };
        let set = TrustedSet::new(first_root).map_err(refused)?;
        if set.root().header.version != 1 {
            return Err(PublisherError::OtherVersion { name, found: set.root().header.version });
        }
        let doing = "create a project";
        let mut transaction = self.pool.begin().await.doing(doing)?;
        sqlx::query("INSERT INTO fleet_project (project) VALUES (?) ON CONFLICT DO NOTHING")
            .bind(project.as_str())
            .execute(&mut *transaction)
            .await
            .doing(doing)?;
        sqlx::query("INSERT INTO publisher_file VALUES (?, 'root', 1, ?) ON CONFLICT DO NOTHING")
            .bind(project.as_str())
            .bind(first_root)
            .execute(&mut *transaction)
            .await
            .doing(doing)?;
        transaction.commit().await.doing(doing)?;
        if self.first_root(project).await? == first_root {
            return Ok(());
        }
        Err(PublisherError::Exists { project: project.clone() })
    }

    /// The publisher's first root.
    ///
    /// # Errors
    /// [`PublisherError::NoProject`].
    pub async fn first_root(&self, project: &ProjectId) -> Result<Vec<u8>, PublisherError> {
        let root = self.file(project, &Role::Root, Some(1)).await?;
        root.ok_or_else(|| PublisherError::NoProject { project: project.clone() })
    }

    /// What a client holds that took every file so far.
    async fn client(&self, project: &ProjectId, now: UnixSeconds) -> Result<TrustedSet, PublisherError> {
        let doing = "read publisher metadata";
        let invalid = |source| PublisherError::NotValid { project: project.clone(), source };
        let mut set = TrustedSet::new(&self.first_root(project).await?).map_err(invalid)?;
        let newest = "SELECT role, file, max(version) FROM publisher_file WHERE project = ? GROUP BY role";
        let rows: Vec<(String, Vec<u8>, i64)> =
            sqlx::query_as(newest).bind(project.as_str()).fetch_all(&self.pool).await.doing(doing)?;
        let mut stored = Stored::default();
        for (role, file, _) in rows {
            match Role::named(&role) {
                Role::Root => stored.root = Some(file),
                Role::Timestamp => stored.timestamp = Some(file),
                Role::Snapshot => stored.snapshot = Some(file),
                role => drop(stored.targets.insert(role, file)),
            }
        }
        for dropped in set.load(&stored) {
            tracing::warn!(%project, "publisher metadata that were held are dropped: {dropped}");
        }
        // A root out of date stops everything but the next root.
        set.finish_root(now)
            .or_else(|e| if matches!(e, UpdateError::Expired { .. }) { Ok(()) } else { Err(e) })
            .map_err(invalid)?;
        Ok(set)
    }

    /// Takes a file, named as in the repository, if a client would.
    ///
    /// # Errors
    /// [`PublisherError`]; nothing is changed then.
    pub async fn import(
        &self,
        project: &ProjectId,
        name: &str,
        file: &[u8],
        now: UnixSeconds,
    ) -> Result<Imported, PublisherError> {
        let unknown = || PublisherError::Name { name: name.chars().take(80).flat_map(char::escape_default).collect() };
        let (number, role) = parse_name(name).ok_or_else(unknown)?;
        let _one_at_a_time = self.importing.lock().await;
        let mut set = self.client(project, now).await?;
        if let Some(number) = number
            && let Some(held) = self.file(project, &role, Some(number)).await?
        {
            if held != file {
                return Err(PublisherError::Differs { name: name.to_owned() });
            }
            return Ok(Imported { new: false, complete: set.view(now).is_ok() });
        }
        let refused = |source| PublisherError::Refused { project: project.clone(), name: name.to_owned(), source };
        if role != Role::Root {
            set.finish_root(now).map_err(refused)?;
        }
        let new = accept(&mut set, &role, file).map_err(refused)?;
        let found = version_of(file);
        if number.is_some_and(|number| number != found) {
            return Err(PublisherError::OtherVersion { name: name.to_owned(), found });
        }
        if role == Role::Root
            && let Err(e) = set.finish_root(now)
        {
            tracing::warn!(%project, "{e}");
        }
        if new {
            self.keep(project, &role, found, file, &set, now).await?;
        }
        Ok(Imported { new, complete: set.view(now).is_ok() })
    }

    /// The metadata as a device sees them at `now`.
    ///
    /// # Errors
    /// [`PublisherError::NotValid`] when they are incomplete or out of date.
    pub async fn trusted(&self, project: &ProjectId, now: UnixSeconds) -> Result<TrustedSet, PublisherError> {
        let set = self.client(project, now).await?;
        match set.view(now) {
            Ok(_) => Ok(set),
            Err(source) => Err(PublisherError::NotValid { project: project.clone(), source }),
        }
    }

    /// What the publisher says of a bundle, at `now`.
    ///
    /// # Errors
    /// [`PublisherError::NotReleased`] when it is not released, [`PublisherError::NotValid`] when nothing is, now.
    pub fn released(
        project: &ProjectId,
        set: &TrustedSet,
        name: &BundleName,
        digest: BundleDigest,
        now: UnixSeconds,
    ) -> Result<Released, PublisherError> {
        let target = target_name(name, digest);
        let invalid = |source| PublisherError::NotValid { project: project.clone(), source };
        let found = set.view(now).map_err(invalid)?.find(&target).map_err(invalid)?;
        let released = match found {
            Search::Found { file, .. } => file.custom.clone().and_then(|custom| {
                let release = serde_json::from_value(serde_json::Value::Object(custom)).ok()?;
                Some(Released { release, manifest_bytes: file.length })
            }),
            Search::Unknown | Search::Fetch { .. } => None,
        };
        released.ok_or_else(|| PublisherError::NotReleased { project: project.clone(), target })
    }
}

#[cfg(test)]
mod tests;
