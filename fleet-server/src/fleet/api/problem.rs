//! What failed, for the one who asked.

use crate::fleet::FleetError;
use crate::fleet::artifact::ArtifactError;
use crate::fleet::director::DirectorError;
use crate::fleet::publisher::PublisherError;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::error::Error;
use std::fmt::Display;

/// A problem as RFC 9457 has it, with a stable `code`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: String,
}

impl Problem {
    /// A problem of this status, with a word for programs and a sentence for people.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Display) -> Self {
        let title = status.canonical_reason().unwrap_or_default();
        Self { kind: "about:blank", title, status: status.as_u16(), code, detail: detail.to_string() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

fn publisher(error: &PublisherError) -> (StatusCode, &'static str) {
    match error {
        PublisherError::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        PublisherError::NoProject { .. } => (StatusCode::NOT_FOUND, "no-project"),
        PublisherError::Exists { .. } => (StatusCode::CONFLICT, "project-exists"),
        PublisherError::Name { .. } => (StatusCode::BAD_REQUEST, "invalid-name"),
        PublisherError::OtherVersion { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "other-version"),
        PublisherError::Differs { .. } => (StatusCode::CONFLICT, "differs"),
        PublisherError::Refused { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "metadata-refused"),
        PublisherError::NotValid { .. } => (StatusCode::CONFLICT, "metadata-not-valid"),
        PublisherError::NotReleased { .. } => (StatusCode::CONFLICT, "not-released"),
    }
}

fn director(error: &DirectorError) -> (StatusCode, &'static str) {
    match error {
        DirectorError::Store(_) | DirectorError::Keys(_) | DirectorError::NotValid { .. } => {
            (StatusCode::INTERNAL_SERVER_ERROR, "internal")
        }
        DirectorError::Publisher(error) => publisher(error),
        DirectorError::NoProject { .. } => (StatusCode::NOT_FOUND, "no-project"),
        DirectorError::NoDevice { .. } => (StatusCode::NOT_FOUND, "no-device"),
        DirectorError::Conflict { .. } => (StatusCode::CONFLICT, "conflict"),
        DirectorError::NoEarlier { .. } => (StatusCode::CONFLICT, "no-earlier"),
        DirectorError::WouldRefuse { .. } => (StatusCode::CONFLICT, "would-refuse"),
        DirectorError::Sign { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "not-signable"),
        DirectorError::Message { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "too-large"),
    }
}

impl From<FleetError> for Problem {
    fn from(error: FleetError) -> Self {
        let (status, code) = match &error {
            FleetError::Store(_) | FleetError::Chunks(_) | FleetError::Directory { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, "internal")
            }
            FleetError::Publisher(error) => publisher(error),
            FleetError::Director(error) => director(error),
            FleetError::Artifact(error) => match error {
                ArtifactError::Publisher(error) => publisher(error),
                ArtifactError::Layout(_) => (StatusCode::UNPROCESSABLE_ENTITY, "no-bundle"),
                ArtifactError::OtherLength { .. } => (StatusCode::CONFLICT, "other-length"),
                ArtifactError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too-large"),
                ArtifactError::Store(_) | ArtifactError::Read { .. } | ArtifactError::Index { .. } => {
                    (StatusCode::INTERNAL_SERVER_ERROR, "internal")
                }
                ArtifactError::Chunk { .. } => (StatusCode::INSUFFICIENT_STORAGE, "no-space"),
            },
            FleetError::NotUploaded { .. } => (StatusCode::CONFLICT, "not-uploaded"),
            FleetError::OtherBundle { .. } => (StatusCode::CONFLICT, "other-bundle"),
            FleetError::OtherGeneration { .. } => (StatusCode::CONFLICT, "other-generation"),
            FleetError::Command { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "invalid-body"),
            FleetError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        };
        let mut detail = error.to_string();
        let mut cause = error.source();
        while let Some(e) = cause {
            detail = format!("{detail}: {e}");
            cause = e.source();
        }
        if status.is_server_error() {
            tracing::error!("{detail}");
        }
        Self::new(status, code, detail)
    }
}
