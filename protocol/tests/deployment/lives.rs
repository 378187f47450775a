//! Random lives of devices. `SEDGE_SEED=n` lives one of them again, `SEDGE_RUNS=n` lives so many.

use crate::device::{Cut, Device, explain, order};
use crate::random::Random;
use crate::world::{bad_answer, digest, good_answer, index};
use sedge_protocol::deployment::*;
use sedge_protocol::id::Generation;

const DAY_MS: u64 = 86_400_000;

#[test]
fn whatever_happens_a_device_keeps_its_promises() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let one = number("SEDGE_SEED");
    let runs = number("SEDGE_RUNS").unwrap_or(200);
    let seeds = one.map_or(0..runs, |seed| seed..seed + 1);
    let (mut commits, mut reverts, mut phases) = (0, 0, std::collections::BTreeSet::new());
    for seed in seeds {
        let device = explain(&format!("SEDGE_SEED={seed}"), || live(seed, &mut phases));
        commits += device.auditor.commits;
        reverts += device.auditor.reverts;
    }
    if one.is_none() && runs >= 200 {
        let missing: Vec<_> = Phase::ALL.into_iter().filter(|phase| !phases.contains(phase)).collect();
        assert!(missing.is_empty(), "the simulation never came to {missing:?}");
        assert!(commits > 300 && reverts > 10, "{commits} commits and {reverts} steps back are too few to mean much");
    }
}

/// One random life.
fn live(seed: u64, phases: &mut std::collections::BTreeSet<Phase>) -> Device {
    let mut random = Random(seed);
    let mut device = Device::new(!random.one_in(4), None);
    // Some lives are mostly lucky, so that they get far; some are not.
    let luck = [2, 6, 20, 60][random.index(4)];
    let mut generation = 1;
    for _ in 0..40 + random.below(160) {
        if random.one_in(luck * 2) {
            let cut = [Cut::Before, Cut::Torn, Cut::After][random.index(3)];
            device.fate = Some((device.performed + random.index(6), cut));
        }
        if random.one_in(2) {
            let good = !random.one_in(luck);
            device.forward(good, random.index(2));
        } else {
            step(&mut device, &mut random, luck, &mut generation);
        }
        phases.insert(device.world.machine.phase());
        let left = device.world.machine.next_deadline();
        assert!(left.is_none_or(|(at, _)| at <= device.world.now.boot_ms + 40 * DAY_MS), "waits for ever: {left:?}");
        let active = device.world.machine.phase();
        assert!(active.is_resting() || left.is_some(), "{active} has no deadline");
        assert!(device.world.machine.record().anchor.reports.len() <= REPORTS_MAX + 8, "reports pile up");
    }
    device.fate = None;
    let good = random.one_in(2);
    device.settle(good);
    phases.insert(device.world.machine.phase());
    device.audit_rest(good);
    // Back among the living, whatever happened: a good update must go through.
    device.settle(true);
    let last = Order { settings: "the last".into(), ..order(generation + 100, "v9") };
    device.tell(Event::Desired(Box::new(last)));
    device.settle(true);
    device.audit_rest(true);
    let running = device.world.machine.active().map(|active| active.bundle.digest);
    assert_eq!(running, Some(digest("v9")), "a good update did not go through");
    device
}

