//! A server without its edge, and twelve devices.

use crate::field::Field;
use crate::fleet::mqtt::MqttEndpoint;
use crate::fleet::store::now;
use crate::fleet::testing::{Packed, acme, device, noise, packed, publish, repository};
use crate::fleet::tests::broker::Mosquitto;
use crate::fleet::tests::simulated::Simulated;
use crate::fleet::{Desire, Fleet, FleetContext, FleetLimits};
use crate::rollout::{Event, RolloutSpec, Summary};
use crate::rollouts::{Clock, Executor, RolloutError};
use crate::store::Store;
use sedge_protocol::id::{BootId, ComponentName, Generation, Principal, RolloutId};
use sedge_protocol::message::{
    Action, BundleHealth, Command, ComponentHealth, DeploymentState, ErrorCode, Failure, Health, Message as _,
    Telemetry, V1, Verdict, WaitReason,
};
use sedge_protocol::topic::DeviceTopic;
use sedge_protocol::{BundleDigest, Version};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

pub(super) const DEVICES: usize = 12;
const PATIENCE: Duration = Duration::from_secs(60);

/// What a device does with an assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Obeys,
    /// It hears and says nothing.
    Silent,
    Rejects,
}

pub(super) struct World {
    pub(super) fleet: Arc<Fleet>,
    pub(super) field: Arc<Field>,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) executor: Arc<Executor>,
    pub(super) good: Packed,
    pub(super) better: Packed,
    pub(super) bad: Packed,
    devices: Vec<JoinHandle<()>>,
    _broker: Mosquitto,
    _directory: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.devices.iter().for_each(JoinHandle::abort);
    }
}

pub(super) fn model() -> ComponentName {
    "model".parse().expect("a name")
}

pub(super) fn cam(number: usize) -> Principal {
    device(&format!("cam-{number:02}"))
}

fn desire(bundle: &Packed) -> Desire {
    Desire {
        bundle: "digits".parse().expect("a name"),
        digest: bundle.digest,
        settings: serde_json::Map::new(),
        rollout: None,
        not_after: None,
        expected_generation: None,
    }
}

impl World {
    /// All devices run the good version and say so. `None` without a broker.
    pub(super) async fn start(manner: impl Fn(usize) -> Manner) -> Option<Self> {
        let broker = Mosquitto::start().await?;
        let directory = tempfile::tempdir().expect("a directory");
        let path: PathBuf = directory.path().into();
        let store = Store::open(&path.join("sedge.db")).await.expect("a database");
        let context = FleetContext {
            pool: store.pool().clone(),
            data_directory: path,
            broker: MqttEndpoint::loopback(broker.port),
            limits: FleetLimits::default(),
        };
        let fleet = Arc::new(Fleet::start(context).await.expect("a fleet"));
        let field = Arc::new(Field::start(store.pool().clone(), fleet.telemetry()).await.expect("a field"));
        let bundles: Vec<Packed> =
            (0..3).map(|n| packed("digits", &format!("1.{n}.0"), &[("m", noise(n, 1000))])).collect();
        let mut repository = repository(now());
        fleet.create_project(&acme(), repository.first_root().expect("signed")).await.expect("a project");
        for (minor, bundle) in (0..).zip(&bundles) {
            bundle.released(&mut repository, "digits", Version::new(1, minor, 0));
        }
        publish(&mut repository, now());
        for (name, file) in repository.uploads(1).expect("published") {
            fleet.import(&acme(), &name, file).await.expect("accepted");
        }
        for bundle in &bundles {
            fleet.add_bundle(&acme(), bundle.file()).await.expect("accepted");
        }
        let [good, better, bad] = bundles.try_into().unwrap_or_else(|_| panic!("three"));
        let insert = "INSERT INTO project (name, created_at) VALUES ('acme', 1)";
        sqlx::query(insert).execute(store.pool()).await.expect("a project");
        let mut devices = Vec::new();
        let mut field_changes = field.changes();
        for number in 0..DEVICES {
            let name = cam(number);
            let insert = "INSERT INTO device (project, id, enrolled_at, serial, not_after) VALUES ('acme', ?, 1, ?, 9)";
            let serial = format!("{number:02x}");
            sqlx::query(insert).bind(name.device.as_str()).bind(serial).execute(store.pool()).await.expect("a device");
            fleet.desire(&name, &model(), &desire(&good), "ada").await.expect("assigned");
            let fake = Fake {
                simulated: Simulated::connect(&name, broker.port).await,
                fleet: Arc::clone(&fleet),
                manner: manner(number),
                bad: bad.digest,
                good: good.digest,
                committed: Some(good.digest),
                held: None,
                seq: 0,
                samples: BTreeMap::new(),
            };
            devices.push(tokio::spawn(fake.run()));
        }
        let mut heard = std::collections::BTreeSet::new();
        while heard.len() < DEVICES {
            let change = tokio::time::timeout(PATIENCE, field_changes.recv()).await.expect("in time");
            heard.insert(change.expect("not too slow").device);
        }
        for number in 0..DEVICES {
            // The status was said before the heartbeat, on another connection of the server.
            while fleet.records().presence(&cam(number)).await.expect("readable").is_none() {
                tokio::task::yield_now().await;
            }
        }
        let clock = Clock::default();
        let executor = executor(&store, &fleet, &field, &clock).await;
        Some(Self {
            fleet,
            field,
            store,
            clock,
            executor,
            good,
            better,
            bad,
            devices,
            _broker: broker,
            _directory: directory,
        })
    }

