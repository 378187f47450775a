//! The stream that tells a page that something changed (`text/event-stream`, as the HTML standard has it).
//!
//! It carries no figures: the page fetches itself again, so that all it shows is of one moment. What was missed while
//! the line was broken is one `changed` at the start.

use super::Console;
use super::routes::SignedIn;
use crate::clock;
use axum::http::request::Parts;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_core::Stream;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Between two messages that something changed.
const CHANGED_STEP: Duration = Duration::from_secs(1);
/// How often the stream says that it lives.
const BEAT_STEP: Duration = Duration::from_secs(15);
/// A message without data is none.
const DATA: &str = "-";
/// When a browser whose line broke comes back.
const RETRY: Duration = Duration::from_secs(3);

/// The stream for one page.
pub(super) fn stream(console: Console, who: SignedIn, parts: &Parts) -> Response {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(tell(console, who, known(parts), sender));
    Sse::new(Events(receiver)).into_response()
}

/// What the page has seen: after a break its last event, before that what it was made with.
fn known(parts: &Parts) -> Option<u64> {
    let header = parts.headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let query = parts.uri.query().unwrap_or("").split('&').find_map(|pair| pair.strip_prefix("since="));
    header.or(query)?.parse().ok()
}

/// Until the page is gone, the session is over, or the server stops.
async fn tell(console: Console, who: SignedIn, known: Option<u64>, sender: mpsc::Sender<Event>) {
    let (mut changes, mut closing) = (console.data.changes(), console.closing.clone());
    let hello = Event::default().event("beat").data(DATA).retry(RETRY);
    if sender.send(hello).await.is_err() {
        return;
    }
    if known != Some(*changes.borrow()) {
        changes.mark_changed();
    }
    let mut beat = tokio::time::interval_at(Instant::now() + BEAT_STEP, BEAT_STEP);
    loop {
        let event = tokio::select! {
            changed = changes.changed() => match changed {
                Ok(()) => {
                    let version = *changes.borrow_and_update();
                    Event::default().event("changed").id(version.to_string()).data(DATA)
                }
                Err(_) => return,
            },
            _ = beat.tick() => {
                // Not a use of the session: a page that is left open ends with it.
                if !matches!(console.login.session(&who.cookie, false, clock::now()).await, Ok(Some(_))) {
                    return;
                }
                Event::default().event("beat").data(DATA)
            }
            () = closed(&mut closing) => return,
            () = sender.closed() => return,
        };
        if sender.send(event).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(CHANGED_STEP) => {}
            () = closed(&mut closing) => return,
            () = sender.closed() => return,
        }
    }
}

/// When the server stops.
async fn closed(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}

/// What [`tell`] sends.
struct Events(mpsc::Receiver<Event>);

impl Stream for Events {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|event| event.map(Ok))
    }
}
