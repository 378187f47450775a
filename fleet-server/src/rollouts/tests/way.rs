//! What becomes of a rollout.

use super::world::{DEVICES, Manner, World, cam, model};
use crate::fleet::Desire;
use crate::fleet::testing::acme;
use crate::rollout::{Event, RefusedWhy, Step, Summary};
use crate::rollouts::RolloutError;
use serde_json::json;
use std::time::Duration;

fn ada() -> String {
    "ada".to_owned()
}

fn at(summary: &Summary, step: Step) -> u32 {
    summary.devices.iter().find(|count| count.step == step).map_or(0, |count| count.devices)
}

/// A second wave that somebody must let begin.
pub(super) fn gated() -> serde_json::Value {
    json!({"waves": [
        {"name": "canary", "size": 2, "soak_s": 1, "deadline_s": 60},
        {"name": "early", "size": 4, "soak_s": 1, "deadline_s": 60, "gate": "manual"},
    ]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_version_reaches_everybody_in_three_waves() {
    let Some(world) = World::start(|_| Manner::Obeys).await else { return };
    let spec = world.spec(&world.better, json!({}));
    let plan = world.executor.preview(&acme(), spec.clone()).await.expect("a plan");
    assert_eq!(plan.waves.iter().map(|wave| wave.devices).collect::<Vec<_>>(), [2, 4, 6]);
    let id =
        world.executor.create(&acme(), spec.clone(), Some("r-1".parse().expect("an id")), "ada").await.expect("ok");
    let again = world.executor.create(&acme(), spec.clone(), Some(id.clone()), "bob").await;
    assert!(matches!(again, Err(RolloutError::Exists { .. })), "{again:?}");
    let other = world.executor.create(&acme(), spec, None, "bob").await.expect_err("all are taken");
    assert!(other.to_string().contains("12 other-rollout"), "{other}");
    let summary = world.until_state(&id, "completed").await;
    assert_eq!((at(&summary, Step::Succeeded), summary.devices_touched), (12, 12));
    let said = world.said(&id).await;
    let place = |text: &str| said.iter().position(|said| said == text).unwrap_or_else(|| panic!("{text}: {said:#?}"));
    assert!(place("wave 1 (`canary`) passed") < place("wave 2 (`early`) began"));
    assert!(place("wave 2 (`early`) passed") < place("wave 3 (`rest`) began"));
    for number in 0..DEVICES {
        assert_eq!(world.desired(number).await, (2, Some(world.better.digest)));
    }
    let shown = world.executor.show(&acme(), &id).await.expect("there");
    assert!(!shown.head.active && shown.head.ended_ms.is_some() && shown.head.created_by == "ada");
    let nobody = world.executor.create(&acme(), world.spec(&world.better, json!({})), None, "ada").await;
    assert!(matches!(&nobody, Err(RolloutError::Nobody { skipped }) if skipped["already-runs"] == 12), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_version_touches_the_canary_alone_and_goes_back() {
    let Some(world) = World::start(|_| Manner::Obeys).await else { return };
    let id = world.begin(&world.bad, json!({})).await;
    let summary = world.until_state(&id, "rolled-back").await;
    let halt = summary.halt.as_ref().expect("a gate");
    assert_eq!((halt.wave, summary.devices_touched, summary.devices_back), (0, 2, 2), "{summary:#?}");
    assert!(summary.first_result_to_last_back_ms.is_some());
    let mut touched = 0;
    for number in 0..DEVICES {
        let (generation, digest) = world.desired(number).await;
        assert_eq!(digest, Some(world.good.digest));
        touched += usize::from(generation > 1);
    }
    assert_eq!(touched, 2, "others were never assigned anything");
    let back = world.executor.timeline(&acme(), &id, 100).await.expect("there");
    assert!(back.iter().any(|entry| entry.text.contains("2 devices are called back")), "{back:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_never_answers_does_not_hold_the_rest_for_ever() {
    let Some(world) = World::start(|number| if number == 3 { Manner::Silent } else { Manner::Obeys }).await else {
        return;
    };
    let more = json!({"errors": {"max_permille": 1000, "executed_min": 1}, "waves": [], "rest": {
        "success_min_permille": 900, "soak_s": 1, "deadline_s": 60, "gate": "automatic"}});
    let id = world.begin(&world.better, more).await;
    world.until(&id, |summary| at(summary, Step::Holding) == 11).await;
    world.clock.advance(Duration::from_secs(61));
    let summary = world.until_state(&id, "completed").await;
    assert_eq!((at(&summary, Step::Succeeded), at(&summary, Step::TimedOut)), (11, 1), "{summary:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_counts_and_halts() {
    let Some(world) = World::start(|_| Manner::Rejects).await else { return };
    let id = world.begin(&world.better, json!({})).await;
    let summary = world.until_state(&id, "rolled-back").await;
    assert!(summary.devices_touched <= 2 && !summary.failures.is_empty(), "{summary:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_commands_at_once_one_takes_effect() {
    let Some(world) = World::start(|_| Manner::Obeys).await else { return };
    let id = world.begin(&world.better, gated()).await;
    world.until(&id, |summary| summary.waves[1].state == "awaiting-gate").await;
    let open = || world.command(&id, Event::ManualGatePassed { wave: 1, actor: ada() });
    let both = tokio::join!(open(), open());
    let refused = |answer: &Result<(), RolloutError>| {
        matches!(answer, Err(RolloutError::Refused(RefusedWhy::NoGate { wave: 1 })))
    };
    assert_eq!([&both.0, &both.1].into_iter().filter(|answer| answer.is_ok()).count(), 1, "{both:?}");
    assert!(refused(&both.0) || refused(&both.1));
    let pause = || world.command(&id, Event::Pause { actor: ada() });
    let both = tokio::join!(pause(), pause());
    assert_eq!([&both.0, &both.1].into_iter().filter(|answer| answer.is_ok()).count(), 1, "{both:?}");
    let again = world.command(&id, Event::Start { actor: ada() }).await;
    assert!(matches!(again, Err(RolloutError::Refused(RefusedWhy::Started { .. }))), "{again:?}");
    world.command(&id, Event::Resume { actor: ada() }).await.expect("paused");
    world.until_state(&id, "completed").await;
    let late = world.command(&id, Event::Abort { actor: ada(), roll_back: true }).await;
    assert!(matches!(late, Err(RolloutError::Refused(RefusedWhy::TooLate { .. }))), "{late:?}");
    let none = world.command(&"none".parse().expect("an id"), Event::Pause { actor: ada() }).await;
    assert!(matches!(none, Err(RolloutError::NoRollout { .. })), "{none:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_assigned_while_it_is_paused() {
    let Some(world) = World::start(|_| Manner::Obeys).await else { return };
    let id = world.begin(&world.better, json!({})).await;
    world.command(&id, Event::Pause { actor: ada() }).await.expect("running");
    let before = world.until(&id, |summary| at(summary, Step::Holding) == summary.devices_touched).await;
    assert!(before.devices_touched <= 2 && before.state == "paused", "{before:#?}");
    world.clock.advance(Duration::from_secs(30));
    let later = world.executor.summary(&acme(), &id).await.expect("there");
    assert_eq!((later.state.as_str(), later.devices_touched), ("paused", before.devices_touched));
    world.command(&id, Event::Resume { actor: ada() }).await.expect("paused");
    world.until_state(&id, "completed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_takes_back_all_or_leaves_what_has_committed() {
    let Some(world) = World::start(|_| Manner::Obeys).await else { return };
    let id = world.begin(&world.better, gated()).await;
    let passed = |summary: &Summary| at(summary, Step::Succeeded) == 2;
    world.until(&id, passed).await;
    world.command(&id, Event::Abort { actor: ada(), roll_back: false }).await.expect("running");
    world.until_state(&id, "aborted").await;
    let mut runs = 0;
    for number in 0..DEVICES {
        runs += usize::from(world.desired(number).await.1 == Some(world.better.digest));
    }
    assert_eq!(runs, 2);
    let id = world.begin(&world.bad, json!({"criteria": [], "waves": gated()["waves"]})).await;
    world.until(&id, passed).await;
    world.command(&id, Event::Abort { actor: ada(), roll_back: true }).await.expect("running");
    let summary = world.until_state(&id, "rolled-back").await;
    assert_eq!(summary.devices_back, 2, "{summary:#?}");
    let mut runs = 0;
    for number in 0..DEVICES {
        let digest = world.desired(number).await.1;
        runs += usize::from(digest == Some(world.better.digest));
        assert!(digest != Some(world.bad.digest));
    }
    assert_eq!(runs, 2, "what was before this rollout is back, whatever it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_assigns_by_hand_is_left_alone() {
    let Some(world) = World::start(|_| Manner::Obeys).await else { return };
    let id = world.begin(&world.better, gated()).await;
    world.until(&id, |summary| at(summary, Step::Succeeded) == 2).await;
    let mut steered = None;
    for number in 0..DEVICES {
        if world.desired(number).await.1 == Some(world.better.digest) {
            steered = Some(number);
        }
    }
    let steered = steered.expect("a canary");
    let desire = Desire {
        bundle: "digits".parse().expect("a name"),
        digest: world.bad.digest,
        settings: serde_json::Map::new(),
        rollout: None,
        not_after: None,
        expected_generation: None,
    };
    // Another component is none of the rollout's business.
    let other = "other".parse().expect("a name");
    world.fleet.desire(&cam(steered), &other, &desire, "bob").await.expect("assigned");
    world.fleet.desire(&cam(steered), &model(), &desire, "bob").await.expect("assigned");
    world.until(&id, |summary| at(summary, Step::Superseded) == 1).await;
    world.command(&id, Event::Abort { actor: ada(), roll_back: true }).await.expect("running");
    world.until_state(&id, "rolled-back").await;
    assert_eq!(world.desired(steered).await.1, Some(world.bad.digest));
}
