//! What a device may run: what a publisher has released *and* a director has assigned, as Uptane splits it.
//!
//! The *publisher* repository is signed offline, with a threshold, and says which bundles exist. The *director*
//! repository, one per device, is signed online by the fleet server and says which bundle goes where. A device runs only
//! what both name with the same digest and length: a fleet server that is broken into cannot invent a bundle, and a
//! publisher cannot reach into a device.
//!
//! A publisher's target is named `<bundle>/<sha256>`: both parts come from alphabets that cannot leave a directory or a
//! URL, the digest makes the name as final as the bundle, and `digits/*` delegates one bundle to one team. A director's
//! target is named after the component. Length and hash of both are those of the packed bundle's OCI image manifest.
//! The director's targets carry a field of their own, `sedge_device`, that names the device; its version is the
//! [`Generation`].
//!
//! Nothing here is remembered: generations and floors that were reached come in as [`Marks`] and are given back.

mod error;

pub use error::{AuthorizeError, Repository};

use crate::id::{BundleName, ComponentName, Generation, Principal, RolloutId};
use crate::time::UnixSeconds;
use crate::tuf::sign::SignError;
use crate::tuf::{Hashes, Payload as _, Search, TargetFile, Targets, TrustedSet, UpdateError};
use crate::{BundleDigest, Sha256Digest, Version};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// Name of the field by which a director's targets say whom they are for.
const DEVICE_FIELD: &str = "sedge_device";

/// What a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A model with its processors.
    Model,
    /// The agent itself.
    Agent,
    /// The system image.
    System,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => "model",
            Self::Agent => "agent",
            Self::System => "system",
        })
    }
}

/// A bundle that exists: `custom` of a publisher's target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The bundle's name, also the first part of the target's.
    pub name: BundleName,
    /// Its version.
    pub version: Version,
    /// What it is for.
    pub kind: Kind,
    /// The oldest version of this bundle that may still be run. Of several releases, the highest counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Version>,
    /// All that has to be transferred, in bytes.
    pub bytes: u64,
}

/// What a component is to run: `custom` of a director's target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// What the component is.
    pub kind: Kind,
    /// The bundle.
    pub bundle: BundleName,
    /// Settings of the component. Canonical JSON has no fractions: they stand as text.
    #[serde(default)]
    pub settings: Map<String, Value>,
    /// No generation before this one may be gone back to.
    #[serde(default)]
    pub floor: Generation,
    /// The rollout it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    /// From when on it is no longer valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<UnixSeconds>,
}

/// What a component may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What the component is.
    pub kind: Kind,
    /// The bundle.
    pub bundle: BundleName,
    /// Its version.
    pub version: Version,
    /// Digest of its OCI image manifest.
    pub digest: BundleDigest,
    /// Length of its OCI image manifest, in bytes.
    pub length: u64,
    /// All that has to be transferred, in bytes.
    pub bytes: u64,
    /// Settings of the component.
    pub settings: Map<String, Value>,
    /// No generation before this one may be gone back to.
    pub floor: Generation,
    /// The rollout it is part of.
    pub rollout: Option<RolloutId>,
}

/// What a device may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorized {
    /// The director's version.
    pub generation: Generation,
    /// By component. A component that is not named here is to run nothing.
    pub targets: BTreeMap<ComponentName, Target>,
}

/// How far a device has come; none of it ever falls. Store it, twice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// The highest generation seen.
    pub generation: Generation,
    /// The highest floor seen, by component.
    pub floors: BTreeMap<ComponentName, Generation>,
}

/// Name of the publisher's target for a bundle.
pub fn target_name(bundle: &BundleName, digest: BundleDigest) -> String {
    format!("{bundle}/{}", digest.0.hex())
}

fn target_file<T: Serialize>(digest: BundleDigest, length: u64, custom: &T) -> Result<TargetFile, SignError> {
    let invalid = |problem: String| SignError::Invalid { kind: Targets::KIND, problem };
    let custom = match serde_json::to_value(custom) {
        Ok(Value::Object(custom)) => Some(custom),
        Ok(_) => return Err(invalid("`custom` is no object".to_owned())),
        Err(e) => return Err(invalid(e.to_string())),
    };
    Ok(TargetFile { length, hashes: Hashes::from([("sha256".to_owned(), digest.0.hex())]), custom })
}

