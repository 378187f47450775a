//! How waves follow one another: assign, wait for everybody, watch, judge.

use super::effect::{Effect, Note, Outcome};
use super::gate::{Evidence, GateKind, GateVerdict};
use super::plan::Candidate;
use super::spec::Gate;
use super::state::{Asked, PausedBy, Scope, State, Step, WaveState};
use super::turn::Turn;
use super::{Counters, IgnoredWhy};
use sedge_protocol::message::Verdict;

impl Turn<'_> {
    /// Lets everything move that can.
    pub(super) fn settle(&mut self) {
        self.judge_failures();
        while self.advance() {
            self.judge_failures();
        }
    }

    /// One step of the rollout; whether there may be another.
    fn advance(&mut self) -> bool {
        match &self.rollout.core.state {
            State::Running => match self.rollout.core.waves.get(self.rollout.core.wave).cloned() {
                Some(state) => self.advance_wave(self.rollout.core.wave, &state),
                None => self.complete(),
            },
            State::RollingBack { halt, scope } if self.rollout.count(Step::GoingBack) + self.undecided() == 0 => {
                let (halt, scope) = (halt.clone(), *scope);
                self.rollout.core.state = match scope {
                    _ if self.rollout.stuck > 0 => State::RollbackFailed { halt },
                    Scope::Uncommitted => State::Aborted { halt },
                    Scope::Wave | Scope::All => State::RolledBack { halt },
                };
                self.finish();
                false
            }
            _ => false,
        }
    }

    /// Devices on their way, and those that have a verdict to follow.
    fn undecided(&self) -> u32 {
        self.rollout.count(Step::Holding) + self.in_flight()
    }

    pub(super) fn finish(&mut self) {
        for state in &mut self.rollout.core.waves {
            if !matches!(state, WaveState::Passed { .. } | WaveState::Failed { .. }) {
                *state = WaveState::Skipped;
            }
        }
        for number in self.rollout.due(u64::MAX) {
            self.change(number, |device| device.deadline_ms = None);
        }
        if let Some(outcome) = Outcome::of(&self.rollout.core.state) {
            self.note(Note::Ended { outcome });
            self.effects.push(Effect::Finish { outcome });
        }
    }

    fn complete(&mut self) -> bool {
        self.dispatch();
        if self.undecided() > 0 || !self.rollout.again.is_empty() || !self.is_running() {
            return false;
        }
        self.rollout.core.state = State::Completed;
        self.finish();
        false
    }

    fn advance_wave(&mut self, wave: usize, state: &WaveState) -> bool {
        let tally = &self.rollout.tallies[wave];
        let untouched = tally.of(Step::NotStarted);
        match state {
            WaveState::Pending if tally.members() == 0 => self.leave_wave(wave, WaveState::Skipped),
            WaveState::Pending if self.rollout.plan.waves[wave].rules.gate == Gate::Manual => {
                self.rollout.core.waves[wave] = WaveState::AwaitingGate;
                self.note(Note::GateWaits { wave });
                self.dispatch();
                return false;
            }
            WaveState::Pending => self.begin_wave(wave),
            WaveState::AwaitingGate => {
                self.dispatch();
                return false;
            }
            _ if tally.members() == 0 => self.leave_wave(wave, WaveState::Skipped),
            // Somebody is asked once more.
            WaveState::Soaking { .. } | WaveState::Judging if untouched > 0 => {
                self.rollout.core.waves[wave] = WaveState::Dispatching;
            }
            _ if tally.is_settled() && tally.lapsed > 0 => {
                self.pause_by(PausedBy::Lapsed { wave, devices: tally.lapsed });
                return false;
            }
            WaveState::Dispatching => {
                self.dispatch();
                if !self.is_running() || !self.rollout.tallies[wave].is_settled() {
                    return false;
                }
                if self.rollout.tallies[wave].lapsed == 0 {
                    let until_ms = self.after(self.rollout.plan.waves[wave].rules.soak_s);
                    self.rollout.core.waves[wave] = WaveState::Soaking { until_ms };
                    self.note(Note::WaveSoaks { wave, until_ms });
                }
            }
            WaveState::Soaking { until_ms } if *until_ms <= self.now_ms => {
                self.rollout.core.waves[wave] = WaveState::Judging;
                self.note(Note::WaveJudged { wave });
            }
            WaveState::Judging => {
                let evidence = self.rollout.gates(wave);
                if evidence.iter().any(|gate| gate.verdict != GateVerdict::Pass) {
                    self.dispatch();
                    return false;
                }
                self.pass_wave(wave, evidence);
            }
            _ => {
                self.dispatch();
                return false;
            }
        }
        true
    }

    pub(super) fn begin_wave(&mut self, wave: usize) {
        self.rollout.core.waves[wave] = WaveState::Dispatching;
        self.rollout.core.next = self.rollout.range(wave).start as u32;
        self.note(Note::WaveBegan { wave });
    }

    fn pass_wave(&mut self, wave: usize, evidence: Vec<Evidence>) {
        self.note(Note::WavePassed { wave, evidence: evidence.clone() });
        self.leave_wave(wave, WaveState::Passed { evidence });
        for number in self.rollout.range(wave) {
            if self.device(number).step == Step::Holding {
                self.agree(number);
            }
        }
    }

    /// Lets a device that holds keep the bundle.
    pub(super) fn agree(&mut self, number: usize) {
        let wave = self.rollout.wave_of(number);
        let at_ms = self.after(self.rollout.plan.waves[wave].rules.deadline_s);
        self.change(number, |device| device.deadline_ms = device.deadline_ms.or(Some(at_ms)));
        self.verdict(number, Verdict::Commit);
    }

    fn leave_wave(&mut self, wave: usize, state: WaveState) {
        if state == WaveState::Skipped {
            self.note(Note::WaveSkipped { wave });
        }
        self.rollout.core.waves[wave] = state;
        self.rollout.core.wave = wave + 1;
        self.rollout.core.next = self.rollout.range(wave).end as u32;
        self.rollout.core.unreachable_accepted = 0;
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.rollout.count(Step::Assigned) + self.rollout.count(Step::Progress)
    }

    /// Assigns the bundle to as many devices as may be on their way. Nothing else assigns it.
    fn dispatch(&mut self) {
        while self.is_running() && self.in_flight() < self.rollout.plan.spec.in_flight_max {
            let number = match self.rollout.again.pop_first() {
                Some(number) => number as usize,
                None => match self.next_in_wave() {
                    Some(number) => number,
                    None => return,
                },
            };
            if self.device(number).step != Step::NotStarted {
                continue;
            }
            self.change(number, |device| {
                device.step = Step::Assigned;
                device.asked = Some(Asked::Assign);
            });
            self.effects.push(Effect::Assign { device: self.id(number) });
        }
    }

    fn next_in_wave(&mut self) -> Option<usize> {
        let wave = self.rollout.core.wave;
        if self.rollout.core.waves.get(wave) != Some(&WaveState::Dispatching) {
            return None;
        }
        let next = self.rollout.core.next;
        ((next as usize) < self.rollout.range(wave).end).then(|| {
            self.rollout.core.next = next + 1;
            next as usize
        })
    }

    /// Halts or pauses when a gate says so. Gates are judged on every event, in a paused rollout too: what devices do goes
    /// on.
    fn judge_failures(&mut self) {
        let (current, touched) = (self.rollout.core.wave, self.wave);
        for wave in touched.into_iter().filter(|wave| *wave != current).chain([current]) {
            if !matches!(self.rollout.core.state, State::Running | State::Paused { .. }) {
                return;
            }
            let Some(state) = self.rollout.core.waves.get(wave) else { continue };
            let passed = match state {
                WaveState::Dispatching | WaveState::Soaking { .. } | WaveState::Judging => false,
                WaveState::Passed { .. } => true,
                _ => continue,
            };
            // What a wave has passed by is not judged again, but for harm that shows later.
            let fails = |gate: &Evidence| {
                gate.verdict == GateVerdict::Fail
                    && !(passed && matches!(gate.gate, GateKind::Success | GateKind::Unreachable))
            };
            let gates = self.rollout.gates(wave);
            match gates.iter().find(|gate| fails(gate) && gate.gate != GateKind::Unreachable) {
                Some(gate) => self.halt(wave, gate.clone(), gates),
                None => {
                    if self.is_running()
                        && let Some(evidence) = gates.iter().find(|gate| fails(gate)).cloned()
                    {
                        self.pause_by(PausedBy::Gate { wave, evidence });
                    }
                }
            }
        }
    }

    pub(super) fn control(&mut self, counters: Counters, devices: u32) {
        if devices == 0 || !counters.is_sound() {
            return;
        }
        // Towards the end few devices are untouched: the last control that can carry a judgement stays.
        let enough = |counters: &Counters| {
            self.rollout.plan.spec.criteria.iter().all(|c| counters.samples_for(c.metric) >= c.samples_min)
        };
        if enough(&counters) || !self.rollout.core.control.as_ref().is_some_and(enough) {
            self.rollout.core.control = Some(counters);
        }
    }

    pub(super) fn join(&mut self, candidate: &Candidate) {
        let device = candidate.device.clone();
        let selected = self.rollout.plan.spec.devices.selects(&device);
        if !selected || self.rollout.number(&device).is_some() || self.rollout.core.state.is_final() {
            return;
        }
        let last = self.rollout.core.waves.len().saturating_sub(1);
        let open = matches!(
            self.rollout.core.waves.last(),
            Some(WaveState::Pending | WaveState::AwaitingGate | WaveState::Dispatching)
        );
        let why = match self.rollout.core.state {
            State::Scheduled | State::Running | State::Paused { .. } if open => {
                candidate.ineligible(self.rollout.plan.spec.digest).map(|_| IgnoredWhy::JoinedIneligible)
            }
            _ => Some(IgnoredWhy::JoinedTooLate),
        };
        match why {
            Some(why) => self.note(Note::Ignored { device, why }),
            None => {
                self.rollout.add(device.clone());
                self.note(Note::DeviceJoined { device, wave: last });
            }
        }
    }
}
