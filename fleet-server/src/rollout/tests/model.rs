//! Random lives of rollouts against a small model that knows nothing of waves, steps or gates: it watches what is
//! ordered of each device, plays the devices, and holds the machine to what it promises.

use super::fleet::{Kept, candidate, declared, digest, salt};
use crate::rollout::*;
use proptest::prelude::*;
use sedge_protocol::id::{DeviceId, Generation};
use sedge_protocol::message::{DeploymentState, ErrorCode, Verdict};
use std::collections::{BTreeMap, VecDeque};

/// What is to happen next.
#[derive(Debug, Clone)]
enum Act {
    Start,
    Pause,
    Resume,
    Abort(bool),
    Gate(usize),
    /// A device's way goes one step on: well, or not.
    Device(usize, Fate),
    Online(usize, bool),
    Beat(usize, u64, u64),
    Control(u64, u64),
    Answer(bool),
    Later(u64),
    Crash(u64),
    Join,
    Gone(usize),
    Steer(usize),
    Stale(usize),
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    On,
    Bad,
    WrongDigest,
    Interrupted,
    FallBack,
}

fn act() -> impl Strategy<Value = Act> {
    let fate = prop_oneof![
        12 => Just(Fate::On),
        1 => Just(Fate::Bad),
        1 => Just(Fate::WrongDigest),
        1 => Just(Fate::Interrupted),
        1 => Just(Fate::FallBack)
    ];
    prop_oneof![
        3 => Just(Act::Start),
        1 => Just(Act::Pause),
        3 => Just(Act::Resume),
        1 => any::<bool>().prop_map(Act::Abort),
        2 => (0usize..5).prop_map(Act::Gate),
        40 => (0usize..16, fate).prop_map(|(d, f)| Act::Device(d, f)),
        4 => (0usize..16, any::<bool>()).prop_map(|(d, o)| Act::Online(d, o)),
        6 => (0usize..16, 0u64..200, 0u64..12).prop_map(|(d, s, e)| Act::Beat(d, s, e)),
        2 => (0u64..400, 0u64..20).prop_map(|(s, e)| Act::Control(s, e)),
        24 => prop_oneof![9 => Just(true), 1 => Just(false)].prop_map(Act::Answer),
        12 => prop_oneof![0u64..90_000, Just(3_700_000)].prop_map(Act::Later),
        3 => prop_oneof![Just(0u64), Just(10_000_000)].prop_map(Act::Crash),
        1 => Just(Act::Join),
        1 => (0usize..16).prop_map(Act::Gone),
        1 => (0usize..16).prop_map(Act::Steer),
        2 => (0usize..16).prop_map(Act::Stale),
    ]
}

/// A device as it is, whatever the machine believes.
#[derive(Debug, Clone, Default)]
struct Real {
    /// What the director desires: generation, and whether it is the rollout's bundle.
    desired: (u64, bool),
    /// Generation that it works on, and how far: received, trial, held, ended.
    at: (u64, u8),
    runs_new: bool,
    verdict: Option<(u64, Verdict)>,
    ended_badly: bool,
}

#[derive(Debug)]
struct Game {
    kept: Kept,
    real: BTreeMap<DeviceId, Real>,
    orders: VecDeque<Effect>,
    now_ms: u64,
    steered: Vec<DeviceId>,
    gone: Vec<DeviceId>,
    touched: Vec<DeviceId>,
    halted: bool,
    joined: u32,
}

impl Game {
    fn new(spec: RolloutSpec, devices: u32) -> Self {
        let inventory: Vec<_> = (0..devices).map(|n| candidate(format!("cam-{n}").parse().expect("id"))).collect();
        let kept = Kept::new(plan(spec, &inventory, salt()).expect("plan"));
        let real = inventory.into_iter().map(|c| (c.device, Real { desired: (1, false), ..Real::default() })).collect();
        Self {
            kept,
            real,
            orders: VecDeque::new(),
            now_ms: 1_800_000_000_000,
            steered: vec![],
            gone: vec![],
            touched: vec![],
            halted: false,
            joined: 0,
        }
    }

    fn id(&self, n: usize) -> DeviceId {
        self.real.keys().nth(n % self.real.len()).expect("device").clone()
    }

