//! Where the parts of the server meet: what the edge gives to the part that steers fleets, and what it asks of it.

use crate::console::ConsoleData;
use crate::pki::{Pki, TlsError};
use crate::store::Store;
use async_trait::async_trait;
use axum::Router;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use sedge_protocol::id::{Principal, ProjectId, ServerName};
use std::path::PathBuf;
use std::sync::Arc;

/// An error of another part, whose kind does not matter here.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// What the edge has set up.
#[derive(Debug, Clone)]
pub struct Site {
    /// Where files belong; each part has a directory of its own in it.
    pub data: PathBuf,
    /// The database.
    pub store: Store,
    /// The certificate authority.
    pub pki: Arc<Pki>,
    /// Where the server's own MQTT connections go.
    pub broker: BrokerAddress,
}

impl Site {
    /// TLS for an MQTT connection of the server itself, as `server:<name>`. The certificate is exchanged before it
    /// expires; one configuration serves any number of connections.
    ///
    /// # Errors
    /// When the certificate cannot be made, or the broker's authority is no certificate.
    pub fn mqtt_tls(&self, name: &ServerName) -> Result<Arc<ClientConfig>, TlsError> {
        self.pki.mqtt_client(name, &self.broker.authorities)
    }
}

/// Where the broker is, as seen from the server.
#[derive(Debug, Clone)]
pub struct BrokerAddress {
    /// A name or address that is in its certificate.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Who signs its certificate; empty for the server's own authority.
    pub authorities: Vec<CertificateDer<'static>>,
}

/// The first roots of a project's two repositories, as they were signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstRoots {
    /// Of the publisher, signed offline.
    pub publisher: Vec<u8>,
    /// Of the director.
    pub director: Vec<u8>,
}

/// The part that steers fleets: director, artifacts, the server's session at the broker.
#[async_trait]
pub trait FleetService: Send + Sync {
    /// Called once, when database, authority and broker are up, before the first request is taken. The routes it
    /// returns are served below `/api/v1`, to callers with an API token (see [`crate::http::Operator`]); paths name
    /// their parameters `{project}` and `{device}`.
    ///
    /// # Errors
    /// The server does not start.
    async fn started(&self, site: Site) -> Result<Router, AnyError>;

    /// The first roots of a project, for tokens and answers; none while the publisher's has not been handed in.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn first_roots(&self, project: &ProjectId) -> Result<Option<FirstRoots>, AnyError>;

    /// What the console shows, asked for after [`FleetService::started`]; when there is none, what the database knows.
    fn console(&self) -> Option<Arc<dyn ConsoleData>> {
        None
    }

    /// Called after a device was recorded, again or for the first time. A server that is killed may miss it: the database
    /// is the truth.
    async fn device_enrolled(&self, _: &Principal) {}

    /// Called after a device was ended for good; what the broker still keeps for it can be cleared. As above.
    async fn device_decommissioned(&self, _: &Principal) {}

    /// Called when no more requests are taken and before broker and database go.
    async fn stopping(&self) {}
}

/// No fleet: devices cannot enrol, since there are no roots.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFleet;

#[async_trait]
impl FleetService for NoFleet {
    async fn started(&self, _: Site) -> Result<Router, AnyError> {
        Ok(Router::new())
    }

    async fn first_roots(&self, _: &ProjectId) -> Result<Option<FirstRoots>, AnyError> {
        Ok(None)
    }
}

/// What ends the connections of a device whose certificate was withdrawn.
#[async_trait]
pub trait DeviceLink: Send + Sync {
    /// Ends them; a broker that is not ours may not be able to.
    async fn disconnect(&self, device: &Principal);
}
