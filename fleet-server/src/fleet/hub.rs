//! Doing what the session says: store, acknowledge, answer, serve. It never waits for the broker.

use super::Parts;
use super::director::DirectorError;
use super::mqtt::{Arrived, Connection, subscribe};
use super::news::News;
use super::outbox::Ready;
use super::sender::encode;
use super::session::{Acknowledged, Effect, Input, Record};
use super::store::{StoreError, now, now_ms};
use sedge_protocol::BundleDigest;
use sedge_protocol::id::{Principal, ProjectId, RequestId, StreamName};
use sedge_protocol::message::{
    Ack, ChunkIndex, Document, ErrorCode, Failure, Message, MetadataRequest, Reply, Repository, Telemetry, V1, Want,
    segments,
};
use sedge_protocol::topic::{DeviceTopic, Topic, server_filters};
use sedge_protocol::tuf::Role;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Messages that are stored in one transaction.
const BATCH_MAX: usize = 256;
/// Events that one acknowledgement names.
const ACK_EVENTS_MAX: usize = 200;
/// Chunk indices that are kept at hand; one has at most some 2 MiB.
const INDICES_MAX: usize = 16;
/// Devices whose signatures are renewed in one go, so that messages do not wait for long.
const RENEWED_MAX: u32 = 64;
/// How long signing rests after it has failed; the log would be full of it.
const RENEW_PAUSE_MS: u64 = 60_000;
/// How often roots, which live for years, are looked at.
const ROOTS_MS: u64 = 3_600_000;
/// When a device that was turned away is to ask again.
const RETRY_S: u32 = 5;

/// What the rest of the server tells the hub.
#[derive(Debug)]
pub(crate) enum Control {
    DesiredChanged(Principal),
    /// Publisher metadata are complete anew: the desired states of the project point to them.
    PublisherChanged(ProjectId),
    /// A message for a device.
    Send(Box<Ready>),
}

/// A measurement of a device, as it arrived.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Measurement {
    pub device: Principal,
    pub stream: StreamName,
    pub telemetry: Telemetry,
}

type Indices = HashMap<(ProjectId, BundleDigest), Arc<ChunkIndex>>;

pub(crate) struct Hub {
    parts: Arc<Parts>,
    indices: Indices,
    filters: Vec<String>,
    /// When signatures and roots are looked at again.
    renew_ms: u64,
    roots_ms: u64,
}

fn is_telemetry(filter: &str) -> bool {
    filter.contains("/t/")
}

impl Hub {
    pub(crate) fn new(parts: Arc<Parts>) -> Self {
        let filters = server_filters().into_iter().filter(|filter| !is_telemetry(filter)).collect();
        Self { parts, indices: HashMap::new(), filters, renew_ms: 0, roots_ms: ROOTS_MS }
    }

