//! What happened in a rollout, in words.

use super::super::view::{Moment, Tone};
use super::super::words;
use super::gate;
use super::rollout::{seconds, wave_name};
use super::source::Told;
use crate::rollout::{Note, Outcome, PausedBy, Scope, Summary};

/// An entry for people; none for what only matters to whoever looks for a fault.
pub(super) fn of(told: &Told, summary: &Summary) -> Option<Moment> {
    let (text, tone) = say(told, summary)?;
    let actor = match &told.note {
        Note::Started { actor }
        | Note::Resumed { actor }
        | Note::Aborted { actor, .. }
        | Note::GateOpened { actor, .. }
        | Note::Paused { by: PausedBy::Operator { actor } } => actor.clone(),
        _ => String::new(),
    };
    Some(Moment { at: seconds(told.at_ms), text, actor, tone })
}

fn say(told: &Told, summary: &Summary) -> Option<(String, Tone)> {
    let wave = |number: usize| capital(&wave_name(summary, number));
    Some(match &told.note {
        Note::Started { .. } => ("The rollout began".into(), Tone::Quiet),
        Note::Paused { by } => (format!("Paused: {}", paused(by, summary)), Tone::Waiting),
        Note::Resumed { .. } => ("It goes on".into(), Tone::Busy),
        Note::Aborted { roll_back: true, .. } => ("Aborted: every device that got it goes back".into(), Tone::Waiting),
        Note::Aborted { roll_back: false, .. } => ("Aborted: what has committed stays".into(), Tone::Waiting),
        Note::GateWaits { wave: n } => (format!("{} waits for somebody to open its gate", wave(*n)), Tone::Waiting),
        Note::GateOpened { wave: n, .. } => (format!("{} may begin", wave(*n)), Tone::Busy),
        Note::WaveBegan { wave: n } => {
            let devices = summary.waves.get(*n).map_or(0, |wave| wave.devices);
            (format!("{} begins: {}", wave(*n), words::devices(devices.into())), Tone::Busy)
        }
        Note::WaveSoaks { wave: n, until_ms } => {
            let span = words::span(until_ms.saturating_sub(told.at_ms).div_ceil(1000));
            (format!("{} is watched for {span}", wave(*n)), Tone::Busy)
        }
        Note::WaveJudged { wave: n } => (format!("{} is judged", wave(*n)), Tone::Busy),
        Note::WavePassed { wave: n, evidence } => {
            let figures =
                evidence.iter().filter_map(|e| Some(format!("{} {}", gate::name(e.gate), gate::measured(e)?)));
            let figures: Vec<_> = figures.collect();
            match figures.is_empty() {
                true => (format!("{} has passed", wave(*n)), Tone::Good),
                false => (format!("{} has passed: {}", wave(*n), figures.join(", ")), Tone::Good),
            }
        }
        Note::WaveSkipped { wave: n } => (format!("{} was skipped", wave(*n)), Tone::Quiet),
        Note::Halted(halt) => (format!("{} failed: {}", wave(halt.wave), gate::line(&halt.evidence)), Tone::Bad),
        Note::CalledBack { scope, devices } => {
            let verb = if *devices == 1 { "is" } else { "are" };
            (format!("{} {verb} called back, {}", words::devices((*devices).into()), called(*scope)), Tone::Waiting)
        }
        Note::DeviceFailed { device, code } => (format!("{device} failed: {}", gate::failure(code)), Tone::Bad),
        Note::DeviceUnreachable { device } => (format!("{device} cannot be reached"), Tone::Waiting),
        Note::DeviceFellBack { device } => (format!("{device} had succeeded and fell back"), Tone::Bad),
        Note::DeviceLapsed { device } => (format!("{device} went back: no verdict reached it in time"), Tone::Waiting),
        Note::DeviceSuperseded { device } => (format!("{device} is steered by hand from here on"), Tone::Quiet),
        Note::DeviceJoined { device, wave: n } => (format!("{device} joined {}", wave_name(summary, *n)), Tone::Quiet),
        Note::DeviceReturned { device } => (format!("{device} had gone back and runs the bundle again"), Tone::Waiting),
        Note::AssignFailed { device, problem } => (format!("{device}: {}", problem.meaning()), Tone::Bad),
        Note::Ignored { .. } => return None,
        Note::Ended { outcome } => match outcome {
            Outcome::Completed => ("Completed".into(), Tone::Good),
            Outcome::RolledBack => ("Every device that could be reached is back".into(), Tone::Good),
            Outcome::RollbackFailed => ("Ended: some devices could not go back".into(), Tone::Bad),
            Outcome::Aborted => ("Ended by hand".into(), Tone::Quiet),
            Outcome::Superseded => ("A later rollout took over".into(), Tone::Quiet),
        },
    })
}

/// Why a rollout is paused.
pub(super) fn paused(by: &PausedBy, summary: &Summary) -> String {
    match by {
        PausedBy::Operator { .. } => "somebody said so".into(),
        PausedBy::Gate { wave, evidence } => {
            format!("too many devices of {} cannot be reached: {}", wave_name(summary, *wave), gate::line(evidence))
        }
        PausedBy::Lapsed { wave, devices } => {
            let devices = words::devices((*devices).into());
            format!("{devices} of {} went back, as no verdict came in time", wave_name(summary, *wave))
        }
        PausedBy::Assignment { problem } => problem.meaning().into(),
    }
}

/// Which devices go back.
pub(super) fn called(scope: Scope) -> &'static str {
    match scope {
        Scope::Uncommitted => "those that have not committed",
        Scope::Wave => "all of the wave",
        Scope::All => "all that got the bundle",
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
