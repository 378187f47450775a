//! Devices that lose power at every point, held against [`Auditor`].
//!
//! `SEDGE_SEED=n` runs one seed of the random simulation, `SEDGE_RUNS=n` so many of them.

use crate::auditor::Auditor;
use crate::random::Random;
use crate::world::{LENGTH_BYTES, World, bad_answer, bundle, digest, good_answer};
use sedge_protocol::deployment::record::scan;
use sedge_protocol::deployment::*;
use sedge_protocol::id::Generation;

const DAY_MS: u64 = 86_400_000;

/// How power goes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    Before,
    Torn,
    After,
}

/// When power goes next: at this effect, counted from now.
type Fate = Option<(usize, Cut)>;

struct Device {
    world: World,
    auditor: Auditor,
    performed: usize,
    fate: Fate,
}

impl Device {
    fn new(provisioned: bool, fate: Fate) -> Self {
        let active = provisioned.then(|| Active { slot: Slot::A, bundle: bundle("v1", 1) });
        let world = World::new(active);
        let mut device = Self { auditor: Auditor::new(&world), world, performed: 0, fate };
        device.handle(Event::Booted { running: None });
        device
    }

    fn answer(&mut self, at: usize, answer: Answer) {
        let (ticket, ask) = self.world.memory.open[at].clone();
        self.auditor.answered(&self.world, &ask, &answer);
        let event = self.world.answer(ticket, &ask, answer);
        self.handle(event);
    }

    fn tell(&mut self, event: Event) {
        self.auditor.told(&self.world, &event);
        self.handle(event);
    }

    fn handle(&mut self, event: Event) {
        let effects = self.world.machine.handle(event, self.world.now);
        for at in 0..effects.len() {
            let fate = self.fate.filter(|&(when, _)| when == self.performed).map(|(_, cut)| cut);
            self.performed += 1;
            match (fate, &effects[at]) {
                (Some(Cut::Before), _) => return self.lose_power(),
                (Some(Cut::Torn), Effect::Persist(record)) => {
                    self.world.tear(record, self.performed as u64 * 37 % 1000);
                    return self.lose_power();
                }
                _ => {}
            }
            self.auditor.about_to(&self.world, &effects, at);
            self.world.perform(&effects[at]);
            self.auditor.look(&self.world);
            let once = self.world.seen();
            self.world.perform(&effects[at]);
            assert_eq!(once, self.world.seen(), "{:?} done twice is not the same as once", effects[at]);
            if fate == Some(Cut::After) {
                return self.lose_power();
            }
        }
    }

    fn lose_power(&mut self) {
        self.fate = None;
        self.auditor.power_lost(&self.world);
        self.world.lose_power();
        self.auditor.look(&self.world);
        let before = self.world.seen();
        let mut again = self.world.clone();
        again.lose_power();
        assert_eq!(before, again.seen(), "restoring twice is not the same as once");
        self.handle(Event::Booted { running: None });
    }

    fn pass(&mut self, ms: u64) {
        self.world.now.boot_ms += ms;
        self.world.now.unix_s = self.world.now.unix_s.map(|s| s + ms / 1000);
        self.tell(Event::Deadline);
    }

    fn pass_to_deadline(&mut self) -> bool {
        let Some((at, _)) = self.world.machine.next_deadline() else { return false };
        let left = at.saturating_sub(self.world.now.boot_ms);
        self.pass(left);
        true
    }

    /// No more faults from outside: says yes, or no, to all that is asked until nothing moves.
    fn settle(&mut self, good: bool) {
        for step in 0..2_000 {
            let phase = self.world.machine.phase();
            let quiet = phase.is_resting() && self.world.machine.record().anchor.reports.is_empty();
            let serves = phase != Phase::Quarantined && self.world.memory.route.is_some() || self.is_empty();
            if quiet && self.world.memory.open.is_empty() && (!good || serves) {
                return;
            }
            self.forward(good, step);
        }
        panic!("never came to rest: {:?}", self.world.machine.state());
    }

