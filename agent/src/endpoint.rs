//! The local HTTP endpoint: `/latest`, `/health`, `/metrics`. Read only, without authentication, and therefore on
//! loopback unless the device's owner says otherwise.
//!
//! Where the owner sets `labels`, and on loopback only, `POST /labels` takes the right answer to a prediction, by the id
//! that `/latest` and results tell: `{ "id": "digits-4f1c-17", "label": "7" }` as `application/json`. It is answered with
//! the bundle that predicted and whether it was right; 404 is an unknown prediction, 410 one that is forgotten, 409 one
//! that has its label.
//!
//! A page in a browser on the device could be led here by a name that resolves to loopback, so there only requests that
//! name a loopback host are answered; and it could post a form, but not JSON, without asking first.

use crate::dataplane::config::HttpConfig;
use crate::dataplane::feedback::{FeedbackError, Listeners};
use crate::sink::{Board, ComponentView};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use sedge_protocol::id::ComponentName;
use serde::Deserialize;
use serde_json::json;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections open at once; stops a local client from taking all of the agent's descriptors. One that holds them all
/// denies the endpoint to others, and nothing else.
const CONNECTIONS_MAX: usize = 32;
/// Largest body: an id and a label.
const BODY_BYTES_MAX: usize = 4096;
/// Longest id and label, as in messages.
const TEXT_BYTES_MAX: usize = 128;

/// Why the endpoint is not there.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Others than this machine could reach it.
    #[error(
        "http: {0} is not a loopback address, and what is there has no authentication; set `allow_remote` if you want that"
    )]
    NotLoopback(SocketAddr),
    /// Others than this machine could tell right answers.
    #[error("http: right answers are taken on a loopback address only, and {0} is none; leave out `labels`")]
    LabelsNotLoopback(SocketAddr),
    /// It can't listen.
    #[error("http: cannot listen at {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Starts the endpoint, and tells where it listens. It ends with the runtime.
///
/// # Errors
/// [`HttpError`] when the address is not allowed or not free.
pub async fn start(config: &HttpConfig, board: Arc<Board>, listeners: Listeners) -> Result<SocketAddr, HttpError> {
    let address = config.listen;
    if !address.ip().is_loopback() && !config.allow_remote {
        return Err(HttpError::NotLoopback(address));
    }
    if !address.ip().is_loopback() && config.labels {
        return Err(HttpError::LabelsNotLoopback(address));
    }
    let failed = |source| HttpError::Listen { address, source };
    let tcp = TcpListener::bind(address).await.map_err(failed)?;
    let bound = tcp.local_addr().map_err(failed)?;
    let mut router = Router::new()
        .route("/latest", get(latest))
        .route("/latest/{component}", get(latest_of))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .with_state(board);
    if config.labels {
        let labels = Router::new().route("/labels", post(labels)).layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
        router = router.merge(labels.layer(Extension(listeners)));
    }
    if bound.ip().is_loopback() {
        router = router.layer(middleware::from_fn(only_loopback_names));
    }
    let listener = Bounded { tcp, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the http endpoint ended");
        }
    });
    Ok(bound)
}

async fn only_loopback_names(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name);
    let loopback = name == "localhost" || name == "[::1]" || name.starts_with("127.");
    if loopback {
        return next.run(request).await;
    }
    (StatusCode::MISDIRECTED_REQUEST, "ask for localhost\n").into_response()
}

async fn latest(State(board): State<Arc<Board>>) -> Response {
    let records = board.views().into_iter().map(|(name, view)| (name.to_string(), json!(view.latest.as_deref())));
    Json(serde_json::Value::Object(records.collect())).into_response()
}

async fn latest_of(State(board): State<Arc<Board>>, Path(component): Path<String>) -> Response {
    let view = component.parse::<ComponentName>().ok().and_then(|name| board.view(&name));
    match view.map(|v| v.latest) {
        None => (StatusCode::NOT_FOUND, "no such component\n").into_response(),
        Some(None) => (StatusCode::NOT_FOUND, "no result yet\n").into_response(),
        Some(Some(record)) => Json(json!(*record)).into_response(),
    }
}

async fn health(State(board): State<Arc<Board>>) -> Response {
    let views = board.views();
    let well = |v: &ComponentView| v.ill.is_none() && v.running.is_some();
    let code = if views.values().all(well) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let one = |(name, v): (&ComponentName, &ComponentView)| {
        let reason = v.ill.clone().or_else(|| v.running.is_none().then(|| "no worker serves".to_owned()));
        let body = json!({ "healthy": well(v), "reason": reason, "slot": v.serving, "running": v.running });
        (name.to_string(), body)
    };
    (code, Json(serde_json::Value::Object(views.iter().map(one).collect()))).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    id: String,
    label: String,
}

