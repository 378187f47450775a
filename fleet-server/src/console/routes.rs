//! What is served, to whom, and with which headers.

mod guard;

use super::login::{LinkRefusal, Secret};
use super::page::{self, DoorPage};
use super::view::{DeviceQuery, Facet, SEARCH_MAX};
use super::{Console, assets, events};
use crate::clock;
use crate::http::Connection;
use crate::service::AnyError;
use crate::store::AuditEntry;
use askama::Template as _;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Router, middleware};
pub(super) use guard::SignedIn;
use sedge_protocol::id::ProjectId;
use serde::Deserialize;
use std::time::{Duration, Instant};

/// What tells how to get in.
const LOGIN_COMMAND: &str = "sedge server login-link";
/// Bytes of a form; the only one has one field.
const FORM_BYTES_MAX: usize = 1024;
/// A form that comes slower is not waited for.
const FORM_TIMEOUT: Duration = Duration::from_secs(10);

/// The console's part of the server.
pub(crate) fn routes(console: Console) -> Router {
    Router::new()
        .route("/", get(home))
        .route("/projects/{project}", get(project))
        .route("/events", get(stream))
        .route("/assets/{hash}/{name}", get(asset))
        .route("/login", get(login))
        .route("/login/{secret}", get(confirm).post(redeem))
        .route("/logout", post(sign_out))
        .layer(middleware::from_fn(guard::refuse_other_sites))
        .layer(middleware::map_response(guard::harden))
        .with_state(console)
}

/// The state of a page, as its address has it.
#[derive(Debug, Deserialize)]
struct Parameters {
    q: Option<String>,
    state: Option<String>,
    after: Option<String>,
}

async fn home(State(console): State<Console>, who: SignedIn, Query(parameters): Query<Parameters>) -> Response {
    let projects = match console.data.projects().await {
        Ok(projects) => projects,
        Err(e) => return console.failed(&*e),
    };
    match projects.iter().find(|project| project.as_str() == "default").or(projects.first()).cloned() {
        Some(project) => console.page(&who, &project, &projects, parameters).await,
        None => console.missing("The server has no project"),
    }
}

async fn project(
    State(console): State<Console>,
    who: SignedIn,
    Path(project): Path<String>,
    Query(parameters): Query<Parameters>,
) -> Response {
    let Ok(project) = project.parse::<ProjectId>() else { return console.missing("There is no such project") };
    match console.data.projects().await {
        Ok(projects) => console.page(&who, &project, &projects, parameters).await,
        Err(e) => console.failed(&*e),
    }
}

impl Console {
    async fn page(
        &self,
        who: &SignedIn,
        project: &ProjectId,
        projects: &[ProjectId],
        parameters: Parameters,
    ) -> Response {
        let Parameters { q, state, after } = parameters;
        let state = state.filter(|state| !state.is_empty());
        let facet = state.as_deref().and_then(Facet::from_key);
        let search: String = q.unwrap_or_default().trim().chars().take(SEARCH_MAX).collect();
        if facet.is_none() && state.is_some() {
            let texts = ["The address asks for a state that no device can have."];
            return self.door(StatusCode::BAD_REQUEST, "No such state", &texts, Some(("/", "To the fleet")));
        }
        let query = DeviceQuery { search, facet, after: after.filter(|after| !after.is_empty()) };
        match self.render(who, project, projects, &query).await {
            Ok(Some(page)) => Html(page).into_response(),
            Ok(None) => self.missing("There is no such project"),
            Err(e) => self.failed(&*e),
        }
    }

    async fn render(
        &self,
        who: &SignedIn,
        project: &ProjectId,
        projects: &[ProjectId],
        query: &DeviceQuery,
    ) -> Result<Option<String>, AnyError> {
        // Before anything is read: what changes from here on is news for the page.
        let version = *self.data.changes().borrow();
        let Some(fleet) = self.data.fleet(project).await? else { return Ok(None) };
        let rollout = self.data.rollout(project).await?;
        let devices = self.data.devices(project, query).await?;
        let parts = page::Parts {
            project,
            projects,
            fleet: &fleet,
            rollout: rollout.as_ref(),
            query,
            devices: &devices,
            form_token: &who.cookie.form_token(),
            version,
            now: clock::now(),
        };
        Ok(Some(page::fleet(&parts, &self.assets)?))
    }

    fn door(&self, status: StatusCode, heading: &str, texts: &[&str], link: Option<(&str, &str)>) -> Response {
        self.answer(status, &DoorPage { assets: &self.assets, heading, texts, command: None, action: None, link })
    }