    /// One step that lets a deployment go on, well or badly.
    fn forward(&mut self, good: bool, step: usize) {
        let phase = self.world.machine.phase();
        let active = self.world.machine.active().map_or(Slot::B, |active| active.slot);
        let reports = &self.world.machine.record().anchor.reports;
        let received = reports.iter().map(|report| report.seq).find(|seq| self.world.server.contains_key(seq));
        if let Some(seq) = received {
            self.tell(Event::ReportAcked { seq });
        } else if let Some((_, ask)) = self.world.memory.open.first() {
            let answer = if good { good_answer(ask) } else { bad_answer(ask) };
            self.answer(0, answer);
        } else if good && phase == Phase::Probation {
            self.tell(Event::HealthOk { slot: active.other() });
            let generation = self.world.machine.state().subject().map_or(Generation(0), |s| s.generation);
            self.tell(Event::Verdict { generation, verdict: Verdict::Commit });
            self.pass_to_deadline();
        } else if phase == Phase::WaitDownload && step % 2 == 0 {
            self.tell(Event::DownloadWindowOpen);
        } else if phase == Phase::WaitApply && step % 2 == 0 {
            self.tell(Event::ApplyAllowed);
        } else {
            self.pass_to_deadline();
        }
    }

    fn is_empty(&self) -> bool {
        self.world.machine.active().is_none()
    }

    fn audit_rest(&self, good: bool) {
        self.auditor.rested(&self.world);
        if good {
            self.auditor.serves(&self.world);
        }
    }
}

fn order(generation: u64, name: &str) -> Order {
    let mut order = Order::new(Generation(generation), digest(name), LENGTH_BYTES);
    order.shadow.samples_min = 50;
    order.deadlines.download_s = 4 * 3600;
    order
}

/// The stories in which power goes at every effect.
fn stories() -> Vec<(&'static str, fn(&mut Device))> {
    fn good(device: &mut Device) {
        device.tell(Event::Desired(Box::new(order(5, "v2"))));
        device.settle(true);
    }
    fn held(device: &mut Device) {
        let order = Order { commit: CommitRule::Held { deadline_s: 600 }, ..order(5, "v2") };
        device.tell(Event::Desired(Box::new(order)));
        device.settle(true);
    }
    fn cold(device: &mut Device) {
        device.tell(Event::Desired(Box::new(order(5, "v2"))));
        for _ in 0..40 {
            match device.world.machine.phase() {
                Phase::Trial | Phase::WaitApply => break,
                Phase::WaitDownload => device.tell(Event::DownloadWindowOpen),
                _ if device.world.memory.open.is_empty() => {
                    device.pass_to_deadline();
                }
                _ => {
                    let last = device.world.memory.open.len() - 1;
                    let answer = good_answer(&device.world.memory.open[last].1);
                    device.answer(last, answer);
                }
            }
        }
        device.tell(Event::MemoryShort);
        device.settle(true);
    }
    fn superseded(device: &mut Device) {
        device.tell(Event::Desired(Box::new(order(5, "v2"))));
        device.tell(Event::DownloadWindowOpen);
        for _ in 0..6 {
            if let Some((_, ask)) = device.world.memory.open.first() {
                let answer = good_answer(ask);
                device.answer(0, answer);
            }
        }
        device.tell(Event::Desired(Box::new(order(6, "v3"))));
        device.settle(true);
        // If power went before the second order was written down, the server's message comes again.
        device.tell(Event::Desired(Box::new(order(6, "v3"))));
        device.settle(true);
    }
    fn there_and_back(device: &mut Device) {
        good(device);
        device.tell(Event::OperatorRollback);
        device.settle(true);
        device.tell(Event::Desired(Box::new(order(9, "v2"))));
        device.settle(true);
    }
    fn bad(device: &mut Device) {
        device.tell(Event::Desired(Box::new(order(5, "v2"))));
        device.tell(Event::DownloadWindowOpen);
        device.tell(Event::ApplyAllowed);
        for _ in 0..30 {
            let Some((_, ask)) = device.world.memory.open.last() else { break };
            let last = device.world.memory.open.len() - 1;
            let answer = if matches!(ask, Ask::RunGolden { .. }) { bad_answer(ask) } else { good_answer(ask) };
            device.answer(last, answer);
        }
        device.settle(true);
    }
    vec![
        ("good", good),
        ("held", held),
        ("cold", cold),
        ("superseded", superseded),
        ("there and back", there_and_back),
        ("bad golden samples", bad),
    ]
}

