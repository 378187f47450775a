//! The fleet over HTTP, to be nested under `/api/v1` behind whatever tells who is asking.
//!
//! ```text
//! PUT    projects/{project}/publisher                           1.root.json; begins a project
//! POST   projects/{project}/publisher/files/{name}              a file that the publisher signed
//! PUT    projects/{project}/bundles                             a packed bundle
//! GET    projects/{project}/bundles
//! GET    projects/{project}/devices/{device}/state              status, desired and reported
//! PUT    projects/{project}/devices/{device}/desired/{component}           what it is to run
//! DELETE projects/{project}/devices/{device}/desired/{component}           nothing
//! POST   projects/{project}/devices/{device}/desired/{component}/rollback  what it ran before
//! POST   projects/{project}/devices/{device}/desired/{component}/verdict   commit or revert
//! ```
//!
//! What fails is answered with `application/problem+json` (RFC 9457) that says what, where and what to do.

mod problem;

pub use problem::Problem;

use super::artifact::Artifact;
use super::publisher::Imported;
use super::{Desire, DeviceView, Fleet};
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use futures_core::Stream as _;
use sedge_protocol::id::{ComponentName, Generation, Principal, ProjectId, RequestId};
use sedge_protocol::message::Verdict;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::future::poll_fn;
use std::io::Write as _;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;

/// Largest body that is no bundle: a targets file of 5 MiB, and some room.
const BODY_BYTES_MAX: usize = 6 << 20;

/// What somebody wants to do in a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Look.
    Read,
    /// Change what devices run.
    Deploy,
    /// Bring in what was signed: roots, metadata, bundles.
    Publish,
}

/// Whoever is asking, as found in a request by the HTTP server's own means.
pub trait Scope: FromRequestParts<Arc<Fleet>> + Send + 'static {
    /// Whether he may do that.
    fn allows(&self, project: &ProjectId, access: Access) -> bool;

    /// His name, for the record.
    fn actor(&self) -> &str;
}

type Answer<T> = Result<Json<T>, Problem>;

/// The routes, for whoever `S` finds in a request.
pub fn router<S: Scope>(fleet: Arc<Fleet>) -> Router {
    let component = "/projects/{project}/devices/{device}/desired/{component}";
    Router::new()
        .route("/projects/{project}/publisher", put(create_project::<S>))
        .route("/projects/{project}/publisher/files/{name}", post(import::<S>))
        .route("/projects/{project}/bundles", put(add_bundle::<S>).get(bundles::<S>))
        .route("/projects/{project}/devices/{device}/state", get(device::<S>))
        .route(component, put(desire::<S>).delete(remove::<S>))
        .route(&format!("{component}/rollback"), post(roll_back::<S>))
        .route(&format!("{component}/verdict"), post(verdict::<S>))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(fleet)
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|e: T::Err| Problem::new(StatusCode::BAD_REQUEST, "invalid-name", e))
}

pub(crate) fn project<S: Scope>(scope: &S, name: &str, access: Access) -> Result<ProjectId, Problem> {
    let project: ProjectId = parse(name)?;
    if scope.allows(&project, access) {
        return Ok(project);
    }
    let detail = format!("`{}` may not do this in project `{project}`; ask its owner", scope.actor());
    Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
}

pub(crate) fn principal<S: Scope>(scope: &S, name: &str, device: &str, access: Access) -> Result<Principal, Problem> {
    Ok(Principal { project: project(scope, name, access)?, device: parse(device)? })
}

fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|e| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-body", format!("the body is not as expected: {e}"))
    })
}

/// What a project's devices pin.
#[derive(Debug, Serialize)]
struct Created {
    publisher_root: sedge_protocol::Sha256Digest,
    director_root: sedge_protocol::Sha256Digest,
}

async fn create_project<S: Scope>(
    scope: S,
    State(fleet): State<Arc<Fleet>>,
    Path(name): Path<String>,
    root: Bytes,
) -> Answer<Created> {
    let project = project(&scope, &name, Access::Publish)?;
    let roots = fleet.create_project(&project, &root).await?;
    let digest = |root: &[u8]| sedge_protocol::Sha256Digest::of(root);
    Ok(Json(Created { publisher_root: digest(&roots.publisher), director_root: digest(&roots.director) }))
}

async fn import<S: Scope>(
    scope: S,
    State(fleet): State<Arc<Fleet>>,
    Path((name, file)): Path<(String, String)>,
    bytes: Bytes,
) -> Answer<Imported> {
    let project = project(&scope, &name, Access::Publish)?;
    Ok(Json(fleet.import(&project, &file, &bytes).await?))
}

