//! A fleet as the database, heartbeats and the rollout machine know it: 24 devices and a new bundle that gets worse in
//! its second wave. Nothing here is drawn by hand.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use sedge_fleet_server::clock;
use sedge_fleet_server::console::{RolloutSource, Told};
use sedge_fleet_server::fleet::Measurement;
use sedge_fleet_server::rollout::{
    Candidate, Counters, DeviceView, Effect, Event, Rollout, RolloutSpec, Summary, plan,
};
use sedge_fleet_server::service::AnyError;
use sedge_protocol::id::{DeviceId, Generation, Principal, ProjectId, RolloutId};
use sedge_protocol::message::{BundleHealth, ComponentHealth, DeploymentState, Health, Telemetry, V1};
use sedge_protocol::{BundleDigest, Sha256Digest};
use serde_json::json;
use sqlx::SqlitePool;
use tokio::sync::{broadcast, watch};

const OLD: (&str, u64) = ("1.0.0", 1);
const NEW: (&str, u64) = ("1.1.0", 2);

fn digest(version: &str) -> BundleDigest {
    BundleDigest(Sha256Digest::of(version.as_bytes()))
}

struct Played {
    rollout: Rollout,
    told: Vec<Told>,
    now_ms: u64,
    generations: BTreeMap<DeviceId, u64>,
}

/// Plays the devices, and who carries the rollout out at once.
pub struct LiveShown {
    played: Mutex<Played>,
    changes: watch::Sender<u64>,
    pub telemetry: broadcast::Sender<Measurement>,
    seq: Mutex<u64>,
}

impl Played {
    fn handle(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for effect in self.rollout.handle(event, self.now_ms) {
                match effect {
                    Effect::Note(note) => self.told.insert(0, Told { at_ms: self.now_ms, note }),
                    Effect::Assign { device } => {
                        let generation = self.next(&device);
                        events.push_back(Event::Assigned { device, generation });
                    }
                    Effect::RollBack { device } => {
                        let generation = self.next(&device);
                        events.push_back(Event::RollBackAssigned { device, generation });
                    }
                    Effect::Verdict { device, verdict: sedge_protocol::message::Verdict::Commit, .. } => {
                        self.now_ms += 300;
                        events.push_back(self.report(device, DeploymentState::Reported, false, NEW.0));
                    }
                    _ => {}
                }
            }
        }
    }

    fn next(&mut self, device: &DeviceId) -> Generation {
        let generation = self.generations.entry(device.clone()).or_insert(1);
        *generation += 1;
        Generation(*generation)
    }

    fn report(&self, device: DeviceId, state: DeploymentState, held: bool, runs: &str) -> Event {
        let generation = Generation(self.generations[&device]);
        Event::DeviceReported { device, generation, state, held, running: Some(digest(runs)), error: None }
    }

    fn members(&self, wave: std::ops::Range<usize>) -> Vec<DeviceId> {
        self.rollout.plan().devices[wave].to_vec()
    }

    /// A wave of devices runs the bundle and waits for the verdict.
    fn arrives(&mut self, wave: std::ops::Range<usize>) {
        for device in self.members(wave) {
            self.now_ms += 700;
            let held = self.report(device, DeploymentState::Probation, true, NEW.0);
            self.handle(held);
        }
    }

    fn beats(&mut self, wave: std::ops::Range<usize>, samples: u64, right: u64) {
        for device in self.members(wave) {
            let (labelled, latency_p95_us) = (samples, Some(11_840));
            let counters = Some(Counters { samples, labelled, right, latency_p95_us, ..Counters::default() });
            let first_result_ts_ms = Some(self.now_ms - 500);
            self.handle(Event::Heartbeat { device, running: digest(NEW.0), counters, first_result_ts_ms });
        }
    }
}

