//! API tokens.

use super::super::Edge;
use super::super::auth::{ApiSecret, Operator};
use super::super::body::Body;
use super::super::problem::Problem;
use crate::clock;
use crate::store::{NewApiToken, Scope};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use sedge_protocol::text::visible;
use sedge_protocol::time::UnixSeconds;
use serde::{Deserialize, Serialize};

const NAME_LENGTH_MAX: usize = 64;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    name: String,
    scope: Scope,
    /// For ever when it is left out.
    lifetime_s: Option<u32>,
}

#[derive(Debug, Serialize)]
struct TokenView {
    name: String,
    scope: Scope,
    created_at: UnixSeconds,
    expires_at: Option<UnixSeconds>,
    last_used: Option<UnixSeconds>,
}

pub(super) async fn list(State(edge): State<Edge>, operator: Operator) -> Result<Response, Problem> {
    operator.require(Scope::Admin)?;
    let tokens = edge.enroller.store.api_tokens().await?;
    let tokens: Vec<_> = tokens
        .into_iter()
        .map(|t| TokenView {
            name: t.name,
            scope: t.scope,
            created_at: t.created_at,
            expires_at: t.expires_at,
            last_used: t.last_used,
        })
        .collect();
    Ok(Json(serde_json::json!({ "api_tokens": tokens })).into_response())
}

/// Makes an API token; its text is shown this once.
pub(super) async fn create(
    State(edge): State<Edge>,
    operator: Operator,
    Body(new): Body<NewToken>,
) -> Result<Response, Problem> {
    operator.require(Scope::Admin)?;
    let length = new.name.chars().count();
    if !(1..=NAME_LENGTH_MAX).contains(&length) || new.name.trim() != new.name || visible(&new.name, 64) != new.name {
        return Err(Problem::invalid("`name` has 1 to 64 visible characters and no space around them"));
    }
    let secret = ApiSecret::generate().map_err(|e| Problem::internal("no random bytes", &e))?;
    let now = clock::now();
    let expires_at = new.lifetime_s.map(|s| now.plus(i64::from(s)));
    let token = NewApiToken { hash: secret.hash(), name: new.name, scope: new.scope, expires_at };
    if !edge.enroller.store.add_api_token(&token, now).await? {
        let detail = format!("there is an API token `{}` already, or there are 1,000", token.name);
        return Err(Problem::conflict(detail, "Choose another name, or remove tokens that are not used."));
    }
    edge.enroller.note(&operator.name, "made an API token", &token.name, now).await;
    let body = Json(serde_json::json!({
        "name": token.name, "scope": token.scope, "expires_at": expires_at, "token": secret.reveal(),
    }));
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], body).into_response())
}

pub(super) async fn remove(
    State(edge): State<Edge>,
    operator: Operator,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    operator.require(Scope::Admin)?;
    if !edge.enroller.store.remove_api_token(&name).await? {
        return Err(Problem::missing("API token", &visible(&name, 64)));
    }
    edge.enroller.note(&operator.name, "removed an API token", &name, clock::now()).await;
    Ok(StatusCode::NO_CONTENT)
}
