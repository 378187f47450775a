//! A rollout as the texts that its part of the page shows.

use super::picture;
use super::view::{DeviceState, GateView, Moment, RolloutView, WaitingView, WaveView};
use super::words::{ago, clock, count, devices, seconds_between, span};
use sedge_protocol::time::UnixSeconds;

/// Moments that are shown; the history has the rest.
const TIMELINE_MAX: usize = 14;
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
        let parts: Vec<_> = histogram.iter().map(|(state, n)| (state.tone().class().to_owned(), *n)).collect();
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
            waiting: waiting(&rollout.waiting, now),
            timeline: rollout.timeline.iter().take(TIMELINE_MAX).map(|moment| Happened::new(moment, now)).collect(),
        }
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

impl Wave {
    fn new(wave: &WaveView) -> Self {
        let on_the_way = wave.touched.saturating_sub(wave.succeeded + wave.failed + wave.back);
        let untouched = wave.devices.saturating_sub(wave.touched);
        let parts = [("good", wave.succeeded), ("busy", on_the_way), ("waiting", wave.back), ("bad", wave.failed)];
        let mut said: Vec<String> = [
            (wave.succeeded, "succeeded"),
            (on_the_way, "on the way"),
            (wave.back, "went back"),
            (wave.failed, "failed"),
        ]
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, word)| format!("{} {word}", count(n)))
        .collect();
        if wave.touched == 0 {
            said.push("none touched".into());
        } else if untouched > 0 {
            said.push(format!("{} not touched", count(untouched)));
        }
        let counts = format!("{}: {}", devices(wave.devices), said.join(", "));
        let mut parts: Vec<_> = parts.map(|(class, n)| (class.to_owned(), n)).into();
        parts.push(("track".into(), untouched));
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

    fn wave(devices: u64, touched: u64, succeeded: u64, failed: u64, back: u64) -> Wave {
        Wave::new(&WaveView {
            name: "w".into(),
            state: WaveState::Soaking,
            devices,
            touched,
            succeeded,
            failed,
            back,
            soak: Some((12, 30)),
        })
    }

    #[test]
    fn a_wave_counts_each_device_once() {
        assert_eq!(wave(0, 0, 0, 0, 0).counts, "0 devices: none touched");
        assert_eq!(wave(6, 0, 0, 0, 0).counts, "6 devices: none touched");
        assert_eq!(
            wave(6, 4, 1, 1, 1).counts,
            "6 devices: 1 succeeded, 1 on the way, 1 went back, 1 failed, 2 not touched"
        );
        assert_eq!(wave(1, 1, 1, 0, 0).counts, "1 device: 1 succeeded");
        // Figures that do not fit together are shown as they are and never turn over.
        assert_eq!(wave(1, 1, 2, 2, 2).counts, "1 device: 2 succeeded, 2 went back, 2 failed");
        assert_eq!(wave(1, 1, 1, 0, 0).soak, "watched 12 s of 30 s");
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
    fn many_reasons_are_counted() {
        let one = WaitingView { what: "cam".into(), reason: "offline".into(), until: Some(UnixSeconds(60)) };
        let shown = waiting(&vec![one; WAITING_MAX + 3], UnixSeconds(0));
        assert_eq!((shown.len(), shown[0].until.as_str()), (WAITING_MAX + 1, "at most 1 min more"));
        assert_eq!(shown[WAITING_MAX].what, "and 3 more");
    }
}
