//! What this device may run: both repositories' metadata, kept up to date and asked.
//!
//! A desired state carries the director's files; what the publisher has is asked for, one document after another. What
//! always holds: nothing is authorised that the two repositories do not both name now, at the latest time that is known
//! to have passed; versions, generations and floors never fall, over restarts too (each mark is stored twice, before
//! it is acted on); and what is refused changes nothing that runs.
//!
//! If power dies, the stored files are verified again at the next start, root first; a mark that was stored once counts.

mod order;
mod store;

pub use order::order;
pub use store::UpdateStoreError;

use crate::clock::Clock;
use crate::disk::Disk;
use crate::error::chain;
use crate::identity::Identity;
use crate::journal::TwoCopies;
use sedge_protocol::deployment::Order;
use sedge_protocol::id::{ComponentName, Principal};
use sedge_protocol::message::{Desired, Document, ErrorCode, Repository, Role as RoleWord};
use sedge_protocol::time::UnixSeconds;
use sedge_protocol::tuf::{Payload as _, Request, Role, TIMESTAMP_BYTES_MAX, TrustedSet, UpdateError};
use sedge_protocol::uptane::{self, AuthorizeError, Authorized, Marks};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing::{info, warn};

/// Documents that one desired state may cost; stops a server that always has one more.
const DOCUMENTS_MAX: u32 = 600;

/// Why something is refused, as it is reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which check failed.
    pub code: ErrorCode,
    /// For people.
    pub detail: String,
}

impl Refusal {
    fn new(code: ErrorCode, e: &dyn std::error::Error) -> Self {
        Self { code, detail: chain(e) }
    }
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing is under way.
    Rest,
    /// A document is needed; at most so many bytes of it.
    Fetch(Document, u64),
    /// This is what the device may run.
    Authorized(Authorized),
    /// The desired state is refused.
    Refused(Refusal),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    DirectorRoot,
    DirectorFiles,
    PublisherRoot,
    PublisherTimestamp,
    PublisherFiles,
    Judge,
}

/// A document that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    repository: Repository,
    role: Role,
    delegator: Role,
}

#[derive(Debug)]
struct Work {
    desired: Desired,
    stage: Stage,
    wanted: Option<Wanted>,
    documents: u32,
}

/// Both repositories.
#[derive(Debug)]
pub struct Updater {
    device: Principal,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    clock: Clock,
    publisher: TrustedSet,
    director: TrustedSet,
    marks: Marks,
    stored_marks: TwoCopies<Marks>,
    stored_time: TwoCopies<i64>,
    work: Option<Work>,
}

impl Updater {
    /// Opens what is stored below the state directory, beginning with the identity's first roots.
    ///
    /// # Errors
    /// When something cannot be read, or a first root is none.
    pub fn open(
        disk: Arc<dyn Disk>,
        state_dir: &Path,
        identity: &Identity,
        clock: &Clock,
    ) -> Result<Self, UpdateStoreError> {
        let dir = state_dir.join("metadata");
        let publisher = store::load(disk.as_ref(), &dir, Repository::Publisher, &identity.publisher_root)?;
        let director = store::load(disk.as_ref(), &dir, Repository::Director, &identity.director_root)?;
        let stored_marks = TwoCopies::<Marks>::new(disk.clone(), &dir, "marks");
        let stored_time = TwoCopies::<i64>::new(disk.clone(), &dir, "time");
        let mut marks = Marks::default();
        for copy in stored_marks.read()? {
            marks.generation = marks.generation.max(copy.generation);
            for (component, floor) in copy.floors {
                let held = marks.floors.entry(component).or_default();
                *held = (*held).max(floor);
            }
        }
        clock.learn(identity.time);
        stored_time.read()?.into_iter().for_each(|time| clock.learn(UnixSeconds(time)));
        let (device, clock) = (identity.principal.clone(), clock.clone());
        Ok(Self { device, disk, dir, clock, publisher, director, marks, stored_marks, stored_time, work: None })
    }

    /// The highest generation and floors seen.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Looks at a desired state. One that was being looked at is given up.
    pub fn desired(&mut self, desired: Desired) -> Step {
        self.work = Some(Work { desired, stage: Stage::DirectorRoot, wanted: None, documents: 0 });
        self.advance()
    }

    /// The desired state that is being looked at.
    pub fn looking_at(&self) -> Option<&Desired> {
        self.work.as_ref().map(|work| &work.desired)
    }

    /// Takes a document that was asked for.
    pub fn document(&mut self, bytes: &[u8]) -> Step {
        let Some(wanted) = self.work.as_mut().and_then(|work| work.wanted.take()) else { return Step::Rest };
        let set = self.set(wanted.repository);
        let taken = match &wanted.role {
            Role::Root => set.update_root(bytes),
            Role::Timestamp => set.update_timestamp(bytes).map(drop),
            Role::Snapshot => set.update_snapshot(bytes),
            role => set.update_delegated_targets(role, &wanted.delegator, bytes),
        };
        let saved = taken.map_err(|e| of_update(&e)).and_then(|()| self.save(wanted.repository));
        match saved {
            Ok(()) => self.advance(),
            Err(refusal) => self.refuse(refusal),
        }
    }

