//! Heartbeats that are lost, late, repeated, and of a device that starts again; and the same through the shell.

use super::api::router;
use super::state::{FieldChange, FieldState};
use super::{Counts, DeviceView, Field};
use crate::fleet::api::{Access, Problem, Scope};
use crate::fleet::mqtt::MqttEndpoint;
use crate::fleet::store::now;
use crate::fleet::testing::{acme, device, pool, repository};
use crate::fleet::{Fleet, FleetContext, FleetLimits, Measurement};
use axum::body::{Body, to_bytes};
use axum::extract::FromRequestParts;
use axum::http::Request;
use axum::http::request::Parts;
use proptest::prelude::*;
use sedge_protocol::id::{ComponentName, ProjectId};
use sedge_protocol::message::{BundleHealth, ComponentHealth, Health, Telemetry, V1};
use sedge_protocol::{BundleDigest, Sha256Digest};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;
use tower_service::Service as _;

fn bundle(n: u8) -> BundleDigest {
    BundleDigest(Sha256Digest::of(&[n]))
}

fn digits() -> ComponentName {
    "digits".parse().expect("a name")
}

/// A bundle that has answered so many samples since then, every tenth wrong or failed.
fn fares(n: u8, since_ts_ms: u64, samples: u64) -> BundleHealth {
    let errors = samples / 10;
    let labelled = samples - errors;
    BundleHealth {
        bundle: bundle(n),
        serving_since_ts_ms: since_ts_ms,
        first_result_ts_ms: (samples > 0).then_some(since_ts_ms + 5),
        samples,
        errors,
        labelled,
        // Grows with each sample or stays, as counters do.
        right: labelled - labelled / 9,
        latency_p50_us: Some(50),
        latency_p95_us: Some(100 * u64::from(n)),
        latency_p99_us: None,
        confidence_mean: Some(0.5),
    }
}

fn heartbeat(boot: &str, seq: u64, serving: BundleHealth, past: Vec<BundleHealth>) -> Health {
    let component = ComponentHealth {
        running: serving.bundle,
        samples: 1_000_000,
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
        past,
    };
    Health {
        v: V1,
        ts_ms: 1,
        dev: device("cam-1"),
        boot: boot.parse().expect("a name"),
        seq,
        uptime_s: 1,
        window_s: 60,
        disk_free_bytes: 1,
        outbox_messages: 0,
        outbox_dropped: 0,
        temperature_c: None,
        components: BTreeMap::from([(digits(), component)]),
    }
}

fn view(state: &FieldState) -> DeviceView {
    state.device(&device("cam-1")).expect("heard of")
}

fn counts(state: &FieldState, n: u8) -> Counts {
    state.counters([&device("cam-1")], bundle(n)).counts
}

fn running(state: &FieldState) -> Option<BundleDigest> {
    view(state).components[&digits()].running
}

/// What an agent says in one boot that runs bundles 0 to 4 in turn, and what each did in it.
fn life(boot: usize, turns: &[(u8, u64)]) -> (Vec<Health>, BTreeMap<u8, u64>) {
    let mut done: BTreeMap<u8, u64> = BTreeMap::new();
    let mut order: Vec<u8> = Vec::new();
    let mut said = Vec::new();
    for (seq, &(n, samples)) in (1..).zip(turns) {
        *done.entry(n).or_default() += samples;
        order.retain(|other| *other != n);
        order.insert(0, n);
        let tell = |n: &u8| fares(*n, 1000 * boot as u64 + u64::from(*n), done[n]);
        said.push(heartbeat(&format!("b{boot}"), seq, tell(&n), order[1..].iter().map(tell).collect()));
    }
    (said, done)
}

