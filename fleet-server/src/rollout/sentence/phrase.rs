//! Figures and gates in words.

use crate::rollout::gate::{Evidence, GateKind};
use crate::rollout::spec::Metric;
use crate::rollout::state::FailureCode;
use sedge_protocol::message::ErrorCode;

/// With commas between thousands.
pub(super) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// "1 device", "2 devices".
pub(super) fn devices(count: u64) -> String {
    if count == 1 { "1 device".to_owned() } else { format!("{} devices", number(count)) }
}

/// Millionths as percent, with a decimal where there is one.
fn percent(micro: u64) -> String {
    let tenths = (micro + 500) / 1000;
    if tenths.is_multiple_of(10) { format!("{} %", tenths / 10) } else { format!("{}.{} %", tenths / 10, tenths % 10) }
}

pub(super) fn seconds(ms: u64) -> String {
    match ms {
        0..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} min {} s", number(ms / 60_000), ms % 60_000 / 1000),
    }
}

pub(super) fn gate_name(gate: GateKind) -> &'static str {
    match gate {
        GateKind::Errors => "error",
        GateKind::Success => "success",
        GateKind::Unreachable => "unreachable",
        GateKind::Field(metric) | GateKind::Control(metric) => match metric {
            Metric::ErrorRate => "error-rate",
            Metric::Accuracy => "accuracy",
            Metric::Confidence => "confidence",
            Metric::LatencyP95 => "latency",
        },
    }
}

/// What devices did that failed alike.
fn failed(code: Option<&FailureCode>) -> &'static str {
    match code {
        Some(FailureCode::Reported(code)) => match code {
            ErrorCode::NoVariant
            | ErrorCode::OpUnsupported
            | ErrorCode::CompileFailed
            | ErrorCode::SandboxRefused
            | ErrorCode::NoMemory => "failed to load the model",
            ErrorCode::GoldenFailed => "failed their golden samples",
            ErrorCode::ShadowDisagrees => "disagreed with the old version",
            ErrorCode::ErrorRate => "failed on too many samples",
            ErrorCode::Latency => "became too slow",
            ErrorCode::WorkerCrashed | ErrorCode::WorkerHung => "crashed",
            ErrorCode::DownloadFailed | ErrorCode::OverBudget => "could not download the bundle",
            ErrorCode::NoSpace => "have no space",
            ErrorCode::TimedOut => "did not finish in time",
            _ => "failed",
        },
        Some(FailureCode::WrongDigest) => "run another bundle than they were assigned",
        Some(FailureCode::FellBack) => "fell back",
        Some(FailureCode::TimedOut) => "did not finish in time",
        _ => "failed",
    }
}

/// What was measured, and the limit.
pub(super) fn found(evidence: &Evidence, code: Option<&FailureCode>) -> String {
    let measured = evidence.measured.unwrap_or(0);
    let limit = evidence.limit.unwrap_or(0);
    let of = |count: u64| format!("{} of {} ({})", number(count), devices(evidence.sample), percent(measured));
    let count = evidence.count.unwrap_or(0);
    let samples = number(evidence.sample);
    let control = |text: String| match evidence.gate {
        GateKind::Control(_) => format!("{text}, from the devices without the bundle"),
        _ => text,
    };
    match evidence.gate {
        GateKind::Errors => format!("{} {}; limit {}", of(count), failed(code), percent(limit)),
        GateKind::Success => {
            let lost = if code.is_some() { format!(", the others {}", failed(code)) } else { String::new() };
            format!("{} succeeded{lost}; at least {} must", of(count), percent(limit))
        }
        GateKind::Unreachable => format!("{} cannot be reached; limit {}", of(count), percent(limit)),
        GateKind::Field(metric) | GateKind::Control(metric) => control(match metric {
            Metric::ErrorRate => format!("{} of {samples} samples failed; limit {}", percent(measured), percent(limit)),
            Metric::Accuracy => {
                format!(
                    "{} of {samples} labelled samples are right; at least {} must be",
                    percent(measured),
                    percent(limit)
                )
            }
            Metric::Confidence => format!(
                "mean confidence is {} over {samples} samples; at least {} is needed",
                percent(measured),
                percent(limit)
            ),
            Metric::LatencyP95 => format!(
                "the median device's 95th percentile is {} µs over {samples} samples; limit {} µs",
                number(measured),
                number(limit)
            ),
        }),
    }
}

/// What a gate lacks.
pub(super) fn lacks(evidence: &Evidence) -> String {
    let what = match evidence.gate {
        GateKind::Errors | GateKind::Success | GateKind::Unreachable => "devices",
        GateKind::Field(Metric::Accuracy) | GateKind::Control(Metric::Accuracy) => "labelled samples",
        GateKind::Field(_) | GateKind::Control(_) => "samples",
    };
    let of = match (evidence.gate, evidence.limit) {
        (GateKind::Control(_), None) => " of devices without the bundle",
        _ => "",
    };
    let gate = gate_name(evidence.gate);
    format!("the {gate} gate has {} of {} {what}{of}", number(evidence.sample), number(evidence.sample_min))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_as_people_write_them() {
        assert_eq!([0, 999, 1140, 1_234_567].map(number), ["0", "999", "1,140", "1,234,567"]);
        assert_eq!([50_000, 116_666, 0, 1_000_000, 999].map(percent), ["5 %", "11.7 %", "0 %", "100 %", "0.1 %"]);
        assert_eq!([0, 12_340, 59_999, 61_000].map(seconds), ["0.0 s", "12.3 s", "59.9 s", "1 min 1 s"]);
        assert_eq!([devices(1), devices(2000)], ["1 device", "2,000 devices"]);
    }
}
