//! Every bound of the broker, with the failure or attack it stops.

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use rmqtt::codec::types::Publish;
use rmqtt::fitter::{DefaultFitter, Fitter, FitterManager};
use rmqtt::types::{ConnectInfo, Disconnect, FitterType, Id, ListenerConfig};

use sedge_protocol::limits;
use sedge_protocol::topic::Caller;

/// Start with `default()`; the figures suit two cores and some thousands of devices.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Sessions, connected or kept: memory (34 KiB each, measured, when idle).
    pub sessions: usize,
    /// Bytes in one packet, both ways; a larger one closes the connection.
    pub packet_bytes: u32,
    /// Unacknowledged QoS 1 messages per client and direction.
    pub in_flight: NonZeroU16,
    /// Messages that wait for one device; the oldest QoS 1 or the newest QoS 0 goes first.
    pub device_queue_messages: usize,
    /// Messages that wait for one of the server's own connections. It must exceed `retained_messages`
    /// of one filter: retained messages pass through this queue, and those above it are lost.
    pub server_queue_messages: usize,
    /// Routed but neither written nor dropped, above the queue, per client. It stops the memory
    /// growth of rmqtt's unbounded session channel while a socket write is blocked.
    pub backlog_messages: usize,
    /// Retained topics in all; above it a message is delivered but not kept.
    pub retained_messages: usize,
    /// Filters per session; the matching tree grows with their sum.
    pub subscriptions_per_client: usize,
    /// Levels in a topic or filter.
    pub topic_levels: usize,
    /// Ceiling on the session expiry a client may ask for.
    pub session_expiry: Duration,
    /// TLS handshake, and again the wait for CONNECT: a mute socket is closed.
    pub handshake_timeout: Duration,
    /// One socket write; a reader blocked for longer is disconnected.
    pub write_timeout: Duration,
    /// Threads of the broker's own runtime.
    pub worker_threads: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            sessions: 12_000,
            packet_bytes: limits::PACKET_BYTES_MAX as u32,
            in_flight: const { NonZeroU16::new(limits::IN_FLIGHT_MAX).expect("not zero") },
            device_queue_messages: 256,
            server_queue_messages: 32_768,
            backlog_messages: 256,
            retained_messages: 32_000,
            subscriptions_per_client: limits::SUBSCRIPTIONS_MAX,
            topic_levels: limits::TOPIC_SLASHES_MAX + 1,
            session_expiry: Duration::from_secs(limits::SESSION_EXPIRY_S as u64),
            handshake_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(5),
            worker_threads: 2,
        }
    }
}

impl Bounds {
    pub(crate) fn queue_messages(&self, name: &str) -> usize {
        match Caller::from_common_name(name) {
            Ok(Caller::Server(_)) => self.server_queue_messages,
            _ => self.device_queue_messages,
        }
    }
}

/// Gives each connection the queue of its principal.
pub(crate) struct PerPrincipal(pub(crate) Arc<Bounds>);

impl FitterManager for PerPrincipal {
    fn create(&self, info: Arc<ConnectInfo>, id: Id, config: ListenerConfig) -> FitterType {
        let queue_messages = self.0.queue_messages(id.username.as_deref().unwrap_or_default());
        Arc::new(PrincipalFitter { inner: DefaultFitter::new(info, id, config), queue_messages })
    }
}

struct PrincipalFitter {
    inner: DefaultFitter,
    queue_messages: usize,
}

#[async_trait::async_trait]
impl Fitter for PrincipalFitter {
    fn keep_alive(&self, keep_alive: &mut u16) -> rmqtt::Result<u16> {
        self.inner.keep_alive(keep_alive)
    }
    fn max_mqueue_len(&self) -> usize {
        self.queue_messages
    }
    fn mqueue_rate_limit(&self) -> (NonZeroU32, Duration) {
        self.inner.mqueue_rate_limit()
    }
    fn max_inflight(&self) -> NonZeroU16 {
        self.inner.max_inflight()
    }
    fn session_expiry_interval(&self, disconnect: Option<&Disconnect>) -> Duration {
        self.inner.session_expiry_interval(disconnect)
    }
    fn message_expiry_interval(&self, publish: &Publish) -> Duration {
        self.inner.message_expiry_interval(publish)
    }
    fn max_client_topic_aliases(&self) -> u16 {
        0
    }
    fn max_server_topic_aliases(&self) -> u16 {
        0
    }
}
