//! Publishing what waits, one message after the other: the only place that waits for the client to take a message.

use super::Parts;
use super::carousel::Turn;
use super::mqtt::Link;
use super::outbox::{Next, Ready};
use super::session::Input;
use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use sedge_protocol::Sha256Digest;
use sedge_protocol::cbor::Bytes;
use sedge_protocol::id::Principal;
use sedge_protocol::limits::PACKET_OVERHEAD_BYTES_MAX;
use sedge_protocol::message::{CONTENT_TYPE_CBOR, CONTENT_TYPE_JSON, Chunk, Message, MessageError, V1};
use sedge_protocol::topic::{DeviceTopic, Topic};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Milliseconds that only grow, for pacing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticks(Instant);

impl Ticks {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now_ms(self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

pub(crate) fn encode<M: Message>(message: &M, json: bool) -> Result<Vec<u8>, MessageError> {
    if json { message.to_json().map(String::into_bytes) } else { message.to_cbor() }
}

/// Publishes until the client ends.
pub(crate) async fn run(parts: Arc<Parts>, client: AsyncClient, mut link: watch::Receiver<Option<Link>>) {
    loop {
        // While there is no broker, what waits stays where it can still be replaced by something newer.
        let Ok(Some(up)) = link.wait_for(Option::is_some).await.map(|up| *up) else { return };
        let sender = Sender { parts: &parts, client: &client, packet_bytes_max: up.packet_bytes_max };
        let next = parts.outbox.next(parts.ticks.now_ms());
        let open = match next {
            Next::Wait(until) => {
                let pause = until.map_or(1000, |until| until.saturating_sub(parts.ticks.now_ms())).clamp(1, 1000);
                tokio::select! {
                    () = parts.outbox.news() => {}
                    () = tokio::time::sleep(Duration::from_millis(pause)) => {}
                }
                true
            }
            next => sender.send(next).await,
        };
        if !open {
            tracing::error!("the broker's client has ended");
            return;
        }
    }
}

struct Sender<'a> {
    parts: &'a Parts,
    client: &'a AsyncClient,
    packet_bytes_max: usize,
}

impl Sender<'_> {
    /// Whether the client still takes messages.
    async fn send(&self, next: Next) -> bool {
        match next {
            Next::Ready(ready) => self.publish(ready, QoS::AtLeastOnce, false).await,
            Next::Desired(device) => self.desired(&device).await,
            Next::Segment(device, segment) => {
                // Documents and chunks are bytes: base64 would only make them too long for a packet.
                let topic = Topic::Device(device, DeviceTopic::Metadata);
                self.encoded(topic, &segment, QoS::AtLeastOnce).await
            }
            Next::Chunk(Turn::Send { device, bundle, index, entry }) => {
                let data = match self.parts.artifacts.chunk(&entry).await {
                    Ok(data) => Bytes(data),
                    Err(e) => {
                        tracing::error!(%device, %bundle, index, "{e}");
                        return true;
                    }
                };
                let chunk = Chunk { v: V1, bundle, index, encoding: entry.encoding(), key_id: None, data };
                self.encoded(Topic::Device(device, DeviceTopic::Chunk), &chunk, QoS::AtMostOnce).await
            }
            Next::Chunk(Turn::Wait(_)) | Next::Wait(_) => true,
        }
    }

    async fn encoded<M: Message>(&self, topic: Topic, message: &M, qos: QoS) -> bool {
        match message.to_cbor() {
            Ok(payload) => self.publish(Ready { topic, payload, json: false }, qos, false).await,
            Err(e) => {
                tracing::error!(%topic, "a message cannot be written: {e}");
                true
            }
        }
    }

    async fn desired(&self, device: &Principal) -> bool {
        let desired = match self.parts.desired(device).await {
            Ok(Some(desired)) => desired,
            Ok(None) => return true,
            Err(e) => {
                tracing::error!(%device, "its desired state is not published: {e}");
                return true;
            }
        };
        let json = self.parts.session().speaks_json(device);
        let payload = match encode(&desired, json) {
            Ok(payload) => payload,
            Err(e) => {
                tracing::error!(%device, generation = %desired.generation, "its desired state is not published: {e}");
                return true;
            }
        };
        let hash = Sha256Digest::of(&payload);
        if self.parts.session().has_published(device, hash) {
            return true;
        }
        tracing::info!(%device, generation = %desired.generation, "desired state published");
        let topic = Topic::Device(device.clone(), DeviceTopic::Desired);
        // Before it is handed over: if the session is lost meanwhile, that counts.
        self.parts.session().handle(Input::DesiredPublished(device.clone(), hash));
        self.publish(Ready { topic, payload, json }, QoS::AtLeastOnce, true).await
    }

    async fn publish(&self, Ready { topic, payload, json }: Ready, qos: QoS, retain: bool) -> bool {
        let bytes = payload.len() + PACKET_OVERHEAD_BYTES_MAX;
        if bytes > self.packet_bytes_max {
            // Handed over, it would end this connection and every later one of the session.
            let max = self.packet_bytes_max;
            tracing::error!(%topic, bytes, max, "a message is not sent: the broker takes no packet that long");
            return true;
        }
        let properties = PublishProperties {
            payload_format_indicator: Some(json.into()),
            content_type: Some(if json { CONTENT_TYPE_JSON } else { CONTENT_TYPE_CBOR }.to_owned()),
            ..PublishProperties::default()
        };
        self.client.publish_with_properties(topic.to_string(), qos, retain, payload, properties).await.is_ok()
    }
}