async fn add_bundle<S: Scope>(
    scope: S,
    State(fleet): State<Arc<Fleet>>,
    Path(name): Path<String>,
    upload: Body,
) -> Result<(StatusCode, Json<Artifact>), Problem> {
    let project = project(&scope, &name, Access::Publish)?;
    let busy = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "others are uploading; repeat it in a minute");
    let _leave = fleet.may_upload().ok_or_else(busy)?;
    let file = receive(&fleet, upload).await?;
    let (artifact, new) = fleet.add_bundle(&project, file).await?;
    Ok((if new { StatusCode::CREATED } else { StatusCode::OK }, Json(artifact)))
}

/// Puts an upload into a file that has no name and is gone with its last user.
async fn receive(fleet: &Fleet, upload: Body) -> Result<std::fs::File, Problem> {
    let (directory, bytes_max) = fleet.uploads();
    let failed = |e: &dyn Display| {
        let detail = format!("the upload cannot be kept: {e}; is the disk full?");
        Problem::new(StatusCode::INSUFFICIENT_STORAGE, "no-space", detail)
    };
    let mut file = tempfile::tempfile_in(directory).map_err(|e| failed(&e))?;
    let (mut stream, mut length) = (upload.into_data_stream(), 0u64);
    while let Some(part) = poll_fn(|context| Pin::new(&mut stream).poll_next(context)).await {
        let broken =
            |e| Problem::new(StatusCode::BAD_REQUEST, "broken-upload", format!("the upload broke off: {e}; repeat it"));
        let part = part.map_err(broken)?;
        length = length.saturating_add(part.len() as u64);
        if length > bytes_max {
            let detail = format!("the bundle is larger than {bytes_max} bytes, the largest that this server takes");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail));
        }
        let written = tokio::task::spawn_blocking(move || file.write_all(&part).map(|()| file));
        file = written.await.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
    }
    Ok(file)
}

async fn bundles<S: Scope>(
    scope: S,
    State(fleet): State<Arc<Fleet>>,
    Path(name): Path<String>,
) -> Answer<Vec<Artifact>> {
    let project = project(&scope, &name, Access::Read)?;
    Ok(Json(fleet.bundles(&project).await?))
}

async fn device<S: Scope>(
    scope: S,
    State(fleet): State<Arc<Fleet>>,
    Path((name, device)): Path<(String, String)>,
) -> Answer<DeviceView> {
    let device = principal(&scope, &name, &device, Access::Read)?;
    Ok(Json(fleet.device(&device).await?))
}

/// The next generation of a device's desired state.
#[derive(Debug, Serialize)]
struct Changed {
    generation: Generation,
}

type Component = Path<(String, String, String)>;

fn component<S: Scope>(
    scope: &S,
    Path((name, device, component)): Component,
) -> Result<(Principal, ComponentName), Problem> {
    Ok((principal(scope, &name, &device, Access::Deploy)?, parse(&component)?))
}

async fn desire<S: Scope>(scope: S, State(fleet): State<Arc<Fleet>>, path: Component, bytes: Bytes) -> Answer<Changed> {
    let (device, component) = component(&scope, path)?;
    let desire: Desire = body(&bytes)?;
    let generation = fleet.desire(&device, &component, &desire, scope.actor()).await?;
    Ok(Json(Changed { generation }))
}

async fn remove<S: Scope>(scope: S, State(fleet): State<Arc<Fleet>>, path: Component) -> Answer<Changed> {
    let (device, component) = component(&scope, path)?;
    Ok(Json(Changed { generation: fleet.remove(&device, &component, scope.actor()).await? }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RollBack {
    #[serde(default)]
    to_generation: Option<Generation>,
}

async fn roll_back<S: Scope>(
    scope: S,
    State(fleet): State<Arc<Fleet>>,
    path: Component,
    bytes: Bytes,
) -> Answer<Changed> {
    let (device, component) = component(&scope, path)?;
    let RollBack { to_generation } = if bytes.is_empty() { RollBack::default() } else { body(&bytes)? };
    let generation = fleet.roll_back(&device, &component, to_generation, scope.actor()).await?;
    Ok(Json(Changed { generation }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Judgement {
    generation: Generation,
    verdict: Verdict,
}

/// A command that is on its way.
#[derive(Debug, Serialize)]
struct Commanded {
    request: RequestId,
}

async fn verdict<S: Scope>(
    scope: S,
    State(fleet): State<Arc<Fleet>>,
    path: Component,
    bytes: Bytes,
) -> Result<(StatusCode, Json<Commanded>), Problem> {
    let (device, component) = component(&scope, path)?;
    let Judgement { generation, verdict } = body(&bytes)?;
    let request = fleet.verdict(&device, &component, generation, verdict).await?;
    Ok((StatusCode::ACCEPTED, Json(Commanded { request })))
}