impl LiveShown {
    /// The second wave is being watched.
    pub fn new(on_failure: &str) -> Self {
        let spec = format!(
            "project = \"default\"\ncomponent = \"model\"\nbundle = \"digits\"\ndigest = \"{}\"\n\
             on_failure = \"{on_failure}\"\n\
             waves = [{{ name = \"canary\", size = 3, soak_s = 30 }}, {{ name = \"early\", size = 6, soak_s = 60 }}]\n\
             criteria = [{{ metric = \"accuracy\", limit_permille = 900, samples_min = 60 }},\n\
             {{ metric = \"latency-p95\", limit_us = 40000, samples_min = 60 }}]\n",
            digest(NEW.0)
        );
        let ids = (0..24).map(|i| format!("{}-cam-{:02}", ["dock", "gate", "belt"][i % 3], i + 1).parse().unwrap());
        let candidate = |device| Candidate {
            device,
            running: Some(digest(OLD.0)),
            desired: Some(digest(OLD.0)),
            seen: true,
            decommissioned: false,
            unmet: None,
            rollout: None,
        };
        let inventory: Vec<_> = ids.map(candidate).collect();
        let plan = plan(RolloutSpec::from_toml(&spec).unwrap(), &inventory, Sha256Digest::of(b"salt")).unwrap();
        let now_ms = u64::try_from(clock::now().0).unwrap() * 1000 - 80_000;
        let mut played = Played { rollout: Rollout::new(plan), told: vec![], now_ms, generations: BTreeMap::new() };
        played.handle(Event::Start { actor: "ci".into() });
        played.arrives(0..3);
        played.beats(0..3, 40, 39);
        played.now_ms += 30_000;
        played.handle(Event::Deadline);
        played.arrives(3..9);
        let (changes, telemetry) = (watch::channel(0).0, broadcast::channel(64).0);
        Self { played: Mutex::new(played), changes, telemetry, seq: Mutex::new(0) }
    }

    /// The devices that the rollout has touched, in the order of its plan.
    fn touched(&self) -> Vec<DeviceId> {
        self.played.lock().unwrap().rollout.plan().devices[..9].to_vec()
    }

    fn all(&self) -> Vec<DeviceId> {
        self.played.lock().unwrap().rollout.plan().devices.clone()
    }

    /// What the database and heartbeats say as it begins.
    pub async fn settle(&self, pool: &SqlitePool) {
        run(pool, sqlx::query("INSERT INTO fleet_project (project) VALUES ('default')")).await;
        for (version, at) in [OLD, NEW] {
            let insert = "INSERT INTO artifact VALUES ('default', ?, 'digits', ?, 'model', 1, 1, 1, x'', ?)";
            let query = sqlx::query(insert).bind(digest(version).0.hex()).bind(version);
            run(pool, query.bind(i64::try_from(at).unwrap())).await;
        }
        let now = clock::now().0;
        for (i, device) in self.all().iter().enumerate() {
            let online = i64::from(i != 17);
            let heard = now - if online == 1 { 2 } else { 10_800 };
            let heard_ms = heard * 1000;
            let insert = "INSERT INTO device VALUES ('default', ?, 1, '01', 2, ?, NULL)";
            run(pool, sqlx::query(insert).bind(device.as_str()).bind(heard)).await;
            let insert = "INSERT INTO status VALUES ('default', ?, '{}', ?, 0, ?)";
            run(pool, sqlx::query(insert).bind(device.as_str()).bind(online).bind(heard_ms)).await;
            let (version, right) = match i {
                0..3 => (NEW.0, 468),
                3..9 => (NEW.0, 343),
                _ => (OLD.0, 470),
            };
            self.stands(pool, device, version, 1, (480, right)).await;
        }
    }

    /// The accuracy of the second wave falls; what follows, follows.
    pub fn fails(&self) {
        let mut played = self.played.lock().unwrap();
        played.now_ms += 9_000;
        played.beats(3..9, 21, 15);
        drop(played);
        self.changes.send_modify(|number| *number += 1);
    }

