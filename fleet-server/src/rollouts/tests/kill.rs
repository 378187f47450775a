//! A server that is killed, wherever a rollout is.

use super::way::gated;
use super::world::{DEVICES, Manner, World};
use crate::fleet::testing::acme;
use crate::rollout::{Event, Summary};
use sedge_protocol::id::RolloutId;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long nothing may change before the server is killed as it is; a busy machine needs some of it.
const STILL: Duration = Duration::from_secs(1);

/// Kills the server again and again: after a change is stored and before its effects are performed every second time, and
/// while they are, sooner or later, every other. Which states it was killed in.
async fn killed_all_along(world: &mut World, id: &RolloutId) -> (Summary, BTreeSet<String>) {
    let mut killed_in = BTreeSet::new();
    for kills in 0..400 {
        let mut changes = world.executor.changes();
        // On a busy machine nothing may be done between two kills: now and then it gets all the time that it wants.
        let mut left = if kills % 8 == 7 { usize::MAX } else { kills / 2 % 12 };
        if kills % 2 == 0 {
            world.executor.idle();
            left = 0;
        }
        // When nothing is left to happen, the server is killed as it is.
        while tokio::time::timeout(STILL, changes.changed()).await.is_ok() && left > 0 {
            left -= 1;
        }
        let summary = world.executor.summary(&acme(), id).await.expect("there");
        if !matches!(summary.state.as_str(), "running" | "paused" | "rolling-back") {
            return (summary, killed_in);
        }
        killed_in.insert(summary.state.clone());
        killed_in.extend(summary.waves.iter().map(|wave| format!("wave {}", wave.state)));
        world.restart().await;
        // Deadlines that ran while it was down get a minute.
        world.clock.advance(Duration::from_secs(61));
    }
    panic!("it does not end: {killed_in:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_completes_though_the_server_is_killed_all_the_way() {
    let Some(mut world) = World::start(|_| Manner::Obeys).await else { return };
    let more = json!({"waves": [
        {"name": "canary", "size": 2, "soak_s": 100, "deadline_s": 86400},
        {"name": "early", "size": 4, "soak_s": 100, "deadline_s": 86400},
    ]});
    let id = world.begin(&world.better, more).await;
    let (summary, killed_in) = killed_all_along(&mut world, &id).await;
    assert_eq!((summary.state.as_str(), summary.devices_touched), ("completed", 12), "{summary:#?}");
    for state in ["running", "wave dispatching", "wave soaking", "wave passed", "wave pending"] {
        assert!(killed_in.contains(state), "{killed_in:?}");
    }
    for number in 0..DEVICES {
        assert_eq!(world.desired(number).await, (2, Some(world.better.digest)), "nobody was assigned it twice");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_version_goes_back_though_the_server_is_killed_all_the_way() {
    let Some(mut world) = World::start(|_| Manner::Obeys).await else { return };
    // Each kill takes a minute of the clock, however little was done meanwhile.
    let more = json!({
        "waves": [{"name": "canary", "size": 2, "soak_s": 1, "deadline_s": 86400}],
        "back_deadline_s": 864_000,
    });
    let id = world.begin(&world.bad, more).await;
    // Whether a kill meets the short way back is chance; kills on the way of an abort are tested below.
    let (summary, _) = killed_all_along(&mut world, &id).await;
    assert_eq!((summary.state.as_str(), summary.devices_touched), ("rolled-back", 2), "{summary:#?}");
    for number in 0..DEVICES {
        assert_eq!(world.desired(number).await.1, Some(world.good.digest));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_rollout_is_paused_when_the_server_is_back() {
    let Some(mut world) = World::start(|_| Manner::Obeys).await else { return };
    let id = world.begin(&world.better, json!({})).await;
    world.executor.idle();
    world.command(&id, Event::Pause { actor: "ada".to_owned() }).await.expect("running");
    world.restart().await;
    let summary = world.executor.summary(&acme(), &id).await.expect("there");
    assert_eq!(summary.state, "paused");
    world.command(&id, Event::Resume { actor: "ada".to_owned() }).await.expect("paused");
    world.until_state(&id, "completed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_somebody_waits_on_and_an_abort_is_carried_on_when_the_server_is_back() {
    let Some(mut world) = World::start(|_| Manner::Obeys).await else { return };
    let id = world.begin(&world.better, gated()).await;
    let waits = |summary: &Summary| summary.waves[1].state == "awaiting-gate";
    world.until(&id, waits).await;
    world.restart().await;
    let summary = world.executor.summary(&acme(), &id).await.expect("there");
    assert!(waits(&summary) && summary.devices_touched == 2, "{summary:#?}");
    // Stored, and nothing of it done.
    world.executor.idle();
    world.command(&id, Event::Abort { actor: "ada".to_owned(), roll_back: true }).await.expect("running");
    world.restart().await;
    // What a device said before it went back is heard again after a restart, and then looked into.
    let back = |summary: &Summary| summary.state == "rolled-back" && summary.devices_back == 2;
    assert_eq!(world.until(&id, back).await.devices_touched, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_halted_rollout_stays_halted_when_the_server_is_back() {
    let Some(mut world) = World::start(|_| Manner::Obeys).await else { return };
    let waves = json!([{"name": "canary", "size": 2, "soak_s": 1, "deadline_s": 86400}]);
    let id = world.begin(&world.bad, json!({"on_failure": "halt", "waves": waves})).await;
    world.until_state(&id, "halted").await;
    world.restart().await;
    world.clock.advance(Duration::from_secs(3600));
    let summary = world.executor.summary(&acme(), &id).await.expect("there");
    assert_eq!((summary.state.as_str(), summary.devices_touched), ("halted", 2), "{summary:#?}");
}
