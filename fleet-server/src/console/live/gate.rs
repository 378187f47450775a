//! Gates and failures in words.

use super::super::view::{GateView, Verdict};
use super::super::words;
use crate::rollout::{Evidence, FailureCode, GateKind, GateVerdict, Metric};

/// What a gate measures.
pub(super) fn name(gate: GateKind) -> &'static str {
    match gate {
        GateKind::Errors => "failed devices",
        GateKind::Success => "devices that succeeded",
        GateKind::Unreachable => "unreachable devices",
        GateKind::Field(Metric::ErrorRate) => "failed samples",
        GateKind::Field(Metric::Accuracy) => "accuracy on labels",
        GateKind::Field(Metric::Confidence) => "mean confidence",
        GateKind::Field(Metric::LatencyP95) => "latency p95",
        GateKind::Control(Metric::ErrorRate) => "failed samples, against the others",
        GateKind::Control(Metric::Accuracy) => "accuracy on labels, against the others",
        GateKind::Control(Metric::Confidence) => "mean confidence, against the others",
        GateKind::Control(Metric::LatencyP95) => "latency p95, against the others",
    }
}

fn figure(gate: GateKind, value: u64) -> String {
    if gate.is_latency() { words::latency(value) } else { words::percent(value) }
}

/// A limit; its sign says on which side of it is well.
pub(super) fn limit(evidence: &Evidence) -> String {
    let sign = if evidence.gate.is_upper_limit() { "≤" } else { "≥" };
    match evidence.limit {
        Some(limit) => format!("{sign} {}", figure(evidence.gate, limit)),
        None => "not known yet".into(),
    }
}

/// What was measured.
pub(super) fn measured(evidence: &Evidence) -> Option<String> {
    evidence.measured.map(|value| figure(evidence.gate, value))
}

/// Of a wave.
pub(super) fn view(evidence: &Evidence, wave: &str) -> GateView {
    GateView {
        name: name(evidence.gate).into(),
        wave: wave.into(),
        limit: limit(evidence),
        measured: measured(evidence),
        sample: evidence.sample,
        minimum: evidence.sample_min,
        verdict: match evidence.verdict {
            GateVerdict::Pass => Verdict::Pass,
            GateVerdict::Fail => Verdict::Fail,
            GateVerdict::NotEnoughData => Verdict::NotEnoughData,
        },
    }
}

/// A gate with its figures: "accuracy on labels 66.1 % (limit ≥ 90 %, 62 of at least 40)".
pub(super) fn line(evidence: &Evidence) -> String {
    let measured = measured(evidence).unwrap_or_else(|| "not measured".into());
    let (sample, minimum) = (words::count(evidence.sample), words::count(evidence.sample_min));
    format!("{} {measured} (limit {}, {sample} of at least {minimum})", name(evidence.gate), limit(evidence))
}

/// Why a device failed: the code that it said, else words.
pub(super) fn failure(code: &FailureCode) -> String {
    match code {
        FailureCode::Reported(code) => code.to_string(),
        FailureCode::WrongDigest => "runs another bundle than it was given".into(),
        FailureCode::FellBack => "had succeeded and fell back".into(),
        FailureCode::TimedOut => "did not finish in time".into(),
        FailureCode::DidNotGoBack => "was called back and still runs the bundle".into(),
        FailureCode::CannotGoBack(problem) => format!("cannot go back: {}", problem.meaning()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_shows_its_figures_with_units() {
        let of = |gate, limit, measured, verdict| {
            let (count, sample, sample_min) = (None, 1_062, 40);
            let view = view(&Evidence { gate, limit, measured, count, sample, sample_min, verdict }, "canary");
            let measured = view.measured.unwrap_or_else(|| "–".into());
            format!("{}: {measured}, {}: {}", view.name, view.limit, view.verdict.word())
        };
        use GateKind as K;
        use GateVerdict as V;
        assert_eq!(of(K::Errors, Some(50_000), Some(116_666), V::Fail), "failed devices: 11.7 %, ≤ 5 %: fail");
        let text = of(K::Success, Some(950_000), Some(1_000_000), V::Pass);
        assert_eq!(text, "devices that succeeded: 100 %, ≥ 95 %: pass");
        let text = of(K::Unreachable, Some(200_000), None, V::NotEnoughData);
        assert_eq!(text, "unreachable devices: –, ≤ 20 %: not enough data yet");
        let text = of(K::Field(Metric::LatencyP95), Some(40_000), Some(11_840), V::Pass);
        assert_eq!(text, "latency p95: 11.8 ms, ≤ 40 ms: pass");
        let text = of(K::Control(Metric::Confidence), None, Some(875_000), V::NotEnoughData);
        assert_eq!(text, "mean confidence, against the others: 87.5 %, not known yet: not enough data yet");
        for metric in [Metric::ErrorRate, Metric::Accuracy, Metric::Confidence, Metric::LatencyP95] {
            assert_eq!(name(K::Control(metric)), format!("{}, against the others", name(K::Field(metric))));
        }
    }
}