    /// The devices that are called back go back.
    pub async fn goes_back(&self, pool: &SqlitePool) {
        for device in self.touched() {
            {
                let mut played = self.played.lock().unwrap();
                played.now_ms += 400;
                let back = played.report(device.clone(), DeploymentState::Reported, false, OLD.0);
                played.handle(back);
            }
            self.stands(pool, &device, OLD.0, 2, (486, 476)).await;
        }
        self.changes.send_modify(|number| *number += 1);
    }

    /// A device should run this, says so, and a heartbeat measures it.
    async fn stands(&self, pool: &SqlitePool, device: &DeviceId, version: &str, generation: i64, counts: (u64, u64)) {
        let digest = digest(version);
        let assignments = json!({ "model": { "digest": digest.to_string() } }).to_string();
        let insert = "INSERT OR REPLACE INTO director_device VALUES ('default', ?, ?, ?, 1, 1, 1, 1, x'', x'', x'')";
        run(pool, sqlx::query(insert).bind(device.as_str()).bind(generation).bind(assignments)).await;
        let report = json!({
            "kind": "model", "state": "reported", "attempt": 1, "running": digest.to_string(),
        });
        let insert = "INSERT INTO reported VALUES ('default', ?, 'model', ?, 1, 1, ?, 1)";
        run(pool, sqlx::query(insert).bind(device.as_str()).bind(generation).bind(report.to_string())).await;
        let seq = {
            let mut seq = self.seq.lock().unwrap();
            *seq += 1;
            *seq
        };
        let (samples, labelled, right) = (counts.0 * 5, counts.0, counts.1);
        let serving = BundleHealth {
            bundle: digest,
            serving_since_ts_ms: 1,
            first_result_ts_ms: Some(5),
            samples,
            errors: seq % 3,
            labelled,
            right,
            latency_p50_us: None,
            latency_p95_us: Some(11_840),
            latency_p99_us: None,
            confidence_mean: None,
        };
        let component = ComponentHealth {
            running: digest,
            samples,
            errors: 0,
            dropped: 0,
            worker_restarts: 0,
            memory_bytes: 1,
            latency_p50_us: None,
            latency_p95_us: None,
            latency_p99_us: None,
            confidence_mean: None,
            labels_late: 0,
            serving: Some(serving),
            past: Vec::new(),
        };
        let device = Principal { project: "default".parse().unwrap(), device: device.clone() };
        let health = Health {
            v: V1,
            ts_ms: 1,
            dev: device.clone(),
            boot: "b1".parse().unwrap(),
            seq,
            uptime_s: 1,
            window_s: 60,
            disk_free_bytes: 1,
            outbox_messages: 0,
            outbox_dropped: 0,
            temperature_c: None,
            components: BTreeMap::from([("model".parse().unwrap(), component)]),
        };
        let (stream, telemetry) = ("health".parse().unwrap(), Telemetry::Health(health));
        assert!(self.telemetry.send(Measurement { device, stream, telemetry }).is_ok(), "the field listens");
    }
}

async fn run(pool: &SqlitePool, query: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>) {
    query.execute(pool).await.unwrap();
}

/// So that the stub of the fleet can show it.
#[async_trait]
impl RolloutSource for LiveShown {
    async fn latest(&self, _: &ProjectId) -> Result<Option<(RolloutId, Summary)>, AnyError> {
        let played = self.played.lock().unwrap();
        Ok(Some(("digits-1-1-0".parse()?, played.rollout.summary(played.now_ms))))
    }

    async fn timeline(&self, _: &ProjectId, _: &RolloutId, _: u32) -> Result<Vec<Told>, AnyError> {
        Ok(self.played.lock().unwrap().told.clone())
    }

    async fn devices(
        &self,
        _: &ProjectId,
        _: &RolloutId,
        devices: &[DeviceId],
    ) -> Result<Vec<Option<DeviceView>>, AnyError> {
        let played = self.played.lock().unwrap();
        Ok(devices.iter().map(|device| played.rollout.device_view(device)).collect())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// Shared with the server that shows it.
pub type Live = Arc<LiveShown>;
