//! The words of scenarios: what is typed becomes orders and answers, and effects become text.

use crate::world::{LENGTH_BYTES, digest};
use sedge_protocol::deployment::*;
use sedge_protocol::id::Generation;

pub(crate) fn name_of(wanted: sedge_protocol::BundleDigest) -> String {
    let known = (0..10).map(|n| format!("v{n}")).find(|name| digest(name) == wanted);
    known.unwrap_or_else(|| wanted.to_string())
}

pub(crate) fn code(code: Code) -> String {
    serde_json::to_value(code).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

pub(crate) fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("`{word}` is no number"))
}

pub(crate) fn milliseconds(word: &str) -> Result<u64, String> {
    let units = [("ms", 1), ("s", 1000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let found = units.iter().find_map(|(unit, ms)| Some(word.strip_suffix(unit)?.parse::<u64>().ok()? * ms));
    found.ok_or_else(|| format!("`{word}` is no time such as 30s, 5min, 2h, 7d"))
}

pub(crate) fn order(generation: u64, name: &str, settings: &[&str]) -> Result<Order, String> {
    let mut order = Order::new(Generation(generation), digest(name), LENGTH_BYTES);
    for setting in settings {
        let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
        let seconds = || milliseconds(value).map(|ms| (ms / 1000) as u32);
        match key {
            "held" => order.commit = CommitRule::Held { deadline_s: seconds()? },
            "probation" => order.probation_s = seconds()?,
            "samples" => order.shadow.samples_min = number(value)? as u32,
            "p95-us" => order.shadow.latency_p95_max_us = Some(number(value)? as u32),
            "attempts" => order.attempts_max = number(value)? as u8,
            "not-after" => order.not_after_unix_s = Some(number(value)?),
            "settings" => order.settings = value.into(),
            "authorize-within" => order.deadlines.authorize_s = seconds()?,
            "download-within" => order.deadlines.download_s = seconds()?,
            "apply-within" => order.deadlines.apply_s = seconds()?,
            "trial-within" => order.deadlines.trial_s = seconds()?,
            "no-cold-swap" => order.cold_swap = ColdSwap::Refused,
            "restarts" => order.restarts = true,
            _ => return Err(format!("unknown setting `{key}`")),
        }
    }
    Ok(order)
}

pub(crate) fn answer(words: &[&str]) -> Result<Answer, String> {
    let detail = || words[1..].join(" ");
    Ok(match words[0] {
        "authorized" => Answer::Authorized,
        "refused" => {
            Answer::Refused { code: words.last().unwrap_or(&"").to_string(), detail: "says the director".into() }
        }
        "space-reserved" => Answer::SpaceReserved,
        "no-space" => Answer::NoSpace,
        "chunks" => Answer::ChunkProgress { done_bytes: number(words.get(1).unwrap_or(&""))? },
        "downloaded" => Answer::Downloaded,
        "download-failed" => Answer::DownloadFailed { permanent: false, detail: detail() },
        "download-failed-for-good" => Answer::DownloadFailed { permanent: true, detail: detail() },
        "staged-verified" => Answer::StagedVerified,
        "staged-corrupt" => Answer::StagedCorrupt { detail: detail() },
        "worker-ready" => Answer::WorkerReady,
        "worker-failed" => Answer::WorkerFailed { detail: detail() },
        "golden-passed" => Answer::GoldenPassed,
        "golden-failed" => Answer::GoldenFailed { detail: detail() },
        "took-over" => Answer::TookOver,
        "shadow" => {
            let mut shown =
                ShadowVerdict { samples: number(words.get(1).unwrap_or(&""))? as u32, ..ShadowVerdict::default() };
            for word in &words[2..] {
                let (key, value) = word.split_once('=').unwrap_or((word, ""));
                let value = number(value)? as u32;
                match key {
                    "disagreements" => shown.disagreements = value,
                    "errors" => shown.errors = value,
                    "p95-us" => shown.latency_p95_us = value,
                    _ => return Err(format!("unknown count `{key}`")),
                }
            }
            Answer::Shadow(shown)
        }
        word => return Err(format!("unknown command `{word}`")),
    })
}

pub(crate) fn fits(ask: &Ask, answer: &Answer) -> bool {
    match answer {
        Answer::Authorized | Answer::Refused { .. } => matches!(ask, Ask::Authorize { .. }),
        Answer::SpaceReserved => matches!(ask, Ask::ReserveSpace { .. }),
        Answer::NoSpace => matches!(ask, Ask::ReserveSpace { .. } | Ask::Download { .. }),
        Answer::ChunkProgress { .. } | Answer::Downloaded | Answer::DownloadFailed { .. } => {
            matches!(ask, Ask::Download { .. })
        }
        Answer::StagedVerified | Answer::StagedCorrupt { .. } => matches!(ask, Ask::VerifyStaged { .. }),
        Answer::WorkerReady => matches!(ask, Ask::StartWorker { .. }),
        Answer::WorkerFailed { .. } => {
            matches!(ask, Ask::StartWorker { .. } | Ask::TakeOver { .. } | Ask::Serve { .. })
        }
        Answer::GoldenPassed | Answer::GoldenFailed { .. } => matches!(ask, Ask::RunGolden { .. }),
        Answer::Shadow(_) => matches!(ask, Ask::BeginShadow { .. }),
        Answer::TookOver => matches!(ask, Ask::TakeOver { .. } | Ask::Serve { .. }),
    }
}

pub(crate) fn describe(effect: &Effect) -> String {
    let slot = |slot: Slot| format!("{slot:?}").to_lowercase();
    match effect {
        Effect::Persist(_) => "persist".into(),
        Effect::Ask { ask, .. } => match ask {
            Ask::Authorize { order } => format!("authorize {}", order.generation),
            Ask::ReserveSpace { slot: s, bytes } => format!("reserve-space {} {bytes}", slot(*s)),
            Ask::Download { slot: s, digest, .. } => format!("download {} into {}", name_of(*digest), slot(*s)),
            Ask::VerifyStaged { slot: s, .. } => format!("verify-staged {}", slot(*s)),
            Ask::StartWorker { slot: s, digest, .. } => format!("start-worker {} with {}", slot(*s), name_of(*digest)),
            Ask::RunGolden { slot: s } => format!("run-golden {}", slot(*s)),
            Ask::BeginShadow { slot: s, .. } => format!("begin-shadow {}", slot(*s)),
            Ask::TakeOver { slot: s } => format!("take-over {}", slot(*s)),
            Ask::Serve { slot: s, digest, .. } => format!("serve {} with {}", slot(*s), name_of(*digest)),
        },
        Effect::CancelDownload { slot: s } => format!("cancel-download {}", slot(*s)),
        Effect::DeleteSlot { slot: s } => format!("delete-slot {}", slot(*s)),
        Effect::HoldSamples { .. } => "hold-samples".into(),
        Effect::StopWorker { slot: s } => format!("stop-worker {}", slot(*s)),
        Effect::StartProbation { slot: s, probation_s } => format!("start-probation {} {probation_s}s", slot(*s)),
        Effect::Commit { slot: s, digest, .. } => format!("commit {} with {}", slot(*s), name_of(*digest)),
        Effect::Report(report) => {
            let why = if report.code == Code::Fine { String::new() } else { format!(" ({})", code(report.code)) };
            format!("report #{} {}{why}", report.seq, report.phase)
        }
        Effect::Ignored(ignored) => format!("ignored: {:?}", ignored.why),
    }
}