proptest! {
    #[test]
    fn whatever_the_order_and_the_losses_each_sample_counts_once(
        lives in prop::collection::vec(prop::collection::vec((0u8..5, 0u64..500), 1..12), 1..8),
        picks in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..80),
    ) {
        let told: Vec<_> = (0..).zip(&lives).map(|(boot, turns)| life(boot, turns)).collect();
        let mut truth: BTreeMap<u8, u64> = BTreeMap::new();
        for (n, samples) in told.iter().flat_map(|(_, done)| done) {
            *truth.entry(*n).or_default() += samples;
        }
        let mut state = FieldState::default();
        // Some of them, in any order, some twice; and the last of each boot, at its place or later.
        let picked = picks.iter().map(|(boot, at)| { let said = &boot.get(&told).0; at.get(said).clone() });
        let last = told.iter().filter_map(|(said, _)| said.last().cloned());
        let mut before: BTreeMap<u8, Counts> = BTreeMap::new();
        for health in picked.chain(last) {
            state.hear(&device("cam-1"), &health, 7);
            for n in 0..5 {
                let (now, was) = (counts(&state, n), before.get(&n).copied().unwrap_or_default());
                prop_assert!(now.samples >= was.samples && now.errors >= was.errors && now.right >= was.right);
                prop_assert!(now.samples <= truth.get(&n).copied().unwrap_or(0), "never double");
                prop_assert!(now.right <= now.labelled && now.labelled + now.errors <= now.samples);
                before.insert(n, now);
            }
        }
        for n in 0..5 {
            prop_assert_eq!(counts(&state, n).samples, truth.get(&n).copied().unwrap_or(0), "bundle {}", n);
        }
        // What comes again changes nothing.
        let whole = view(&state);
        for (said, _) in &told {
            for health in said {
                prop_assert_eq!(state.hear(&device("cam-1"), health, 7), vec![]);
            }
        }
        prop_assert_eq!(view(&state), whole);
    }

    #[test]
    fn what_was_stored_is_what_was_known(turns in prop::collection::vec((0u8..5, 0u64..500), 1..12)) {
        let mut state = FieldState::default();
        for health in life(3, &turns).0 {
            state.hear(&device("cam-1"), &health, 7);
        }
        let text = serde_json::to_string(state.of(&device("cam-1")).expect("heard of")).expect("json");
        let mut again = FieldState::default();
        again.resume(device("cam-1"), serde_json::from_str(&text).expect("json"));
        prop_assert_eq!(view(&again), view(&state));
    }
}

#[test]
fn a_device_runs_what_its_newest_heartbeat_says() {
    let mut state = FieldState::default();
    let mut hear = |boot: &str, seq, n| {
        let changes = state.hear(&device("cam-1"), &heartbeat(boot, seq, fares(n, 1, 10), vec![]), 9);
        (changes, running(&state))
    };
    let told = |n| vec![FieldChange { device: device("cam-1"), component: digits(), running: bundle(n), at_ms: 9 }];
    assert_eq!(hear("b1", 5, 1), (told(1), Some(bundle(1))));
    assert_eq!(hear("b1", 4, 2), (vec![], Some(bundle(1))), "late");
    assert_eq!(hear("b1", 5, 2), (vec![], Some(bundle(1))), "repeated");
    assert_eq!(hear("b2", 1, 2), (told(2), Some(bundle(2))), "started again");
    assert_eq!(hear("b1", 5, 1), (vec![], Some(bundle(2))), "repeated, from before");
    // One that was never heard of and comes late is taken for news, until the next one.
    assert_eq!(hear("b0", 9, 3).1, Some(bundle(3)));
    assert_eq!(hear("b2", 2, 2).1, Some(bundle(2)));
}

#[test]
fn a_bundle_that_was_forgotten_and_serves_again_is_counted_on() {
    let mut state = FieldState::default();
    for (seq, since, samples) in [(1, 10, 100), (2, 90, 7), (3, 90, 20)] {
        state.hear(&device("cam-1"), &heartbeat("b1", seq, fares(1, since, samples), vec![]), 9);
    }
    assert_eq!(counts(&state, 1).samples, 120);
    // So many boots that not all are kept apart.
    for boot in 0..30 {
        let said = heartbeat(&format!("c{boot}"), 1, fares(1, 5, 10), vec![]);
        state.hear(&device("cam-1"), &said, 9);
        state.hear(&device("cam-1"), &said, 9);
    }
    assert_eq!(counts(&state, 1).samples, 120 + 300);
    assert_eq!(state.counters([&device("cam-1")], bundle(1)).first_result_ts_ms, Some(10), "the earliest");
}

