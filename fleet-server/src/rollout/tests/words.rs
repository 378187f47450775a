//! The words of scenarios.

use super::fleet::digest;
use crate::rollout::*;
use sedge_protocol::BundleDigest;
use sedge_protocol::message::{DeploymentState, Verdict};
use serde_json::Value;

pub(crate) fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("`{word}` is no number"))
}

pub(crate) fn milliseconds(word: &str) -> Result<u64, String> {
    let units = [("ms", 1), ("s", 1000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let found = units.iter().find_map(|(unit, ms)| Some(word.strip_suffix(unit)?.parse::<u64>().ok()? * ms));
    found.ok_or_else(|| format!("`{word}` is no time such as 10s, 5min, 2h"))
}

/// `samples=10 errors=1 labelled=5 right=4 confidence-micro=900000 p95-us=1200`; nothing without a count.
pub(crate) fn counters(words: &[&str]) -> Result<Option<Counters>, String> {
    let mut found = None;
    for word in words {
        let (key, value) = word.split_once('=').ok_or_else(|| format!("`{word}` is no count such as samples=10"))?;
        let value = number(value)?;
        let counters: &mut Counters = found.get_or_insert_default();
        match key {
            "samples" => counters.samples = value,
            "errors" => counters.errors = value,
            "labelled" => counters.labelled = value,
            "right" => counters.right = value,
            "confidence-micro" => counters.confidence_micro = u32::try_from(value).ok(),
            "p95-us" => counters.latency_p95_us = Some(value),
            _ => return Err(format!("unknown count `{key}`")),
        }
    }
    Ok(found)
}

pub(crate) fn problem(word: &str) -> Result<AssignProblem, String> {
    serde_json::from_value(Value::from(word)).map_err(|_| format!("`{word}` is no problem of assigning"))
}

/// What a device says, whether it holds, and what it runs then if it is as it should be.
pub(crate) fn state(word: &str) -> Result<(DeploymentState, bool, BundleDigest), String> {
    if word == "held" {
        return Ok((DeploymentState::Probation, true, digest("v2")));
    }
    let state: DeploymentState = word.parse().map_err(|_| format!("`{word}` is no state of a device"))?;
    let new = matches!(state, DeploymentState::Probation | DeploymentState::Committed | DeploymentState::Reported);
    Ok((state, false, digest(if new { "v2" } else { "v1" })))
}

fn plain(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => text,
        Ok(Value::Object(map)) => {
            let parts: Vec<_> = map.iter().map(|(key, value)| format!("{key} {}", plain(value))).collect();
            parts.join(" ")
        }
        Ok(value) => value.to_string(),
        Err(e) => e.to_string(),
    }
}

pub(crate) fn evidence(of: &Evidence) -> String {
    let show = |value: Option<u64>| value.map_or("?".to_owned(), |value| value.to_string());
    let count = of.count.map_or(String::new(), |count| format!(" count {count}"));
    format!(
        "{}: measured {} limit {}{count} sample {}/{} {}",
        plain(&of.gate),
        show(of.measured),
        show(of.limit),
        of.sample,
        of.sample_min,
        plain(&of.verdict)
    )
}

/// An effect, with `name` for what a device is called.
pub(crate) fn describe(effect: &Effect, name: impl Fn(&sedge_protocol::id::DeviceId) -> String) -> String {
    match effect {
        Effect::Assign { device } => format!("assign {}", name(device)),
        Effect::Verdict { device, generation, verdict } => {
            let verdict = if *verdict == Verdict::Commit { "commit" } else { "revert" };
            format!("verdict {} {generation} {verdict}", name(device))
        }
        Effect::RollBack { device } => format!("roll-back {}", name(device)),
        Effect::Finish { outcome } => format!("finish {}", plain(outcome)),
        Effect::Refused { why } => format!("refused: {why}"),
        Effect::Note(note) => match note {
            Note::Halted(halt) => {
                let devices: Vec<_> = halt.devices.iter().map(name).collect();
                format!(
                    "note halted in wave {} by {}, shown by {}",
                    halt.wave + 1,
                    evidence(&halt.evidence),
                    devices.join(" ")
                )
            }
            Note::WavePassed { wave, .. } => format!("note wave {} passed", wave + 1),
            Note::Paused { by } => match by {
                PausedBy::Gate { wave, evidence: of } => {
                    format!("note paused in wave {} by {}", wave + 1, evidence(of))
                }
                by => format!("note paused {}", plain(by)),
            },
            Note::WaveBegan { wave } => format!("note wave {} began", wave + 1),
            Note::WaveSkipped { wave } => format!("note wave {} skipped", wave + 1),
            Note::WaveJudged { wave } => format!("note wave {} judged", wave + 1),
            Note::WaveSoaks { wave, .. } => format!("note wave {} soaks", wave + 1),
            Note::GateWaits { wave } => format!("note wave {} waits at its gate", wave + 1),
            Note::GateOpened { wave, actor } => format!("note wave {} let in by {actor}", wave + 1),
            Note::DeviceFailed { device, code } => format!("note {} failed: {}", name(device), plain(code)),
            Note::DeviceUnreachable { device } => format!("note {} unreachable", name(device)),
            Note::DeviceFellBack { device } => format!("note {} fell back", name(device)),
            Note::DeviceLapsed { device } => format!("note {} lapsed", name(device)),
            Note::DeviceSuperseded { device } => format!("note {} superseded", name(device)),
            Note::DeviceReturned { device } => format!("note {} runs it again", name(device)),
            Note::DeviceJoined { device, wave } => format!("note {} joined wave {}", name(device), wave + 1),
            Note::AssignFailed { device, problem } => format!("note {} not assigned: {}", name(device), plain(problem)),
            Note::Ignored { device, why } => format!("note {} ignored: {}", name(device), plain(why)),
            Note::CalledBack { scope, devices } => format!("note {devices} called back ({})", plain(scope)),
            Note::Started { actor } => format!("note started by {actor}"),
            Note::Resumed { actor } => format!("note resumed by {actor}"),
            Note::Aborted { actor, roll_back } => {
                format!("note aborted by {actor}{}", if *roll_back { ", with everything" } else { "" })
            }
            Note::Ended { outcome } => format!("note ended {}", plain(outcome)),
        },
    }
}