    fn tell(&mut self, event: Event) {
        let before = self.kept.rollout.state().clone();
        let effects = self.kept.handle(event, self.now_ms);
        self.check(&before, &effects);
        let ordered =
            |e: &Effect| matches!(e, Effect::Assign { .. } | Effect::RollBack { .. } | Effect::Verdict { .. });
        self.orders.extend(effects.into_iter().filter(ordered));
    }

    /// What must hold of every turn.
    fn check(&mut self, before: &State, effects: &[Effect]) {
        let rollout = &self.kept.rollout;
        let assigned: Vec<_> = effects.iter().filter(|e| matches!(e, Effect::Assign { .. })).collect();
        if !assigned.is_empty() {
            assert!(
                matches!(before, State::Scheduled | State::Running | State::Paused { .. }) && !self.halted,
                "assigned while {}",
                before.name()
            );
            let in_flight = rollout.count(Step::Assigned) + rollout.count(Step::Progress);
            // Devices that were lost and come back were on their way before.
            let max = rollout.plan().spec.in_flight_max;
            let returned = rollout.devices().filter(|(_, d, _)| d.step == Step::Progress).count() as u32;
            assert!(in_flight <= max.max(returned + max), "{in_flight} on their way, at most {max}");
        }
        for effect in effects {
            match effect {
                Effect::Assign { device } => assert!(!self.steered.contains(device), "{device} is fought over"),
                Effect::Note(Note::Halted(halt)) => {
                    assert_eq!(halt.evidence.verdict, GateVerdict::Fail);
                    assert!(halt.evidence.measured.is_some() && halt.evidence.limit.is_some(), "{halt:?}");
                    assert!(halt.evidence.sample >= halt.evidence.sample_min, "{halt:?}");
                    assert!(!halt.devices.is_empty(), "{halt:?}");
                    self.halted = true;
                }
                _ => {}
            }
        }
        let aborted = effects.iter().any(|e| matches!(e, Effect::Note(Note::Aborted { .. })));
        self.halted |= aborted;
        if before.is_final() {
            assert_eq!(before, rollout.state(), "a final state changed");
        }
        self.sums();
        if rollout.state().is_final() {
            self.nobody_is_stranded();
        }
    }

    fn sums(&self) {
        let rollout = &self.kept.rollout;
        let total: u32 = Step::ALL.iter().map(|&step| rollout.count(step)).sum();
        assert_eq!(total as usize, rollout.devices().count());
        let summary = rollout.summary(self.now_ms);
        for wave in &summary.waves {
            assert_eq!(wave.devices, wave.steps.iter().map(|c| c.devices).sum::<u32>());
        }
        assert_eq!(summary.waves.iter().map(|w| w.devices).sum::<u32>(), summary.devices_total);
        for step in Step::ALL {
            let counted = rollout.devices().filter(|(_, d, _)| d.step == *step).count();
            assert_eq!(counted as u32, rollout.count(*step), "{step:?}");
        }
        let waits = rollout.waiting();
        assert!(rollout.state().is_final() || waits.iter().any(|w| matches!(w, Waiting::Rollout { .. })));
    }

    /// Every device that was touched has an end, or a reason that says what it waits for.
    fn nobody_is_stranded(&self) {
        let rollout = &self.kept.rollout;
        if matches!(rollout.state(), State::Superseded { .. }) {
            return;
        }
        for (id, device, _) in rollout.devices() {
            let fine = match device.step {
                Step::NotStarted | Step::Succeeded | Step::Back | Step::Superseded | Step::Skipped => true,
                Step::Failed | Step::Rejected | Step::TimedOut => device.code.is_some(),
                Step::Unreachable => rollout.device_waits(id).is_some(),
                // Devices that return after the end.
                Step::Assigned | Step::Progress | Step::Holding | Step::GoingBack => rollout.device_waits(id).is_some(),
            };
            assert!(fine, "{id} is left {:?} in a rollout that is {}", device.step, rollout.state().name());
        }
    }

