//! A device driven by hand: it does what an agent does with the messages of the protocol, one step at a time.

use crate::fleet::mqtt::MqttEndpoint;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event as MqttEvent, MqttOptions};
use sedge_protocol::BundleDigest;
use sedge_protocol::Version;
use sedge_protocol::id::{Generation, Principal};
use sedge_protocol::message::{
    Assembly, Birth, Capabilities, Chunk, ChunkEncoding, ChunkIndex, ComponentKind, ComponentReport, DeploymentState,
    Desired, Document, Message, MetadataRequest, MetadataSegment, Reported, Repository, Role, Status, V1, Want,
};
use sedge_protocol::time::UnixSeconds;
use sedge_protocol::topic::{DeviceTopic, Topic, device_filter};
use sedge_protocol::tuf::TrustedSet;
use sedge_protocol::uptane::{self, Authorized};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(40);

pub(crate) struct Simulated {
    pub(crate) name: Principal,
    pub(crate) client: AsyncClient,
    arrived: mpsc::UnboundedReceiver<(DeviceTopic, Vec<u8>)>,
    task: tokio::task::JoinHandle<()>,
    requests: u32,
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Simulated {
    pub(crate) async fn connect(name: &Principal, port: u16) -> Self {
        let _tests_alone = MqttEndpoint::loopback(port);
        let mut options = MqttOptions::new(name.to_string(), "127.0.0.1", port);
        options.set_clean_start(true).set_max_packet_size(Some(122_880)).set_keep_alive(Duration::from_secs(10));
        let (client, mut events) = AsyncClient::new(options, 64);
        let (sender, arrived) = mpsc::unbounded_channel();
        let (again, filter) = (client.clone(), device_filter(name));
        let task = tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(MqttEvent::Incoming(Packet::ConnAck(_))) => {
                        again.try_subscribe(filter.clone(), QoS::AtLeastOnce).expect("room");
                    }
                    Ok(MqttEvent::Incoming(Packet::Publish(publish))) => {
                        let topic = String::from_utf8(publish.topic.to_vec()).expect("a topic");
                        let Ok(Topic::Device(_, topic)) = topic.parse() else { panic!("{topic}") };
                        if sender.send((topic, publish.payload.to_vec())).is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
        Self { name: name.clone(), client, arrived, task, requests: 0 }
    }

    pub(crate) async fn say<M: Message>(&self, topic: DeviceTopic, message: &M) {
        let retain = topic == DeviceTopic::Status;
        let topic = Topic::Device(self.name.clone(), topic).to_string();
        let payload = message.to_cbor().expect("valid");
        self.client.publish(topic, QoS::AtLeastOnce, retain, payload).await.expect("taken");
    }

    /// The next message on this topic; others are passed over.
    pub(crate) async fn hear<M: Message>(&mut self, topic: &DeviceTopic) -> M {
        self.hear_within(topic, PATIENCE).await.unwrap_or_else(|| panic!("nothing on {topic}"))
    }

    /// Whatever comes next; none once the connection is given up.
    pub(crate) async fn next(&mut self) -> Option<(DeviceTopic, Vec<u8>)> {
        self.arrived.recv().await
    }

    pub(crate) async fn hear_within<M: Message>(&mut self, topic: &DeviceTopic, time: Duration) -> Option<M> {
        let hearing = async {
            loop {
                let (on, payload) = self.arrived.recv().await.expect("connected");
                if on == *topic {
                    return M::from_cbor(&payload).expect("a message");
                }
            }
        };
        tokio::time::timeout(time, hearing).await.ok()
    }

    pub(crate) async fn birth(&self, boot: &str, seq: u64) {
        let capabilities =
            Capabilities { protocol_version: 1, journal_version: 1, worker_version: 1, features: Vec::new() };
        let birth = Birth {
            v: V1,
            ts_ms: 1,
            clock_synced: true,
            boot: boot.parse().expect("a name"),
            seq,
            agent_version: Version::new(0, 1, 0),
            target: "x86_64-unknown-linux-gnu".to_owned(),
            capabilities,
        };
        self.say(DeviceTopic::Status, &Status::Online(birth)).await;
    }

    /// Asks for a document in small segments.
    pub(crate) async fn fetch(&mut self, document: Document) -> Vec<u8> {
        self.requests += 1;
        let request = format!("q{}", self.requests).parse().expect("a name");
        let request = MetadataRequest { v: V1, request, document, segment_bytes_max: 16_384, first_index: 0 };
        self.say(DeviceTopic::Request, &request).await;
        let mut assembly: Option<Assembly> = None;
        loop {
            let segment: MetadataSegment = self.hear(&DeviceTopic::Metadata).await;
            if segment.request != request.request {
                continue;
            }
            let assembly = assembly.get_or_insert_with(|| Assembly::new(&segment));
            if let Some(whole) = assembly.add(segment).expect("of one document") {
                return whole;
            }
        }
    }

    async fn metadata(&mut self, repository: Repository, role: Role, version: Option<u64>) -> Vec<u8> {
        self.fetch(Document::Metadata { repository, role, version }).await
    }

    /// What it may run, in the order of the specification, from the first roots on.
    pub(crate) async fn authorize(
        &mut self,
        publisher_root: &[u8],
        director_root: &[u8],
        desired: &Desired,
        now: UnixSeconds,
    ) -> Authorized {
        let mut director = TrustedSet::new(director_root).expect("a root");
        director.finish_root(now).expect("in date");
        director.update_timestamp(&desired.director.timestamp).expect("signed");
        director.update_snapshot(&desired.director.snapshot).expect("signed");
        director.update_targets(&desired.director.targets).expect("signed");
        let mut publisher = TrustedSet::new(publisher_root).expect("a root");
        for version in 2..=desired.publisher.root_version {
            let root = self.metadata(Repository::Publisher, Role::Root, Some(version)).await;
            publisher.update_root(&root).expect("signed");
        }
        publisher.finish_root(now).expect("in date");
        let timestamp = self.metadata(Repository::Publisher, Role::Timestamp, None).await;
        publisher.update_timestamp(&timestamp).expect("signed");
        let request = publisher.next_snapshot().expect("a timestamp").expect("news");
        let snapshot = self.metadata(Repository::Publisher, Role::Snapshot, request.version).await;
        publisher.update_snapshot(&snapshot).expect("signed");
        let request = publisher.next_targets().expect("a snapshot").expect("news");
        let targets = self.metadata(Repository::Publisher, Role::Targets, request.version).await;
        publisher.update_targets(&targets).expect("signed");
        let authorized = uptane::authorize(&publisher, &director, &self.name, now).expect("both agree");
        assert_eq!(authorized.generation, desired.generation);
        authorized
    }

    pub(crate) async fn index(&mut self, bundle: BundleDigest) -> ChunkIndex {
        let index = self.fetch(Document::ChunkIndex { bundle }).await;
        ChunkIndex::from_cbor(&index).expect("an index")
    }

    pub(crate) async fn want(&self, index: &ChunkIndex, got: &BTreeMap<u32, Vec<u8>>, credit: u16, rate: Option<u64>) {
        let mut want = Want::new(index.bundle, index.count(), credit, |i| !got.contains_key(&i));
        want.bytes_per_s_max = rate;
        self.say(DeviceTopic::Want, &want).await;
    }

    /// Fetches until it has so many chunks. How many arrived that it had already.
    pub(crate) async fn download(
        &mut self,
        index: &ChunkIndex,
        got: &mut BTreeMap<u32, Vec<u8>>,
        until: usize,
    ) -> usize {
        let (mut repeated, mut credit) = (0, 0u16);
        while got.len() < until {
            if credit == 0 {
                self.want(index, got, 16, Some(4 << 20)).await;
                credit = 16;
            }
            let Some(chunk) = self.hear_within::<Chunk>(&DeviceTopic::Chunk, Duration::from_secs(4)).await else {
                credit = 0;
                continue;
            };
            credit -= 1;
            chunk.check_index(index).expect("as the index says");
            let entry = index.chunk(chunk.index).expect("a chunk");
            let content = match chunk.encoding {
                ChunkEncoding::None => chunk.data.0,
                ChunkEncoding::Zstd => zstd::bulk::decompress(&chunk.data, entry.length_bytes as usize).expect("zstd"),
            };
            assert_eq!(sedge_protocol::Sha256Digest::of(&content), entry.sha256);
            repeated += usize::from(got.insert(chunk.index, content).is_some());
        }
        repeated
    }

    pub(crate) fn report(&self, generation: Generation, seq: u64) -> Reported {
        let component = ComponentReport {
            kind: ComponentKind::Model,
            state: DeploymentState::Downloading,
            attempt: 1,
            running: None,
            rollback: None,
            target: None,
            waiting_for: None,
            deadline_ts_ms: None,
            progress: None,
            error: None,
        };
        Reported {
            v: V1,
            ts_ms: 1,
            boot: "b1".parse().expect("a name"),
            seq,
            generation,
            hash: None,
            components: BTreeMap::from([("model".parse().expect("a name"), component)]),
        }
    }
}
