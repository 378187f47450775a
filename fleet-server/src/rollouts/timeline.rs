//! Entries of the timeline in words.

use super::executor::failure;
use crate::rollout::{IgnoredWhy, Note, Outcome, PausedBy, Scope};

/// Who did it; none for the server.
pub(super) fn actor(note: &Note) -> Option<String> {
    match note {
        Note::Started { actor }
        | Note::Resumed { actor }
        | Note::Aborted { actor, .. }
        | Note::GateOpened { actor, .. }
        | Note::Paused { by: PausedBy::Operator { actor } } => Some(actor.clone()),
        _ => None,
    }
}

/// What happened; `waves` are their names.
pub(super) fn text(note: &Note, waves: &[String]) -> String {
    let wave = |number: &usize| match waves.get(*number) {
        Some(name) => format!("wave {} (`{name}`)", number + 1),
        None => format!("wave {}", number + 1),
    };
    match note {
        Note::Started { .. } => "the rollout was started".to_owned(),
        Note::Paused { by } => paused(by, wave),
        Note::Resumed { .. } => "the rollout goes on".to_owned(),
        Note::Aborted { roll_back: true, .. } => "the rollout was aborted; every device goes back".to_owned(),
        Note::Aborted { roll_back: false, .. } => "the rollout was aborted; what has committed stays".to_owned(),
        Note::GateWaits { wave: w } => format!("{} waits for approval", wave(w)),
        Note::GateOpened { wave: w, .. } => format!("{} was approved", wave(w)),
        Note::WaveBegan { wave: w } => format!("{} began", wave(w)),
        Note::WaveSoaks { wave: w, .. } => format!("all devices of {} have arrived and are watched", wave(w)),
        Note::WaveJudged { wave: w } => format!("the soak of {} is over; a gate still lacks data", wave(w)),
        Note::WavePassed { wave: w, .. } => format!("{} passed", wave(w)),
        Note::WaveSkipped { wave: w } => format!("{} was skipped: it has no devices", wave(w)),
        Note::Halted(halt) => format!("a gate failed in {}", wave(&halt.wave)),
        Note::CalledBack { scope, devices } => format!("{devices} devices are called back: {}", scope_text(*scope)),
        Note::DeviceFailed { device, code } => format!("`{device}` failed: {}", failure(code)),
        Note::DeviceUnreachable { device } => format!("`{device}` cannot be reached"),
        Note::DeviceFellBack { device } => format!("`{device}` had succeeded and no longer runs the bundle"),
        Note::DeviceLapsed { device } => format!("`{device}` went back, as no verdict reached it in time"),
        Note::DeviceSuperseded { device } => format!("somebody else decides what `{device}` runs"),
        Note::DeviceJoined { device, wave: w } => format!("`{device}` joined {}", wave(w)),
        Note::DeviceReturned { device } => format!("`{device}` had gone back and runs the bundle again"),
        Note::AssignFailed { device, problem } => format!("`{device}` is not assigned: {}", problem.meaning()),
        Note::Ignored { device, why } => format!("a message about `{device}` does not count: {}", ignored(*why)),
        Note::Ended { outcome } => ended(*outcome).to_owned(),
    }
}

fn paused(by: &PausedBy, wave: impl Fn(&usize) -> String) -> String {
    match by {
        PausedBy::Operator { .. } => "the rollout was paused".to_owned(),
        PausedBy::Gate { wave: w, .. } => format!("paused: too many devices of {} cannot be reached", wave(w)),
        PausedBy::Lapsed { wave: w, devices } => {
            format!("paused: {devices} devices of {} went back, as no verdict reached them in time", wave(w))
        }
        PausedBy::Assignment { problem } => format!("paused: {}", problem.meaning()),
    }
}

const fn scope_text(scope: Scope) -> &'static str {
    match scope {
        Scope::Uncommitted => "those that have not committed",
        Scope::Wave => "those, and all of the wave that failed",
        Scope::All => "all that were touched",
    }
}

const fn ignored(why: IgnoredWhy) -> &'static str {
    match why {
        IgnoredWhy::NotMember => "it takes no part",
        IgnoredWhy::EarlierGeneration => "it answers an earlier generation",
        IgnoredWhy::OtherGeneration => "it answers a generation of somebody else",
        IgnoredWhy::NotAssigned => "nothing was assigned to it yet",
        IgnoredWhy::NotMeasured => "it does not say what it runs",
        IgnoredWhy::JoinedTooLate => "it came when the last wave was already judged",
        IgnoredWhy::JoinedIneligible => "it came later and takes no part",
    }
}

const fn ended(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "completed",
        Outcome::RolledBack => "rolled back",
        Outcome::RollbackFailed => "ended, and a device could not go back",
        Outcome::Aborted => "aborted",
        Outcome::Superseded => "a later rollout took over",
    }
}
