//! What devices ask before they can reach the broker: CBOR in, CBOR out, as [`sedge_protocol::enrolment`] has it.

use super::Edge;
use super::body::BODY_TIMEOUT;
use super::serve::Connection;
use crate::clock;
use crate::enrol::Refused;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Extension, Router};
use sedge_protocol::cbor;
use sedge_protocol::enrolment::{BODY_BYTES_MAX, ENROL_PATH, RENEW_PATH};
use serde::Serialize;
use std::time::Instant;

pub(super) fn routes(edge: Edge) -> Router {
    Router::new().route(ENROL_PATH, post(enrol)).route(RENEW_PATH, post(renew)).with_state(edge)
}

async fn enrol(State(edge): State<Edge>, Extension(from): Extension<Connection>, body: Body) -> Response {
    let answer = async {
        let body = admit(&edge, &from, body).await?;
        edge.enroller.enrol(&body, clock::now()).await
    };
    respond(answer.await, &from)
}

async fn renew(State(edge): State<Edge>, Extension(from): Extension<Connection>, body: Body) -> Response {
    let answer = async {
        let body = admit(&edge, &from, body).await?;
        edge.enroller.renew(from.peer.as_ref(), &body, clock::now()).await
    };
    respond(answer.await, &from)
}

/// Counts the request, then reads its body.
async fn admit(edge: &Edge, from: &Connection, body: Body) -> Result<axum::body::Bytes, Refused> {
    edge.limiter
        .admit(from.addr.ip(), Instant::now())
        .map_err(|wait| Refused::TooMany(wait.as_secs().saturating_add(1)))?;
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        // Too long, or the line broke; then nobody reads the answer.
        Ok(Err(_)) => Err(Refused::TooLarge(BODY_BYTES_MAX)),
        Err(_) => Err(Refused::TooSlow(BODY_TIMEOUT.as_secs())),
    }
}

fn respond<T: Serialize>(answer: Result<T, Refused>, from: &Connection) -> Response {
    match answer {
        Ok(answer) => cbor_response(StatusCode::OK, &answer),
        Err(refused) => {
            tracing::warn!(address = %from.addr, code = refused.code(), "enrolment refused: {refused}");
            let status = StatusCode::from_u16(refused.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response = cbor_response(status, &refused.to_refusal());
            if let Refused::TooMany(seconds) = refused {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            response
        }
    }
}

fn cbor_response<T: Serialize>(status: StatusCode, value: &T) -> Response {
    match cbor::encode(value) {
        Ok(bytes) => (status, [(header::CONTENT_TYPE, "application/cbor"), (header::CACHE_CONTROL, "no-store")], bytes)
            .into_response(),
        Err(e) => super::Problem::internal("an answer could not be written", &e).into_response(),
    }
}
