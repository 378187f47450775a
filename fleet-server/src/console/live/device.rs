//! A device in the table: what is measured of it, and where it is in the rollout.

use super::super::scan::Bundles;
use super::super::view::{DeviceRow, DeviceState, Served};
use super::super::words;
use super::rollout::{device_state, has_ended};
use super::{gate, waits};
use crate::field::ComponentView;
use crate::rollout::{DeviceView, Step, Summary};

/// Puts what its heartbeats say in the place of what its reports say.
pub(super) fn measure(row: &mut DeviceRow, measured: &ComponentView, bundles: &Bundles) {
    let Some(running) = measured.running else { return };
    row.served = measured.bundles.get(&running).map(|bundle| Served {
        samples: bundle.counts.samples,
        errors: bundle.counts.errors,
        labelled: bundle.counts.labelled,
        right: bundle.counts.right,
    });
    let runs = bundles.label(running.0.hex());
    if row.state == DeviceState::Settled && row.wanted.as_ref().is_some_and(|wanted| wanted.digest != runs.digest) {
        row.state = DeviceState::Progress;
        row.reason = format!("its last heartbeat is from {}", words::bundle(&runs));
    }
    row.runs = Some(runs);
}

/// Puts a device's step in a rollout in the place of where it would stand without one. What it says of its own progress
/// is kept, since it is more exact. After the end of the rollout only what went wrong is left of it. `bundle` is the
/// rollout's.
pub(super) fn follow(row: &mut DeviceRow, view: &DeviceView, summary: &Summary, bundle: &str) {
    let failure = view.code.as_ref().map(gate::failure);
    let wait = view.waiting.as_ref().map(|why| waits::device(why, summary)).filter(|text| !text.is_empty());
    if has_ended(summary) {
        let told = match view.step {
            Step::Back => format!("went back from {bundle}"),
            Step::Failed | Step::Rejected | Step::TimedOut => format!("did not take {bundle}"),
            _ => return,
        };
        if row.reason.is_empty() {
            row.reason = [Some(told), failure].into_iter().flatten().collect::<Vec<_>>().join(": ");
        }
        return;
    }
    let state = device_state(view.step);
    let own = std::mem::take(&mut row.reason);
    let is_own = match view.step {
        Step::Assigned | Step::Progress => {
            matches!(row.state, DeviceState::Assigned | DeviceState::Progress | DeviceState::Waiting)
        }
        Step::Failed | Step::Rejected | Step::GoingBack | Step::Back => row.state == state,
        _ => false,
    };
    let own = Some(own).filter(|text| is_own && !text.is_empty());
    // What it waits for is the next thing to know; why it failed is said by itself in more words than by its code.
    row.reason = match own {
        Some(own) => [Some(own), wait].into_iter().flatten().collect::<Vec<_>>().join("; "),
        None => [failure, wait].into_iter().flatten().collect::<Vec<_>>().join("; "),
    };
    // It waits for something of its own, such as its window.
    row.state = if is_own && row.state == DeviceState::Waiting { DeviceState::Waiting } else { state };
}
