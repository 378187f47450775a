//! HTTPS for devices that enrol and for people and tools: TLS 1.3 and 1.2, HTTP/1.1.
//!
//! A client certificate is optional in the handshake and needed for renewal; everything below `/api/v1` needs an API
//! token; the console has sessions. Every wait and every size has a bound: connections in all and per address, the handshake, the request's head
//! and its body.

mod api;
mod auth;
mod body;
mod enrolment;
mod health;
mod limit;
mod problem;
mod serve;

pub use auth::{ApiSecret, Operator};
pub use body::{Body, Parameters};
pub use limit::RateLimiter;
pub use problem::Problem;
pub(crate) use serve::HttpServer;
pub use serve::{Connection, HttpBounds};

use crate::console::Login;
use crate::enrol::Enroller;
use axum::extract::DefaultBodyLimit;
use axum::{Router, middleware};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Longest body of a request to the API, unless its route sets another bound.
const API_BODY_BYTES_MAX: usize = 64 * 1024;

/// What requests are answered with.
#[derive(Clone)]
pub struct Edge {
    /// Devices.
    pub enroller: Arc<Enroller>,
    /// Requests to enrol, by address.
    pub limiter: Arc<RateLimiter>,
    /// How long an enrolment token lasts when nothing else is said, seconds.
    pub token_lifetime_s: i64,
    /// Who may open the console.
    pub login: Arc<Login>,
    /// Whether all parts are up.
    pub ready: Arc<AtomicBool>,
}

/// Everything that is served; `fleet` stands below `/api/v1` and behind the same tokens, `console` beside it with sessions
/// of its own.
pub fn router(edge: Edge, fleet: Router, console: Router) -> Router {
    let api = api::routes(edge.clone())
        .merge(fleet)
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(DefaultBodyLimit::max(API_BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(edge.enroller.store.clone(), auth::authenticate));
    Router::new()
        .merge(enrolment::routes(edge.clone()))
        .merge(health::routes(edge))
        .merge(console)
        .nest("/api/v1", api)
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(middleware::from_fn(problem::say_where))
}
