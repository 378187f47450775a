//! MQTT 5 through rumqttc 0.25.1, fenced in.
//!
//! The library is used for one connection at a time and then thrown away: each connection has an event loop of its own,
//! so nothing that it keeps (pending publishes, topic aliases, parked collisions) outlives the connection that it
//! belongs to, and the will can carry the number of the connection. What bites in it, and what holds it off:
//! - Its table of in-flight messages costs 14 MiB: `IN_FLIGHT_MAX` limits it.
//! - It forgets or repeats accepted messages, depending on the session: nothing is pending here; the outbox replays.
//! - A message above the broker's limit breaks every connection: the length on the wire is compared before it is handed
//!   over. Incoming ones are limited to 10 KiB unless told otherwise: told.
//! - A blocked write stops reads and pings, and a poll must not be dropped half-way: polling has a task of its own,
//!   under a time limit; when that passes, the connection is dropped.
//! - A broker that never acknowledges is not noticed: the oldest unacknowledged publish has a time limit too.
//! - A publish that is refused leaves a parked one waiting for ever: the connection is made anew.
//! - It can panic: the task then ends like a broken connection.
//! - A full channel must not stop it: control messages wait for room (the broker is slowed, nothing is lost), chunks of
//!   content are dropped and asked for again.

use super::wire::publish_bytes;
use super::{HandOverError, LineEvent, Outgoing, Qos, Token, Transport};
use bytes::Bytes;
use rumqttc::TlsConfiguration;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Filter, LastWill, LastWillProperties, PubAckReason, Publish, PublishProperties, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, Event, EventLoop, Incoming, MqttOptions};
use rustls::ClientConfig;
use sedge_protocol::id::Principal;
use sedge_protocol::limits::{
    IN_FLIGHT_MAX, KEEP_ALIVE_S, PACKET_BYTES_MAX, SESSION_EXPIRY_S, TOPIC_SLASHES_MAX, WILL_DELAY_S,
};
use sedge_protocol::message::CONTENT_TYPE_CBOR;
use sedge_protocol::topic::{BundleTopic, DeviceTopic, TOPIC_BYTES_MAX, Topic};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

/// Control events that may wait for the control loop.
const CONTROL_EVENTS_MAX: usize = 256;
/// Chunks that may wait for it: 3.7 MB at the most.
const BULK_EVENTS_MAX: usize = 32;
/// Requests that may wait for the event loop.
const REQUESTS_MAX: usize = 64;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two pings; a dead link shows after twice this.
    pub keep_alive: Duration,
    /// For one poll; longer than a keep-alive can take.
    pub poll_max: Duration,
    /// For the acknowledgement of a publish.
    pub ack_max: Duration,
    /// Ceiling of the first pause between connections.
    pub backoff_first: Duration,
    /// Ceiling of every pause.
    pub backoff_max: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let keep_alive = Duration::from_secs(KEEP_ALIVE_S.into());
        Self {
            keep_alive,
            poll_max: 2 * keep_alive + Duration::from_secs(10),
            ack_max: 2 * keep_alive,
            backoff_first: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
        }
    }
}

#[derive(Clone)]
enum Security {
    Tls(Arc<ClientConfig>),
    /// Reachable from tests alone.
    #[cfg(test)]
    Plaintext,
}

/// Whom to connect as, where, and what to leave behind.
#[derive(Clone)]
pub struct MqttConfig {
    host: String,
    port: u16,
    client_id: String,
    security: Security,
    /// How long things may take.
    pub pace: Pace,
}

impl fmt::Debug for MqttConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MqttConfig({} at {}:{})", self.client_id, self.host, self.port)
    }
}

impl MqttConfig {
    /// Mutual TLS with the broker at `host`. The client id is the certificate's common name, as the broker asks for.
    pub fn tls(host: &str, port: u16, device: &Principal, tls: Arc<ClientConfig>) -> Self {
        let (host, client_id) = (host.to_owned(), device.to_string());
        Self { host, port, client_id, security: Security::Tls(tls), pace: Pace::default() }
    }

    #[cfg(test)]
    pub(crate) fn plaintext(port: u16, device: &Principal) -> Self {
        let (host, client_id) = ("127.0.0.1".to_owned(), device.to_string());
        Self { host, port, client_id, security: Security::Plaintext, pace: Pace::default() }
    }

