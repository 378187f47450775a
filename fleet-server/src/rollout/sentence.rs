//! A rollout in a sentence or two: what it does, why it does not, the rule, the measured value, the limit, and what is
//! left.

mod phrase;

use super::gate::{GateVerdict, Halt};
use super::machine::Rollout;
use super::state::{PausedBy, State, Step, WaveState};
use phrase::{devices, found, gate_name, lacks, number, seconds};

impl Rollout {
    pub(super) fn sentence(&self, now_ms: u64) -> String {
        let parts = match &self.core.state {
            State::Scheduled => vec![self.scheduled()],
            State::Running => vec![self.running(now_ms), self.not_started()],
            State::Paused { by } => vec![self.paused(by), self.not_started()],
            State::Halted(halt) => {
                vec![format!("Halted {}.", self.by_gate(halt)), self.keepers(), self.not_started()]
            }
            State::RollingBack { halt, .. } => vec![self.named("Rolling back", halt.as_ref()), self.backs()],
            State::RolledBack { halt } => {
                vec![self.named("Rolled back", halt.as_ref()), self.all_back(), self.keepers(), self.never_touched()]
            }
            State::RollbackFailed { halt } => {
                vec![self.named("The rollback failed", halt.as_ref()), self.all_back(), self.keepers()]
            }
            State::Completed => self.completed(),
            State::Aborted { halt } => {
                vec![self.named("Aborted", halt.as_ref()), self.keepers(), self.backs(), self.not_started()]
            }
            State::Superseded { by } => vec![format!("Superseded by rollout {by}."), self.keepers()],
        };
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }

    fn wave_name(&self, wave: usize) -> String {
        format!("wave {} of {}", (wave + 1).min(self.shown_waves()), self.shown_waves())
    }

    /// Waves that have anybody; the last one may have none.
    fn shown_waves(&self) -> usize {
        let has = |wave: &usize| self.tallies[*wave].count(|_| true) > 0;
        (0..self.tallies.len()).rev().find(has).map_or(1, |last| last + 1)
    }

    fn named(&self, what: &str, halt: Option<&Halt>) -> String {
        halt.map_or_else(|| format!("{what}."), |halt| format!("{what} {}.", self.by_gate(halt)))
    }

    fn by_gate(&self, halt: &Halt) -> String {
        let (gate, found) = (gate_name(halt.evidence.gate), found(&halt.evidence, halt.code.as_ref()));
        format!("in {} by the {gate} gate: {found}", self.wave_name(halt.wave))
    }

    fn not_started(&self) -> String {
        match self.count(Step::NotStarted) {
            0 => String::new(),
            count => format!("{} not started.", number(count.into())),
        }
    }

    fn never_touched(&self) -> String {
        match self.devices.len() as u64 - u64::from(self.touched) {
            0 => String::new(),
            count => format!("{} never got it.", devices(count)),
        }
    }

    fn keepers(&self) -> String {
        match self.count(Step::Succeeded) {
            0 => String::new(),
            1 => "1 device keeps the bundle.".to_owned(),
            count => format!("{} keep the bundle.", devices(count.into())),
        }
    }

    fn backs(&self) -> String {
        if self.touched == 0 {
            return String::new();
        }
        let (back, touched) = (self.devices_back(), self.touched);
        format!("{} of {} that were given it {} back.", number(back.into()), number(touched.into()), is(back))
    }

    fn all_back(&self) -> String {
        let (back, touched) = (u64::from(self.devices_back()), u64::from(self.touched));
        let goes_back = |d: &&super::state::Device| d.step == Step::Unreachable && d.called_back();
        let lost = self.devices.iter().filter(goes_back).count() as u64;
        let mut text = match (back, touched) {
            (_, 0) => return "No device was given it.".to_owned(),
            (1, 1) => "The one device that was given it is back".to_owned(),
            (2, 2) => "Both devices that were given it are back".to_owned(),
            (back, touched) if back == touched => format!("All {} that were given it are back", devices(touched)),
            (back, touched) => {
                format!("{} of {} that were given it {} back", number(back), devices(touched), is(back as u32))
            }
        };
        if let Some((first, last)) = self.core.first_result_ts_ms.zip(self.core.last_back_ms)
            && back > 0
        {
            text.push_str(&format!(", the last {} after its first result", seconds(last.saturating_sub(first))));
        }
        text.push('.');
        if lost > 0 {
            let verb = if lost == 1 { "goes back when it returns" } else { "go back when they return" };
            text.push_str(&format!(" {} cannot be reached and {verb}.", devices(lost)));
        }
        if self.stuck > 0 {
            let verb = if self.stuck == 1 { "needs" } else { "need" };
            text.push_str(&format!(" {} could not go back and {verb} help.", devices(self.stuck.into())));
        }
        text
    }