    /// Three waves of 2, 4 and 6; `more` is laid over it.
    pub(super) fn spec(&self, bundle: &Packed, more: Value) -> RolloutSpec {
        let mut spec = json!({
            "project": "acme", "component": "model", "bundle": "digits", "digest": bundle.digest,
            "settings": {"deployment": {"probation_s": 1}},
            "waves": [
                {"name": "canary", "size": 2, "soak_s": 1, "deadline_s": 60},
                {"name": "early", "size": 4, "soak_s": 1, "deadline_s": 60},
            ],
            "criteria": [{"metric": "accuracy", "limit_permille": 800, "samples_min": 60}],
        });
        for (key, value) in more.as_object().expect("an object") {
            spec[key] = value.clone();
        }
        RolloutSpec::from_json(spec.to_string().as_bytes()).expect("a declaration")
    }

    pub(super) async fn begin(&self, bundle: &Packed, more: Value) -> RolloutId {
        self.executor.create(&acme(), self.spec(bundle, more), None, "ada").await.expect("begun")
    }

    pub(super) async fn command(&self, id: &RolloutId, event: Event) -> Result<(), RolloutError> {
        self.executor.command(&acme(), id, event).await
    }

    /// Waits until a rollout looks so, and that is stored.
    pub(super) async fn until(&self, id: &RolloutId, wanted: impl Fn(&Summary) -> bool) -> Summary {
        let mut changes = self.executor.changes();
        let waiting = async {
            loop {
                changes.mark_unchanged();
                let shown = self.executor.show(&acme(), id).await.expect("there");
                // Stored, and not only decided.
                if wanted(&shown.summary) && shown.head.state == shown.summary.state {
                    return shown.summary;
                }
                changes.changed().await.expect("an executor");
            }
        };
        let Ok(summary) = tokio::time::timeout(PATIENCE, waiting).await else {
            let summary = self.executor.summary(&acme(), id).await.expect("there");
            let said = self.executor.timeline(&acme(), id, 20).await.expect("there");
            panic!("it does not come to that: {summary:#?}\n{said:#?}");
        };
        summary
    }

    pub(super) async fn until_state(&self, id: &RolloutId, state: &str) -> Summary {
        self.until(id, |summary| summary.state == state).await
    }

    /// As if the server had been killed and started again.
    pub(super) async fn restart(&mut self) {
        self.executor.killed().await;
        self.executor = executor(&self.store, &self.fleet, &self.field, &self.clock).await;
    }

    /// What each device is to run: generation and bundle.
    pub(super) async fn desired(&self, number: usize) -> (u64, Option<BundleDigest>) {
        let (generation, assignments) = self.fleet.assigned(&cam(number)).await.expect("readable").expect("something");
        (generation.0, assignments.get(&model()).map(|assigned| assigned.digest))
    }

    pub(super) async fn said(&self, id: &RolloutId) -> Vec<String> {
        let mut entries = self.executor.timeline(&acme(), id, 1000).await.expect("there");
        entries.reverse();
        entries.into_iter().map(|entry| entry.text).collect()
    }
}

async fn executor(store: &Store, fleet: &Arc<Fleet>, field: &Arc<Field>, clock: &Clock) -> Arc<Executor> {
    let edge = Arc::new(store.clone());
    let started =
        Executor::start(store.pool().clone(), edge, Arc::clone(fleet), Arc::clone(field), clock.clone()).await;
    Arc::new(started.expect("up"))
}

/// A device. It holds what it is given until the verdict.
struct Fake {
    simulated: Simulated,
    fleet: Arc<Fleet>,
    manner: Manner,
    good: BundleDigest,
    bad: BundleDigest,
    committed: Option<BundleDigest>,
    held: Option<(Generation, BundleDigest)>,
    seq: u64,
    samples: BTreeMap<BundleDigest, u64>,
}

