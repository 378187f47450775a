//! Links that open the console.

use super::super::Edge;
use super::super::auth::Operator;
use super::super::body::Body;
use super::super::problem::Problem;
use crate::clock;
use crate::console::LoginError;
use crate::store::Scope;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewLink {
    /// What the session may do; to look when it is left out.
    scope: Option<Scope>,
}

/// Makes a login link; its address is shown this once.
pub(super) async fn create(
    State(edge): State<Edge>,
    operator: Operator,
    Body(new): Body<NewLink>,
) -> Result<Response, Problem> {
    operator.require(Scope::Admin)?;
    let now = clock::now();
    let scope = new.scope.unwrap_or(Scope::Read);
    let link = edge.login.issue_link(&operator.name, scope, now).await.map_err(|e| match e {
        LoginError::Store(e) => e.into(),
        LoginError::Random(e) => Problem::internal("no random bytes", &e),
        LoginError::TooMany => Problem::conflict(e.to_string(), "Use a link that was made, or try again tomorrow."),
    })?;
    edge.enroller.note(&operator.name, "made a login link", scope.as_str(), now).await;
    let body = Json(serde_json::json!({ "url": link.reveal(), "scope": scope, "expires_at": link.expires_at }));
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], body).into_response())
}