    fn scheduled(&self) -> String {
        let (members, waves) = (self.devices.len() as u64, self.shown_waves());
        let waves = if waves == 1 { "1 wave".to_owned() } else { format!("{waves} waves") };
        let skipped = self.plan.skipped.len() as u64;
        let others = match skipped {
            0 => String::new(),
            1 => " 1 device takes no part.".to_owned(),
            count => format!(" {} take no part.", devices(count)),
        };
        format!("Ready to start: {} in {waves}.{others}", devices(members))
    }

    fn running(&self, now_ms: u64) -> String {
        let wave = self.core.wave;
        let Some(state) = self.core.waves.get(wave) else {
            let left = self.count(Step::Holding) + self.count(Step::Assigned) + self.count(Step::Progress);
            return format!("All waves have passed; {} still {} to say so.", devices(left.into()), has(left));
        };
        let (name, tally) = (self.wave_name(wave), &self.tallies[wave]);
        let (good, members) = (tally.count(Step::is_good), tally.members());
        let ok = format!("{} of {} {} well", number(good.into()), devices(members.into()), is(good));
        let name = name.replacen("wave", "Wave", 1);
        match state {
            WaveState::AwaitingGate => format!("{name} waits for somebody to open its gate."),
            WaveState::Soaking { until_ms } => {
                format!("{name} is watched for another {}: {ok}.", seconds(until_ms.saturating_sub(now_ms)))
            }
            WaveState::Judging => {
                let gates = self.gates(wave);
                let gate = gates.iter().find(|gate| gate.verdict == GateVerdict::NotEnoughData);
                gate.map_or_else(
                    || format!("{name} is judged: {ok}."),
                    |g| format!("{name} waits for data: {}.", lacks(g)),
                )
            }
            _ => {
                let failures = tally.count(Step::is_failure);
                let failed = if failures > 0 { format!(", {} failed", number(failures.into())) } else { String::new() };
                format!("{name}: {ok}{failed}, {} on the way.", number(tally.count(Step::in_flight).into()))
            }
        }
    }

    fn paused(&self, by: &PausedBy) -> String {
        let at = self.wave_name(self.core.wave.min(self.core.waves.len().saturating_sub(1)));
        match by {
            PausedBy::Operator { actor } => format!("Paused in {at} by {actor}."),
            PausedBy::Gate { wave, evidence } => {
                let gate = gate_name(evidence.gate);
                format!("Paused in {} by the {gate} gate: {}.", self.wave_name(*wave), found(evidence, None))
            }
            PausedBy::Lapsed { wave, devices: lapsed } => {
                let them = if *lapsed == 1 { "it" } else { "them" };
                format!(
                    "Paused in {}: {} went back because no verdict reached {them} in time; resume to ask {them} again.",
                    self.wave_name(*wave),
                    devices((*lapsed).into())
                )
            }
            PausedBy::Assignment { problem } => format!("Paused in {at}: {}.", problem.meaning()),
        }
    }

    fn completed(&self) -> Vec<String> {
        let total = self.devices.len() as u64;
        if total == 0 {
            return vec![format!(
                "Nothing to do: none of {} selected takes part.",
                devices(self.plan.skipped.len() as u64)
            )];
        }
        let good = self.count(Step::Succeeded);
        let mut rest: Vec<String> = Vec::new();
        for (step, word) in [
            (Step::Failed, "failed"),
            (Step::Rejected, "refused"),
            (Step::TimedOut, "did not finish in time"),
            (Step::Unreachable, "cannot be reached"),
            (Step::Superseded, "steered by hand"),
            (Step::Skipped, "gone"),
        ] {
            let count = self.count(step);
            if count > 0 {
                rest.push(format!("{} {word}", number(count.into())));
            }
        }
        let runs = if good == 1 { "runs" } else { "run" };
        let rest = if rest.is_empty() { String::new() } else { format!("{}.", rest.join(", ")) };
        vec![format!("Completed: {} of {} {runs} the bundle.", number(good.into()), devices(total)), rest]
    }
}

fn is(count: u32) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

fn has(count: u32) -> &'static str {
    if count == 1 { "has" } else { "have" }
}