    /// Performs one order of the machine, as a server does it.
    fn answer(&mut self, well: bool) {
        let Some(effect) = self.orders.pop_front() else { return };
        match effect {
            Effect::Assign { device } if !well => {
                self.tell(Event::AssignFailed { device, problem: AssignProblem::Busy });
            }
            Effect::Assign { device } => {
                let desired = &mut self.real.get_mut(&device).expect("device").desired;
                if !desired.1 || self.steered.contains(&device) {
                    *desired = (desired.0 + 1, true);
                }
                let generation = Generation(desired.0);
                if !self.touched.contains(&device) {
                    self.touched.push(device.clone());
                }
                self.tell(Event::Assigned { device, generation });
            }
            Effect::RollBack { device } if !well => {
                self.tell(Event::RollBackFailed { device, problem: AssignProblem::Busy });
            }
            Effect::RollBack { device } => {
                let desired = &mut self.real.get_mut(&device).expect("device").desired;
                if desired.1 {
                    *desired = (desired.0 + 1, false);
                }
                let generation = Generation(desired.0);
                self.tell(Event::RollBackAssigned { device, generation });
            }
            Effect::Verdict { device, generation, verdict } if well => {
                self.real.get_mut(&device).expect("device").verdict = Some((generation.0, verdict));
            }
            _ => {}
        }
    }

    fn report(&mut self, id: &DeviceId, state: DeploymentState, held: bool, error: Option<ErrorCode>) {
        let real = &self.real[id];
        let running = Some(digest(if real.runs_new { "v2" } else { "v1" }));
        let generation = Generation(real.at.0);
        self.tell(Event::DeviceReported { device: id.clone(), generation, state, held, running, error });
    }