#[test]
fn power_may_go_at_every_effect_of_every_story() {
    let mut cuts = 0;
    for (name, story) in stories() {
        for provisioned in [true, false] {
            if !provisioned && name != "good" {
                continue;
            }
            let mut device = Device::new(provisioned, None);
            story(&mut device);
            device.audit_rest(true);
            let (effects, wanted) = (device.performed, device.world.machine.active().cloned());
            for at in 0..effects {
                for cut in [Cut::Before, Cut::Torn, Cut::After] {
                    let run = || {
                        let mut device = Device::new(provisioned, Some((at, cut)));
                        story(&mut device);
                        device.settle(true);
                        // What was lost unwritten comes again, as from a retained message.
                        let generation = wanted.as_ref().map_or(Generation(5), |active| active.bundle.generation);
                        if device.world.machine.record().anchor.authorized < generation
                            && let Some(active) = &wanted
                        {
                            let again = Order { shadow: order(1, "v1").shadow, ..order(generation.0, "v0") };
                            let again = Order { digest: active.bundle.digest, ..again };
                            device.tell(Event::Desired(Box::new(again)));
                            device.settle(true);
                        }
                        device.audit_rest(true);
                        device
                    };
                    let device = explain(&format!("{name}, provisioned {provisioned}, {cut:?} effect {at}"), run);
                    let running = device.world.machine.active().map(|active| active.bundle.digest);
                    let known = [None, Some(digest("v1")), Some(digest("v2")), Some(digest("v3"))];
                    assert!(known.contains(&running), "{name}");
                    if matches!(name, "good" | "held" | "cold") {
                        assert_eq!(running, Some(digest("v2")), "{name}: {cut:?} effect {at} stopped a good update");
                    }
                    cuts += 1;
                }
            }
        }
    }
    assert!(cuts > 1_000, "only {cuts} cuts");
}

#[test]
fn a_device_that_restarts_in_every_trial_gives_up() {
    for attempts_max in 1..=ATTEMPTS_MAX {
        let mut device = Device::new(true, None);
        device.tell(Event::Desired(Box::new(Order { attempts_max, ..order(5, "v2") })));
        for _ in 0..600 {
            if device.world.machine.phase() == Phase::Trial {
                device.lose_power();
            } else if device.world.machine.phase() == Phase::WaitApply {
                device.tell(Event::ApplyAllowed);
            } else if let Some((_, ask)) = device.world.memory.open.last() {
                let (last, answer) = (device.world.memory.open.len() - 1, good_answer(ask));
                device.answer(last, answer);
            } else if device.world.machine.phase() == Phase::WaitDownload {
                device.tell(Event::DownloadWindowOpen);
            }
        }
        assert_eq!(device.world.machine.phase(), Phase::Rejected, "{attempts_max} attempts");
        device.settle(true);
        device.audit_rest(true);
    }
}

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
        14 => {
            if random.one_in(3) {
                *generation = (*generation + random.below(4)).saturating_sub(random.below(2));
                let name = ["v1", "v2", "v3", "v4"][random.index(4)];
                device.tell(Event::Desired(Box::new(random_order(random, *generation, name))));
            }
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
            let at = crate::world::index(slot);
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

/// Runs, and on a failure says first how to run it again.
fn explain<T>(what: &str, run: impl FnOnce() -> T) -> T {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(done) => done,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
            panic!("{what}: {text}");
        }
    }
}

#[test]
fn hostile_bytes_in_the_journal_never_stop_a_device() {
    let mut random = Random(11);
    let mut device = Device::new(true, None);
    device.tell(Event::Desired(Box::new(order(5, "v2"))));
    let journal = device.world.disk.journal.clone();
    for _ in 0..3_000 {
        let mut damaged = journal.clone();
        for _ in 0..=random.below(4) {
            let at = random.index(damaged.len());
            damaged[at] = random.next() as u8;
        }
        damaged.truncate(random.index(damaged.len() + 1));
        let mut machine = Deployment::restore(scan(&damaged).found, 1);
        let now = Now { boot_ms: random.below(1_000), unix_s: Some(random.next()) };
        machine.handle(Event::Booted { running: None }, now);
        machine.handle(Event::Deadline, Now { boot_ms: u64::MAX, unix_s: Some(u64::MAX) });
        machine.next_deadline();
    }
}
