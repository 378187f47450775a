//! The directors' repositories, one per device: what it is to run, signed online.
//!
//! What always holds: a device's generation only grows, and no number is given out twice, because each writer names the
//! row it has read; and what is stored has been looked at the way the device will look at it, by [`uptane::authorize`].
//! Going back is a new generation that names the older bundle.
//!
//! If power dies: a generation and its signatures are one row.

mod keys;
mod rows;
mod signed;

pub use keys::{DirectorKeys, KeyError};
pub use signed::{Assigned, Assignments, Signed, Validity};

use super::publisher::PublisherError;
use super::store::{Doing as _, StoreError, signed as to_signed, unsigned};
use sedge_protocol::cbor::Bytes;
use sedge_protocol::id::{ComponentName, Generation, Principal, ProjectId};
use sedge_protocol::message::{Desired, DirectorMetadata, Message as _, MessageError, PublisherVersions};
use sedge_protocol::time::UnixSeconds;
use sedge_protocol::tuf::sign::SignError;
use sedge_protocol::tuf::{Role, TrustedSet, UpdateError};
use sedge_protocol::uptane::{self, AuthorizeError};
use sqlx::SqlitePool;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// How often a writer begins again when others were faster.
const TRIES_MAX: usize = 16;

/// Why a device's desired state is not changed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum DirectorError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The online keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The publisher's metadata do not allow it.
    #[error(transparent)]
    Publisher(#[from] PublisherError),
    /// There is no such project.
    #[error("project `{project}` has no director; create the project first")]
    NoProject { project: ProjectId },
    /// Nobody has assigned anything to this device.
    #[error("device `{device}` has no desired state yet; assign a bundle first")]
    NoDevice { device: Principal },
    /// Somebody else was faster.
    #[error("device `{device}` has generation {found} and not {expected}; read it again and repeat")]
    Conflict { device: Principal, expected: Generation, found: Generation },
    /// There is nothing to go back to.
    #[error("component `{component}` of `{device}` has no earlier bundle that may be gone back to")]
    NoEarlier { device: Principal, component: ComponentName },
    /// The device would refuse it.
    #[error("device `{device}` would refuse generation {generation}")]
    WouldRefuse { device: Principal, generation: Generation, source: AuthorizeError },
    /// It cannot be signed.
    #[error("the desired state of `{device}` cannot be signed")]
    Sign { device: Principal, source: SignError },
    /// What was signed is not valid.
    #[error("the director's own metadata for `{device}` are not valid; is the server's clock right?")]
    NotValid { device: Principal, source: UpdateError },
    /// It is too much for one message.
    #[error("the desired state of `{device}` is no message; assign fewer components or shorter settings")]
    Message { device: Principal, source: MessageError },
}

/// A device's desired state.
#[derive(Debug, Clone)]
pub struct DeviceState {
    /// Its number.
    pub generation: Generation,
    /// What is to run.
    pub assignments: Assignments,
    /// What is signed for it.
    pub signed: Signed,
    root_version: u64,
}

/// The directors of all projects.
#[derive(Debug)]
pub struct Director {
    pool: SqlitePool,
    directory: PathBuf,
    validity: Validity,
    keys: Mutex<HashMap<ProjectId, Arc<DirectorKeys>>>,
}

impl Director {
    /// Directors whose keys lie in `directory`.
    pub fn new(pool: SqlitePool, directory: &Path, validity: Validity) -> Self {
        Self { pool, directory: directory.to_owned(), validity, keys: Mutex::default() }
    }

