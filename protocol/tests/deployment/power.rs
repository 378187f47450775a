//! Power goes at every effect of a few stories: before it, after it, and in the middle of writing a record.

use crate::device::{Cut, Device, explain, order};
use crate::random::Random;
use crate::world::{bad_answer, good_answer};
use sedge_protocol::BundleDigest;
use sedge_protocol::deployment::record::scan;
use sedge_protocol::deployment::*;

type Story = fn(&mut Device);

/// The stories in which power goes at every effect, and whether each ends with the same bundle whenever power goes.
const STORIES: [(&str, Story, bool); 6] = [
    ("good", good, true),
    ("held", held, true),
    ("cold", cold, true),
    ("superseded", superseded, true),
    ("there and back", there_and_back, true),
    ("bad golden samples", bad, false),
];

fn good(device: &mut Device) {
    device.tell(Event::Desired(Box::new(order(5, "v2"))));
    device.settle(true);
}

fn held(device: &mut Device) {
    let order = Order { commit: CommitRule::Held { deadline_s: 600 }, ..order(5, "v2") };
    device.tell(Event::Desired(Box::new(order)));
    device.settle(true);
}

fn cold(device: &mut Device) {
    device.tell(Event::Desired(Box::new(order(5, "v2"))));
    for _ in 0..40 {
        match device.world.machine.phase() {
            Phase::Trial | Phase::WaitApply => break,
            Phase::WaitDownload => device.tell(Event::DownloadWindowOpen),
            _ if device.world.memory.open.is_empty() => {
                device.pass_to_deadline();
            }
            _ => {
                let last = device.world.memory.open.len() - 1;
                let answer = good_answer(&device.world.memory.open[last].1);
                device.answer(last, answer);
            }
        }
    }
    device.tell(Event::MemoryShort);
    device.settle(true);
}

fn superseded(device: &mut Device) {
    device.tell(Event::Desired(Box::new(order(5, "v2"))));
    device.tell(Event::DownloadWindowOpen);
    for _ in 0..6 {
        if let Some((_, ask)) = device.world.memory.open.first() {
            let answer = good_answer(ask);
            device.answer(0, answer);
        }
    }
    device.tell(Event::Desired(Box::new(order(6, "v3"))));
    device.settle(true);
    // If power went before the second order was written down, the server's message comes again.
    device.tell(Event::Desired(Box::new(order(6, "v3"))));
    device.settle(true);
}

fn there_and_back(device: &mut Device) {
    good(device);
    device.tell(Event::OperatorRollback);
    device.settle(true);
    device.tell(Event::Desired(Box::new(order(9, "v2"))));
    device.settle(true);
}

fn bad(device: &mut Device) {
    device.tell(Event::Desired(Box::new(order(5, "v2"))));
    device.tell(Event::DownloadWindowOpen);
    device.tell(Event::ApplyAllowed);
    for _ in 0..30 {
        let Some((_, ask)) = device.world.memory.open.last() else { break };
        let last = device.world.memory.open.len() - 1;
        let answer = if matches!(ask, Ask::RunGolden { .. }) { bad_answer(ask) } else { good_answer(ask) };
        device.answer(last, answer);
    }
    device.settle(true);
}

#[test]
fn power_may_go_at_every_effect_of_every_story() {
    let mut cuts = 0;
    for (name, story, ends_alike) in STORIES {
        for provisioned in [true, false] {
            if !provisioned && name != "good" {
                continue;
            }
            let mut device = Device::new(provisioned, None);
            story(&mut device);
            device.audit_rest(true);
            let wanted = device.world.machine.active().cloned();
            cuts += device.cuts.len();
            for fate in device.cuts {
                let what = format!("{name}, provisioned {provisioned}, power lost at effect {fate:?}");
                let end = explain(&what, || interrupted(story, provisioned, fate, wanted.as_ref()));
                assert!(!ends_alike || end == wanted.as_ref().map(|a| a.bundle.digest), "{what}: another end");
            }
        }
    }
    assert!(cuts > 500, "only {cuts} cuts");
}

/// Tells a story with one loss of power; returns the bundle that is active in the end.
fn interrupted(story: Story, provisioned: bool, fate: (usize, Cut), wanted: Option<&Active>) -> Option<BundleDigest> {
    let mut device = Device::new(provisioned, Some(fate));
    story(&mut device);
    device.settle(true);
    // What was lost unwritten comes again, as a retained message does.
    if let Some(Active { bundle, .. }) = wanted
        && device.world.machine.record().anchor.authorized < bundle.generation
    {
        let again = Order { digest: bundle.digest, ..order(bundle.generation.0, "") };
        device.tell(Event::Desired(Box::new(again)));
        device.settle(true);
    }
    device.audit_rest(true);
    device.world.machine.active().map(|active| active.bundle.digest)
}

#[test]
fn a_device_that_restarts_in_every_trial_gives_up() {
    for attempts_max in 1..=ATTEMPTS_MAX {
        let mut device = Device::new(true, None);
        device.tell(Event::Desired(Box::new(Order { attempts_max, ..order(5, "v2") })));
        for _ in 0..600 {
            if device.world.machine.phase() == Phase::Trial {
                device.lose_power();
            } else if device.world.machine.phase() == Phase::WaitApply {
                device.tell(Event::ApplyAllowed);
            } else if let Some((_, ask)) = device.world.memory.open.last() {
                let (last, answer) = (device.world.memory.open.len() - 1, good_answer(ask));
                device.answer(last, answer);
            } else if device.world.machine.phase() == Phase::WaitDownload {
                device.tell(Event::DownloadWindowOpen);
            }
        }
        assert_eq!(device.world.machine.phase(), Phase::Rejected, "{attempts_max} attempts");
        device.settle(true);
        device.audit_rest(true);
    }
}

#[test]
fn hostile_bytes_in_the_journal_never_stop_a_device() {
    let mut random = Random(11);
    let mut device = Device::new(true, None);
    device.tell(Event::Desired(Box::new(order(5, "v2"))));
    let journal = device.world.disk.journal.clone();
    for _ in 0..3_000 {
        let mut damaged = journal.clone();
        for _ in 0..=random.below(4) {
            let at = random.index(damaged.len());
            damaged[at] = random.next() as u8;
        }
        damaged.truncate(random.index(damaged.len() + 1));
        let mut machine = Deployment::restore(scan(&damaged).found, 1);
        let now = Now { boot_ms: random.below(1_000), unix_s: Some(random.next()) };
        machine.handle(Event::Booted { running: None }, now);
        machine.handle(Event::Deadline, Now { boot_ms: u64::MAX, unix_s: Some(u64::MAX) });
        machine.next_deadline();
    }
}