#[test]
fn what_one_device_can_fill_is_bounded() {
    let mut state = FieldState::default();
    for n in 0..40 {
        state.hear(&device("cam-1"), &heartbeat("b1", n.into(), fares(n, 1, 10), vec![]), n.into());
    }
    let kept = &view(&state).components[&digits()].bundles;
    assert_eq!((kept.len(), kept.values().map(|b| b.last_heard_ms).min()), (16, Some(24)), "the latest");
    for n in 0..100 {
        let mut health = heartbeat("b1", 100 + n, fares(1, 1, 10), vec![]);
        let component = health.components.remove(&digits()).expect("there");
        health.components.insert(format!("c{n}").parse().expect("a name"), component);
        state.hear(&device("cam-1"), &health, 100 + n);
    }
    let view = view(&state);
    assert_eq!(view.components.len(), 32);
    assert!(view.components.contains_key(&"c99".parse().expect("a name")));
}

#[test]
fn counters_of_several_devices_add_up() {
    let mut state = FieldState::default();
    for (name, n, samples) in [("cam-1", 2, 100), ("cam-2", 2, 50), ("cam-3", 4, 10), ("cam-4", 5, 10)] {
        let mut serving = fares(n, 1000 - samples, samples);
        serving.bundle = bundle(9);
        serving.confidence_mean = (n < 5).then_some(0.25 * f32::from(n));
        let now = if n == 4 { fares(1, 1, 1) } else { serving.clone() };
        let past = if n == 4 { vec![serving] } else { vec![] };
        state.hear(&device(name), &heartbeat("b1", 1, now, past), 9);
    }
    let names = ["cam-1", "cam-2", "cam-3", "cam-4", "cam-5"].map(device);
    let sum = state.counters(&names, bundle(9));
    assert_eq!(sum.counts, Counts { samples: 170, errors: 17, labelled: 153, right: 136 });
    assert_eq!((sum.devices, sum.running, sum.first_result_ts_ms), (4, 3, Some(905)));
    assert_eq!((sum.latency_p95_us_median, sum.latency_p95_us_max), (Some(200), Some(500)));
    assert_eq!(sum.confidence_mean, Some((0.5 + 0.5 + 1.0) / 3.0));
    assert_eq!(state.counters(&names[4..], bundle(9)), Default::default());
}

fn measured(health: Health) -> Measurement {
    let (device, stream) = (health.dev.clone(), "health".parse().expect("a name"));
    Measurement { device, stream, telemetry: Telemetry::Health(health) }
}

async fn change(changes: &mut broadcast::Receiver<FieldChange>) -> FieldChange {
    let change = tokio::time::timeout(Duration::from_secs(20), changes.recv());
    change.await.expect("in time").expect("none was missed")
}

#[tokio::test]
async fn heartbeats_that_the_listener_misses_cost_nothing_and_a_restart_forgets_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let pool = pool(directory.path()).await;
    let (send, receive) = broadcast::channel(4);
    let field = Field::start(pool.clone(), receive).await.expect("a field");
    let mut changes = field.changes();
    // Nothing else runs here between these: all but the last four are gone.
    for seq in 1..=100 {
        send.send(measured(heartbeat("b1", seq, fares(1, 1, 10 * seq), vec![]))).expect("a listener");
    }
    for _ in 97..=100 {
        assert_eq!(change(&mut changes).await.running, bundle(1));
    }
    let of = |field: &Field| field.counters([&device("cam-1")], bundle(1)).counts;
    assert_eq!(of(&field).samples, 1000);

    field.store().await.expect("stored");
    drop(field);
    let (send, receive) = broadcast::channel(4);
    let field = Field::start(pool.clone(), receive).await.expect("a field");
    assert_eq!((of(&field).samples, of(&field).errors), (1000, 100));
    let mut changes = field.changes();
    // The broker brings one again, and the device has begun a new boot.
    for health in [heartbeat("b1", 100, fares(1, 1, 1000), vec![]), heartbeat("b2", 1, fares(1, 3, 5), vec![])] {
        send.send(measured(health)).expect("a listener");
    }
    change(&mut changes).await;
    assert_eq!(of(&field).samples, 1005);
    let listed = field.of(&acme());
    assert_eq!((listed.len(), field.device(&device("cam-1")).as_ref()), (1, listed.first()));

    field.forget(&device("cam-1")).await.expect("forgotten");
    field.store().await.expect("stored");
    assert!(field.device(&device("cam-1")).is_none());
    let (_, receive) = broadcast::channel(4);
    assert!(Field::start(pool, receive).await.expect("a field").of(&acme()).is_empty());
}