    fn options(&self, will: &Outgoing) -> MqttOptions {
        let mut options = MqttOptions::new(&self.client_id, &self.host, self.port);
        match &self.security {
            Security::Tls(tls) => {
                let tls = TlsConfiguration::Rustls(tls.clone());
                options.set_transport(rumqttc::Transport::tls_with_config(tls));
            }
            #[cfg(test)]
            Security::Plaintext => {}
        }
        options.set_keep_alive(self.pace.keep_alive);
        options.set_clean_start(false);
        options.set_session_expiry_interval(Some(SESSION_EXPIRY_S));
        options.set_receive_maximum(Some(IN_FLIGHT_MAX));
        options.set_max_packet_size(u32::try_from(PACKET_BYTES_MAX).ok());
        options.set_topic_alias_max(Some(0));
        options.set_outgoing_inflight_upper_limit(IN_FLIGHT_MAX);
        options.set_connection_timeout(15);
        options.set_last_will(LastWill {
            topic: will.topic.to_string().into(),
            message: will.payload.clone().into(),
            qos: qos(will.qos),
            retain: will.retain,
            properties: Some(LastWillProperties {
                delay_interval: Some(WILL_DELAY_S),
                payload_format_indicator: Some(0),
                message_expiry_interval: None,
                content_type: Some(CONTENT_TYPE_CBOR.to_owned()),
                response_topic: None,
                correlation_data: None,
                user_properties: Vec::new(),
            }),
        });
        options
    }
}

fn qos(qos: Qos) -> QoS {
    match qos {
        Qos::AtMostOnce => QoS::AtMostOnce,
        Qos::AtLeastOnce => QoS::AtLeastOnce,
    }
}

/// A connection that is up.
struct Live {
    client: AsyncClient,
    packet_bytes_max: usize,
    /// QoS 1 publishes that the event loop has not numbered yet, in the order in which they were handed over. The
    /// library tells numbers and no more; it takes requests in order.
    handed: VecDeque<Token>,
}

#[derive(Default)]
struct Shared {
    live: Mutex<Option<Live>>,
    security: Mutex<Option<Security>>,
    closing: AtomicBool,
    dropped_chunks: AtomicU64,
    ignored: AtomicU64,
}

impl Shared {
    fn live(&self) -> MutexGuard<'_, Option<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the will of a connection from its number.
pub type WillOf = Box<dyn Fn(u64) -> Outgoing + Send + Sync>;

/// A line over MQTT. Connects, and connects again, until it is closed or dropped.
pub struct Mqtt {
    shared: Arc<Shared>,
    control: mpsc::Receiver<LineEvent>,
    bulk: mpsc::Receiver<LineEvent>,
    task: JoinHandle<()>,
}

impl fmt::Debug for Mqtt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mqtt")
    }
}

/// Changes the certificate of a line.
#[derive(Clone)]
pub struct TlsHandle(Arc<Shared>);

impl fmt::Debug for TlsHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsHandle")
    }
}

impl TlsHandle {
    /// Uses this configuration from the next connection on.
    pub fn set(&self, tls: Arc<ClientConfig>) {
        *self.0.security.lock().unwrap_or_else(PoisonError::into_inner) = Some(Security::Tls(tls));
    }
}

impl Drop for Mqtt {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Mqtt {
    /// Begins to connect.
    pub fn start(config: MqttConfig, will_of: WillOf) -> Self {
        let shared = Arc::new(Shared::default());
        let (control_in, control) = mpsc::channel(CONTROL_EVENTS_MAX);
        let (bulk_in, bulk) = mpsc::channel(BULK_EVENTS_MAX);
        let events = Events { control: control_in, bulk: bulk_in, shared: shared.clone() };
        let task = tokio::spawn(keep_connected(config, will_of, events));
        Self { shared, control, bulk, task }
    }

    /// Changes the certificate while the line is in use.
    pub fn tls_handle(&self) -> TlsHandle {
        TlsHandle(self.shared.clone())
    }

    /// Chunks that were dropped because the control loop was busy.
    pub fn dropped_chunks(&self) -> u64 {
        self.shared.dropped_chunks.load(Ordering::Relaxed)
    }

    fn with_live<T>(&self, act: impl FnOnce(&mut Live) -> Result<T, HandOverError>) -> Result<T, HandOverError> {
        act(self.shared.live().as_mut().ok_or(HandOverError::Down)?)
    }
}

fn checked(filters: &[String]) -> impl Iterator<Item = Filter> + '_ {
    let allowed = |f: &&String| f.len() <= TOPIC_BYTES_MAX && f.matches('/').count() <= TOPIC_SLASHES_MAX;
    filters.iter().filter(allowed).map(|f| Filter::new(f, QoS::AtLeastOnce))
}