    /// Makes keys and first root of a project that has none.
    ///
    /// # Errors
    /// [`KeyError`] when keys cannot be made, or are gone though devices trust them.
    pub async fn create(&self, project: &ProjectId, now: UnixSeconds) -> Result<(), DirectorError> {
        if self.root(project, None).await?.is_some() {
            return self.keys(project).map(drop);
        }
        let keys = Arc::new(DirectorKeys::open_or_create(&self.directory, project)?);
        let expires = now.plus(self.validity.root_s);
        let root = keys.first_root(expires).map_err(|source| KeyError::Root { project: project.clone(), source })?;
        sqlx::query("INSERT INTO director_root VALUES (?, 1, ?, ?) ON CONFLICT DO NOTHING")
            .bind(project.as_str())
            .bind(expires.0)
            .bind(root)
            .execute(&self.pool)
            .await
            .doing("keep the director's first root")?;
        Ok(())
    }

    fn keys(&self, project: &ProjectId) -> Result<Arc<DirectorKeys>, DirectorError> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keys) = keys.get(project) {
            return Ok(Arc::clone(keys));
        }
        let opened = Arc::new(DirectorKeys::open(&self.directory, project)?);
        keys.insert(project.clone(), Arc::clone(&opened));
        Ok(opened)
    }

    /// A root's successor with the same keys, once half of its time has passed.
    ///
    /// # Errors
    /// [`DirectorError`].
    pub async fn renew_root(&self, project: &ProjectId, now: UnixSeconds) -> Result<bool, DirectorError> {
        let newest = "SELECT version, expires, file FROM director_root WHERE project = ? ORDER BY version DESC LIMIT 1";
        let row: Option<(i64, i64, Vec<u8>)> = sqlx::query_as(newest)
            .bind(project.as_str())
            .fetch_optional(&self.pool)
            .await
            .doing("read the director's root")?;
        let (version, expires, file) = row.ok_or_else(|| DirectorError::NoProject { project: project.clone() })?;
        if now.plus(self.validity.root_s / 2).0 < expires {
            return Ok(false);
        }
        let expires = now.plus(self.validity.root_s);
        let failed = |source| KeyError::Root { project: project.clone(), source };
        let root = self.keys(project)?.next_root(&file, expires).map_err(failed)?;
        sqlx::query("INSERT INTO director_root VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING")
            .bind(project.as_str())
            .bind(version + 1)
            .bind(expires.0)
            .bind(root)
            .execute(&self.pool)
            .await
            .doing("keep the director's next root")?;
        Ok(true)
    }

    /// The message for a device, or `None` before anybody has said what it is to run.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn desired(
        &self,
        device: &Principal,
        publisher: PublisherVersions,
    ) -> Result<Option<Desired>, StoreError> {
        Ok(self.state(device).await?.map(|state| state.desired(publisher)))
    }

    /// Changes what a device is to run: the next generation. With `expected`, only if that is the present one.
    ///
    /// # Errors
    /// [`DirectorError`]; nothing is changed then.
    pub async fn assign(
        &self,
        device: &Principal,
        expected: Option<Generation>,
        publisher: (&TrustedSet, PublisherVersions),
        actor: &str,
        now: UnixSeconds,
        change: impl Fn(&mut Assignments) + Send + Sync,
    ) -> Result<Generation, DirectorError> {
        let mut found = Generation(0);
        for _ in 0..TRIES_MAX {
            let before = self.state(device).await?;
            found = before.as_ref().map_or(Generation(0), |before| before.generation);
            if let Some(expected) = expected.filter(|expected| *expected != found) {
                return Err(DirectorError::Conflict { device: device.clone(), expected, found });
            }
            let mut assignments = before.as_ref().map(|b| b.assignments.clone()).unwrap_or_default();
            change(&mut assignments);
            let next = self.next(device, before.as_ref(), assignments, publisher, now).await?;
            if self.replace(device, before.as_ref(), &next, Some(actor), now).await? {
                return Ok(next.generation);
            }
        }
        Err(DirectorError::Conflict { device: device.clone(), expected: expected.unwrap_or(found), found })
    }

    async fn next(
        &self,
        device: &Principal,
        before: Option<&DeviceState>,
        assignments: Assignments,
        (publisher, versions): (&TrustedSet, PublisherVersions),
        now: UnixSeconds,
    ) -> Result<DeviceState, DirectorError> {
        let sign = |source| DirectorError::Sign { device: device.clone(), source };
        let keys = self.keys(&device.project)?;
        let before = before.map(|before| &before.signed);
        let signed = Signed::next(&keys, device, before, &assignments, &self.validity, now).map_err(sign)?;
        let generation = signed.generation;
        let (director, root_version) = self.as_device_sees(device, &signed, now).await?;
        let refuses = |source| DirectorError::WouldRefuse { device: device.clone(), generation, source };
        uptane::authorize(publisher, &director, device, now).map_err(refuses)?;
        let state = DeviceState { generation, assignments, signed, root_version };
        let message = |source| DirectorError::Message { device: device.clone(), source };
        state.desired(versions).to_cbor().map_err(message)?;
        Ok(state)
    }

    async fn as_device_sees(
        &self,
        device: &Principal,
        signed: &Signed,
        now: UnixSeconds,
    ) -> Result<(TrustedSet, u64), DirectorError> {
        let project = &device.project;
        let invalid = |source| DirectorError::NotValid { device: device.clone(), source };
        let no_project = || DirectorError::NoProject { project: project.clone() };
        let mut set = TrustedSet::new(&self.root(project, Some(1)).await?.ok_or_else(no_project)?).map_err(invalid)?;
        while let Some(version) = set.next_root().and_then(|request| request.version) {
            let Some(root) = self.root(project, Some(version)).await? else { break };
            set.update_root(&root).map_err(invalid)?;
        }
        let mut update = || {
            set.finish_root(now)?;
            set.update_timestamp(&signed.timestamp)?;
            set.update_snapshot(&signed.snapshot)?;
            set.update_targets(&signed.targets)
        };
        update().map_err(invalid)?;
        let root_version = set.root().header.version;
        Ok((set, root_version))
    }

    /// What a component ran before it ran what it does now: of `generation`, or the newest that names another bundle.
    ///
    /// # Errors
    /// [`DirectorError::NoEarlier`] when there is none at or above the component's floor.
    pub async fn earlier(
        &self,
        device: &Principal,
        component: &ComponentName,
        generation: Option<Generation>,
    ) -> Result<Assigned, DirectorError> {
        let doing = "read earlier generations";
        let none = || DirectorError::NoEarlier { device: device.clone(), component: component.clone() };
        let state = self.state(device).await?.ok_or_else(|| DirectorError::NoDevice { device: device.clone() })?;
        let present = state.assignments.get(component);
        let floor = present.map_or(Generation(0), |present| present.assignment.floor);
        let select = "SELECT generation, assignments FROM director_history WHERE project = ? AND device = ? \
                      AND generation < ? AND generation >= ? ORDER BY generation DESC";
        let rows: Vec<(i64, String)> = sqlx::query_as(select)
            .bind(device.project.as_str())
            .bind(device.device.as_str())
            .bind(to_signed(state.generation.0))
            .bind(to_signed(floor.0))
            .fetch_all(&self.pool)
            .await
            .doing(doing)?;
        for (number, assignments) in rows {
            let assignments: Assignments =
                serde_json::from_str(&assignments).map_err(|e| StoreError::foreign(doing, e))?;
            let wanted = match generation {
                Some(generation) => unsigned(number) == generation.0,
                None => assignments.get(component).map(|a| a.digest) != present.map(|a| a.digest),
            };
            if let Some(mut earlier) = assignments.get(component).filter(|_| wanted).cloned() {
                // The floor never falls, and the rollout that brought it is over.
                earlier.assignment.floor = floor;
                earlier.assignment.rollout = None;
                earlier.assignment.not_after = None;
                return Ok(earlier);
            }
        }
        Err(none())
    }

    /// What a component was to run before the assignments that `after` knows began, at `generation` the last of them;
    /// none when that was nothing.
    ///
    /// # Errors
    /// [`DirectorError::NoEarlier`] when it is no longer known, or lies below the component's floor.
    pub async fn before(
        &self,
        device: &Principal,
        component: &ComponentName,
        generation: Generation,
        after: impl Fn(&Assignments) -> bool,
    ) -> Result<Option<Assigned>, DirectorError> {
        let doing = "read earlier generations";
        let select = "SELECT generation, assignments FROM director_history WHERE project = ? AND device = ? \
                      AND generation <= ? ORDER BY generation DESC";
        let rows: Vec<(i64, String)> = sqlx::query_as(select)
            .bind(device.project.as_str())
            .bind(device.device.as_str())
            .bind(to_signed(generation.0))
            .fetch_all(&self.pool)
            .await
            .doing(doing)?;
        let none = || DirectorError::NoEarlier { device: device.clone(), component: component.clone() };
        let (mut floor, mut oldest) = (Generation(0), generation);
        for (number, assignments) in rows {
            let assignments: Assignments =
                serde_json::from_str(&assignments).map_err(|e| StoreError::foreign(doing, e))?;
            oldest = Generation(unsigned(number));
            let assigned = assignments.get(component).cloned();
            if after(&assignments) {
                floor = floor.max(assigned.map_or(Generation(0), |assigned| assigned.assignment.floor));
                continue;
            }
            let Some(mut assigned) = assigned else { return Ok(None) };
            if oldest < floor {
                return Err(none());
            }
            // The floor never falls.
            assigned.assignment.floor = floor.max(assigned.assignment.floor);
            (assigned.assignment.rollout, assigned.assignment.not_after) = (None, None);
            return Ok(Some(assigned));
        }
        if oldest <= Generation(1) { Ok(None) } else { Err(none()) }
    }

    /// Renews a device's signatures if they are due. Whether there is something new.
    ///
    /// # Errors
    /// [`DirectorError`].
    pub async fn renew(&self, device: &Principal, now: UnixSeconds) -> Result<bool, DirectorError> {
        let Some(before) = self.state(device).await? else { return Ok(false) };
        let sign = |source| DirectorError::Sign { device: device.clone(), source };
        let keys = self.keys(&device.project)?;
        let renewed = before.signed.renewed(&keys, device, &before.assignments, &self.validity, now).map_err(sign)?;
        let Some(signed) = renewed else { return Ok(false) };
        let (_, root_version) = self.as_device_sees(device, &signed, now).await?;
        let generation = signed.generation;
        let actor = (generation != before.generation).then_some("server");
        let next = DeviceState { generation, assignments: before.assignments.clone(), signed, root_version };
        Ok(self.replace(device, Some(&before), &next, actor, now).await?)
    }

    /// A file of a device's repository, the newest or that of `version` if it is the present one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn file(
        &self,
        device: &Principal,
        role: &Role,
        version: Option<u64>,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        if *role == Role::Root {
            return self.root(&device.project, version).await;
        }
        let Some(DeviceState { signed, .. }) = self.state(device).await? else { return Ok(None) };
        let (present, file) = match role {
            Role::Timestamp => (signed.timestamp_version, signed.timestamp),
            Role::Snapshot => (signed.snapshot_version, signed.snapshot),
            Role::Targets => (signed.generation.0, signed.targets),
            Role::Root | Role::Delegated(_) => return Ok(None),
        };
        Ok(Some(file).filter(|_| version.is_none_or(|version| version == present)))
    }
}

impl DeviceState {
    /// The message that says so.
    pub fn desired(&self, publisher: PublisherVersions) -> Desired {
        let Signed { targets, snapshot, timestamp, .. } = &self.signed;
        let director = DirectorMetadata {
            root_version: self.root_version,
            timestamp: Bytes(timestamp.clone()),
            snapshot: Bytes(snapshot.clone()),
            targets: Bytes(targets.clone()),
        };
        Desired::new(self.generation, director, publisher)
    }
}

#[cfg(test)]
mod tests;