struct Anybody;

impl FromRequestParts<Arc<Fleet>> for Anybody {
    type Rejection = Problem;

    async fn from_request_parts(_: &mut Parts, _: &Arc<Fleet>) -> Result<Self, Problem> {
        Ok(Self)
    }
}

impl Scope for Anybody {
    fn allows(&self, project: &ProjectId, access: Access) -> bool {
        project.as_str() != "secret" && access == Access::Read
    }

    fn actor(&self) -> &str {
        "anybody"
    }
}

#[tokio::test]
async fn the_field_is_shown_page_by_page() {
    let directory = tempfile::tempdir().expect("a directory");
    let pool = pool(directory.path()).await;
    let context = FleetContext {
        pool: pool.clone(),
        data_directory: directory.path().to_owned(),
        broker: MqttEndpoint::loopback(1),
        limits: FleetLimits::default(),
    };
    let fleet = Arc::new(Fleet::start(context).await.expect("a fleet"));
    let root = repository(now());
    fleet.create_project(&acme(), root.first_root().expect("signed")).await.expect("a project");
    let (send, receive) = broadcast::channel(16);
    let field = Arc::new(Field::start(pool, receive).await.expect("a field"));
    let mut changes = field.changes();
    for n in 1..=5 {
        let mut health = heartbeat("b1", 1, fares(2, 1, 10), vec![fares(1, 1, 40)]);
        health.dev = device(&format!("cam-{n}"));
        send.send(measured(health)).expect("a listener");
        change(&mut changes).await;
    }
    let mut routes = router::<Anybody>(fleet, field);
    let mut ask = async |path: &str| -> (u16, Value) {
        let request = Request::builder().uri(path).body(Body::empty()).expect("a request");
        let response = routes.call(request).await.expect("an answer");
        let status = response.status().as_u16();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        (status, serde_json::from_slice(&bytes).expect("json"))
    };
    let mut path = "/projects/acme/field?limit=2".to_owned();
    let mut seen = Vec::new();
    loop {
        let (status, page) = ask(&path).await;
        assert_eq!(status, 200, "{page}");
        let names = page["devices"].as_array().expect("a list").iter().map(|d| d["device"].to_string());
        seen.extend(names);
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/projects/acme/field?limit=2&after={next}");
    }
    assert_eq!(seen, (1..=5).map(|n| format!("\"acme:cam-{n}\"")).collect::<Vec<_>>());

    let (status, one) = ask("/projects/acme/devices/cam-3/field").await;
    let component = &one["components"]["digits"];
    assert_eq!((status, component["running"].as_str()), (200, Some(bundle(2).to_string().as_str())), "{one}");
    assert_eq!(component["bundles"][bundle(1).to_string()]["samples"], 40, "{one}");
    for (path, status, code) in [
        ("/projects/acme/devices/cam-9/field", 404, "no-heartbeat"),
        ("/projects/acme/devices/a%20b/field", 400, "invalid-name"),
        ("/projects/acme/field?limit=0", 400, "invalid-query"),
        ("/projects/acme/field?limit=1001", 400, "invalid-query"),
        ("/projects/acme/field?after=a:b", 400, "invalid-query"),
        ("/projects/acme/field?before=cam-1", 400, "invalid-query"),
        ("/projects/other/field", 404, "no-project"),
        ("/projects/secret/field", 403, "forbidden"),
    ] {
        let (found, problem) = ask(path).await;
        assert_eq!((found, problem["code"].as_str()), (status, Some(code)), "{path}: {problem}");
    }
}