impl Fake {
    async fn run(mut self) {
        self.simulated.birth("b1", 1).await;
        self.beat().await;
        while let Some((topic, payload)) = self.simulated.next().await {
            match topic {
                DeviceTopic::Desired => self.desired().await,
                DeviceTopic::Command => {
                    let command = Command::from_cbor(&payload).expect("a command");
                    if let Action::Verdict { generation, verdict, .. } = command.action {
                        self.verdict(generation, verdict).await;
                    }
                }
                _ => {}
            }
        }
    }

    async fn report(&mut self, generation: Generation, state: DeploymentState, error: Option<ErrorCode>) {
        self.seq += 1;
        let mut report = self.simulated.report(generation, self.seq);
        let running = self.running();
        let component = report.components.get_mut(&model()).expect("there");
        component.state = state;
        component.running = running.map(|digest| digest.0);
        component.waiting_for = (state == DeploymentState::Probation).then_some(WaitReason::Verdict);
        component.error = error.map(|code| Failure::new(code, "as the test says"));
        if running.is_none() {
            report.components.clear();
        }
        self.simulated.say(DeviceTopic::Reported, &report).await;
    }

    fn running(&self) -> Option<BundleDigest> {
        self.held.map(|(_, digest)| digest).or(self.committed)
    }

    async fn desired(&mut self) {
        let Some((generation, assignments)) = self.fleet.assigned(&self.simulated.name).await.expect("readable") else {
            return;
        };
        let wanted = assignments.get(&model()).map(|assigned| assigned.digest);
        if self.manner == Manner::Silent && wanted != Some(self.good) {
            return;
        }
        match wanted {
            Some(wanted) if Some(wanted) != self.running() => {
                self.report(generation, DeploymentState::Downloading, None).await;
                self.held = None;
                if Some(wanted) == self.committed {
                    self.report(generation, DeploymentState::Reported, None).await;
                } else if self.manner == Manner::Rejects {
                    return self.report(generation, DeploymentState::Rejected, Some(ErrorCode::NotFound)).await;
                } else if assignments[&model()].assignment.rollout.is_some() {
                    self.held = Some((generation, wanted));
                    self.report(generation, DeploymentState::Probation, None).await;
                } else {
                    self.committed = Some(wanted);
                    self.report(generation, DeploymentState::Reported, None).await;
                }
                self.beat().await;
            }
            Some(_) if self.held.is_some_and(|(held, _)| held == generation) => {}
            Some(_) => {
                if let Some((_, digest)) = self.held.take() {
                    self.committed = Some(digest);
                }
                self.report(generation, DeploymentState::Reported, None).await;
            }
            None => {
                (self.held, self.committed) = (None, None);
                self.report(generation, DeploymentState::Reported, None).await;
            }
        }
    }

    async fn verdict(&mut self, generation: Generation, verdict: Verdict) {
        let Some((held, digest)) = self.held.filter(|(held, _)| *held == generation) else { return };
        self.held = None;
        if verdict == Verdict::Commit {
            self.committed = Some(digest);
            self.report(held, DeploymentState::Reported, None).await;
        } else {
            self.report(held, DeploymentState::Reverted, Some(ErrorCode::Verdict)).await;
        }
        self.beat().await;
    }

    async fn beat(&mut self) {
        let Some(running) = self.running() else { return };
        self.seq += 1;
        *self.samples.entry(running).or_default() += 50;
        let of = |(digest, samples): (&BundleDigest, &u64)| BundleHealth {
            bundle: *digest,
            serving_since_ts_ms: 1,
            first_result_ts_ms: Some(2),
            samples: *samples,
            errors: 0,
            labelled: *samples,
            right: if *digest == self.bad { samples / 10 } else { *samples },
            latency_p50_us: None,
            latency_p95_us: Some(1000),
            latency_p99_us: None,
            confidence_mean: Some(0.9),
        };
        let (serving, past): (Vec<_>, Vec<_>) = self.samples.iter().map(of).partition(|fares| fares.bundle == running);
        let component = ComponentHealth {
            running,
            samples: 1,
            errors: 0,
            dropped: 0,
            worker_restarts: 0,
            memory_bytes: 1,
            latency_p50_us: None,
            latency_p95_us: None,
            latency_p99_us: None,
            confidence_mean: None,
            labels_late: 0,
            serving: serving.into_iter().next(),
            past,
        };
        let boot: BootId = "b1".parse().expect("a name");
        let health = Health {
            v: V1,
            ts_ms: 1,
            dev: self.simulated.name.clone(),
            boot,
            seq: self.seq,
            uptime_s: 1,
            window_s: 60,
            disk_free_bytes: 1,
            outbox_messages: 0,
            outbox_dropped: 0,
            temperature_c: None,
            components: BTreeMap::from([(model(), component)]),
        };
        let topic = DeviceTopic::Telemetry("health".parse().expect("a name"));
        self.simulated.say(topic, &Telemetry::Health(health)).await;
    }
}
