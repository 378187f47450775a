//! What does not move, why, and what ends it.

use super::super::view::WaitingView;
use super::super::words;
use super::gate;
use super::moment::{called, paused};
use super::rollout::{seconds, wave_name};
use crate::rollout::{DeviceWaits, Presence, RolloutWaits, Summary, WaveWaits};

/// The rollout, then its waves.
pub(super) fn all(summary: &Summary) -> Vec<WaitingView> {
    let rollout = summary.waiting.iter().filter_map(|why| {
        let (reason, until) = (rollout(why, summary)?, None);
        Some(WaitingView { what: "the rollout".into(), reason, until })
    });
    let waves = summary.waves.iter().enumerate().filter(|(_, wave)| wave.devices > 0).filter_map(|(number, of)| {
        let (reason, until_ms) = wave(of.waiting.as_ref()?, summary)?;
        Some(WaitingView { what: wave_name(summary, number), reason, until: until_ms.map(seconds) })
    });
    rollout.chain(waves).collect()
}

/// Nothing where a wave says it better.
fn rollout(why: &RolloutWaits, summary: &Summary) -> Option<String> {
    Some(match why {
        RolloutWaits::Start => "waits for somebody to start it".into(),
        RolloutWaits::Wave { .. } => return None,
        RolloutWaits::Verdicts { devices } => {
            format!("waits for {} to say that the verdict reached them", words::devices((*devices).into()))
        }
        RolloutWaits::Resume { by } => format!("waits for somebody to resume or abort it; {}", paused(by, summary)),
        RolloutWaits::Decision { halt } => {
            format!(
                "waits for somebody to abort it: {}; what has committed stays till then",
                gate::line(&halt.evidence)
            )
        }
        RolloutWaits::Back { devices, scope } => {
            format!("waits for {} to go back, {}", words::devices((*devices).into()), called(*scope))
        }
    })
}

/// Nothing where the rollout says it better.
fn wave(why: &WaveWaits, summary: &Summary) -> Option<(String, Option<u64>)> {
    Some(match why {
        WaveWaits::Before { wave } => (format!("waits until {} has passed", wave_name(summary, *wave)), None),
        WaveWaits::ManualGate => ("waits for somebody to open its gate".into(), None),
        WaveWaits::Devices { not_started: 0, in_flight } => {
            (format!("waits for {} on the way", words::devices((*in_flight).into())), None)
        }
        WaveWaits::Devices { not_started, in_flight } => {
            let (way, rest) = (words::devices((*in_flight).into()), words::count((*not_started).into()));
            (format!("waits for {way} on the way and {rest} not started"), None)
        }
        WaveWaits::Soak { until_ms } => ("is watched".into(), Some(*until_ms)),
        WaveWaits::Data { gate: evidence } => {
            let (sample, minimum) = (words::count(evidence.sample), words::count(evidence.sample_min));
            (format!("waits for data: {}, {sample} of at least {minimum}", gate::name(evidence.gate)), None)
        }
        WaveWaits::Rollout => return None,
    })
}

/// What a device waits for.
pub(super) fn device(why: &DeviceWaits, summary: &Summary) -> String {
    match why {
        DeviceWaits::Wave { wave } => format!("waits for {}", wave_name(summary, *wave)),
        DeviceWaits::InFlight { max } => {
            format!("waits its turn: at most {} may be on the way", words::devices((*max).into()))
        }
        DeviceWaits::Rollout => format!("waits: the rollout is {}", summary.state.replace('-', " ")),
        DeviceWaits::Server { tries: 0, .. } => "waits for the server to tell it".into(),
        DeviceWaits::Server { tries, .. } => format!("the server could not tell it, {tries} times, and tries again"),
        DeviceWaits::Device { presence: Presence::Offline, .. } => "goes on when it connects".into(),
        // Its report says more.
        DeviceWaits::Device { .. } => String::new(),
        DeviceWaits::Verdict { wave } => format!("waits for the verdict on {}", wave_name(summary, *wave)),
        DeviceWaits::Return { goes_back: true } => "goes back when it connects".into(),
        DeviceWaits::Return { goes_back: false } => "not heard of; goes on when it connects".into(),
        DeviceWaits::Back { presence: Presence::Offline, .. } => "goes back when it connects".into(),
        DeviceWaits::Back { .. } => "was told to go back and has not said that it did".into(),
        DeviceWaits::Resume => "no verdict reached it in time; asked again when somebody resumes the rollout".into(),
        DeviceWaits::Help => "could not go back and needs help".into(),
    }
}
