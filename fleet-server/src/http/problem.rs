//! Errors as RFC 9457 has them: what, where, and what to do.

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::error::Error;

/// An error for people and tools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    status: u16,
    detail: String,
    /// What to do.
    hint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
}

impl Problem {
    /// `code` is one stable word, `title` says what is wrong in general, `detail` what is wrong here, `hint` what to do.
    pub fn new(status: StatusCode, code: &str, title: &str, detail: impl Into<String>, hint: &str) -> Self {
        Self {
            kind: format!("urn:sedge:problem:{code}"),
            title: title.into(),
            status: status.as_u16(),
            detail: detail.into(),
            hint: hint.into(),
            instance: None,
        }
    }

    /// Something that does not exist.
    pub fn missing(what: &str, name: &str) -> Self {
        let detail = format!("there is no {what} `{name}`");
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "It does not exist.",
            detail,
            "List what there is, and check the name.",
        )
    }

    /// A request that cannot be right.
    pub fn invalid(detail: impl Into<String>) -> Self {
        let title = "The request is not valid.";
        Self::new(StatusCode::BAD_REQUEST, "invalid", title, detail, "Correct the request.")
    }

    /// Something that is there already, or in another state.
    pub fn conflict(detail: impl Into<String>, hint: &str) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "It does not fit what is there.", detail, hint)
    }

    /// A failure of the server: the cause is logged and not told.
    pub fn internal(what: &str, cause: &(dyn Error + 'static)) -> Self {
        tracing::error!(error = cause, "{what}");
        let title = "The server failed.";
        let hint = "Try again; if it goes on, the server's log says why.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", title, what, hint)
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<crate::store::StoreError> for Problem {
    fn from(e: crate::store::StoreError) -> Self {
        Self::internal("the database failed", &e)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let json = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (self.status(), json).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        if self.status == StatusCode::UNAUTHORIZED.as_u16() {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Adds the path of the request to a problem.
pub(super) async fn say_where(request: Request, next: Next) -> Response {
    let path = sedge_protocol::text::visible(request.uri().path(), 200);
    let mut response = next.run(request).await;
    match response.extensions_mut().remove::<Problem>() {
        Some(problem) => {
            let mut located = Problem { instance: Some(path), ..problem }.into_response();
            // Headers that came on top, such as Retry-After.
            for (name, value) in response.headers() {
                if name != header::CONTENT_LENGTH {
                    located.headers_mut().insert(name.clone(), value.clone());
                }
            }
            located
        }
        // What the framework says about paths and bodies comes as plain text.
        None if response.status().is_client_error() && is_plain(&response) => {
            let (status, title) = (response.status(), "The request is not valid.");
            let detail = status.canonical_reason().unwrap_or("refused");
            let problem = Problem::new(status, "invalid", title, detail, "Correct the request.");
            Problem { instance: Some(path), ..problem }.into_response()
        }
        None => response,
    }
}

fn is_plain(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"))
}

pub(super) async fn not_found() -> Problem {
    let hint = "See the API document for what there is.";
    Problem::new(StatusCode::NOT_FOUND, "no-such-path", "There is nothing here.", "no route has this path", hint)
}

pub(super) async fn method_not_allowed() -> Problem {
    let (status, title) = (StatusCode::METHOD_NOT_ALLOWED, "The method does not fit the path.");
    let detail = "the path exists, but not with this method";
    Problem::new(status, "method-not-allowed", title, detail, "See the API document for the method.")
}