async fn labels(Extension(listeners): Extension<Listeners>, headers: HeaderMap, body: Bytes) -> Response {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, "send it as application/json\n").into_response();
    }
    let told = match serde_json::from_slice::<Told>(&body) {
        Ok(told) => told,
        Err(e) => {
            let problem = format!("expected {{\"id\": \"<prediction>\", \"label\": \"<label>\"}}: {e}\n");
            return (StatusCode::BAD_REQUEST, problem).into_response();
        }
    };
    for (name, text) in [("id", &told.id), ("label", &told.label)] {
        if text.is_empty() || text.len() > TEXT_BYTES_MAX {
            let problem = format!("`{name}` has {} bytes; expected 1 to {TEXT_BYTES_MAX}\n", text.len());
            return (StatusCode::BAD_REQUEST, problem).into_response();
        }
    }
    match listeners.tell(&told.id, &told.label).await {
        Ok(heard) => Json(heard).into_response(),
        Err(e) => {
            let status = match &e {
                FeedbackError::Unknown(_) => StatusCode::NOT_FOUND,
                FeedbackError::TooLate(_) => StatusCode::GONE,
                FeedbackError::Twice(_) => StatusCode::CONFLICT,
                FeedbackError::Ended => StatusCode::SERVICE_UNAVAILABLE,
            };
            (status, format!("{e}\n")).into_response()
        }
    }
}

async fn metrics(State(board): State<Arc<Board>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], exposition(&board)).into_response()
}

/// The Prometheus text format, version 0.0.4. Names of components need no escaping.
fn exposition(board: &Board) -> String {
    type Value = fn(&ComponentView) -> Option<f64>;
    let families: &[(&str, &str, &str, Value)] = &[
        ("sedge_up", "gauge", "Whether a worker serves and is not known to be ill.", |v| {
            Some(f64::from(u8::from(v.ill.is_none() && v.running.is_some())))
        }),
        ("sedge_samples_total", "counter", "Samples taken.", |v| Some(v.health.as_ref()?.samples as f64)),
        ("sedge_errors_total", "counter", "Samples that failed.", |v| Some(v.health.as_ref()?.errors as f64)),
        ("sedge_dropped_total", "counter", "Samples dropped.", |v| Some(v.health.as_ref()?.dropped as f64)),
        ("sedge_labelled_total", "counter", "Samples whose right answer is known.", |v| Some(v.labelled as f64)),
        ("sedge_right_total", "counter", "Of them, those answered right.", |v| Some(v.right as f64)),
        ("sedge_labels_late_total", "counter", "Right answers that came too late.", |v| Some(v.labels_late as f64)),
        ("sedge_sink_dropped_total", "counter", "Results that a sink did not take.", |v| Some(v.sink_dropped as f64)),
        ("sedge_worker_restarts_total", "counter", "Restarts of the worker.", |v| {
            Some(v.health.as_ref()?.worker_restarts.into())
        }),
        ("sedge_worker_memory_bytes", "gauge", "Memory of the worker.", |v| {
            Some(v.health.as_ref()?.memory_bytes as f64)
        }),
        ("sedge_confidence_mean", "gauge", "Mean confidence of the last minutes.", |v| {
            v.health.as_ref()?.confidence_mean.map(f64::from)
        }),
        ("sedge_latency_p50_seconds", "gauge", "Half of the samples took no longer.", |v| {
            Some(v.health.as_ref()?.latency_p50_us? as f64 / 1e6)
        }),
        ("sedge_latency_p95_seconds", "gauge", "95 of 100 samples took no longer.", |v| {
            Some(v.health.as_ref()?.latency_p95_us? as f64 / 1e6)
        }),
        ("sedge_latency_p99_seconds", "gauge", "99 of 100 samples took no longer.", |v| {
            Some(v.health.as_ref()?.latency_p99_us? as f64 / 1e6)
        }),
    ];
    let views = board.views();
    let mut text = String::new();
    for (name, kind, help, value) in families {
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (component, view) in &views {
            if let Some(value) = value(view) {
                let _ = writeln!(text, "{name}{{component=\"{component}\"}} {value}");
            }
        }
    }
    text
}

struct Bounded {
    tcp: TcpListener,
    places: Arc<Semaphore>,
}

struct Connection {
    tcp: TcpStream,
    _place: OwnedSemaphorePermit,
}

impl axum::serve::Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            // The semaphore is never closed.
            let Ok(place) = self.places.clone().acquire_owned().await else { return std::future::pending().await };
            match self.tcp.accept().await {
                Ok((tcp, from)) => return (Connection { tcp, _place: place }, from),
                // Too many open files, as a rule: it passes.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