impl Transport for Mqtt {
    fn publish(&mut self, token: Token, message: Outgoing) -> Result<(), HandOverError> {
        self.with_live(|live| {
            let (length, bytes_max) = (publish_bytes(&message), live.packet_bytes_max.min(PACKET_BYTES_MAX));
            if length > bytes_max {
                return Err(HandOverError::TooLong { topic: message.topic, length, bytes_max });
            }
            let properties = PublishProperties {
                payload_format_indicator: Some(0),
                message_expiry_interval: message.expiry_s,
                content_type: Some(CONTENT_TYPE_CBOR.to_owned()),
                ..PublishProperties::default()
            };
            let topic = message.topic.to_string();
            live.client
                .try_publish_with_properties(topic, qos(message.qos), message.retain, message.payload, properties)
                .map_err(|_| HandOverError::Full)?;
            if message.qos == Qos::AtLeastOnce {
                live.handed.push_back(token);
            }
            Ok(())
        })
    }

    fn subscribe(&mut self, filters: &[String]) -> Result<(), HandOverError> {
        self.with_live(|live| live.client.try_subscribe_many(checked(filters)).map_err(|_| HandOverError::Full))
    }

    fn unsubscribe(&mut self, filters: &[String]) -> Result<(), HandOverError> {
        let client = self.with_live(|live| Ok(live.client.clone()))?;
        filters.iter().try_for_each(|f| client.try_unsubscribe(f).map_err(|_| HandOverError::Full))
    }

    async fn next(&mut self) -> LineEvent {
        let event = tokio::select! {
            biased;
            Some(event) = self.control.recv() => Some(event),
            Some(event) = self.bulk.recv() => Some(event),
            else => None,
        };
        match event {
            Some(event) => event,
            // Closed: nothing more happens.
            None => std::future::pending().await,
        }
    }

    async fn close(&mut self, last: Option<Outgoing>) {
        self.shared.closing.store(true, Ordering::Relaxed);
        if let Some(last) = last {
            let _ = self.publish(Token(u64::MAX), last);
        }
        let said = self.with_live(|live| live.client.try_disconnect().map_err(|_| HandOverError::Full));
        if said.is_ok() {
            // Events that nobody takes any more must not hold the task up.
            self.control.close();
            self.bulk.close();
            let _ = timeout(Duration::from_secs(2), &mut self.task).await;
        }
        self.task.abort();
    }
}

#[derive(Clone)]
struct Events {
    control: mpsc::Sender<LineEvent>,
    bulk: mpsc::Sender<LineEvent>,
    shared: Arc<Shared>,
}

impl Events {
    async fn send(&self, event: LineEvent) {
        // Waits for room: the broker is slowed down, and nothing is lost. Fails only when nobody listens any more.
        let _ = self.control.send(event).await;
    }