    /// A document that was asked for cannot be had. That there is no newer root is normal.
    pub fn unavailable(&mut self, why: &str) -> Step {
        let Some(work) = &mut self.work else { return Step::Rest };
        let Some(wanted) = work.wanted.take() else { return Step::Rest };
        if wanted.role == Role::Root {
            work.stage = match wanted.repository {
                Repository::Director => Stage::DirectorFiles,
                Repository::Publisher => Stage::PublisherTimestamp,
            };
            return self.advance();
        }
        let detail = format!("the server has no {} metadata of role {} ({why})", wanted.repository, wanted.role);
        self.refuse(Refusal { code: ErrorCode::MetadataInvalid, detail })
    }

    fn set(&mut self, repository: Repository) -> &mut TrustedSet {
        match repository {
            Repository::Publisher => &mut self.publisher,
            Repository::Director => &mut self.director,
        }
    }

    fn save(&self, repository: Repository) -> Result<(), Refusal> {
        let set = match repository {
            Repository::Publisher => &self.publisher,
            Repository::Director => &self.director,
        };
        store::save(self.disk.as_ref(), &self.dir, repository, set)
            .map_err(|e| Refusal::new(ErrorCode::StorageFailed, &e))
    }

    fn refuse(&mut self, refusal: Refusal) -> Step {
        self.work = None;
        warn!(code = %refusal.code, detail = refusal.detail, "the desired state is refused; what runs goes on");
        Step::Refused(refusal)
    }

    fn advance(&mut self) -> Step {
        loop {
            let step = match self.stage() {
                Some(Stage::DirectorRoot) => self.root(Repository::Director),
                Some(Stage::DirectorFiles) => self.director_files(),
                Some(Stage::PublisherRoot) => self.root(Repository::Publisher),
                Some(Stage::PublisherTimestamp) => self.publisher_timestamp(),
                Some(Stage::PublisherFiles) => self.publisher_files(),
                Some(Stage::Judge) => self.judge(),
                None => Ok(Some(Step::Rest)),
            };
            match step {
                Ok(Some(step)) => return step,
                Ok(None) => {}
                Err(refusal) => return self.refuse(refusal),
            }
        }
    }

    fn stage(&self) -> Option<Stage> {
        self.work.as_ref().map(|work| work.stage.clone())
    }

    fn go_to(&mut self, stage: Stage) {
        if let Some(work) = &mut self.work {
            work.stage = stage;
        }
    }

    fn fetch(&mut self, repository: Repository, request: Request, delegator: Role) -> Result<Option<Step>, Refusal> {
        let Some(work) = &mut self.work else { return Ok(Some(Step::Rest)) };
        work.documents += 1;
        if work.documents > DOCUMENTS_MAX {
            let detail = format!("more than {DOCUMENTS_MAX} documents for one desired state (endless data attack)");
            return Err(Refusal { code: ErrorCode::MetadataInvalid, detail });
        }
        let role = request.role.name().parse::<RoleWord>().map_err(|e| Refusal::new(ErrorCode::MetadataInvalid, &e))?;
        work.wanted = Some(Wanted { repository, role: request.role, delegator });
        let document = Document::Metadata { repository, role, version: request.version };
        Ok(Some(Step::Fetch(document, request.bytes_max)))
    }

    fn root(&mut self, repository: Repository) -> Result<Option<Step>, Refusal> {
        let Some(work) = &self.work else { return Ok(Some(Step::Rest)) };
        let (hint, next) = match repository {
            Repository::Director => (work.desired.director.root_version, Stage::DirectorFiles),
            Repository::Publisher => (work.desired.publisher.root_version, Stage::PublisherTimestamp),
        };
        let set = self.set(repository);
        if set.root().header.version < hint
            && let Some(request) = set.next_root()
        {
            return self.fetch(repository, request, Role::Root);
        }
        self.go_to(next);
        Ok(None)
    }

    /// The director's files came with the desired state, byte for byte.
    fn director_files(&mut self) -> Result<Option<Step>, Refusal> {
        let Some(work) = &self.work else { return Ok(Some(Step::Rest)) };
        let files = work.desired.director.clone();
        let now = self.clock.now();
        let set = &mut self.director;
        let taken = set.finish_root(now).and_then(|()| {
            set.update_timestamp(&files.timestamp)?;
            if set.next_snapshot()?.is_some() {
                set.update_snapshot(&files.snapshot)?;
            }
            if set.next_targets()?.is_some() {
                set.update_targets(&files.targets)?;
            }
            Ok(())
        });
        // What was taken before a fault is kept: it is genuine, and tells of versions.
        let saved = self.save(Repository::Director);
        taken.map_err(|e| of_update(&e))?;
        saved?;
        self.learn_time();
        self.go_to(Stage::PublisherRoot);
        Ok(None)
    }

    /// A device without a clock learns the time from what the director has signed.
    fn learn_time(&self) {
        let Some(issued) = self.director.timestamp().and_then(|t| t.sedge_issued) else { return };
        if issued > self.clock.known() {
            self.clock.learn(issued);
            if let Err(e) = self.stored_time.write(&issued.0) {
                warn!(error = chain(&e), "the time could not be stored");
            }
        }
    }