    /// A device goes on.
    fn device(&mut self, id: &DeviceId, fate: Fate) {
        let held = self.kept.rollout.plan().spec.commit == Commit::Held;
        let mut real = self.real[id].clone();
        let verdict = real.verdict.filter(|(generation, _)| *generation == real.at.0).map(|(_, verdict)| verdict);
        let newer = real.desired.0 > real.at.0;
        use DeploymentState as S;
        let (state, is_held, error) = match (real.at.1, fate) {
            // Before its end a device takes a newer desired state, and gives up what it does.
            (0 | 3, _) | (1 | 2, Fate::On) if newer => {
                let (generation, new) = real.desired;
                if !new {
                    real = Real { at: (generation, 3), runs_new: false, ..real };
                    (S::Committed, false, None)
                } else {
                    real = Real { at: (generation, 1), ended_badly: false, ..real };
                    (S::Trial, false, None)
                }
            }
            (0, _) => return,
            (1, Fate::On) => {
                real.runs_new = true;
                real.at.1 = if held { 2 } else { 3 };
                if held { (S::Probation, true, None) } else { (S::Committed, false, None) }
            }
            (1 | 2, Fate::Bad) => {
                (real.at.1, real.runs_new, real.ended_badly) = (3, false, true);
                (S::Reverted, false, Some(ErrorCode::GoldenFailed))
            }
            (1, Fate::Interrupted) => (S::WaitApply, false, None),
            (2, Fate::Interrupted) => {
                (real.at.1, real.runs_new) = (1, false);
                (S::WaitApply, false, None)
            }
            (2, Fate::On) => match verdict {
                Some(Verdict::Commit) => {
                    real.at.1 = 3;
                    (S::Committed, false, None)
                }
                Some(Verdict::Revert) => {
                    (real.at.1, real.runs_new, real.ended_badly) = (3, false, true);
                    (S::Reverted, false, Some(ErrorCode::Verdict))
                }
                None => (S::Probation, true, None),
            },
            // Nobody has told it anything for too long.
            (2, _) => {
                (real.at.1, real.runs_new, real.ended_badly) = (3, false, true);
                (S::Reverted, false, Some(ErrorCode::TimedOut))
            }
            (3, Fate::FallBack) if real.runs_new && !real.ended_badly => {
                real.runs_new = false;
                (S::Reverted, false, Some(ErrorCode::WorkerCrashed))
            }
            (3, _) if real.ended_badly => (S::Reverted, false, Some(ErrorCode::GoldenFailed)),
            (3, _) if real.at == (real.desired.0, 3) => (S::Committed, false, None),
            _ => return,
        };
        self.real.insert(id.clone(), real);
        if matches!(fate, Fate::WrongDigest) && state == S::Committed {
            let generation = Generation(self.real[id].at.0);
            let running = Some(digest("v3"));
            self.tell(Event::DeviceReported { device: id.clone(), generation, state, held: false, running, error });
        } else {
            self.report(id, state, is_held, error);
        }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Start => self.tell(Event::Start { actor: "a".into() }),
            Act::Pause => self.tell(Event::Pause { actor: "a".into() }),
            Act::Resume => self.tell(Event::Resume { actor: "a".into() }),
            Act::Abort(roll_back) => self.tell(Event::Abort { actor: "a".into(), roll_back: *roll_back }),
            Act::Gate(wave) => self.tell(Event::ManualGatePassed { wave: *wave, actor: "a".into() }),
            Act::Device(n, fate) => self.device(&self.id(*n), *fate),
            Act::Online(n, online) => self.tell(Event::Presence { device: self.id(*n), online: *online }),
            Act::Beat(n, samples, errors) => {
                let device = self.id(*n);
                let running = digest(if self.real[&device].runs_new { "v2" } else { "v1" });
                let counters = Counters { samples: *samples, errors: *errors, ..Counters::default() };
                let first_result_ts_ms = Some(self.now_ms);
                self.tell(Event::Heartbeat { device, running, counters: Some(counters), first_result_ts_ms });
            }
            Act::Control(samples, errors) => {
                let counters = Counters { samples: *samples, errors: *errors, ..Counters::default() };
                self.tell(Event::ControlHealth { counters, devices: 3 });
            }
            Act::Answer(well) => self.answer(*well),
            Act::Later(ms) => {
                self.now_ms += ms;
                self.tell(Event::Deadline);
            }
            Act::Crash(ms) => {
                self.now_ms += ms;
                let before = self.kept.rollout.state().clone();
                self.orders = self.kept.crash(self.now_ms).into();
                assert_eq!(&before, self.kept.rollout.state());
                let wrong = |e: &Effect| matches!(e, Effect::Assign { .. }) && before != State::Running;
                assert!(!self.orders.iter().any(wrong), "assigned while {}", before.name());
            }
            Act::Join => {
                self.joined += 1;
                let device: DeviceId = format!("late-{}", self.joined).parse().expect("id");
                self.real.insert(device.clone(), Real { desired: (1, false), ..Real::default() });
                self.tell(Event::DeviceJoined { candidate: candidate(device) });
            }
            Act::Gone(n) => {
                let device = self.id(*n);
                self.gone.push(device.clone());
                self.tell(Event::DeviceGone { device });
            }
            Act::Steer(n) => {
                let device = self.id(*n);
                let desired = &mut self.real.get_mut(&device).expect("device").desired;
                *desired = (desired.0 + 1, false);
                let generation = Generation(desired.0);
                // What was ordered before and not done is done before: a server has one row per device.
                self.orders.retain(|e| !matches!(e, Effect::Assign { device: d } if *d == device));
                self.steered.push(device.clone());
                self.tell(Event::OtherAssignment { device, generation });
            }
            Act::Stale(n) => {
                let device = self.id(*n);
                let before = self.kept.rollout.device(&device).map(|(d, _)| d.step);
                let (generation, running) = (Generation(0), Some(digest("v2")));
                let state = DeploymentState::Committed;
                self.tell(Event::DeviceReported {
                    device: device.clone(),
                    generation,
                    state,
                    held: false,
                    running,
                    error: None,
                });
                let after = self.kept.rollout.device(&device).map(|(d, _)| d.step);
                assert_eq!(before, after, "a report for a generation of nobody counts");
            }
        }
    }

    /// Everybody answers and goes on until nothing moves, and the rollout must have come to rest.
    fn come_to_rest(&mut self) {
        for round in 0..800 {
            while !self.orders.is_empty() {
                self.answer(true);
            }
            let ids: Vec<_> = self.real.keys().filter(|id| !self.gone.contains(id)).cloned().collect();
            for id in &ids {
                self.tell(Event::Presence { device: id.clone(), online: true });
                self.device(id, Fate::On);
                let running = digest(if self.real[id].runs_new { "v2" } else { "v1" });
                let counters = Some(Counters { samples: 1000, ..Counters::default() });
                self.tell(Event::Heartbeat { device: id.clone(), running, counters, first_result_ts_ms: None });
            }
            self.tell(Event::ControlHealth { counters: Counters { samples: 1000, ..Counters::default() }, devices: 1 });
            match self.kept.rollout.state() {
                State::Paused { .. } => self.tell(Event::Resume { actor: "a".into() }),
                State::Scheduled => self.tell(Event::Start { actor: "a".into() }),
                State::Halted(_) => self.tell(Event::Abort { actor: "a".into(), roll_back: true }),
                _ => {}
            }
            for wave in 0..self.kept.rollout.waves().len() {
                if self.kept.rollout.waves()[wave] == WaveState::AwaitingGate {
                    self.tell(Event::ManualGatePassed { wave, actor: "a".into() });
                }
            }
            // Devices are faster than deadlines.
            if round % 8 == 7
                && let Some((at_ms, _)) = self.kept.rollout.next_deadline()
            {
                self.now_ms = self.now_ms.max(at_ms);
                self.tell(Event::Deadline);
            }
            let rollout = &self.kept.rollout;
            let moving = [Step::Assigned, Step::Progress, Step::Holding, Step::GoingBack, Step::Unreachable];
            if rollout.state().is_final() && self.orders.is_empty() && moving.iter().all(|s| rollout.count(*s) == 0) {
                return self.agrees_with_devices();
            }
        }
        let rollout = &self.kept.rollout;
        panic!("never came to rest: {:?}\n{:?}", rollout.summary(self.now_ms).sentence, rollout.waiting());
    }

    /// In the end what the machine says of each device is what the device does.
    fn agrees_with_devices(&self) {
        let rollout = &self.kept.rollout;
        for (id, device, _) in rollout.devices() {
            let real = &self.real[id];
            if self.steered.contains(id) || self.gone.contains(id) {
                continue;
            }
            match device.step {
                Step::Succeeded => assert!(real.runs_new, "{id} is said to run the bundle"),
                Step::Back => assert!(!real.runs_new && !real.desired.1, "{id} is said to be back: {real:?}"),
                Step::NotStarted if !device.touched => assert!(!real.runs_new, "{id} was never touched"),
                _ => {}
            }
        }
        if matches!(rollout.state(), State::RolledBack { .. })
            && rollout.plan().spec.on_failure == OnFailure::RollBackAll
        {
            let left = self.real.iter().filter(|(id, real)| {
                real.runs_new && self.touched.contains(id) && !self.steered.contains(id) && !self.gone.contains(id)
            });
            assert_eq!(left.count(), 0, "somebody still runs what was rolled back");
        }
    }
}

