use super::super::view::{BundleLabel, DeviceRow, DeviceState, Online, RolloutState, RolloutView, Verdict, WaveState};
use super::source::Told;
use super::{device, moment, rollout, waits};
use crate::rollout::{
    AssignProblem, Candidate, Counters, DeviceView, DeviceWaits, Effect, Event, Evidence, FailureCode, GateKind,
    GateVerdict, Halt, IgnoredWhy, Note, Outcome, PausedBy, Presence, Rollout, RolloutSpec, RolloutWaits, Scope, State,
    Step, WaveState as Wave, plan,
};
use sedge_protocol::id::{DeviceId, Generation};
use sedge_protocol::message::{DeploymentState, ErrorCode};
use sedge_protocol::time::UnixSeconds;
use sedge_protocol::{BundleDigest, Sha256Digest};
use std::collections::{BTreeMap, VecDeque};

const BEGAN_MS: u64 = 1_800_000_000_000;

fn digest(name: &str) -> BundleDigest {
    BundleDigest(Sha256Digest::of(name.as_bytes()))
}

fn cam(n: usize) -> DeviceId {
    format!("cam-{n}").parse().expect("an id")
}

/// A rollout of `v2` over six devices, and who carries it out at once.
struct Played {
    rollout: Rollout,
    told: Vec<Told>,
    now_ms: u64,
    orders: VecDeque<Effect>,
    generations: BTreeMap<DeviceId, u64>,
}

impl Played {
    fn new() -> Self {
        let digest_new = digest("v2");
        let spec = RolloutSpec::from_toml(&format!(
            "project = \"acme\"\ncomponent = \"model\"\nbundle = \"digits\"\ndigest = \"{digest_new}\"\n\
             waves = [{{ name = \"canary\", size = 2, soak_s = 30 }}]\n\
             criteria = [{{ metric = \"accuracy\", limit_permille = 900, samples_min = 40 }}]\n"
        ));
        let candidate = |n| Candidate {
            device: cam(n),
            running: Some(digest("v1")),
            desired: Some(digest("v1")),
            seen: true,
            decommissioned: false,
            unmet: None,
            rollout: None,
        };
        let inventory: Vec<_> = (0..6).map(candidate).collect();
        let plan = plan(spec.expect("a declaration"), &inventory, Sha256Digest::of(b"salt")).expect("a plan");
        let (told, orders, generations) = (Vec::new(), VecDeque::new(), BTreeMap::new());
        Self { rollout: Rollout::new(plan), told, now_ms: BEGAN_MS, orders, generations }
    }

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
                    other => self.orders.push_back(other),
                }
            }
        }
    }

    fn next(&mut self, device: &DeviceId) -> Generation {
        let generation = self.generations.entry(device.clone()).or_insert(1);
        *generation += 1;
        Generation(*generation)
    }

    fn says(&mut self, n: usize, state: DeploymentState, held: bool, running: &str, error: Option<ErrorCode>) {
        let (device, running) = (self.rollout.plan().devices[n].clone(), Some(digest(running)));
        let generation = Generation(self.generations[&device]);
        self.handle(Event::DeviceReported { device, generation, state, held, running, error });
    }

    fn beats(&mut self, n: usize, samples: u64, right: u64) {
        let device = self.rollout.plan().devices[n].clone();
        let counters = Some(Counters { samples, labelled: samples, right, ..Counters::default() });
        let first_result_ts_ms = Some(self.now_ms);
        self.handle(Event::Heartbeat { device, running: digest("v2"), counters, first_result_ts_ms });
    }

    fn view(&self) -> RolloutView {
        let label = BundleLabel { name: "digits".into(), version: "2.0.0".into(), digest: digest("v2").0.hex() };
        let id = "r-1".parse().expect("an id");
        let summary = self.rollout.summary(self.now_ms);
        rollout::view(&id, &summary, &self.told, label, self.now_ms).expect("known states")
    }

    /// The view, whose figures must fit together.
    fn checked(&self) -> RolloutView {
        let (view, summary) = (self.view(), self.rollout.summary(self.now_ms));
        let sum = |states: &[(DeviceState, u64)]| states.iter().map(|(_, devices)| devices).sum::<u64>();
        assert_eq!(sum(&view.histogram), u64::from(summary.devices_total));
        assert_eq!(view.histogram.len(), Step::ALL.len(), "two steps share a word");
        for wave in &view.waves {
            assert_eq!(sum(&wave.states), wave.devices, "{}", wave.name);
        }
        assert_eq!(view.waves.iter().map(|wave| wave.devices).sum::<u64>(), 6);
        view
    }
}

