//! Bodies and parameters of API requests, with bounds on size and time and errors that say where.

use super::problem::Problem;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// A body that comes slower is not waited for.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A JSON body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = match tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)))) => {
                let title = "The body is too long.";
                let detail = "the body has more bytes than this path takes";
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", title, detail, "Send less."));
            }
            Ok(Err(e)) => return Err(Problem::invalid(format!("the body cannot be read: {e}"))),
            Err(_) => {
                let title = "The body took too long.";
                let detail = format!("it did not come within {} s", BODY_TIMEOUT.as_secs());
                return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", title, detail, "Try again."));
            }
        };
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|e| Problem::invalid(format!("the body is not as expected: {e}")))
    }
}

/// Parameters of the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = Query::try_from_uri(&parts.uri);
        query.map(|Query(value)| Self(value)).map_err(|e| Problem::invalid(e.body_text()))
    }
}