fn spec() -> impl Strategy<Value = RolloutSpec> {
    let wave = (1u32..5, any::<bool>(), any::<bool>());
    let failure = prop_oneof![Just("halt"), Just("roll-back-wave"), Just("roll-back-all")];
    let criteria = prop_oneof![
        Just(""),
        Just("criteria = [{ metric = \"error-rate\", limit_permille = 40, samples_min = 50 }]\n"),
        Just("criteria = [{ metric = \"error-rate\", drop_max_permille = 20, samples_min = 50 }]\n"),
    ];
    let waves = prop::collection::vec(wave, 0..4);
    (waves, any::<bool>(), failure, 1u32..6, 0u32..600, criteria).prop_map(
        |(waves, held, failure, in_flight, most, criteria)| {
            let waves: Vec<_> = waves
                .iter()
                .enumerate()
                .map(|(i, (size, manual, percent))| {
                    let size = if *percent { format!("\"{}%\"", size * 8) } else { size.to_string() };
                    let gate = if *manual { "manual" } else { "automatic" };
                    format!(
                        "{{ name = \"w{i}\", size = {size}, gate = \"{gate}\", soak_s = 30, deadline_s = 300, \
                         success_min_permille = 500 }}"
                    )
                })
                .collect();
            let commit = if held { "held" } else { "auto" };
            declared(&format!(
                "waves = [{}]\ncommit = \"{commit}\"\non_failure = \"{failure}\"\nin_flight_max = {in_flight}\n{criteria}\
                 errors = {{ max_permille = {most}, executed_min = 2 }}\nunreachable_max_permille = 400\n\
                 rest = {{ soak_s = 30, deadline_s = 300, success_min_permille = 300 }}\n",
                waves.join(", ")
            ))
            .expect("spec")
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_rollout_keeps_its_promises_in_every_life(
        spec in spec(),
        devices in 0u32..12,
        acts in prop::collection::vec(act(), 0..160),
    ) {
        let mut game = Game::new(spec, devices.max(1));
        for act in &acts {
            game.act(act);
        }
        game.come_to_rest();
    }
}