/// What there is of something, in the order of its states.
fn some(states: &[(DeviceState, u64)]) -> Vec<(DeviceState, u64)> {
    states.iter().copied().filter(|(_, devices)| *devices > 0).collect()
}

#[test]
fn a_bad_rollout_is_shown_from_start_to_end() {
    let mut played = Played::new();
    let view = played.checked();
    assert_eq!((view.state, view.started_at, view.waiting[0].reason.as_str()), {
        (RolloutState::Scheduled, None, "waits for somebody to start it")
    });
    played.handle(Event::Start { actor: "ci".into() });
    let view = played.checked();
    assert_eq!((view.state, view.started_at), (RolloutState::Running, Some(UnixSeconds(1_800_000_000))));
    let waits: Vec<_> = view.waiting.iter().map(|w| format!("{} {}", w.what, w.reason)).collect();
    assert_eq!(
        waits,
        ["wave 1, canary waits for 2 devices on the way", "wave 2, rest waits until wave 1, canary has passed"]
    );
    assert_eq!((view.waves[0].state, view.waves[1].state), (WaveState::Dispatching, WaveState::Pending));
    assert!(view.gates.iter().all(|gate| gate.verdict != Verdict::Fail));
    played.now_ms += 5_000;
    played.says(0, DeploymentState::Probation, true, "v2", None);
    played.says(1, DeploymentState::Probation, true, "v2", None);
    played.now_ms += 12_000;
    let view = played.checked();
    assert_eq!((view.waves[0].state, view.waves[0].soak), (WaveState::Soaking, Some((12, 30))));
    assert_eq!(some(&view.waves[0].states), [(DeviceState::Holding, 2)]);
    assert_eq!(view.waiting[0].until, Some(UnixSeconds(1_800_000_035)));
    played.beats(0, 62, 41);
    let view = played.checked();
    assert_eq!(view.state, RolloutState::RollingBack);
    assert_eq!((view.waves[0].state, view.waves[0].soak), (WaveState::Failed, None));
    let accuracy = view.gates.iter().find(|gate| gate.name == "accuracy on labels").expect("it was judged");
    assert_eq!((accuracy.limit.as_str(), accuracy.measured.as_deref()), ("≥ 90 %", Some("66.1 %")));
    assert_eq!((accuracy.sample, accuracy.minimum, accuracy.verdict), (62, 40, Verdict::Fail));
    assert!(view.gates.iter().any(|gate| gate.verdict == Verdict::Pass), "{:?}", view.gates);
    assert_eq!(view.waiting[0].reason, "waits for 2 devices to go back, all that got the bundle");
    played.now_ms += 4_000;
    for n in 0..2 {
        played.says(n, DeploymentState::Reported, false, "v1", None);
    }
    let view = played.checked();
    assert_eq!((view.state, view.ended_at), (RolloutState::RolledBack, Some(UnixSeconds(1_800_000_021))));
    assert_eq!(some(&view.histogram), [(DeviceState::NotStarted, 4), (DeviceState::Back, 2)]);
    assert_eq!(view.waiting, []);
    assert!(view.sentence.starts_with("Rolled back in wave 1 of 2 by the accuracy gate"), "{}", view.sentence);
    let texts: Vec<_> = view.timeline.iter().map(|moment| moment.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "Every device that could be reached is back",
            "2 devices are called back, all that got the bundle",
            "Wave 1, canary failed: accuracy on labels 66.1 % (limit ≥ 90 %, 62 of at least 40)",
            "Wave 1, canary is watched for 30 s",
            "Wave 1, canary begins: 2 devices",
            "The rollout began"
        ]
    );
    assert_eq!(view.timeline.last().map(|moment| moment.actor.as_str()), Some("ci"));
}

