//! Gates: what a wave must show, judged in whole numbers by multiplying, never by dividing.

use super::effect::Note;
use super::gate::{EVIDENCE_DEVICES_MAX, Evidence, GateKind, GateVerdict, Halt};
use super::health::{Share, Sums};
use super::machine::Rollout;
use super::spec::{Criterion, OnFailure};
use super::state::{FailureCode, Scope, State, Step, WaveState};
use super::turn::Turn;
use std::collections::BTreeSet;

fn of_devices(part: u32, of: u32) -> Share {
    Share { part: part.into(), of: of.into(), samples: of.into() }
}

const fn micro(permille: u32) -> u64 {
    permille as u64 * 1000
}

impl Rollout {
    /// A wave's gates as they are now, in the order in which they are judged.
    pub fn gates(&self, wave: usize) -> Vec<Evidence> {
        let mut gates = vec![self.errors(wave), self.success(wave), self.unreachable(wave)];
        gates.extend(self.plan.spec.criteria.iter().map(|criterion| self.field(wave, criterion)));
        gates
    }

    fn errors(&self, wave: usize) -> Evidence {
        let (tally, limit) = (&self.tallies[wave], self.plan.spec.errors);
        let failures = tally.count(Step::is_failure);
        let executed = failures + tally.count(Step::is_good);
        let needed = limit.executed_min.min(tally.able()).max(1);
        let share = of_devices(failures, executed);
        let verdict = match () {
            () if executed < needed => GateVerdict::NotEnoughData,
            () if share.is_above(limit.max_permille) => GateVerdict::Fail,
            () => GateVerdict::Pass,
        };
        evidence(GateKind::Errors, micro(limit.max_permille), share, Some(failures), needed.into(), verdict)
    }

    fn success(&self, wave: usize) -> Evidence {
        let (tally, least) = (&self.tallies[wave], self.plan.waves[wave].rules.success_min_permille);
        let good = tally.count(Step::is_good);
        let executed = good + tally.count(Step::is_failure);
        let needed = tally.able().max(1);
        let share = of_devices(good, executed);
        let verdict = match () {
            () if executed < needed || !tally.is_settled() => GateVerdict::NotEnoughData,
            () if share.is_below(least) => GateVerdict::Fail,
            () => GateVerdict::Pass,
        };
        evidence(GateKind::Success, micro(least), share, Some(good), needed.into(), verdict)
    }

    fn unreachable(&self, wave: usize) -> Evidence {
        let (tally, most) = (&self.tallies[wave], self.plan.spec.unreachable_max_permille);
        let (lost, members) = (tally.of(Step::Unreachable), tally.members());
        let share = of_devices(lost, members);
        let accepted = wave == self.core.wave && lost <= self.core.unreachable_accepted;
        let verdict = match () {
            () if share.is_above(most) && !accepted => GateVerdict::Fail,
            () if !tally.is_settled() => GateVerdict::NotEnoughData,
            () => GateVerdict::Pass,
        };
        evidence(GateKind::Unreachable, micro(most), share, Some(lost), members.into(), verdict)
    }

    fn field(&self, wave: usize, criterion: &Criterion) -> Evidence {
        let Criterion { metric, limit_permille, limit_us, drop_max_permille, samples_min } = *criterion;
        let share = self.tallies[wave].sums.share(metric);
        let lacks = share.samples < samples_min.into();
        let Some(drop) = drop_max_permille else {
            let gate = GateKind::Field(metric);
            let (limit, fails) = match (limit_permille, limit_us) {
                (Some(limit), _) if gate.is_upper_limit() => (micro(limit), share.is_above(limit)),
                (Some(limit), _) => (micro(limit), share.is_below(limit)),
                (None, limit) => (limit.unwrap_or(u64::MAX), limit.is_some_and(|us| share.part > us.into())),
            };
            return evidence(gate, limit, share, None, samples_min, verdict(lacks, fails));
        };
        let gate = GateKind::Control(metric);
        let control = Sums::of(&self.core.control.unwrap_or_default()).share(metric);
        let control_lacks = control.samples < samples_min.into();
        let found = verdict(lacks || control_lacks, share.is_worse(control, metric, drop));
        let shown = if control_lacks && !lacks { Share { samples: control.samples, ..share } } else { share };
        let limit = control.value(gate.is_latency()).map(|value| match gate {
            _ if gate.is_latency() => value.saturating_add(value.saturating_mul(drop.into()) / 1000),
            _ if gate.is_upper_limit() => value.saturating_add(micro(drop)).min(1_000_000),
            _ => value.saturating_sub(micro(drop)),
        });
        let measured = share.value(gate.is_latency());
        Evidence {
            limit: limit.filter(|_| !control_lacks),
            measured,
            ..evidence(gate, 0, shown, None, samples_min, found)
        }
    }