    fn answer(&self, status: StatusCode, page: &DoorPage<'_>) -> Response {
        match page.render() {
            Ok(html) => (status, Html(html)).into_response(),
            // It has no part that could fail but memory.
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }

    fn missing(&self, heading: &str) -> Response {
        let texts = ["Perhaps its name is spelled otherwise."];
        self.door(StatusCode::NOT_FOUND, heading, &texts, Some(("/", "To the fleet")))
    }

    fn failed(&self, cause: &(dyn std::error::Error + 'static)) -> Response {
        tracing::error!(error = cause, "a page of the console could not be made");
        let texts = ["It could not read what this page shows. Try again; if it goes on, the server's log says why."];
        self.door(StatusCode::INTERNAL_SERVER_ERROR, "The server failed", &texts, None)
    }

    async fn note(&self, actor: &str, action: &str) {
        let entry = AuditEntry {
            at: clock::now(),
            actor: actor.to_owned(),
            action: action.to_owned(),
            subject: "console".into(),
        };
        if let Err(e) = self.store.audit(&entry).await {
            tracing::error!(error = &e as &dyn std::error::Error, action, "not in the audit");
        }
    }

    /// Counts a try to get in. The answer, when there were too many.
    fn admit(&self, from: &Connection) -> Result<(), Box<Response>> {
        self.limiter.admit(from.addr.ip(), Instant::now()).map_err(|wait| {
            let texts = ["Too many login links were tried from your address. Wait a minute, then open yours again."];
            let mut response = self.door(StatusCode::TOO_MANY_REQUESTS, "Too many tries", &texts, None);
            let seconds = HeaderValue::from(wait.as_secs().saturating_add(1));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
            Box::new(response)
        })
    }

    fn refused(&self, refusal: LinkRefusal) -> Response {
        let (status, heading, text) = match refusal {
            LinkRefusal::Unknown => (StatusCode::NOT_FOUND, "This link is unknown", "Perhaps a part of it was lost."),
            LinkRefusal::Used => {
                let text = "A login link signs in once. If it was not you who used it, end that session: tell whoever \
                            runs this server.";
                (StatusCode::GONE, "This link was used", text)
            }
            LinkRefusal::Expired => (StatusCode::GONE, "This link has expired", "A login link is good for 15 minutes."),
        };
        let texts = [text, "To get a new link, run on the server:"];
        let command = Some(LOGIN_COMMAND);
        self.answer(
            status,
            &DoorPage { assets: &self.assets, heading, texts: &texts, command, action: None, link: None },
        )
    }
}

async fn stream(State(console): State<Console>, who: SignedIn, parts: axum::http::request::Parts) -> Response {
    events::stream(console, who, &parts)
}

async fn asset(
    State(console): State<Console>,
    Path((hash, name)): Path<(String, String)>,
    who: Result<SignedIn, Response>,
) -> Response {
    let found = assets::find(&hash, &name);
    match (found, who) {
        (Some(asset), who) if asset.public || who.is_ok() => {
            let kept = "private, max-age=31536000, immutable";
            let headers = [(header::CONTENT_TYPE, asset.content_type), (header::CACHE_CONTROL, kept)];
            (headers, asset.bytes).into_response()
        }
        (_, Err(response)) => response,
        _ => console.missing("There is nothing here"),
    }
}

async fn login(State(console): State<Console>) -> Response {
    let texts = ["The console opens by a login link, which works once. To get one, run on the server:"];
    let heading = "Sign in";
    let command = Some(LOGIN_COMMAND);
    let page = DoorPage {
        assets: &console.assets,
        heading,
        texts: &texts,
        command,
        action: None,
        link: Some(("/", "I am signed in")),
    };
    console.answer(StatusCode::OK, &page)
}

/// Asks for a click: a program that previews links makes none.
async fn confirm(
    State(console): State<Console>,
    Extension(from): Extension<Connection>,
    Path(secret): Path<String>,
) -> Response {
    if let Err(response) = console.admit(&from) {
        return *response;
    }
    let Some(link) = Secret::from_request(&secret) else { return console.refused(LinkRefusal::Unknown) };
    match console.login.look(&link, clock::now()).await {
        Ok(Ok(())) => {
            let texts = ["This link signs you in on this browser, once."];
            let action = Some(format!("/login/{}", link.reveal()));
            let page = DoorPage {
                assets: &console.assets,
                heading: "Sign in to Sedge",
                texts: &texts,
                command: None,
                action,
                link: None,
            };
            console.answer(StatusCode::OK, &page)
        }
        Ok(Err(refusal)) => console.refused(refusal),
        Err(e) => console.failed(&e),
    }
}

async fn redeem(
    State(console): State<Console>,
    Extension(from): Extension<Connection>,
    Path(secret): Path<String>,
) -> Response {
    if let Err(response) = console.admit(&from) {
        return *response;
    }
    let Some(link) = Secret::from_request(&secret) else { return console.refused(LinkRefusal::Unknown) };
    match console.login.redeem(&link, clock::now()).await {
        Ok(Ok((cookie, session))) => {
            console.note(&session.name, "signed in").await;
            (StatusCode::SEE_OTHER, [(header::LOCATION, "/".into()), (header::SET_COOKIE, guard::set_cookie(&cookie))])
                .into_response()
        }
        Ok(Err(refusal)) => {
            tracing::warn!(address = %from.addr, reason = ?refusal, "a login link is refused");
            console.refused(refusal)
        }
        Err(e) => console.failed(&e),
    }
}

async fn sign_out(State(console): State<Console>, who: SignedIn, body: Body) -> Response {
    let form = match tokio::time::timeout(FORM_TIMEOUT, to_bytes(body, FORM_BYTES_MAX)).await {
        Ok(Ok(form)) => form,
        _ => {
            return console.door(StatusCode::BAD_REQUEST, "The form did not arrive", &["Go back and try again."], None);
        }
    };
    let expected = who.cookie.form_token();
    if form.strip_prefix(b"csrf=") != Some(expected.as_bytes()) {
        let texts = ["You are still signed in: the request did not come from a page of this console."];
        return console.door(StatusCode::FORBIDDEN, "Not signed out", &texts, Some(("/", "To the fleet")));
    }
    if let Err(e) = console.login.sign_out(&who.cookie).await {
        return console.failed(&e);
    }
    console.note(&who.session.name, "signed out").await;
    let headers = [(header::LOCATION, "/login".to_owned()), (header::SET_COOKIE, guard::clear_cookie())];
    (StatusCode::SEE_OTHER, headers).into_response()
}