    fn publisher_timestamp(&mut self) -> Result<Option<Step>, Refusal> {
        let Some(work) = &self.work else { return Ok(Some(Step::Rest)) };
        let hint = work.desired.publisher.timestamp_version;
        let now = self.clock.now();
        self.publisher.finish_root(now).map_err(|e| of_update(&e))?;
        self.go_to(Stage::PublisherFiles);
        let held = self.publisher.timestamp().map(|t| t.header());
        if held.is_none_or(|held| held.version < hint || held.expired(now)) {
            let request = Request { bytes_max: TIMESTAMP_BYTES_MAX, ..self.publisher.next_timestamp() };
            return self.fetch(Repository::Publisher, request, Role::Root);
        }
        Ok(None)
    }

    fn publisher_files(&mut self) -> Result<Option<Step>, Refusal> {
        let next = match self.publisher.next_snapshot() {
            Ok(Some(request)) => Some(request),
            Ok(None) => self.publisher.next_targets().map_err(|e| of_update(&e))?,
            Err(e) => return Err(of_update(&e)),
        };
        match next {
            Some(request) => self.fetch(Repository::Publisher, request, Role::Root),
            None => {
                self.go_to(Stage::Judge);
                Ok(None)
            }
        }
    }

    fn judge(&mut self) -> Result<Option<Step>, Refusal> {
        match uptane::authorize(&self.publisher, &self.director, &self.device, self.clock.now()) {
            Err(AuthorizeError::Fetch { role, delegator, .. }) => {
                let consistent = self.publisher.root().consistent_snapshot == Some(true);
                let listed = self.publisher.snapshot().and_then(|s| s.listed(&role)).map(|meta| meta.version);
                let request = Request {
                    version: listed.filter(|_| consistent),
                    bytes_max: sedge_protocol::tuf::TARGETS_BYTES_MAX,
                    role,
                };
                self.fetch(Repository::Publisher, request, delegator)
            }
            Err(e) => Err(of_authorize(&e)),
            Ok(authorized) => {
                let marks = authorized.follow(&self.marks).map_err(|e| of_authorize(&e))?;
                if marks != self.marks {
                    self.stored_marks.write(&marks).map_err(|e| Refusal::new(ErrorCode::StorageFailed, &e))?;
                    self.marks = marks;
                }
                self.work = None;
                info!(generation = %authorized.generation, components = authorized.targets.len(), "authorized");
                Ok(Some(Step::Authorized(authorized)))
            }
        }
    }

    /// What the device may run now, if anything.
    pub fn current(&self) -> Option<Authorized> {
        let authorized = uptane::authorize(&self.publisher, &self.director, &self.device, self.clock.now()).ok()?;
        authorized.follow(&self.marks).ok()?;
        Some(authorized)
    }

    /// Whether this order is what the component may run now; the answer to a deployment's question.
    ///
    /// # Errors
    /// The check that failed.
    pub fn check(&self, component: &ComponentName, ordered: &Order) -> Result<(), Refusal> {
        let not = |detail: String| Refusal { code: ErrorCode::NotAuthorized, detail };
        let authorized = uptane::authorize(&self.publisher, &self.director, &self.device, self.clock.now())
            .map_err(|e| of_authorize(&e))?;
        authorized.follow(&self.marks).map_err(|e| of_authorize(&e))?;
        let target = authorized.targets.get(component);
        let target = target.ok_or_else(|| not(format!("component {component} is assigned nothing")))?;
        if authorized.generation != ordered.generation {
            let now = authorized.generation;
            return Err(not(format!("generation {} was ordered, and {now} is assigned now", ordered.generation)));
        }
        if order(authorized.generation, target)? != *ordered {
            return Err(not(format!("the order for {component} is not what is assigned")));
        }
        Ok(())
    }
}

fn of_update(e: &UpdateError) -> Refusal {
    let code = match e {
        UpdateError::TooFewSignatures { .. } => ErrorCode::SigInvalid,
        UpdateError::Expired { .. } => ErrorCode::MetadataExpired,
        UpdateError::RolledBack { .. } | UpdateError::Delisted { .. } => ErrorCode::MetadataRolledBack,
        UpdateError::NotNextRoot { trusted, found } if found <= trusted => ErrorCode::MetadataRolledBack,
        _ => ErrorCode::MetadataInvalid,
    };
    Refusal::new(code, e)
}

fn of_authorize(e: &AuthorizeError) -> Refusal {
    let code = match e {
        AuthorizeError::Expired { .. } => ErrorCode::MetadataExpired,
        AuthorizeError::Metadata { source, .. } => of_update(source).code,
        AuthorizeError::Fetch { .. } => ErrorCode::MetadataInvalid,
        AuthorizeError::BelowFloor { .. } => ErrorCode::BelowFloor,
        AuthorizeError::GenerationFell { .. } | AuthorizeError::FloorFell { .. } => ErrorCode::MetadataRolledBack,
        _ => ErrorCode::NotAuthorized,
    };
    Refusal::new(code, e)
}