/// Adds a release to a publisher's targets. `length` is that of the OCI image manifest, in bytes.
///
/// # Errors
/// [`SignError`] when the release cannot be written.
pub fn release(targets: &mut Targets, digest: BundleDigest, length: u64, release: &Release) -> Result<(), SignError> {
    let file = target_file(digest, length, release)?;
    targets.targets.insert(target_name(&release.name, digest), file);
    Ok(())
}

/// Adds an assignment to a director's targets. `length` is that of the OCI image manifest, in bytes.
///
/// # Errors
/// [`SignError`] when the assignment cannot be written.
pub fn assign(
    targets: &mut Targets,
    component: &ComponentName,
    digest: BundleDigest,
    length: u64,
    assignment: &Assignment,
) -> Result<(), SignError> {
    let file = target_file(digest, length, assignment)?;
    targets.targets.insert(component.to_string(), file);
    Ok(())
}

/// A director's targets of this generation, for this device and no other, without assignments yet.
pub fn director_targets(device: &Principal, generation: Generation, expires: UnixSeconds) -> Targets {
    let mut targets = Targets::new(generation.0, expires);
    targets.extra.insert(DEVICE_FIELD.to_owned(), device.to_string().into());
    targets
}

/// What `device` may run according to both repositories at `now`.
///
/// All or nothing: one assignment that the publisher does not back makes the whole suspect. Give the result to
/// [`Authorized::follow`] before acting on it.
///
/// # Errors
/// [`AuthorizeError`], which names the component, both values and what to do.
pub fn authorize(
    publisher: &TrustedSet,
    director: &TrustedSet,
    device: &Principal,
    now: UnixSeconds,
) -> Result<Authorized, AuthorizeError> {
    let view = director.view(now).map_err(|source| in_repository(Repository::Director, source))?;
    let assigned = view.targets();
    check_device(assigned, device)?;
    let generation = Generation(assigned.header.version);
    let mut targets = BTreeMap::new();
    for (name, file) in &assigned.targets {
        let component: ComponentName =
            name.parse().map_err(|e| malformed(Repository::Director, name, format_args!("{e}")))?;
        let target = authorize_one(publisher, generation, &component, file, now)?;
        targets.insert(component, target);
    }
    // The publisher's dates count even where nothing is assigned.
    publisher.view(now).map_err(|source| in_repository(Repository::Publisher, source))?;
    Ok(Authorized { generation, targets })
}

fn in_repository(repository: Repository, source: UpdateError) -> AuthorizeError {
    match source {
        UpdateError::Expired { .. } => AuthorizeError::Expired { repository, source },
        _ => AuthorizeError::Metadata { repository, source },
    }
}

fn malformed(repository: Repository, target: &str, problem: impl fmt::Display) -> AuthorizeError {
    let target = target.chars().take(120).flat_map(char::escape_default).collect();
    AuthorizeError::Malformed { repository, target, problem: problem.to_string() }
}

fn check_device(assigned: &Targets, device: &Principal) -> Result<(), AuthorizeError> {
    let named = assigned.extra.get(DEVICE_FIELD);
    if named.and_then(Value::as_str).and_then(|text| text.parse().ok()).as_ref() == Some(device) {
        return Ok(());
    }
    let found = match named {
        Some(Value::String(text)) => text.chars().take(140).flat_map(char::escape_default).collect(),
        _ => format!("unnamed (no `{DEVICE_FIELD}`)"),
    };
    Err(AuthorizeError::OtherDevice { device: device.clone(), found })
}

/// Digest and what the application says of a target.
fn read<T: serde::de::DeserializeOwned>(
    repository: Repository,
    name: &str,
    file: &TargetFile,
) -> Result<(BundleDigest, T), AuthorizeError> {
    let hash = file.hashes.get("sha256").ok_or_else(|| malformed(repository, name, "it has no sha256 hash"))?;
    let digest = Sha256Digest::from_hex(hash).map_err(|e| malformed(repository, name, e))?;
    let custom = file.custom.clone().ok_or_else(|| malformed(repository, name, "it has no `custom`"))?;
    let custom = serde_json::from_value(Value::Object(custom))
        .map_err(|e| malformed(repository, name, format_args!("its `custom`: {e}")))?;
    Ok((BundleDigest(digest), custom))
}

