//! The broker as the rest of the server has it: something that can be told to end a device's connections.

use crate::broker::{Bounds, BrokerConfig, BrokerError, Denied, EmbeddedBroker};
use crate::config;
use crate::deny::DenyList;
use crate::pki::{Pki, Serial};
use crate::service::DeviceLink;
use async_trait::async_trait;
use sedge_protocol::id::Principal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};

/// A connection that was let in just before its device was denied is found by looking again.
const SECOND_LOOK: Duration = Duration::from_secs(2);

/// The embedded broker, or the knowledge that there is another one.
pub(super) struct BrokerLink {
    addr: Option<SocketAddr>,
    broker: Arc<Mutex<Option<EmbeddedBroker>>>,
}

impl BrokerLink {
    pub(super) async fn embedded(
        settings: &config::EmbeddedBroker,
        pki: &Pki,
        deny: Arc<DenyList>,
        denied: mpsc::Sender<Denied>,
    ) -> Result<Self, BrokerError> {
        let broker = EmbeddedBroker::start(BrokerConfig {
            addr: settings.listen,
            certificate: pki.server_path(),
            private_key: pki.server_path(),
            client_roots: pki.root_path(),
            admit: Arc::new(move |caller, serial| deny.admits(caller, &Serial::from_hex(serial))),
            // On the packet path: what does not fit is dropped.
            audit: Arc::new(move |one| drop(denied.try_send(one.clone()))),
            bounds: Bounds { sessions: settings.sessions_max, ..Bounds::default() },
        })
        .await?;
        Ok(Self { addr: Some(broker.addr()), broker: Arc::new(Mutex::new(Some(broker))) })
    }

    pub(super) fn external() -> Self {
        Self { addr: None, broker: Arc::default() }
    }

    pub(super) fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// Serves the renewed certificate.
    pub(super) async fn renew_certificate(&self) -> Result<(), BrokerError> {
        match &mut *self.broker.lock().await {
            Some(broker) => broker.renew_certificate().await,
            None => Ok(()),
        }
    }

    pub(super) async fn stop(&self) {
        if let Some(broker) = self.broker.lock().await.take() {
            broker.stop().await;
        }
    }
}

#[async_trait]
impl DeviceLink for BrokerLink {
    async fn disconnect(&self, device: &Principal) {
        if self.addr.is_none() {
            tracing::warn!(%device, "the external broker must be told to end this device's connections");
            return;
        }
        let name = device.to_string();
        let end = async move |broker: &Mutex<Option<EmbeddedBroker>>, name: &str| {
            if let Some(broker) = &*broker.lock().await {
                broker.disconnect(name).await;
            }
        };
        end(&self.broker, &name).await;
        let broker = self.broker.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SECOND_LOOK).await;
            end(&broker, &name).await;
        });
    }
}
