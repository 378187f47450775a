//! The fleet: which bundles exist, what each device is to run, and the conversation with devices about it.
//!
//! It knows devices by their names alone; who may call himself so is for the broker and the certificate authority to
//! say, and who may change what, for the HTTP server. It reaches devices as the MQTT client `server:main`, whatever the
//! broker, and depends on nothing that a broker keeps.
//!
//! [`publisher`] keeps what was signed offline, [`director`] signs what each device is to run, [`artifact`] holds
//! bundles in chunks. [`session`] and [`carousel`] decide what is said to devices; `hub` and `sender` say it over
//! `mqtt`. [`service`] is what the rest of the server calls, [`api`] the same over HTTP.

pub mod api;
pub mod artifact;
pub mod carousel;
pub mod director;
mod hub;
pub mod mqtt;
mod news;
mod outbox;
mod part;
pub mod publisher;
pub mod records;
mod sender;
pub mod service;
pub mod session;
mod steer;
pub(crate) mod store;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod tests;

pub use hub::Measurement;
pub use news::News;
pub use part::FleetPart;
pub use service::{Desire, DeviceView, FirstRoots, Fleet, FleetContext, FleetError, FleetLimits};
pub use store::StoreError;

use artifact::Artifacts;
use director::Director;
use outbox::Outbox;
use publisher::Publisher;
use records::Records;
use sedge_protocol::id::{Principal, StreamName};
use sedge_protocol::message::{Desired, Telemetry};
use sender::Ticks;
use session::Session;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast;

/// What all tasks share.
#[derive(Debug)]
pub(crate) struct Parts {
    publisher: Publisher,
    director: Director,
    artifacts: Artifacts,
    records: Records,
    outbox: Outbox,
    ticks: Ticks,
    session: Mutex<Session>,
    telemetry: broadcast::Sender<Measurement>,
    news: broadcast::Sender<News>,
}

impl Parts {
    fn session(&self) -> MutexGuard<'_, Session> {
        // What it knows is whole after each call.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The message for a device, or `None` while there is nothing to say.
    async fn desired(&self, device: &Principal) -> Result<Option<Desired>, StoreError> {
        match self.publisher.versions(&device.project).await? {
            Some(versions) if versions.timestamp_version > 0 => self.director.desired(device, versions).await,
            _ => Ok(None),
        }
    }

    fn tell_news(&self, news: News) {
        // Nobody may be listening.
        let _listeners = self.news.send(news);
    }

    fn measured(&self, device: Principal, stream: StreamName, telemetry: Telemetry) {
        // Nobody may be listening.
        let _listeners = self.telemetry.send(Measurement { device, stream, telemetry });
    }
}