#[test]
fn failures_are_named_by_their_code() {
    let mut played = Played::new();
    played.handle(Event::Start { actor: "ci".into() });
    played.says(0, DeploymentState::Reverted, false, "v1", Some(ErrorCode::GoldenFailed));
    let view = played.checked();
    let failure = &view.failures[0];
    let id = played.rollout.plan().devices[0].to_string();
    assert_eq!((failure.code.as_str(), failure.devices, &failure.named), ("E_GOLDEN_FAILED", 1, &vec![id.clone()]));
    let text = format!("{id} failed: E_GOLDEN_FAILED");
    assert!(view.timeline.iter().any(|moment| moment.text == text), "{:?}", view.timeline);
}

fn evidence() -> Evidence {
    let (limit, measured, count) = (Some(50_000), Some(116_666), Some(7));
    Evidence { gate: GateKind::Errors, limit, measured, count, sample: 60, sample_min: 5, verdict: GateVerdict::Fail }
}

fn halt() -> Halt {
    Halt { wave: 0, evidence: evidence(), devices: vec![cam(1)], code: None }
}

#[test]
fn every_state_has_its_word() {
    let (summary, label) = (
        Played::new().rollout.summary(BEGAN_MS),
        BundleLabel { name: String::new(), version: String::new(), digest: String::new() },
    );
    let shown = |state: &str, wave: &str| {
        let mut summary = summary.clone();
        (summary.state, summary.waves[0].state) = (state.into(), wave.into());
        let view = rollout::view(&"r-1".parse().expect("an id"), &summary, &[], label.clone(), BEGAN_MS);
        view.map(|view| (view.state, view.waves[0].state, rollout::has_ended(&summary)))
    };
    let (halt, by) = (Some(halt()), PausedBy::Operator { actor: "ada".into() });
    let states = [
        State::Scheduled,
        State::Running,
        State::Paused { by },
        State::Halted(self::halt()),
        State::RollingBack { halt: halt.clone(), scope: Scope::All },
        State::RolledBack { halt: halt.clone() },
        State::RollbackFailed { halt: halt.clone() },
        State::Completed,
        State::Aborted { halt },
        State::Superseded { by: "r-2".parse().expect("an id") },
    ];
    for (state, expected) in states.iter().zip(RolloutState::ALL) {
        let (shown, _, has_ended) = shown(state.name(), "pending").expect("known");
        assert_eq!((shown, has_ended), (*expected, state.is_final()));
    }
    assert_eq!(states.len(), RolloutState::ALL.len());
    let waves = [
        Wave::Pending,
        Wave::AwaitingGate,
        Wave::Dispatching,
        Wave::Soaking { until_ms: 0 },
        Wave::Judging,
        Wave::Passed { evidence: vec![] },
        Wave::Failed { evidence: vec![] },
        Wave::Skipped,
    ];
    for (state, expected) in waves.iter().zip(WaveState::ALL) {
        assert_eq!(shown("running", state.name()).expect("known").1, *expected);
    }
    assert_eq!(waves.len(), WaveState::ALL.len());
    assert!(shown("lost", "pending").is_err() && shown("running", "lost").is_err());
}

#[test]
fn every_entry_of_a_timeline_reads_as_a_sentence() {
    let summary = Played::new().rollout.summary(BEGAN_MS);
    let (d, actor) = (cam(1), "ada".to_owned());
    let problem = AssignProblem::NotReleased;
    let notes = [
        (Note::Paused { by: PausedBy::Operator { actor: actor.clone() } }, "Paused: somebody said so (ada)"),
        (
            Note::Paused { by: PausedBy::Gate { wave: 0, evidence: evidence() } },
            "Paused: too many devices of wave 1, canary cannot be reached: failed devices 11.7 % (limit ≤ 5 %, 60 of \
             at least 5)",
        ),
        (
            Note::Paused { by: PausedBy::Lapsed { wave: 0, devices: 1 } },
            "Paused: 1 device of wave 1, canary went back, as no verdict came in time",
        ),
        (Note::Paused { by: PausedBy::Assignment { problem } }, "Paused: the publisher has not released the bundle"),
        (Note::Resumed { actor: actor.clone() }, "It goes on (ada)"),
        (Note::Aborted { actor: actor.clone(), roll_back: false }, "Aborted: what has committed stays (ada)"),
        (Note::GateWaits { wave: 1 }, "Wave 2, rest waits for somebody to open its gate"),
        (Note::GateOpened { wave: 1, actor }, "Wave 2, rest may begin (ada)"),
        (Note::WavePassed { wave: 0, evidence: vec![evidence()] }, "Wave 1, canary has passed: failed devices 11.7 %"),
        (Note::WavePassed { wave: 7, evidence: vec![] }, "Wave 8 has passed"),
        (
            Note::CalledBack { scope: Scope::Uncommitted, devices: 1 },
            "1 device is called back, those that have not \
            committed",
        ),
        (
            Note::DeviceFailed { device: d.clone(), code: FailureCode::FellBack },
            "cam-1 failed: had succeeded and fell \
            back",
        ),
        (Note::AssignFailed { device: d.clone(), problem }, "cam-1: the publisher has not released the bundle"),
        (Note::Ended { outcome: Outcome::Completed }, "Completed"),
    ];
    for (note, text) in notes {
        let moment = moment::of(&Told { at_ms: 1, note }, &summary).expect("said");
        let actor = if moment.actor.is_empty() { String::new() } else { format!(" ({})", moment.actor) };
        assert_eq!(moment.text + &actor, text);
    }
    let ignored = Note::Ignored { device: d, why: IgnoredWhy::NotMember };
    assert_eq!(moment::of(&Told { at_ms: 1, note: ignored }, &summary), None);
}

