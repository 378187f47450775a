//! Whether the process lives, and whether it should get requests.

use super::Edge;
use super::problem::Problem;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use std::sync::atomic::Ordering;

pub(super) fn routes(edge: Edge) -> Router {
    Router::new().route("/livez", get(async || "ok\n")).route("/readyz", get(ready)).with_state(edge)
}

async fn ready(State(edge): State<Edge>) -> Result<&'static str, Problem> {
    let unready = |detail: &str| {
        let title = "The server is not ready.";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", title, detail, "Wait, and see the server's log.")
    };
    if !edge.ready.load(Ordering::Acquire) {
        return Err(unready("it is starting or stopping"));
    }
    if let Err(e) = edge.enroller.store.ping().await {
        tracing::error!(error = &e as &dyn std::error::Error, "not ready");
        return Err(unready("the database does not answer"));
    }
    Ok("ok\n")
}