fn authorize_one(
    publisher: &TrustedSet,
    generation: Generation,
    component: &ComponentName,
    file: &TargetFile,
    now: UnixSeconds,
) -> Result<Target, AuthorizeError> {
    let (digest, assignment): (_, Assignment) = read(Repository::Director, component.as_str(), file)?;
    if let Some(not_after) = assignment.not_after.filter(|not_after| now >= *not_after) {
        return Err(AuthorizeError::NotAfter { component: component.clone(), not_after, now });
    }
    if assignment.floor > generation {
        let floor = assignment.floor;
        return Err(AuthorizeError::FloorAhead { component: component.clone(), floor, generation });
    }
    let view = publisher.view(now).map_err(|source| in_repository(Repository::Publisher, source))?;
    let name = target_name(&assignment.bundle, digest);
    let (releases, released) = match view.find(&name) {
        Ok(Search::Found { targets, file, .. }) => (targets, file),
        Ok(Search::Fetch { request, delegator }) => {
            return Err(AuthorizeError::Fetch { component: component.clone(), role: request.role, delegator });
        }
        Ok(Search::Unknown) => {
            let (component, bundle) = (component.clone(), assignment.bundle);
            return Err(AuthorizeError::NotReleased { component, bundle, digest });
        }
        Err(source) => return Err(in_repository(Repository::Publisher, source)),
    };
    let (released_digest, release): (_, Release) = read(Repository::Publisher, &name, released)?;
    let agree = |what, director: &dyn fmt::Display, publisher: &dyn fmt::Display| {
        let (director, publisher) = (director.to_string(), publisher.to_string());
        if director == publisher {
            return Ok(());
        }
        Err(AuthorizeError::Disagree { component: component.clone(), what, director, publisher })
    };
    agree("digest", &digest, &released_digest)?;
    agree("length", &file.length, &released.length)?;
    agree("bundle", &assignment.bundle, &release.name)?;
    agree("kind", &assignment.kind, &release.kind)?;
    if let Some(floor) = floor(releases, &release.name)?.filter(|floor| release.version < *floor) {
        let (component, bundle, version) = (component.clone(), release.name, release.version);
        return Err(AuthorizeError::BelowFloor { component, bundle, version, floor });
    }
    Ok(Target {
        kind: release.kind,
        bundle: release.name,
        version: release.version,
        digest,
        length: file.length,
        bytes: release.bytes,
        settings: assignment.settings,
        floor: assignment.floor,
        rollout: assignment.rollout,
    })
}

/// The highest floor that the role which releases a bundle gives for it.
fn floor(releases: &Targets, bundle: &BundleName) -> Result<Option<Version>, AuthorizeError> {
    let mut highest = None;
    let prefix = format!("{bundle}/");
    for (name, file) in releases.targets.iter().filter(|(name, _)| name.starts_with(&prefix)) {
        let (_, release): (_, Release) = read(Repository::Publisher, name, file)?;
        highest = highest.max(release.floor);
    }
    Ok(highest)
}

impl Authorized {
    /// Holds it against what the device has seen. The result is what it has seen then: store it before acting on it.
    /// The same generation again is no news and no error. Going back to an older bundle is a higher generation.
    ///
    /// # Errors
    /// [`AuthorizeError::GenerationFell`] and [`AuthorizeError::FloorFell`].
    pub fn follow(&self, seen: &Marks) -> Result<Marks, AuthorizeError> {
        if self.generation < seen.generation {
            return Err(AuthorizeError::GenerationFell { seen: seen.generation, found: self.generation });
        }
        let mut marks = Marks { generation: self.generation, floors: seen.floors.clone() };
        for (component, target) in &self.targets {
            let mark = marks.floors.entry(component.clone()).or_default();
            if target.floor < *mark {
                let (component, seen) = (component.clone(), *mark);
                return Err(AuthorizeError::FloorFell { component, seen, found: target.floor });
            }
            *mark = target.floor;
        }
        Ok(marks)
    }
}
