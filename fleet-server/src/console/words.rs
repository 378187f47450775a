//! Figures in words: the sentences, numbers and times of the console.

use super::view::{BundleLabel, FleetView, RunsShare, Served};
use sedge_protocol::time::UnixSeconds;

/// The fleet in one sentence.
pub(super) fn fleet(fleet: &FleetView) -> String {
    if fleet.devices == 0 {
        return "No device has enrolled yet.".into();
    }
    let mut shares: Vec<&RunsShare> = fleet.runs.iter().filter(|share| share.devices > 0).collect();
    shares.sort_by_key(|share| (share.bundle.is_none(), std::cmp::Reverse(share.devices)));
    let mut text = String::new();
    for (i, share) in shares.iter().enumerate() {
        let what = share.bundle.as_ref().map_or_else(|| "nothing that is known".to_owned(), bundle);
        let run = if share.devices == 1 { "runs" } else { "run" };
        if i == 0 && share.devices == fleet.devices {
            text = match share.devices {
                1 => format!("The one device runs {what}"),
                n => format!("All {} devices run {what}", count(n)),
            };
        } else if i == 0 {
            text = format!("{} of {} devices {run} {what}", count(share.devices), count(fleet.devices));
        } else {
            text.push_str(&format!(", {} {run} {what}", count(share.devices)));
        }
    }
    if text.is_empty() {
        text = devices(fleet.devices);
    }
    match fleet.online {
        0 => text.push_str("; none is online"),
        n if n == fleet.devices && n == 1 => text.push_str("; it is online"),
        n if n == fleet.devices => text.push_str("; all are online"),
        1 => text.push_str("; 1 is online"),
        n => text.push_str(&format!("; {} are online", count(n))),
    }
    if fleet.bad > 0 {
        text.push_str(&format!(", {} failed", count(fleet.bad)));
    }
    text.push('.');
    text
}

/// Name and version, or what is known of them.
pub(super) fn bundle(bundle: &BundleLabel) -> String {
    match (bundle.name.as_str(), bundle.version.as_str()) {
        ("", _) => format!("bundle {}", bundle.short()),
        (name, "") => name.to_owned(),
        (name, version) => format!("{name} {version}"),
    }
}

/// `1 device`, `1,140 devices`.
pub(super) fn devices(n: u64) -> String {
    format!("{} {}", count(n), if n == 1 { "device" } else { "devices" })
}

/// With commas between thousands.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Millionths as percent, with a decimal where there is one.
pub(super) fn percent(micro: u64) -> String {
    tenths(micro.saturating_add(500) / 1000) + " %"
}

fn tenths(n: u64) -> String {
    match n % 10 {
        0 => count(n / 10),
        tenth => format!("{}.{tenth}", count(n / 10)),
    }
}

/// Microseconds, in the unit that suits them.
pub(super) fn latency(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000_000 => tenths(us / 100) + " ms",
        _ => tenths(us / 100_000) + " s",
    }
}

/// What became of a device's samples; of those whose right answer is known, the share that it got right.
pub(super) fn served(served: &Served) -> String {
    let mut text = format!("{} {}", count(served.samples), if served.samples == 1 { "result" } else { "results" });
    match served.errors {
        0 => {}
        1 => text.push_str(", 1 error"),
        n => text.push_str(&format!(", {} errors", count(n))),
    }
    if let Some(share) = share(served.right, served.labelled) {
        text.push_str(&format!(", {} of {} right", percent(share), count(served.labelled)));
    }
    text
}

/// In millionths; none of nothing.
fn share(part: u64, all: u64) -> Option<u64> {
    let share = u128::from(part) * 1_000_000 / u128::from(std::num::NonZeroU64::new(all)?.get());
    Some(u64::try_from(share).unwrap_or(u64::MAX))
}

/// The two largest units of a span.
pub(super) fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let two = |a: u64, a_unit: &str, b: u64, b_unit: &str| match b {
        0 => format!("{a} {a_unit}"),
        b => format!("{a} {a_unit} {b} {b_unit}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => two(minutes, "min", seconds % 60, "s"),
        3600..86_400 => two(hours, "h", minutes, "min"),
        _ => two(days, "d", hours, "h"),
    }
}

/// How long ago, in one unit.
pub(super) fn ago(at: UnixSeconds, now: UnixSeconds) -> String {
    // A clock that was set back makes a time of the future; it is no news to say so.
    match u64::try_from(now.0.saturating_sub(at.0)).unwrap_or(0) {
        0..3 => "just now".into(),
        s @ 3..60 => format!("{s} s ago"),
        s @ 60..3600 => format!("{} min ago", s / 60),
        s @ 3600..172_800 => format!("{} h ago", s / 3600),
        s => format!("{} days ago", count(s / 86_400)),
    }
}