#[test]
fn what_a_rollout_waits_for_says_who_ends_it() {
    let mut summary = Played::new().rollout.summary(BEGAN_MS);
    let mut first = |why| {
        summary.waiting = Some(why);
        waits::all(&summary)[0].reason.clone()
    };
    let figures = "failed devices 11.7 % (limit ≤ 5 %, 60 of at least 5)";
    let text = format!("waits for somebody to abort it: {figures}; what has committed stays till then");
    assert_eq!(first(RolloutWaits::Decision { halt: halt() }), text);
    let by = PausedBy::Operator { actor: "ada".into() };
    assert_eq!(first(RolloutWaits::Resume { by }), "waits for somebody to resume or abort it; somebody said so");
}

#[test]
fn a_device_shows_its_step_and_why() {
    let summary = |state: &str| {
        let mut summary = Played::new().rollout.summary(BEGAN_MS);
        summary.state = state.into();
        summary
    };
    let stands = |rollout: &str, own: (DeviceState, &str), step, code, waiting| {
        let (id, reason) = ("cam-1".to_owned(), own.1.to_owned());
        let (online, state) = (Online::Online, own.0);
        let mut row = DeviceRow { id, online, runs: None, served: None, wanted: None, state, reason, heard_at: None };
        device::follow(
            &mut row,
            &DeviceView { device: cam(1), wave: 1, step, waiting, code },
            &summary(rollout),
            "digits 2.0.0",
        );
        format!("{}: {}", row.state.word(), row.reason)
    };
    use DeviceState as D;
    let settled = (D::Settled, "");
    let wave = Some(DeviceWaits::Wave { wave: 1 });
    assert_eq!(stands("running", settled, Step::NotStarted, None, wave), "not started: waits for wave 2, rest");
    let offline = Some(DeviceWaits::Back { presence: Presence::Offline, deadline_ms: None });
    let code = Some(FailureCode::Reported(ErrorCode::Latency));
    let text = "going back: E_LATENCY; goes back when it connects";
    assert_eq!(stands("rolling-back", settled, Step::GoingBack, code.clone(), offline), text);
    // What it says itself is kept.
    let online = Some(DeviceWaits::Device { presence: Presence::Online, deadline_ms: None });
    let own = (D::Progress, "downloading: 1 of 2 bytes");
    assert_eq!(stands("running", own, Step::Progress, None, online.clone()), "updating: downloading: 1 of 2 bytes");
    let own = (D::Waiting, "to download: window");
    assert_eq!(stands("running", own, Step::Progress, None, online), "waiting: to download: window");
    let own = (D::Failed, "E_LATENCY: 99 ms");
    assert_eq!(stands("running", own, Step::Failed, code.clone(), None), "failed: E_LATENCY: 99 ms");
    // After the end only what went wrong is left of it.
    assert_eq!(stands("completed", settled, Step::Succeeded, None, None), "settled: ");
    assert_eq!(stands("rolled-back", settled, Step::NotStarted, None, None), "settled: ");
    assert_eq!(
        stands("rolled-back", settled, Step::Back, code, None),
        "settled: went back from digits 2.0.0: E_LATENCY"
    );
}
