//! Devices and the tokens that enrol them.

use super::super::Edge;
use super::super::auth::Operator;
use super::super::body::{Body, Parameters};
use super::super::problem::Problem;
use super::{Page, named};
use crate::clock;
use crate::enrol::Refused;
use crate::store::Device;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use sedge_protocol::id::{DeviceId, Principal, ProjectId};
use sedge_protocol::time::UnixSeconds;
use serde::{Deserialize, Serialize};

/// Longest life of an enrolment token, seconds: a week, for images that are flashed in a batch.
const TOKEN_LIFETIME_MAX_S: i64 = 7 * 86_400;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    /// The only device that may use it.
    device: Option<DeviceId>,
    lifetime_s: Option<i64>,
}

#[derive(Serialize)]
struct GrantedToken {
    token: String,
    expires_at: UnixSeconds,
}

/// A device as tools see it.
#[derive(Debug, Serialize)]
struct DeviceView {
    project: ProjectId,
    id: DeviceId,
    enrolled_at: UnixSeconds,
    certificate: CertificateView,
    last_seen: Option<UnixSeconds>,
    decommissioned_at: Option<UnixSeconds>,
}

#[derive(Debug, Serialize)]
struct CertificateView {
    serial: String,
    not_after: UnixSeconds,
}

impl From<Device> for DeviceView {
    fn from(device: Device) -> Self {
        Self {
            project: device.principal.project,
            id: device.principal.device,
            enrolled_at: device.enrolled_at,
            certificate: CertificateView { serial: device.serial.to_string(), not_after: device.not_after },
            last_seen: device.last_seen,
            decommissioned_at: device.decommissioned_at,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Devices {
    devices: Vec<DeviceView>,
    next: Option<DeviceId>,
}

/// Makes an enrolment token; its text is shown this once.
pub(super) async fn grant(
    State(edge): State<Edge>,
    operator: Operator,
    Path(project): Path<String>,
    Body(new): Body<NewToken>,
) -> Result<Response, Problem> {
    let project: ProjectId = named(&project)?;
    let lifetime_s = new.lifetime_s.unwrap_or(edge.token_lifetime_s);
    if !(1..=TOKEN_LIFETIME_MAX_S).contains(&lifetime_s) {
        return Err(Problem::invalid(format!("`lifetime_s` is {lifetime_s}; it is 1 to {TOKEN_LIFETIME_MAX_S}")));
    }
    let now = clock::now();
    let expires_at = now.plus(lifetime_s);
    let token = edge.enroller.grant(&project, new.device.as_ref(), expires_at, now).await.map_err(refused)?;
    let token = token.to_text().map_err(|e| Problem::internal("the token could not be written", &e))?;
    let subject = new.device.map_or(project.to_string(), |device| format!("{project}:{device}"));
    edge.enroller.note(&operator.name, "made an enrolment token", &subject, now).await;
    let body = Json(GrantedToken { token, expires_at });
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], body).into_response())
}

fn refused(refused: Refused) -> Problem {
    let status = StatusCode::from_u16(refused.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let text = refused.to_string();
    let (detail, hint) = text.split_once("; ").unwrap_or((&text, "Try again later."));
    Problem::new(status, refused.code(), "No enrolment token was made.", detail, hint)
}

pub(super) async fn list(
    State(edge): State<Edge>,
    Path(project): Path<String>,
    Parameters(page): Parameters<Page>,
) -> Result<Json<Devices>, Problem> {
    let limit = page.limit()?;
    let devices = edge.enroller.store.devices(&named(&project)?, page.after()?.as_ref(), limit).await?;
    let next = devices.last().filter(|_| devices.len() == limit as usize).map(|d| d.principal.device.clone());
    Ok(Json(Devices { devices: devices.into_iter().map(DeviceView::from).collect(), next }))
}

pub(super) async fn show(
    State(edge): State<Edge>,
    Path((project, device)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let device = Principal { project: named(&project)?, device: named(&device)? };
    let found = edge.enroller.store.device(&device).await?;
    let found = found.ok_or_else(|| Problem::missing("device", &device.to_string()))?;
    Ok(Json(DeviceView::from(found)).into_response())
}

pub(super) async fn decommission(
    State(edge): State<Edge>,
    operator: Operator,
    Path((project, device)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let device = Principal { project: named(&project)?, device: named(&device)? };
    if !edge.enroller.decommission(&device, &operator.name, clock::now()).await? {
        return Err(Problem::missing("device", &device.to_string()));
    }
    let found = edge.enroller.store.device(&device).await?;
    Ok(Json(found.map(DeviceView::from)).into_response())
}