    fn send_bulk(&self, event: LineEvent) {
        if self.bulk.try_send(event).is_err() {
            self.shared.dropped_chunks.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Ends a task with whoever waits for it.
struct Bound(AbortHandle);

impl Drop for Bound {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn keep_connected(mut config: MqttConfig, will_of: WillOf, events: Events) {
    let mut failures = 0;
    for connection in 1u64.. {
        if let Some(security) = events.shared.security.lock().unwrap_or_else(PoisonError::into_inner).take() {
            config.security = security;
        }
        let options = config.options(&will_of(connection));
        let began = Instant::now();
        let task = tokio::spawn(connected(options, config.pace, connection, events.clone()));
        let bound = Bound(task.abort_handle());
        let reason = task.await.unwrap_or_else(|_| "the MQTT client failed; this is a fault of the agent".to_owned());
        drop(bound);
        let was_up = events.shared.live().take().is_some();
        if was_up {
            info!(reason, "the connection to the broker is gone");
            events.send(LineEvent::Down { reason }).await;
        } else {
            debug!(reason, "no connection to the broker");
        }
        if events.shared.closing.load(Ordering::Relaxed) {
            return;
        }
        // Only a connection that lasted shows that connecting is of use.
        let lasted = was_up && began.elapsed() > config.pace.backoff_max.min(Duration::from_secs(30));
        failures = if lasted { 0 } else { failures + 1 };
        sleep(backoff(&config.pace, failures)).await;
    }
}

/// Exponential, capped, with full jitter.
fn backoff(pace: &Pace, failures: u32) -> Duration {
    let ceiling = pace.backoff_first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(pace.backoff_max);
    let draw = getrandom::u32().map_or(0.5, |n| f64::from(n) / f64::from(u32::MAX));
    pace.backoff_first / 2 + ceiling.mul_f64(draw).saturating_sub(pace.backoff_first / 2)
}

/// Polls one connection to its end, and says why it ended.
async fn connected(options: MqttOptions, pace: Pace, connection: u64, events: Events) -> String {
    let (client, mut eventloop) = AsyncClient::new(options, REQUESTS_MAX);
    let mut in_flight = HashMap::<u16, (Token, Instant)>::new();
    let mut is_up = false;
    loop {
        let event = match timeout(pace.poll_max, eventloop.poll()).await {
            Ok(Ok(event)) => event,
            Ok(Err(e)) => return sedge_protocol::text::one_line(&crate::error::chain(&e)),
            Err(_) => {
                eventloop.clean();
                return format!("nothing moved for {} s", pace.poll_max.as_secs());
            }
        };
        match event {
            Event::Incoming(Incoming::ConnAck(_)) if is_up => return "the broker accepted twice".to_owned(),
            Event::Incoming(Incoming::ConnAck(ack)) => {
                is_up = true;
                up(&client, &ack, connection, &events).await;
            }
            Event::Incoming(Incoming::Publish(publish)) => incoming(publish, &events).await,
            Event::Outgoing(rumqttc::Outgoing::Publish(id)) if id != 0 => {
                let token = events.shared.live().as_mut().and_then(|live| live.handed.pop_front());
                in_flight.extend(token.map(|token| (id, (token, Instant::now()))));
            }
            Event::Incoming(Incoming::PubAck(ack)) => {
                let Some((token, _)) = in_flight.remove(&ack.pkid) else { continue };
                match ack.reason {
                    PubAckReason::Success | PubAckReason::NoMatchingSubscribers => {
                        events.send(LineEvent::Delivered(token)).await;
                    }
                    reason => {
                        let reason = format!("{reason:?}");
                        events.send(LineEvent::Refused { token, reason }).await;
                        if has_parked(&eventloop) {
                            return "a refused publish left another one waiting".to_owned();
                        }
                    }
                }
            }
            Event::Incoming(Incoming::SubAck(ack)) => {
                let refused = |code: &&SubscribeReasonCode| !matches!(code, SubscribeReasonCode::Success(_));
                if let Some(code) = ack.return_codes.iter().find(refused) {
                    warn!(?code, "the broker refuses a subscription");
                }
            }
            Event::Outgoing(rumqttc::Outgoing::Disconnect) => return "closed".to_owned(),
            _ => {}
        }
        if in_flight.values().any(|(_, since)| since.elapsed() > pace.ack_max) {
            return format!("the broker has not acknowledged a publish for {} s", pace.ack_max.as_secs());
        }
    }
}

fn has_parked(eventloop: &EventLoop) -> bool {
    eventloop.state.collision.is_some()
}

async fn up(client: &AsyncClient, ack: &ConnAck, connection: u64, events: &Events) {
    let properties = ack.properties.as_ref();
    let packet_bytes_max = properties
        .and_then(|p| p.max_packet_size)
        .and_then(|n| usize::try_from(n).ok())
        .map_or(PACKET_BYTES_MAX, |n| n.min(PACKET_BYTES_MAX));
    let receive_max = properties.and_then(|p| p.receive_max).unwrap_or(IN_FLIGHT_MAX);
    let in_flight_max = receive_max.clamp(1, IN_FLIGHT_MAX).into();
    *events.shared.live() = Some(Live { client: client.clone(), packet_bytes_max, handed: VecDeque::new() });
    let session_present = ack.session_present;
    info!(connection, session_present, "connected to the broker");
    events.send(LineEvent::Up { connection, session_present, packet_bytes_max, in_flight_max }).await;
}

async fn incoming(publish: Publish, events: &Events) {
    let topic = std::str::from_utf8(&publish.topic).ok().and_then(|t| t.parse::<Topic>().ok());
    let Some(topic) = topic else {
        events.shared.ignored.fetch_add(1, Ordering::Relaxed);
        return debug!(bytes = publish.payload.len(), "a message on a topic that is none of ours is ignored");
    };
    let bulk = matches!(topic, Topic::Device(_, DeviceTopic::Chunk) | Topic::Bundle(_, BundleTopic::Chunks(_)));
    let event = LineEvent::Incoming { topic, payload: Bytes::into(publish.payload) };
    if bulk { events.send_bulk(event) } else { events.send(event).await }
}

#[cfg(test)]
mod tests;