fn step(device: &mut Device, random: &mut Random, luck: u64, generation: &mut u64) {
    let slot = if random.one_in(2) { Slot::A } else { Slot::B };
    let subject = device.world.machine.state().subject();
    let resting = device.world.machine.phase().is_resting();
    match random.below(24) {
        0..=5 if resting => {
            *generation += 1;
            let name = ["v1", "v2", "v3", "v4"][random.index(4)];
            device.tell(Event::Desired(Box::new(random_order(random, *generation, name))));
        }
        6 if resting => device.tell(Event::OperatorRollback),
        0..=9 if !device.world.memory.open.is_empty() => {
            let at = random.index(device.world.memory.open.len());
            let ask = &device.world.memory.open[at].1;
            let answer = match random.below(luck * 2) {
                0 => bad_answer(ask),
                1 if matches!(ask, Ask::Download { .. }) => {
                    Answer::DownloadFailed { permanent: false, detail: "timeout".into() }
                }
                2 if matches!(ask, Ask::Download { .. }) => Answer::ChunkProgress { done_bytes: random.below(1000) },
                3 if matches!(ask, Ask::Download { .. }) => Answer::NoSpace,
                1..=3 if matches!(ask, Ask::BeginShadow { .. }) => Answer::Shadow(ShadowVerdict {
                    samples: random.below(120) as u32,
                    disagreements: random.below(12) as u32,
                    errors: 0,
                    latency_p95_us: random.below(2000) as u32,
                }),
                _ => good_answer(ask),
            };
            device.answer(at, answer);
        }
        10 => {
            let answers = [
                Answer::Authorized,
                Answer::SpaceReserved,
                Answer::Downloaded,
                Answer::StagedVerified,
                Answer::WorkerReady,
                Answer::GoldenPassed,
                Answer::TookOver,
                Answer::Shadow(ShadowVerdict { samples: 1000, ..Default::default() }),
            ];
            // A number that is not open: an answer that comes too late.
            let ticket = Ticket(random.below(30));
            if !device.world.memory.open.iter().any(|(open, _)| *open == ticket) {
                let answer = answers[random.index(answers.len())].clone();
                device.handle(Event::Answer { ticket, answer });
            }
        }
        11 | 12 => {
            device.pass_to_deadline();
        }
        13 => {
            let longest = [1_000, 60_000, 3_600_000, 3 * DAY_MS][random.index(4)];
            device.pass(random.below(longest));
        }
        14 if random.one_in(3) => {
            *generation = (*generation + random.below(4)).saturating_sub(random.below(2));
            let name = ["v1", "v2", "v3", "v4"][random.index(4)];
            device.tell(Event::Desired(Box::new(random_order(random, *generation, name))));
        }
        15 => device.tell(Event::DownloadWindowOpen),
        16 => device.tell(Event::ApplyAllowed),
        17 => device.tell(Event::HealthOk { slot: device.world.memory.route.unwrap_or(slot) }),
        18 => match random.below(luck) {
            0 => device.tell(Event::DownloadWindowClosed),
            1 => device.tell(Event::ApplyDeferred),
            2 => device.tell(Event::MemoryShort),
            3 => device.tell(Event::HealthBad { slot, reason: "slow".into() }),
            4 | 5 => device.tell(Event::OperatorRollback),
            _ => {}
        },
        19 if random.one_in(luck) => {
            let at = index(slot);
            if device.world.memory.workers[at].take().is_some() {
                device.world.memory.route.take_if(|route| *route == slot);
                device.tell(Event::WorkerDied { slot });
            }
        }
        20 => {
            let verdict = if random.one_in(luck) { Verdict::Revert } else { Verdict::Commit };
            let of = subject.map_or(Generation(0), |s| s.generation);
            let generation = if random.one_in(6) { Generation(random.below(9)) } else { of };
            device.tell(Event::Verdict { generation, verdict });
        }
        21 => {
            let known: Vec<u64> = device.world.server.keys().copied().collect();
            if !known.is_empty() {
                device.tell(Event::ReportAcked { seq: known[random.index(known.len())] });
            }
        }
        22 if random.one_in(luck) => {
            device.world.now.unix_s = [None, Some(0), Some(1_800_000_000)][random.index(3)];
        }
        22 => device.world.offline = random.one_in(2),
        23 if random.one_in(luck) => device.lose_power(),
        _ => {}
    }
}

fn random_order(random: &mut Random, generation: u64, name: &str) -> Order {
    let mut order = order(generation, name);
    order.probation_s = 1 + random.below(120) as u32;
    order.attempts_max = 1 + random.below(3) as u8;
    if random.one_in(3) {
        order.commit = CommitRule::Held { deadline_s: 1 + random.below(600) as u32 };
    }
    if random.one_in(4) {
        order.cold_swap = ColdSwap::Refused;
    }
    if random.one_in(4) {
        order.settings = random.below(3).into();
    }
    if random.one_in(6) {
        order.shadow.samples_min = 0;
    }
    if random.one_in(6) {
        order.shadow.latency_p95_max_us = Some(1_000);
    }
    if random.one_in(8) {
        order.not_after_unix_s = Some(1_800_000_000 + random.below(200_000));
    }
    if random.one_in(30) {
        order.length_bytes = 0;
    }
    order
}
