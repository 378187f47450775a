//! A hundred thousand devices.

use super::fleet::{candidate, declared, digest, salt};
use crate::rollout::*;
use sedge_protocol::id::Generation;
use sedge_protocol::message::DeploymentState;
use std::time::Instant;

const DEVICES: usize = 100_000;

/// Prints how many events a second a rollout takes, and what it takes to store it.
#[test]
#[allow(clippy::print_stdout, reason = "a measurement")]
fn an_event_costs_the_same_in_a_large_fleet() {
    let inventory: Vec<_> = (0..DEVICES).map(|n| candidate(format!("cam-{n}").parse().expect("id"))).collect();
    let spec = declared(
        "commit = \"held\"\nin_flight_max = 500\nwaves = [{ name = \"canary\", size = \"1%\", soak_s = 60, deadline_s = 600 }]\n\
         criteria = [{ metric = \"error-rate\", limit_permille = 50, samples_min = 1000 }, { metric = \"latency-p95\", limit_us = 9000, samples_min = 1000 }]\n",
    )
    .expect("spec");
    let began = Instant::now();
    let planned = plan(spec, &inventory, salt()).expect("plan");
    let digest_of = planned.digest().expect("digest");
    let planned_ms = began.elapsed().as_millis();
    let mut rollout = Rollout::new(planned);
    let (mut events, mut rows, mut most) = (0u64, 0u64, 0);
    let mut now_ms = 1_800_000_000_000;
    let began = Instant::now();
    let mut queue: std::collections::VecDeque<Event> = [Event::Start { actor: "a".into() }].into();
    let mut slowest_us = 0;
    loop {
        let event = match queue.pop_front() {
            Some(event) => event,
            None => match rollout.next_deadline() {
                Some((at_ms, _)) if rollout.count(Step::Succeeded) < DEVICES as u32 => {
                    now_ms = at_ms;
                    Event::Deadline
                }
                _ => break,
            },
        };
        events += 1;
        let one = Instant::now();
        let effects = rollout.handle(event, now_ms);
        slowest_us = slowest_us.max(one.elapsed().as_micros());
        let changes = rollout.take_changes();
        rows += changes.devices.len() as u64;
        let in_flight = rollout.count(Step::Assigned) + rollout.count(Step::Progress);
        most = most.max(in_flight);
        let report = |device: &sedge_protocol::id::DeviceId, generation, state, held| Event::DeviceReported {
            device: device.clone(),
            generation,
            state,
            held,
            running: Some(digest("v2")),
            error: None,
        };
        for effect in effects {
            match effect {
                Effect::Assign { device } => {
                    let generation = Generation(2);
                    let counters =
                        Counters { samples: 100, latency_p95_us: Some(1000 + events % 5000), ..Counters::default() };
                    queue.push_back(Event::Assigned { device: device.clone(), generation });
                    queue.push_back(report(&device, generation, DeploymentState::Probation, true));
                    let (running, counters) = (digest("v2"), Some(counters));
                    queue.push_back(Event::Heartbeat { device, running, counters, first_result_ts_ms: Some(now_ms) });
                }
                Effect::Verdict { device, generation, .. } => {
                    queue.push_back(report(&device, generation, DeploymentState::Committed, false));
                }
                _ => {}
            }
        }
    }
    let ms = began.elapsed().as_millis().max(1) as u64;
    assert_eq!(rollout.state(), &State::Completed);
    assert_eq!(rollout.count(Step::Succeeded), DEVICES as u32);
    assert!(most <= 500);
    let json = serde_json::to_vec(&rollout.saved()).expect("json").len();
    let core = serde_json::to_vec(&rollout.take_changes()).expect("json").len();
    assert!(core < 8192, "{core} bytes are written with every event");
    // Far above what it costs; far below what looking at every device would.
    assert!(ms * 1000 / events < 2000, "{ms} ms for {events} events");
    println!(
        "{DEVICES} devices: planned in {planned_ms} ms ({digest_of}); {events} events in {ms} ms, {} a second, slowest \
         {slowest_us} us; {rows} rows written; {json} bytes in all, {core} without devices; {most} in flight at most",
        events * 1000 / ms
    );
}
