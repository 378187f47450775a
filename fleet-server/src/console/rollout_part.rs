//! A rollout as the texts that its part of the page shows.

use super::picture;
use super::view::{DeviceState, FailureView, GateView, Moment, RolloutView, WaitingView, WaveView};
use super::words::{ago, clock, count, devices, seconds_between, span};
use sedge_protocol::time::UnixSeconds;

/// Moments that are shown; the history has the rest.
const TIMELINE_MAX: usize = 14;
/// Kinds of failures that are shown, and devices that each names.
const FAILURES_MAX: usize = 8;
const NAMED_MAX: usize = 3;
/// Reasons that are shown.
const WAITING_MAX: usize = 12;

/// A rollout.
pub(super) struct RolloutPart {
    pub(super) tone: &'static str,
    pub(super) icon: &'static str,
    pub(super) word: &'static str,
    pub(super) bundle: String,
    pub(super) digest: String,
    pub(super) id: String,
    pub(super) when: String,
    pub(super) sentence: String,
    pub(super) waves: Vec<Wave>,
    pub(super) gates: Vec<Gate>,
    pub(super) histogram_bar: String,
    pub(super) histogram: Vec<Count>,
    pub(super) failures: Vec<Failure>,
    pub(super) waiting: Vec<Waiting>,
    pub(super) timeline: Vec<Happened>,
}

/// A wave.
pub(super) struct Wave {
    pub(super) name: String,
    pub(super) tone: &'static str,
    pub(super) icon: &'static str,
    pub(super) word: &'static str,
    pub(super) bar: String,
    pub(super) counts: String,
    pub(super) soak: String,
}

/// A gate.
pub(super) struct Gate {
    pub(super) name: String,
    pub(super) wave: String,
    pub(super) limit: String,
    pub(super) measured: String,
    pub(super) sample: String,
    pub(super) minimum: String,
    pub(super) tone: &'static str,
    pub(super) icon: &'static str,
    pub(super) word: &'static str,
}

/// Devices of one state.
pub(super) struct Count {
    pub(super) tone: &'static str,
    pub(super) icon: &'static str,
    pub(super) word: &'static str,
    pub(super) devices: String,
}

/// Devices that failed alike.
pub(super) struct Failure {
    pub(super) code: String,
    pub(super) devices: String,
    pub(super) named: String,
}

/// Something that does not move.
pub(super) struct Waiting {
    pub(super) what: String,
    pub(super) reason: String,
    pub(super) until: String,
}

/// Something that happened.
pub(super) struct Happened {
    pub(super) tone: &'static str,
    pub(super) iso: String,
    pub(super) clock: String,
    pub(super) text: String,
    pub(super) actor: String,
}

impl RolloutPart {
    pub(super) fn new(rollout: &RolloutView, now: UnixSeconds) -> Self {
        let mut histogram: Vec<(DeviceState, u64)> =
            rollout.histogram.iter().copied().filter(|(_, n)| *n > 0).collect();
        histogram.sort_by_key(|(state, _)| *state);
        let parts: Vec<_> = histogram.iter().map(|(state, n)| (bar_class(*state).to_owned(), *n)).collect();
        let said: Vec<_> = histogram.iter().map(|(state, n)| format!("{} {}", count(*n), state.word())).collect();
        let count_of = |(state, n): &(DeviceState, u64)| Count {
            tone: state.tone().class(),
            icon: state.icon(),
            word: state.word(),
            devices: count(*n),
        };
        Self {
            tone: rollout.state.tone().class(),
            icon: rollout.state.icon(),
            word: rollout.state.word(),
            bundle: super::words::bundle(&rollout.bundle),
            digest: rollout.bundle.short(),
            id: rollout.id.clone(),
            when: when(rollout.started_at, rollout.ended_at, now),
            sentence: rollout.sentence.clone(),
            waves: rollout.waves.iter().map(Wave::new).collect(),
            gates: rollout.gates.iter().map(Gate::new).collect(),
            histogram_bar: picture::bar(&parts, &said.join(", ")),
            histogram: histogram.iter().map(count_of).collect(),
            failures: rollout.failures.iter().take(FAILURES_MAX).map(Failure::new).collect(),
            waiting: waiting(&rollout.waiting, now),
            timeline: rollout.timeline.iter().take(TIMELINE_MAX).map(|moment| Happened::new(moment, now)).collect(),
        }
    }
}

/// How a state is drawn in a bar of devices.
fn bar_class(state: DeviceState) -> &'static str {
    match state {
        DeviceState::NotStarted => "track",
        // Who went back is what a rollout that failed is about.
        DeviceState::Back => "waiting",
        state => state.tone().class(),
    }
}

fn when(started: Option<UnixSeconds>, ended: Option<UnixSeconds>, now: UnixSeconds) -> String {
    match (started, ended) {
        (None, _) => String::new(),
        (Some(started), None) => format!("began {}", ago(started, now)),
        (Some(started), Some(ended)) => {
            format!("took {}, ended {}", span(seconds_between(started, ended)), ago(ended, now))
        }
    }
}

fn waiting(all: &[WaitingView], now: UnixSeconds) -> Vec<Waiting> {
    let shown = all.iter().take(WAITING_MAX).map(|w| Waiting {
        what: w.what.clone(),
        reason: w.reason.clone(),
        until: w.until.map(|until| format!("at most {} more", span(seconds_between(now, until)))).unwrap_or_default(),
    });
    let mut shown: Vec<_> = shown.collect();
    if let Some(rest) = all.len().checked_sub(WAITING_MAX).filter(|rest| *rest > 0) {
        let what = format!("and {} more", count(rest as u64));
        shown.push(Waiting { what, reason: String::new(), until: String::new() });
    }
    shown
}