    /// Until the connection ends.
    pub(crate) async fn run(mut self, mut connection: Connection, mut control: mpsc::Receiver<Control>) {
        let mut clock = tokio::time::interval(Duration::from_secs(1));
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            tokio::select! {
                count = connection.arrived.recv_many(&mut batch, BATCH_MAX) => {
                    if count == 0 {
                        return;
                    }
                    let arrived = std::mem::take(&mut batch);
                    self.arrived(&connection, arrived).await;
                }
                Some(control) = control.recv() => self.controlled(control).await,
                _ = clock.tick() => self.tick().await,
            }
        }
    }

    async fn arrived(&mut self, connection: &Connection, arrived: Vec<Arrived>) {
        let (mut records, mut effects) = (Vec::new(), Vec::new());
        {
            let mut session = self.parts.session();
            for arrived in &arrived {
                let input = match arrived {
                    Arrived::Connected { session_present } => Input::Connected { session_present: *session_present },
                    Arrived::Message { topic, payload, json } => Input::Message { topic, payload, json: *json },
                };
                for effect in session.handle(input) {
                    match effect {
                        Effect::Store(record) => records.push(record),
                        effect => effects.push(effect),
                    }
                }
            }
        }
        self.store(records).await;
        for effect in effects {
            if effect == Effect::Subscribe {
                // In a task of its own, as everything that waits for the client.
                let (client, filters) = (connection.client.clone(), self.filters.clone());
                tokio::spawn(async move { subscribe(&client, &filters).await });
            } else if let Err(e) = self.perform(effect).await {
                tracing::error!("a device is not answered: {e}");
            }
        }
    }

    /// Acknowledges only what is committed; what is not comes again.
    async fn store(&self, records: Vec<Record>) {
        if records.is_empty() {
            return;
        }
        if let Err(e) = self.parts.records.store(&records, now_ms()).await {
            tracing::error!(count = records.len(), "what devices said is not stored, and they will repeat it: {e}");
            return;
        }
        let mut acks: BTreeMap<(Principal, bool), Vec<Ack>> = BTreeMap::new();
        for record in records {
            self.parts.tell_news(News::Said(record.clone()));
            let Some(acknowledged) = record.acknowledged() else { continue };
            let acks = acks.entry((record.device, record.json)).or_default();
            if acks.last().is_none_or(|ack| ack.events.len() >= ACK_EVENTS_MAX) {
                acks.push(Ack::default());
            }
            let Some(ack) = acks.last_mut() else { continue };
            match acknowledged {
                Acknowledged::Event(id) => ack.events.push(id),
                Acknowledged::Reported(seq) => ack.reported_seq = ack.reported_seq.max(Some(seq)),
            }
        }
        for ((device, json), acks) in acks {
            for ack in acks {
                self.urgent(device.clone(), DeviceTopic::Ack, &ack, json);
            }
        }
    }

    fn urgent<M: Message>(&self, device: Principal, topic: DeviceTopic, message: &M, json: bool) {
        let topic = Topic::Device(device, topic);
        match encode(message, json) {
            Ok(payload) => {
                if !self.parts.outbox.urgent(Ready { topic: topic.clone(), payload, json }) {
                    tracing::warn!(%topic, "too much waits to be sent; the device will ask again");
                }
            }
            Err(e) => tracing::error!(%topic, "a message cannot be written: {e}"),
        }
    }

    async fn perform(&mut self, effect: Effect) -> Result<(), StoreError> {
        match effect {
            Effect::PublishAll => {
                let devices = self.parts.director.all(None).await?;
                tracing::info!(count = devices.len(), "publishing every desired state");
                devices.into_iter().for_each(|device| self.parts.outbox.desired(device));
            }
            Effect::PublishDesired(device) => self.parts.outbox.desired(device),
            Effect::Answer(device, request) => self.answer(device, &request).await?,
            Effect::Serve(device, want) => self.serve(&device, &want).await?,
            Effect::Forget(device) => self.parts.outbox.carousel(|carousel| carousel.forget(&device)),
            Effect::Measured(device, stream, telemetry) => self.parts.measured(device, stream, telemetry),
            Effect::Refused { topic, problem } => tracing::warn!(topic, "a message is ignored: {problem}"),
            Effect::Subscribe | Effect::Store(_) => {}
        }
        Ok(())
    }

    async fn answer(&self, device: Principal, request: &MetadataRequest) -> Result<(), StoreError> {
        let parts = &self.parts;
        let document = match &request.document {
            Document::Metadata { repository, role, version } => {
                let role = Role::named(role.as_str());
                match repository {
                    Repository::Publisher => parts.publisher.file(&device.project, &role, *version).await?,
                    Repository::Director => parts.director.file(&device, &role, *version).await?,
                }
            }
            Document::ChunkIndex { bundle } => parts.artifacts.index(&device.project, *bundle).await?,
        };
        let Some(document) = document else {
            let detail = "the server does not have this document";
            self.refuse(device, &request.request, ErrorCode::NotFound, detail, None);
            return Ok(());
        };
        let segment_bytes = usize::try_from(request.segment_bytes_max).unwrap_or(usize::MAX);
        match segments(&request.request, &request.document, &document, segment_bytes) {
            Ok(mut segments) => {
                segments.retain(|segment| segment.index >= request.first_index);
                if !parts.outbox.document(&device, segments) {
                    let detail = "too many documents are being sent";
                    self.refuse(device, &request.request, ErrorCode::Busy, detail, Some(RETRY_S));
                }
            }
            Err(e) => self.refuse(device, &request.request, ErrorCode::RequestInvalid, &e.to_string(), None),
        }
        Ok(())
    }

    fn refuse(
        &self,
        device: Principal,
        request: &RequestId,
        code: ErrorCode,
        detail: &str,
        retry_after_s: Option<u32>,
    ) {
        tracing::warn!(%device, %request, "a request is refused: {detail}");
        let reply = Reply { v: V1, request: request.clone(), error: Failure::new(code, detail), retry_after_s };
        let json = self.parts.session().speaks_json(&device);
        self.urgent(device, DeviceTopic::Reply, &reply, json);
    }

    async fn serve(&mut self, device: &Principal, want: &Want) -> Result<(), StoreError> {
        let Some(index) = self.index(&device.project, want.bundle).await? else {
            tracing::warn!(%device, bundle = %want.bundle, "it wants a bundle that its project does not have");
            return Ok(());
        };
        let now_ms = self.parts.ticks.now_ms();
        if let Err(e) = self.parts.outbox.carousel(|carousel| carousel.handle(device, want, &index, now_ms)) {
            tracing::warn!(%device, "it is not served: {e}");
        }
        Ok(())
    }

    async fn index(
        &mut self,
        project: &ProjectId,
        bundle: BundleDigest,
    ) -> Result<Option<Arc<ChunkIndex>>, StoreError> {
        let key = (project.clone(), bundle);
        if let Some(index) = self.indices.get(&key) {
            return Ok(Some(Arc::clone(index)));
        }
        let Some(bytes) = self.parts.artifacts.index(project, bundle).await? else { return Ok(None) };
        let index = ChunkIndex::from_cbor(&bytes).map_err(|e| StoreError::foreign("read a chunk index", e))?;
        let index = Arc::new(index);
        if self.indices.len() >= INDICES_MAX {
            // Those in use stay with whoever uses them.
            self.indices.retain(|_, index| Arc::strong_count(index) > 1);
        }
        if self.indices.len() < 4 * INDICES_MAX {
            self.indices.insert(key, Arc::clone(&index));
        }
        Ok(Some(index))
    }

    async fn controlled(&mut self, control: Control) {
        match control {
            Control::DesiredChanged(device) => self.parts.outbox.desired(device),
            Control::PublisherChanged(project) => match self.parts.director.all(Some(&project)).await {
                Ok(devices) => devices.into_iter().for_each(|device| self.parts.outbox.desired(device)),
                Err(e) => tracing::error!(%project, "its devices are not told of new publisher metadata: {e}"),
            },
            Control::Send(ready) => {
                if !self.parts.outbox.urgent(*ready) {
                    tracing::warn!("too much waits to be sent; a command is dropped");
                }
            }
        }
    }

    async fn tick(&mut self) {
        let now_ms = self.parts.ticks.now_ms();
        self.parts.outbox.carousel(|carousel| carousel.sweep(now_ms));
        if now_ms < self.renew_ms {
            return;
        }
        if let Err(e) = self.renew(now_ms).await {
            tracing::error!(pause_ms = RENEW_PAUSE_MS, "signatures are not renewed: {e}");
            self.renew_ms = now_ms.saturating_add(RENEW_PAUSE_MS);
        }
    }

    async fn renew(&mut self, now_ms: u64) -> Result<(), DirectorError> {
        let director = &self.parts.director;
        for device in director.due(now(), RENEWED_MAX).await? {
            if director.renew(&device, now()).await? {
                self.parts.outbox.desired(device);
            }
        }
        if now_ms >= self.roots_ms {
            self.roots_ms = now_ms.saturating_add(ROOTS_MS);
            for project in self.parts.publisher.projects().await? {
                director.renew_root(&project, now()).await?;
            }
        }
        Ok(())
    }
}

/// Reads telemetry, which has a connection of its own so that a flood of it delays nothing else.
pub(crate) async fn run_telemetry(parts: Arc<Parts>, mut connection: Connection) {
    let filters: Vec<_> = server_filters().into_iter().filter(|filter| is_telemetry(filter)).collect();
    while let Some(arrived) = connection.arrived.recv().await {
        match arrived {
            Arrived::Connected { .. } => {
                let (client, filters) = (connection.client.clone(), filters.clone());
                tokio::spawn(async move { subscribe(&client, &filters).await });
            }
            Arrived::Message { topic, payload, json } => {
                let effects = parts.session().handle(Input::Message { topic: &topic, payload: &payload, json });
                for effect in effects {
                    match effect {
                        Effect::Measured(device, stream, telemetry) => parts.measured(device, stream, telemetry),
                        Effect::Refused { topic, problem } => tracing::warn!(topic, "telemetry is ignored: {problem}"),
                        _ => {}
                    }
                }
            }
        }
    }
}
