//! `/api/v1`: projects, enrolment tokens, devices, API tokens, login links, the audit.

mod devices;
mod links;
mod tokens;

use super::Edge;
use super::auth::Operator;
use super::body::{Body, Parameters};
use super::problem::Problem;
use crate::clock;
use crate::enrol::refuse_reserved;
use crate::store::Scope;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use sedge_protocol::id::ProjectId;
use sedge_protocol::time::UnixSeconds;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

pub(super) fn routes(edge: Edge) -> Router {
    Router::new()
        .route("/projects", get(projects).post(create_project))
        .route("/projects/{project}/enrolment-tokens", post(devices::grant))
        .route("/projects/{project}/devices", get(devices::list))
        .route("/projects/{project}/devices/{device}", get(devices::show))
        .route("/projects/{project}/devices/{device}/decommission", post(devices::decommission))
        .route("/api-tokens", get(tokens::list).post(tokens::create))
        .route("/api-tokens/{name}", delete(tokens::remove))
        .route("/login-links", post(links::create))
        .route("/audit", get(audit))
        .with_state(edge)
}

/// Which part of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    /// The last name of the part before.
    after: Option<String>,
    limit: Option<u32>,
}

const PAGE_DEFAULT: u32 = 100;
const PAGE_MAX: u32 = 1000;

impl Page {
    fn limit(&self) -> Result<u32, Problem> {
        match self.limit.unwrap_or(PAGE_DEFAULT) {
            limit @ 1..=PAGE_MAX => Ok(limit),
            limit => Err(Problem::invalid(format!("`limit` is {limit}; it is 1 to {PAGE_MAX}"))),
        }
    }

    fn after<T: FromStr>(&self) -> Result<Option<T>, Problem>
    where
        T::Err: std::fmt::Display,
    {
        self.after.as_deref().map(named).transpose()
    }
}

/// A name out of a path or query.
fn named<T: FromStr>(text: &str) -> Result<T, Problem>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| Problem::invalid(e.to_string()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewProject {
    name: ProjectId,
}

#[derive(Debug, Serialize)]
struct Projects {
    projects: Vec<ProjectId>,
    next: Option<ProjectId>,
}

async fn projects(State(edge): State<Edge>, Parameters(page): Parameters<Page>) -> Result<Json<Projects>, Problem> {
    let limit = page.limit()?;
    let projects = edge.enroller.store.projects(page.after()?.as_ref(), limit).await?;
    let next = projects.last().filter(|_| projects.len() == limit as usize).cloned();
    Ok(Json(Projects { projects, next }))
}

async fn create_project(
    State(edge): State<Edge>,
    operator: Operator,
    Body(new): Body<NewProject>,
) -> Result<Response, Problem> {
    operator.require(Scope::Admin)?;
    refuse_reserved(&new.name).map_err(|e| Problem::invalid(e.to_string()))?;
    let now = clock::now();
    if !edge.enroller.store.create_project(&new.name, now).await? {
        return Err(Problem::conflict(format!("there is a project `{}` already", new.name), "Choose another name."));
    }
    edge.enroller.note(&operator.name, "made a project", new.name.as_str(), now).await;
    Ok((StatusCode::CREATED, Json(serde_json::json!({ "name": new.name }))).into_response())
}

#[derive(Debug, Serialize)]
struct Audited {
    at: UnixSeconds,
    actor: String,
    action: String,
    subject: String,
}

/// The newest entries.
async fn audit(
    State(edge): State<Edge>,
    Parameters(page): Parameters<Page>,
) -> Result<Json<serde_json::Value>, Problem> {
    let entries = edge.enroller.store.audit_entries(page.limit()?).await?;
    let entries: Vec<_> = entries
        .into_iter()
        .map(|e| Audited { at: e.at, actor: e.actor, action: e.action, subject: e.subject })
        .collect();
    Ok(Json(serde_json::json!({ "entries": entries })))
}
