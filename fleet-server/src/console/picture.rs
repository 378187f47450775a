//! Drawings, as SVG without styles of its own: classes carry the colours, so that light and dark share one drawing.
//!
//! Every drawing has a label in words; the page shows the same figures as a table or list beside it.

use super::view::{DeviceGroup, DeviceState, Dot, Members, RunsShare, Tone};
use super::words;
use askama::filters::{Html, escape};
use std::fmt::Write as _;

/// Side of a device's place, in pixels at full size.
const CELL: usize = 34;
/// Width of a bar in its own units.
const BAR_WIDTH: u64 = 1000;

/// Text that is safe in an attribute or an element.
fn safe(text: &str) -> String {
    escape(text, Html).map(|escaped| escaped.to_string()).unwrap_or_default()
}

/// Rows that all groups of a fleet share, so that they stand side by side as one picture.
pub(super) fn rows(devices: usize) -> usize {
    devices.div_ceil(4).isqrt().clamp(2, 12)
}

/// A group of devices, `rows` to a column, or as a bar.
pub(super) fn group(group: &DeviceGroup, runs: &[RunsShare], rows: usize) -> String {
    match &group.members {
        Members::Dots(dots) => grid(dots, &label(group, runs), runs, rows.max(1)),
        Members::Shares(shares) => {
            let parts: Vec<_> = shares.iter().enumerate().map(|(i, n)| (run_class(i, runs), *n)).collect();
            bar(&parts, &label(group, runs))
        }
    }
}

/// The class of a bundle's colour.
pub(super) fn run_class(place: usize, runs: &[RunsShare]) -> String {
    match runs.get(place) {
        Some(RunsShare { bundle: Some(_), colour, .. }) => format!("r{colour}"),
        _ => "rx".to_owned(),
    }
}

/// Devices of a group for each of `runs`.
pub(super) fn shares(group: &DeviceGroup, runs: &[RunsShare]) -> Vec<u64> {
    match &group.members {
        Members::Shares(shares) => (0..runs.len()).map(|i| shares.get(i).copied().unwrap_or(0)).collect(),
        Members::Dots(dots) => {
            (0..runs.len()).map(|i| dots.iter().filter(|dot| dot.runs == i).map(|_| 1).sum()).collect()
        }
    }
}

fn label(group: &DeviceGroup, runs: &[RunsShare]) -> String {
    let shares = shares(group, runs);
    let named = runs.iter().zip(shares).filter(|(_, n)| *n > 0).map(|(share, n)| {
        format!("{} {}", words::count(n), share.bundle.as_ref().map_or_else(|| "nothing known".into(), words::bundle))
    });
    let text = named.collect::<Vec<_>>().join(", ");
    if group.name.is_empty() { text } else { format!("{}: {text}", group.name) }
}

fn grid(dots: &[Dot], label: &str, runs: &[RunsShare], rows: usize) -> String {
    let (columns, rows) = (dots.len().div_ceil(rows).max(1), rows.min(dots.len().max(1)));
    let (width, height) = (columns * CELL, rows * CELL);
    let mut svg = format!(
        "<svg class=\"dots\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" \
         aria-label=\"{}\">",
        safe(label)
    );
    for (i, dot) in dots.iter().enumerate() {
        let (x, y) = (i / rows * CELL + CELL / 2, i % rows * CELL + CELL / 2);
        let presence = if dot.online { "" } else { " away" };
        let says = format!("{}: {}{}", dot.id, dot.state.word(), if dot.online { "" } else { ", offline" });
        // A write to a string cannot fail.
        let _ = write!(
            svg,
            "<g class=\"dot {}{presence}\" transform=\"translate({x} {y})\"><title>{}</title><circle r=\"12\"/>{}</g>",
            run_class(dot.runs, runs),
            safe(&says),
            Mark::of(dot).map(|mark| format!("<path class=\"mark\" d=\"{}\"/>", mark.path())).unwrap_or_default()
        );
    }
    svg.push_str("</svg>");
    svg
}

/// What tells a state without colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// It went wrong.
    Bad,
    /// It goes or went back.
    Back,
    /// It is on its way.
    Busy,
    /// It waits.
    Waiting,
}

impl Mark {
    /// Every one.
    pub(super) const ALL: [Self; 4] = [Self::Bad, Self::Back, Self::Busy, Self::Waiting];

    /// Of a device.
    pub(super) fn of(dot: &Dot) -> Option<Self> {
        match (dot.state, dot.state.tone()) {
            (DeviceState::GoingBack | DeviceState::Back, _) => Some(Self::Back),
            (_, Tone::Bad) => Some(Self::Bad),
            (_, Tone::Busy) => Some(Self::Busy),
            (_, Tone::Waiting) => Some(Self::Waiting),
            (_, Tone::Good | Tone::Quiet) => None,
        }
    }