impl Failure {
    fn new(failure: &FailureView) -> Self {
        let named: Vec<_> = failure.named.iter().take(NAMED_MAX).map(String::as_str).collect();
        let rest = failure.devices.saturating_sub(named.len() as u64);
        let more = if rest > 0 && !named.is_empty() { format!(" and {} more", count(rest)) } else { String::new() };
        Self { code: failure.code.clone(), devices: devices(failure.devices), named: named.join(", ") + &more }
    }
}

impl Wave {
    fn new(wave: &WaveView) -> Self {
        let mut states: Vec<_> = wave.states.iter().copied().filter(|(_, n)| *n > 0).collect();
        states.sort_by_key(|(state, _)| *state);
        let parts: Vec<_> = states.iter().map(|(state, n)| (bar_class(*state).to_owned(), *n)).collect();
        let said: Vec<_> = states.iter().map(|(state, n)| format!("{} {}", count(*n), state.word())).collect();
        let counts = match said.is_empty() {
            true => devices(wave.devices),
            false => format!("{}: {}", devices(wave.devices), said.join(", ")),
        };
        Self {
            name: wave.name.clone(),
            tone: wave.state.tone().class(),
            icon: wave.state.icon(),
            word: wave.state.word(),
            bar: picture::bar(&parts, &counts),
            counts,
            soak: wave.soak.map(|(done, need)| soak(done, need)).unwrap_or_default(),
        }
    }
}

fn soak(done: u64, need: u64) -> String {
    if done >= need {
        format!("watched for {}", span(need))
    } else {
        format!("watched {} of {}", span(done), span(need))
    }
}

impl Gate {
    fn new(gate: &GateView) -> Self {
        Self {
            name: gate.name.clone(),
            wave: gate.wave.clone(),
            limit: gate.limit.clone(),
            measured: gate.measured.clone().unwrap_or_else(|| "–".into()),
            sample: count(gate.sample),
            minimum: count(gate.minimum),
            tone: gate.verdict.tone().class(),
            icon: gate.verdict.icon(),
            word: gate.verdict.word(),
        }
    }
}

impl Happened {
    fn new(moment: &Moment, now: UnixSeconds) -> Self {
        Self {
            tone: moment.tone.class(),
            iso: moment.at.to_string(),
            clock: clock(moment.at, now),
            text: moment.text.clone(),
            actor: moment.actor.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::WaveState;
    use super::*;

    fn wave(devices: u64, states: &[(DeviceState, u64)]) -> Wave {
        let (name, soak) = ("w".to_owned(), Some((12, 30)));
        Wave::new(&WaveView { name, state: WaveState::Soaking, devices, states: states.to_vec(), soak })
    }

    #[test]
    fn a_wave_counts_each_device_once() {
        assert_eq!(wave(0, &[]).counts, "0 devices");
        assert_eq!(wave(6, &[(DeviceState::NotStarted, 6)]).counts, "6 devices: 6 not started");
        let states = [
            (DeviceState::NotStarted, 2),
            (DeviceState::Failed, 1),
            (DeviceState::Back, 1),
            (DeviceState::Rejected, 0),
            (DeviceState::Holding, 1),
            (DeviceState::Succeeded, 1),
        ];
        let counts = "6 devices: 1 succeeded, 1 holding, 1 went back, 1 failed, 2 not started";
        assert_eq!(wave(6, &states).counts, counts);
        assert_eq!(wave(1, &[(DeviceState::Succeeded, 1)]).counts, "1 device: 1 succeeded");
        assert_eq!(wave(1, &[]).soak, "watched 12 s of 30 s");
        assert_eq!(soak(31, 30), "watched for 30 s");
    }

    #[test]
    fn a_time_is_said_once_it_is_known() {
        let now = UnixSeconds(1_800_000_000);
        assert_eq!(when(None, None, now), "");
        assert_eq!(when(Some(now.plus(-90)), None, now), "began 1 min ago");
        assert_eq!(when(Some(now.plus(-90)), Some(now.plus(-10)), now), "took 1 min 20 s, ended 10 s ago");
    }

    #[test]
    fn a_failure_names_some_devices() {
        let of = |devices, named: &[&str]| {
            let named = named.iter().map(|id| (*id).to_owned()).collect();
            let failure = Failure::new(&FailureView { code: "E_LATENCY".into(), devices, named });
            format!("{}: {}", failure.devices, failure.named)
        };
        assert_eq!(of(1, &["a"]), "1 device: a");
        assert_eq!(of(1_200, &["a", "b", "c", "d"]), "1,200 devices: a, b, c and 1,197 more");
    }

    #[test]
    fn many_reasons_are_counted() {
        let one = WaitingView { what: "cam".into(), reason: "offline".into(), until: Some(UnixSeconds(60)) };
        let shown = waiting(&vec![one; WAITING_MAX + 3], UnixSeconds(0));
        assert_eq!((shown.len(), shown[0].until.as_str()), (WAITING_MAX + 1, "at most 1 min more"));
        assert_eq!(shown[WAITING_MAX].what, "and 3 more");
    }
}