    /// Devices that show a failure, and what they say, if all say the same.
    fn shown_by(&self, wave: usize, gate: GateKind) -> (Vec<usize>, Option<FailureCode>) {
        let failed = |number: &usize| self.devices[*number].step.is_failure();
        let mut numbers: Vec<usize> = match gate {
            GateKind::Errors | GateKind::Success | GateKind::Unreachable => self.range(wave).filter(failed).collect(),
            GateKind::Field(metric) | GateKind::Control(metric) => {
                let with = |number: usize| Some((number, Sums::of(self.devices[number].counters.as_ref()?)));
                let mut found: Vec<_> = self.range(wave).filter_map(with).collect();
                found.retain(|(_, sums)| sums.share(metric).samples > 0);
                let value = |sums: &Sums| sums.share(metric).value(gate.is_latency());
                found.sort_by_key(|(_, sums)| value(sums));
                if gate.is_upper_limit() {
                    found.reverse();
                }
                found.into_iter().map(|(number, _)| number).collect()
            }
        };
        let codes: BTreeSet<&FailureCode> = match gate {
            GateKind::Errors | GateKind::Success => {
                numbers.iter().filter_map(|n| self.devices[*n].code.as_ref()).collect()
            }
            _ => BTreeSet::new(),
        };
        let code = codes.first().filter(|_| codes.len() == 1).map(|code| (*code).clone());
        numbers.truncate(EVIDENCE_DEVICES_MAX);
        (numbers, code)
    }
}

const fn verdict(lacks: bool, fails: bool) -> GateVerdict {
    match (lacks, fails) {
        (true, _) => GateVerdict::NotEnoughData,
        (false, true) => GateVerdict::Fail,
        (false, false) => GateVerdict::Pass,
    }
}

fn evidence(
    gate: GateKind,
    limit: u64,
    share: Share,
    count: Option<u32>,
    sample_min: u64,
    verdict: GateVerdict,
) -> Evidence {
    Evidence {
        gate,
        limit: Some(limit),
        measured: share.value(gate.is_latency()),
        count: count.map(Into::into),
        sample: u64::try_from(share.samples).unwrap_or(u64::MAX),
        sample_min,
        verdict,
    }
}

impl Turn<'_> {
    /// A gate has failed.
    pub(super) fn halt(&mut self, wave: usize, evidence: Evidence, gates: Vec<Evidence>) {
        let (numbers, code) = self.rollout.shown_by(wave, evidence.gate);
        let devices = numbers.into_iter().map(|number| self.id(number)).collect();
        let halt = Halt { wave, evidence, devices, code };
        self.note(Note::Halted(halt.clone()));
        self.rollout.core.waves[wave] = WaveState::Failed { evidence: gates };
        let scope = match self.rollout.plan.spec.on_failure {
            OnFailure::Halt => Scope::Uncommitted,
            OnFailure::RollBackWave => Scope::Wave,
            OnFailure::RollBackAll => Scope::All,
        };
        self.rollout.core.state = match scope {
            Scope::Uncommitted => State::Halted(halt),
            Scope::Wave | Scope::All => State::RollingBack { halt: Some(halt), scope },
        };
        self.call_back(scope, wave);
    }
}