/// The time of day, UTC; before today the day and the minute.
pub(super) fn clock(at: UnixSeconds, now: UnixSeconds) -> String {
    let (at, now) = (at.to_string(), now.to_string());
    match (at.split_once('T'), now.split_once('T')) {
        (Some((day, time)), Some((today, _))) if day == today => time.trim_end_matches('Z').to_owned(),
        (Some((day, time)), _) => format!("{day} {}", time.get(..5).unwrap_or(time)),
        (None, _) => at,
    }
}

/// Seconds from `from` to `to`, never negative.
pub(super) fn seconds_between(from: UnixSeconds, to: UnixSeconds) -> u64 {
    u64::try_from(to.0.saturating_sub(from.0)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(version: &str) -> Option<BundleLabel> {
        Some(BundleLabel { name: "digits".into(), version: version.into(), digest: "ab".repeat(32) })
    }

    fn view(online: u64, bad: u64, runs: &[(Option<BundleLabel>, u64)]) -> FleetView {
        let runs: Vec<_> = runs
            .iter()
            .map(|(bundle, devices)| RunsShare { bundle: bundle.clone(), devices: *devices, colour: 0 })
            .collect();
        let devices = runs.iter().map(|share| share.devices).sum();
        FleetView { devices, online, settled: devices, bad, runs, groups: Vec::new() }
    }

    #[test]
    fn a_fleet_is_one_sentence() {
        for (fleet_view, sentence) in [
            (view(0, 0, &[]), "No device has enrolled yet."),
            (view(1, 0, &[(label("1.0.0"), 1)]), "The one device runs digits 1.0.0; it is online."),
            (view(24, 0, &[(label("1.0.0"), 24)]), "All 24 devices run digits 1.0.0; all are online."),
            (
                view(1139, 1, &[(label("1.0.0"), 1), (label("2.0.0"), 1138), (None, 2)]),
                "1,138 of 1,141 devices run digits 2.0.0, 1 runs digits 1.0.0, 2 run nothing that is known; \
                 1,139 are online, 1 failed.",
            ),
            (view(0, 0, &[(None, 3)]), "All 3 devices run nothing that is known; none is online."),
            (view(1, 0, &[(label(""), 1), (label("2"), 0), (None, 1)]), {
                "1 of 2 devices runs digits, 1 runs nothing that is known; 1 is online."
            }),
        ] {
            assert_eq!(fleet(&fleet_view), sentence);
        }
        let unnamed = BundleLabel { name: String::new(), version: String::new(), digest: "0123456789".into() };
        assert_eq!(bundle(&unnamed), "bundle 01234567");
    }

    #[test]
    fn numbers_and_times_are_short() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [59, 60, 61, 3600, 3661, 90_000].map(span),
            ["59 s", "1 min", "1 min 1 s", "1 h", "1 h 1 min", "1 d 1 h"]
        );
        assert_eq!([0, 661_290, 1_000_000, 999].map(percent), ["0 %", "66.1 %", "100 %", "0.1 %"]);
        assert_eq!([640, 40_000, 11_840, 12_340_000].map(latency), ["640 µs", "40 ms", "11.8 ms", "12.3 s"]);
        let of = |samples, errors, labelled, right| served(&Served { samples, errors, labelled, right });
        assert_eq!(of(1, 1, 0, 0), "1 result, 1 error");
        assert_eq!(of(1_204, 2, 62, 41), "1,204 results, 2 errors, 66.1 % of 62 right");
        assert!(of(0, 0, 1, u64::MAX).starts_with("0 results, 1,844"), "figures that do not fit together do no harm");
        let now = UnixSeconds(1_800_000_000);
        let said = [-5, 2, 59, 60, 3600, 172_799, 172_800].map(|s| ago(now.plus(-s), now));
        assert_eq!(said, ["just now", "just now", "59 s ago", "1 min ago", "1 h ago", "47 h ago", "2 days ago"]);
        assert_eq!((clock(now, now), clock(now.plus(-86_400), now)), ("08:00:00".into(), "2027-01-14 08:00".into()));
        assert_eq!(clock(UnixSeconds(i64::MAX), now), "@9223372036854775807");
        assert_eq!((seconds_between(now, now.plus(-1)), devices(1)), (0, "1 device".into()));
    }
}