    /// Its line, around the middle of the dot.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Bad => "M-4-4l8 8M4-4l-8 8",
            Self::Back => "M-5-1.2h7a3.1 3.1 0 0 1 0 6.2h-3M-2.2-4.2l-3 3 3 3",
            Self::Busy => "M0-5.5v10.5M-4 1l4 4 4-4",
            Self::Waiting => "M-2.6-4.5v9M2.6-4.5v9",
        }
    }

    /// What it says.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Bad => "failed",
            Self::Back => "goes or went back",
            Self::Busy => "updating",
            Self::Waiting => "waiting",
        }
    }
}

/// Shares of a whole beside each other. Nothing at all is an empty track.
pub(super) fn bar(parts: &[(String, u64)], label: &str) -> String {
    let total: u64 = parts.iter().map(|(_, n)| n).sum();
    let mut svg = format!(
        "<svg class=\"bar\" viewBox=\"0 0 {BAR_WIDTH} 10\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"{}\"><rect class=\"track\" width=\"{BAR_WIDTH}\" height=\"10\"/>",
        safe(label)
    );
    let mut before: u64 = 0;
    for (class, n) in parts.iter().filter(|(_, n)| *n > 0) {
        // In wide numbers, so that no count overflows.
        let at = |count: u64| u128::from(count) * u128::from(BAR_WIDTH) / u128::from(total.max(1));
        let (from, to) = (at(before), at(before + n));
        before += n;
        let _ = write!(svg, "<rect class=\"{class}\" x=\"{from}\" width=\"{}\" height=\"10\"/>", to - from);
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::view::BundleLabel;

    fn runs() -> Vec<RunsShare> {
        let bundle = BundleLabel { name: "digits".into(), version: "1".into(), digest: "00".repeat(32) };
        vec![
            RunsShare { bundle: Some(bundle), devices: 3, colour: 0 },
            RunsShare { bundle: None, devices: 1, colour: 0 },
        ]
    }

    fn dot(id: &str, runs: usize, online: bool, state: DeviceState) -> Dot {
        Dot { id: id.into(), runs, online, state }
    }

    #[test]
    fn every_device_is_a_dot_in_its_place() {
        let dots = vec![
            dot("a", 0, true, DeviceState::Settled),
            dot("b", 0, false, DeviceState::Failed),
            dot("c", 1, true, DeviceState::Back),
        ];
        let drawn = group(&DeviceGroup { name: "canary".into(), members: Members::Dots(dots) }, &runs(), 2);
        let expected = "<svg class=\"dots\" viewBox=\"0 0 68 68\" width=\"68\" height=\"68\" role=\"img\" \
             aria-label=\"canary: 2 digits 1, 1 nothing known\">\
             <g class=\"dot r0\" transform=\"translate(17 17)\"><title>a: settled</title><circle r=\"12\"/></g>\
             <g class=\"dot r0 away\" transform=\"translate(17 51)\"><title>b: failed, offline</title><circle r=\"12\"/>\
             <path class=\"mark\" d=\"M-4-4l8 8M4-4l-8 8\"/></g>\
             <g class=\"dot rx\" transform=\"translate(51 17)\"><title>c: went back</title><circle r=\"12\"/>\
             <path class=\"mark\" d=\"M-5-1.2h7a3.1 3.1 0 0 1 0 6.2h-3M-2.2-4.2l-3 3 3 3\"/></g></svg>";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn what_a_device_says_is_no_markup() {
        let hostile = "\"><script>alert(1)</script>";
        let members = Members::Dots(vec![dot(hostile, 7, true, DeviceState::Settled)]);
        let drawn = group(&DeviceGroup { name: hostile.into(), members }, &runs(), 2);
        assert!(!drawn.contains("<script") && !drawn.contains("\"><s"), "{drawn}");
    }

    #[test]
    fn a_bar_is_filled_to_its_end_and_never_divides_by_nothing() {
        let parts = [("good".to_owned(), 1), ("none".to_owned(), 0), ("bad".to_owned(), 2)];
        let drawn = bar(&parts, "x");
        assert!(drawn.contains("<rect class=\"good\" x=\"0\" width=\"333\""), "{drawn}");
        assert!(
            drawn.contains("<rect class=\"bad\" x=\"333\" width=\"667\"") && !drawn.contains("class=\"none\""),
            "{drawn}"
        );
        assert_eq!(bar(&[], "x").matches("<rect").count(), 1);
        assert_eq!(bar(&[("good".into(), u64::MAX / 2)], "x").matches("width=\"1000\"").count(), 2);
    }

    #[test]
    fn a_large_fleet_grows_wide_before_it_grows_high() {
        assert_eq!([0, 1, 24, 100, 480, 100_000].map(rows), [2, 2, 2, 5, 10, 12]);
        let group = DeviceGroup { name: String::new(), members: Members::Shares(vec![9, 1]) };
        assert!(super::group(&group, &runs(), 2).contains("class=\"rx\" x=\"900\""));
    }
}
