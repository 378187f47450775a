//! The field over HTTP, beside [`crate::fleet::api`] and for the same callers.
//!
//! ```text
//! GET projects/{project}/field?after=cam-7&limit=100    devices by name; `next` is where the next page begins
//! GET projects/{project}/devices/{device}/field
//! ```

use super::{DeviceView, Field, PAGE_MAX};
use crate::fleet::Fleet;
use crate::fleet::api::{Access, Problem, Scope, principal, project};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use sedge_protocol::id::DeviceId;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const PAGE: u32 = 100;

/// The routes, for whoever `S` finds in a request.
pub fn router<S: Scope>(fleet: Arc<Fleet>, field: Arc<Field>) -> Router {
    Router::new()
        .route("/projects/{project}/field", get(list::<S>))
        .route("/projects/{project}/devices/{device}/field", get(show::<S>))
        .layer(Extension(field))
        .with_state(fleet)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    after: Option<DeviceId>,
    limit: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Devices {
    devices: Vec<DeviceView>,
    next: Option<DeviceId>,
}

async fn list<S: Scope>(
    scope: S,
    State(fleet): State<Arc<Fleet>>,
    Extension(field): Extension<Arc<Field>>,
    Path(name): Path<String>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Devices>, Problem> {
    let project = project(&scope, &name, Access::Read)?;
    let invalid = |detail: String| Problem::new(StatusCode::BAD_REQUEST, "invalid-query", detail);
    let Query(Page { after, limit }) = page.map_err(|e| invalid(e.body_text()))?;
    let limit = limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(invalid(format!("`limit` is {limit}; it is 1 to {PAGE_MAX}")));
    }
    fleet.first_roots(&project).await?;
    let devices = field.page(&project, after.as_ref(), limit);
    let next = devices.last().filter(|_| devices.len() == limit as usize).map(|last| last.device.device.clone());
    Ok(Json(Devices { devices, next }))
}

async fn show<S: Scope>(
    scope: S,
    State(fleet): State<Arc<Fleet>>,
    Extension(field): Extension<Arc<Field>>,
    Path((name, device)): Path<(String, String)>,
) -> Result<Json<DeviceView>, Problem> {
    let device = principal(&scope, &name, &device, Access::Read)?;
    fleet.first_roots(&device.project).await?;
    let silent = || {
        let detail = format!("no heartbeat of device `{device}` has arrived; is it enrolled and online?");
        Problem::new(StatusCode::NOT_FOUND, "no-heartbeat", detail)
    };
    field.device(&device).map(Json).ok_or_else(silent)
}
