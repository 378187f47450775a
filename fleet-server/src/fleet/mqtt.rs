//! A connection to the broker: one task owns the client's event loop and does nothing else.
//!
//! It hands on what arrives and comes back after every break, with the traps of the client (rumqttc 0.25.1) stepped
//! around: `poll` has a deadline, as a blocked write stops reads and pings; the number of messages in flight is bounded,
//! whose default costs 14 MiB; and what a broker's CONNACK says it will not take is known to those who publish.
//!
//! Nobody who receives from it may wait for a publish to be taken: that would be a circle.

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, Filter, Packet};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use sedge_protocol::limits::{IN_FLIGHT_MAX, KEEP_ALIVE_S, PACKET_BYTES_MAX, SESSION_EXPIRY_S};
use sedge_protocol::message::CONTENT_TYPE_JSON;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Requests that wait for the event loop; few, so that what is urgent is not behind much that is not.
const REQUESTS_MAX: usize = 8;
/// Messages that have arrived and wait to be looked at. When it is full the broker waits.
const ARRIVED_MAX: usize = 512;
/// Longest pause before the next try to connect.
const BACKOFF_MAX_S: u64 = 60;
const POLL_DEADLINE: Duration = Duration::from_secs(2 * KEEP_ALIVE_S as u64 + 10);

/// Where the broker is, and how to reach it.
#[derive(Debug, Clone)]
pub struct MqttEndpoint {
    host: String,
    port: u16,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl MqttEndpoint {
    /// A broker over mutual TLS; the configuration holds the certificate of `server:main`.
    pub fn tls(host: &str, port: u16, config: Arc<rustls::ClientConfig>) -> Self {
        Self { host: host.to_owned(), port, tls: Some(config) }
    }

    /// A broker of a test, on this machine.
    #[cfg(test)]
    pub(crate) fn loopback(port: u16) -> Self {
        Self { host: "127.0.0.1".to_owned(), port, tls: None }
    }

    fn options(&self, client_id: &str) -> MqttOptions {
        let mut options = MqttOptions::new(client_id, &self.host, self.port);
        if let Some(config) = &self.tls {
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::clone(config))));
        }
        options
            .set_keep_alive(Duration::from_secs(KEEP_ALIVE_S.into()))
            .set_connection_timeout(10)
            .set_clean_start(false)
            .set_session_expiry_interval(Some(SESSION_EXPIRY_S))
            .set_outgoing_inflight_upper_limit(IN_FLIGHT_MAX)
            .set_max_packet_size(u32::try_from(PACKET_BYTES_MAX).ok());
        options
    }
}

/// What arrived.
#[derive(Debug)]
pub(crate) enum Arrived {
    Connected { session_present: bool },
    Message { topic: String, payload: Vec<u8>, json: bool },
}

/// The broker as it has last presented itself; `None` while there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) packet_bytes_max: usize,
}

/// A connection that is kept up until it is dropped.
pub(crate) struct Connection {
    pub(crate) client: AsyncClient,
    pub(crate) arrived: mpsc::Receiver<Arrived>,
    pub(crate) link: watch::Receiver<Option<Link>>,
    /// Ends with this.
    _task: Aborted,
}

/// A task that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Aborted(tokio::task::JoinHandle<()>);

impl Aborted {
    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }
}

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    pub(crate) fn open(endpoint: &MqttEndpoint, client_id: &str) -> Self {
        let (client, events) = AsyncClient::new(endpoint.options(client_id), REQUESTS_MAX);
        let (sender, arrived) = mpsc::channel(ARRIVED_MAX);
        let (up, link) = watch::channel(None);
        let task = Aborted::spawn(keep_up(events, sender, up, client_id.to_owned()));
        Self { client, arrived, link, _task: task }
    }
}

/// Subscriptions, all at QoS 1.
pub(crate) async fn subscribe(client: &AsyncClient, filters: &[String]) {
    let filters = filters.iter().map(|filter| Filter::new(filter.clone(), QoS::AtLeastOnce));
    if let Err(e) = client.subscribe_many(filters).await {
        tracing::error!("the broker's client has ended: {e}");
    }
}

async fn keep_up(
    mut events: EventLoop,
    sender: mpsc::Sender<Arrived>,
    up: watch::Sender<Option<Link>>,
    client_id: String,
) {
    let mut failures = 0u32;
    loop {
        let arrived = match tokio::time::timeout(POLL_DEADLINE, events.poll()).await {
            Ok(Ok(Event::Incoming(Packet::ConnAck(connack)))) if connack.code == ConnectReturnCode::Success => {
                failures = 0;
                let announced = connack.properties.and_then(|properties| properties.max_packet_size);
                let packet_bytes_max = announced
                    .and_then(|max| usize::try_from(max).ok())
                    .map_or(PACKET_BYTES_MAX, |max| max.min(PACKET_BYTES_MAX));
                tracing::info!(client_id, session_present = connack.session_present, "connected to the broker");
                up.send_replace(Some(Link { packet_bytes_max }));
                Some(Arrived::Connected { session_present: connack.session_present })
            }
            Ok(Ok(Event::Incoming(Packet::Publish(publish)))) => {
                let properties = publish.properties.unwrap_or_default();
                let json = properties.content_type.as_deref() == Some(CONTENT_TYPE_JSON);
                // A topic that is not UTF-8 is none of ours.
                let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                Some(Arrived::Message { topic, payload: publish.payload.to_vec(), json })
            }
            Ok(Ok(_)) => None,
            Ok(Err(e)) => {
                pause(&client_id, e.to_string(), &up, &mut failures).await;
                None
            }
            Err(e) => {
                events.clean();
                pause(&client_id, e.to_string(), &up, &mut failures).await;
                None
            }
        };
        if let Some(arrived) = arrived
            && sender.send(arrived).await.is_err()
        {
            return;
        }
    }
}

/// Full jitter: all that lost the broker at once do not come back at once.
async fn pause(client_id: &str, problem: String, up: &watch::Sender<Option<Link>>, failures: &mut u32) {
    up.send_replace(None);
    let ceiling_ms = (1000u64 << (*failures).min(6)).min(BACKOFF_MAX_S * 1000);
    *failures = failures.saturating_add(1);
    let mut random = [0; 8];
    // Without random numbers the pause is the longest.
    let random = getrandom::fill(&mut random).map_or(u64::MAX, |()| u64::from_le_bytes(random));
    let pause_ms = random % ceiling_ms + 1;
    tracing::warn!(client_id, pause_ms, "no connection to the broker: {problem}");
    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
}
