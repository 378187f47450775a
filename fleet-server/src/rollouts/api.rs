//! Rollouts over HTTP, beside [`crate::fleet::api`] and for the same callers.
//!
//! ```text
//! POST projects/{project}/rollouts?dry_run=true&id=…    a declaration, JSON or (`content-type: application/toml`) TOML
//! GET  projects/{project}/rollouts?state=active&after=…&limit=…     newest first
//! GET  projects/{project}/rollouts/{rollout}
//! GET  projects/{project}/rollouts/{rollout}/devices?wave=1&step=failed&after=…&limit=…
//! GET  projects/{project}/rollouts/{rollout}/timeline?after=0&limit=…   oldest first; without `after` newest first
//! POST projects/{project}/rollouts/{rollout}/pause
//! POST projects/{project}/rollouts/{rollout}/resume
//! POST projects/{project}/rollouts/{rollout}/abort          { "roll_back": true }
//! POST projects/{project}/rollouts/{rollout}/approve-gate   { "wave": 2 }, or the one that waits
//! ```
//!
//! A client that gives the id may post again when it has not heard the answer: `409` says that the rollout is there.

use super::error::{RolloutError, counted};
use super::executor::{Executor, Page, Shown, is_good};
use super::store::{Head, TimelineEntry};
use crate::fleet::Fleet;
use crate::fleet::api::{Access, Problem, Scope, project};
use crate::rollout::{DeviceView, Event, Ineligible, Plan, PlanError, RefusedWhy, RolloutSpec, SPEC_BYTES_MAX, Step};
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Extension, Path, Query};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use sedge_protocol::Sha256Digest;
use sedge_protocol::id::{DeviceId, ProjectId, RolloutId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

const PAGE: u32 = 100;
const PAGE_MAX: u32 = 1000;
/// Members that an answer to a dry run names.
const NAMED_MAX: usize = 10_000;

/// The routes, for whoever `S` finds in a request.
pub fn router<S: Scope>(fleet: Arc<Fleet>, executor: Arc<Executor>) -> Router {
    let one = "/projects/{project}/rollouts/{rollout}";
    Router::new()
        .route("/projects/{project}/rollouts", post(create::<S>).get(list::<S>))
        .route(one, get(show::<S>))
        .route(&format!("{one}/devices"), get(devices::<S>))
        .route(&format!("{one}/timeline"), get(timeline::<S>))
        .route(&format!("{one}/pause"), post(pause::<S>))
        .route(&format!("{one}/resume"), post(resume::<S>))
        .route(&format!("{one}/abort"), post(abort::<S>))
        .route(&format!("{one}/approve-gate"), post(approve::<S>))
        .layer(DefaultBodyLimit::max(SPEC_BYTES_MAX))
        .layer(Extension(executor))
        .with_state(fleet)
}

type Answer<T> = Result<Json<T>, Problem>;
type Rollouts = Extension<Arc<Executor>>;
type One = Path<(String, String)>;
type Asked<T> = Result<Query<T>, QueryRejection>;

fn asked<T>(query: Asked<T>) -> Result<T, Problem> {
    query.map(|Query(query)| query).map_err(|e| Problem::new(StatusCode::BAD_REQUEST, "invalid-query", e.body_text()))
}

fn limit(limit: Option<u32>) -> Result<u32, Problem> {
    match limit.unwrap_or(PAGE) {
        limit @ 1..=PAGE_MAX => Ok(limit),
        limit => {
            let detail = format!("`limit` is {limit}; it is 1 to {PAGE_MAX}");
            Err(Problem::new(StatusCode::BAD_REQUEST, "invalid-query", detail))
        }
    }
}

fn one<S: Scope>(scope: &S, Path((name, id)): One, access: Access) -> Result<(ProjectId, RolloutId), Problem> {
    let project = project(scope, &name, access)?;
    let id = id.parse().map_err(|e| Problem::new(StatusCode::BAD_REQUEST, "invalid-name", e))?;
    Ok((project, id))
}

fn body<T: DeserializeOwned + Default>(bytes: &[u8]) -> Result<T, Problem> {
    if bytes.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(bytes).map_err(|e| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-body", format!("the body is not as expected: {e}"))
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    #[serde(default)]
    dry_run: bool,
    id: Option<RolloutId>,
}

/// What a rollout would do.
#[derive(Debug, Serialize)]
struct Preview {
    plan_digest: Sha256Digest,
    devices: usize,
    waves: Vec<PreviewWave>,
    /// Devices that take no part, and why.
    skipped: BTreeMap<DeviceId, Ineligible>,
    skipped_by_reason: BTreeMap<String, u32>,
    /// Whether members or skipped devices are left out here, being too many.
    shortened: bool,
}

#[derive(Debug, Serialize)]
struct PreviewWave {
    name: String,
    devices: u32,
    manual: bool,
    soak_s: u32,
    members: Vec<DeviceId>,
}

impl Preview {
    fn new(plan: Plan) -> Result<Self, RolloutError> {
        let plan_digest = plan.digest()?;
        let skipped_by_reason = counted(plan.skipped.values());
        let shortened = plan.devices.len() > NAMED_MAX || plan.skipped.len() > NAMED_MAX;
        let devices = plan.devices.len();
        let mut members = plan.devices.into_iter().take(NAMED_MAX);
        let waves = plan.waves.into_iter().map(|wave| PreviewWave {
            members: members.by_ref().take(wave.devices as usize).collect(),
            name: wave.name,
            devices: wave.devices,
            manual: wave.rules.gate == crate::rollout::Gate::Manual,
            soak_s: wave.rules.soak_s,
        });
        let waves = waves.collect();
        let skipped = plan.skipped.into_iter().take(NAMED_MAX).collect();
        Ok(Self { plan_digest, devices, waves, skipped, skipped_by_reason, shortened })
    }
}

async fn create<S: Scope>(
    scope: S,
    Extension(executor): Rollouts,
    Path(name): Path<String>,
    query: Asked<Create>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Problem> {
    let project = project(&scope, &name, Access::Deploy)?;
    let Create { dry_run, id } = asked(query)?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let spec = if kind.contains("toml") {
        let no_text = |e| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-body", format!("it is no text: {e}"));
        RolloutSpec::from_toml(std::str::from_utf8(&bytes).map_err(no_text)?)
    } else {
        RolloutSpec::from_json(&bytes)
    };
    let spec = spec.map_err(|e| RolloutError::from(PlanError::from(e)))?;
    if dry_run {
        let plan = executor.preview(&project, spec).await?;
        return Ok(Json(Preview::new(plan)?).into_response());
    }
    let id = executor.create(&project, spec, id, scope.actor()).await?;
    Ok((StatusCode::CREATED, Json(executor.show(&project, &id).await?)).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Wanted {
    Active,
    All,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    state: Option<Wanted>,
    after: Option<RolloutId>,
    limit: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Heads {
    rollouts: Vec<Head>,
    next: Option<RolloutId>,
}

async fn list<S: Scope>(
    scope: S,
    Extension(executor): Rollouts,
    Path(name): Path<String>,
    query: Asked<List>,
) -> Answer<Heads> {
    let project = project(&scope, &name, Access::Read)?;
    let List { state, after, limit: count } = asked(query)?;
    let count = limit(count)?;
    let active = matches!(state, Some(Wanted::Active));
    let rollouts = executor.page(&project, active, after.as_ref(), count).await?;
    let next = rollouts.last().filter(|_| rollouts.len() == count as usize).map(|last| last.id.clone());
    Ok(Json(Heads { rollouts, next }))
}

/// A rollout, and whether its end is a good one.
#[derive(Debug, Serialize)]
struct Whole {
    #[serde(flatten)]
    shown: Shown,
    good: Option<bool>,
}

async fn show<S: Scope>(scope: S, Extension(executor): Rollouts, path: One) -> Answer<Whole> {
    let (project, id) = one(&scope, path, Access::Read)?;
    let shown = executor.show(&project, &id).await?;
    let good = shown.outcome.map(is_good);
    Ok(Json(Whole { shown, good }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Devices {
    wave: Option<usize>,
    step: Option<Step>,
    after: Option<DeviceId>,
    limit: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Members {
    devices: Vec<DeviceView>,
    next: Option<DeviceId>,
}

async fn devices<S: Scope>(
    scope: S,
    Extension(executor): Rollouts,
    path: One,
    query: Asked<Devices>,
) -> Answer<Members> {
    let (project, id) = one(&scope, path, Access::Read)?;
    let Devices { wave, step, after, limit: count } = asked(query)?;
    let page = Page { wave, step, after, count_max: limit(count)? as usize };
    let (devices, more) = executor.devices(&project, &id, &page).await?;
    let next = devices.last().filter(|_| more).map(|last| last.device.clone());
    Ok(Json(Members { devices, next }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Timeline {
    after: Option<u64>,
    limit: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Entries {
    entries: Vec<TimelineEntry>,
}

async fn timeline<S: Scope>(
    scope: S,
    Extension(executor): Rollouts,
    path: One,
    query: Asked<Timeline>,
) -> Answer<Entries> {
    let (project, id) = one(&scope, path, Access::Read)?;
    let Timeline { after, limit: count } = asked(query)?;
    let count = limit(count)?;
    let entries = match after {
        Some(after) => executor.timeline_after(&project, &id, after, count).await?,
        None => executor.timeline(&project, &id, count).await?,
    };
    Ok(Json(Entries { entries }))
}

async fn command(executor: &Executor, (project, id): (ProjectId, RolloutId), event: Event) -> Answer<Shown> {
    executor.command(&project, &id, event).await?;
    Ok(Json(executor.show(&project, &id).await?))
}

async fn pause<S: Scope>(scope: S, Extension(executor): Rollouts, path: One) -> Answer<Shown> {
    let of = one(&scope, path, Access::Deploy)?;
    command(&executor, of, Event::Pause { actor: scope.actor().to_owned() }).await
}

async fn resume<S: Scope>(scope: S, Extension(executor): Rollouts, path: One) -> Answer<Shown> {
    let of = one(&scope, path, Access::Deploy)?;
    command(&executor, of, Event::Resume { actor: scope.actor().to_owned() }).await
}

/// That somebody aborts does not say what becomes of devices that have committed, so it must be said.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Abort {
    roll_back: bool,
}

async fn abort<S: Scope>(scope: S, Extension(executor): Rollouts, path: One, bytes: Bytes) -> Answer<Shown> {
    let of = one(&scope, path, Access::Deploy)?;
    let Some(Abort { roll_back }) = body::<Option<Abort>>(&bytes)? else {
        let detail = "say what becomes of devices that have committed: {\"roll_back\": true} or {\"roll_back\": false}";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-body", detail));
    };
    command(&executor, of, Event::Abort { actor: scope.actor().to_owned(), roll_back }).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Approve {
    /// From 1.
    wave: Option<usize>,
}

async fn approve<S: Scope>(scope: S, Extension(executor): Rollouts, path: One, bytes: Bytes) -> Answer<Shown> {
    let (project, id) = one(&scope, path, Access::Deploy)?;
    let Approve { wave } = body(&bytes)?;
    let wave = match wave {
        Some(wave) => wave.saturating_sub(1),
        None => {
            let waiting = executor.waiting_gate(&project, &id).await?;
            waiting.ok_or_else(|| {
                let detail =
                    format!("no wave of rollout `{id}` waits for approval; `sedge rollout status {id}` says why");
                Problem::new(StatusCode::CONFLICT, "no-gate", detail)
            })?
        }
    };
    command(&executor, (project, id), Event::ManualGatePassed { wave, actor: scope.actor().to_owned() }).await
}

impl From<RolloutError> for Problem {
    fn from(error: RolloutError) -> Self {
        let (status, code) = match error {
            RolloutError::Fleet(error) => return error.into(),
            RolloutError::Store(_) | RolloutError::Edge(_) | RolloutError::Restore { .. } | RolloutError::Random(_) => {
                tracing::error!("{error}: {:?}", std::error::Error::source(&error));
                (StatusCode::INTERNAL_SERVER_ERROR, "internal")
            }
            RolloutError::Plan(PlanError::Spec(_)) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid-rollout"),
            RolloutError::Plan(_) => (StatusCode::UNPROCESSABLE_ENTITY, "not-planned"),
            RolloutError::OtherProject { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "other-project"),
            RolloutError::Refused(ref why) => (StatusCode::CONFLICT, refused(why)),
            RolloutError::NoRollout { .. } => (StatusCode::NOT_FOUND, "no-rollout"),
            RolloutError::Exists { .. } => (StatusCode::CONFLICT, "rollout-exists"),
            RolloutError::Nobody { .. } => (StatusCode::CONFLICT, "no-devices"),
            RolloutError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        };
        Self::new(status, code, error)
    }
}

const fn refused(why: &RefusedWhy) -> &'static str {
    match why {
        RefusedWhy::Started { .. } => "already-started",
        RefusedWhy::NotRunning { .. } => "not-running",
        RefusedWhy::NotPaused { .. } => "not-paused",
        RefusedWhy::TooLate { .. } => "too-late",
        RefusedWhy::NoGate { .. } => "no-gate",
    }
}
