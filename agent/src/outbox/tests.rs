//! Kept until acknowledged: over restarts, torn tails, full and broken disks.

use super::*;
use crate::disk::FileSystem;
use crate::testing::disk::{Fault, FaultyDisk};
use sedge_protocol::topic::DeviceTopic;
use std::fs;
use tempfile::TempDir;

fn topic(class: Class) -> Topic {
    let topic = match class {
        Class::Report => DeviceTopic::Reported,
        Class::Event => DeviceTopic::Event,
        Class::Telemetry => DeviceTopic::Telemetry("health".parse().expect("name")),
    };
    Topic::Device("acme:cam-7".parse().expect("name"), topic)
}

fn open(dir: &TempDir) -> Outbox {
    open_with(dir, Arc::new(FileSystem))
}

fn open_with(dir: &TempDir, disk: Arc<dyn Disk>) -> Outbox {
    let limits = OutboxLimits { telemetry_bytes_max: 512 * 1024, event_bytes_max: 8 * 1024 };
    Outbox::open(disk, dir.path(), limits).expect("opens")
}

fn dir() -> TempDir {
    tempfile::tempdir().expect("directory")
}

fn push(outbox: &mut Outbox, class: Class, text: &str) -> u64 {
    outbox.push(class, &topic(class), None, text.as_bytes()).expect("kept")
}

fn report(outbox: &mut Outbox, seq: u64, end: bool) -> u64 {
    let tag = Tag { component: "camera".parse().expect("name"), seq, end };
    outbox.push(Class::Report, &topic(Class::Report), Some(tag), &seq.to_be_bytes()).expect("kept")
}

fn texts(outbox: &mut Outbox) -> Vec<String> {
    outbox.due(1000).into_iter().map(|due| String::from_utf8(due.payload).expect("text")).collect()
}

#[test]
fn reports_go_first_and_each_class_in_order() {
    let dir = dir();
    let mut outbox = open(&dir);
    for (class, text) in [(Class::Telemetry, "t1"), (Class::Event, "e1"), (Class::Report, "r1"), (Class::Event, "e2")] {
        push(&mut outbox, class, text);
    }
    assert_eq!(texts(&mut outbox), ["r1", "e1", "e2", "t1"]);
}

#[test]
fn nothing_is_gone_before_it_is_acknowledged() {
    let dir = dir();
    let mut outbox = open(&dir);
    let [r, e, t] = [Class::Report, Class::Event, Class::Telemetry].map(|class| push(&mut outbox, class, "x"));
    for id in [r, e, t] {
        outbox.sent(id, 0);
        outbox.delivered(id);
    }
    assert_eq!((outbox.len(), outbox.due(9).len(), outbox.in_flight()), (2, 0, 0), "telemetry needs the broker alone");
    outbox.send_again(AGAIN_MS - 1);
    assert_eq!(outbox.due(9).len(), 0);
    outbox.send_again(AGAIN_MS);
    assert_eq!(outbox.due(9).len(), 2, "the server has not answered");
    drop(outbox);
    let mut outbox = open(&dir);
    assert_eq!(outbox.due(9).iter().map(|d| d.id).collect::<Vec<_>>(), [r, e], "nor before the restart");
    outbox.event_acked(r);
    outbox.reports_acked(e);
    outbox.event_acked(e);
    assert!(outbox.is_empty());
    drop(outbox);
    let outbox = open(&dir);
    assert!(outbox.is_empty() && outbox.next_id() > t, "numbers are never used twice");
}

#[test]
fn a_line_that_breaks_makes_everything_due_again() {
    let dir = dir();
    let mut outbox = open(&dir);
    let ids: Vec<u64> = (0..5).map(|n| push(&mut outbox, Class::Event, &n.to_string())).collect();
    ids.iter().for_each(|id| outbox.sent(*id, 0));
    outbox.delivered(ids[0]);
    outbox.unsendable(ids[1]);
    outbox.line_down();
    assert_eq!(texts(&mut outbox), ["0", "1", "2", "3", "4"]);
}

#[test]
fn of_reports_on_the_way_the_latest_is_kept_and_of_ends_all() {
    let dir = dir();
    let mut outbox = open(&dir);
    for (seq, end) in [(1, false), (2, false), (3, true), (4, false), (5, true), (6, false)] {
        report(&mut outbox, seq, end);
    }
    let seqs = |outbox: &Outbox| outbox.reports().map(|(_, tag)| tag.seq).collect::<Vec<_>>();
    assert_eq!(seqs(&outbox), [3, 5, 6]);
    let mut outbox = open(&dir);
    assert_eq!(seqs(&outbox), [3, 5, 6]);
    assert!(outbox.holds(&"camera".parse().expect("name"), 5));
    let up_to = outbox.next_id() - 2;
    assert_eq!(outbox.reports_acked(up_to).iter().map(|t| t.seq).collect::<Vec<_>>(), [3, 5]);
    assert_eq!(seqs(&open(&dir)), [6]);
}

#[test]
fn telemetry_is_dropped_oldest_first_and_nothing_else() {
    let dir = dir();
    let mut outbox = open(&dir);
    let end = report(&mut outbox, 1, true);
    push(&mut outbox, Class::Event, "event");
    let large = "x".repeat(4096);
    for n in 0..400 {
        push(&mut outbox, Class::Telemetry, &format!("{n:05}{large}"));
    }
    let kept: Vec<Due> = outbox.due(10_000);
    assert_eq!(kept[0].id, end);
    assert_eq!(kept[1].payload, b"event");
    let numbers: Vec<u32> =
        kept[2..].iter().map(|d| String::from_utf8_lossy(&d.payload[..5]).parse().expect("n")).collect();
    assert_eq!(numbers, (400 - numbers.len() as u32..400).collect::<Vec<_>>());
    assert_eq!(outbox.dropped() + numbers.len() as u64, 400);
    assert!((80..130).contains(&numbers.len()), "{}", numbers.len());
    outbox.flush();
    let bytes: u64 = fs::read_dir(dir.path().join("outbox"))
        .expect("list")
        .map(|f| f.expect("f").metadata().expect("m").len())
        .sum();
    assert!(bytes < 512 * 1024 + RESERVE_BYTES + 300 * 1024, "{bytes}");
}

#[test]
fn events_have_a_bound_of_their_own() {
    let dir = dir();
    let mut outbox = open(&dir);
    let end = report(&mut outbox, 1, true);
    for n in 0..50 {
        push(&mut outbox, Class::Event, &format!("{n:03}{}", "x".repeat(1000)));
    }
    let kept = outbox.due(1000);
    assert_eq!((kept[0].id, kept.len()), (end, 1 + 7));
    assert!(kept[1].payload.starts_with(b"043"));
}

#[test]
fn one_old_report_does_not_hold_back_all_files() {
    let dir = dir();
    let mut outbox = open(&dir);
    report(&mut outbox, 1, true);
    for n in 0..3000 {
        let id = push(&mut outbox, Class::Event, &format!("{n}{}", "x".repeat(1000)));
        outbox.event_acked(id);
        if n % 100 == 0 {
            outbox.flush();
        }
    }
    let bytes = outbox.segments.bytes(Family::Durable);
    assert!(bytes < (1 << 20) + 300 * 1024, "{bytes}");
    assert_eq!(open(&dir).reports().count(), 1);
}

#[test]
fn a_tail_torn_at_any_byte_costs_that_message_alone() {
    let dir = dir();
    let mut outbox = open(&dir);
    for text in ["first", "second", "third"] {
        push(&mut outbox, Class::Event, text);
    }
    let path = Family::Durable.path(&dir.path().join("outbox"), 1);
    let whole = fs::read(&path).expect("segment");
    drop(outbox);
    for cut in 0..=whole.len() {
        let dir = self::dir();
        fs::create_dir(dir.path().join("outbox")).expect("directory");
        fs::write(Family::Durable.path(&dir.path().join("outbox"), 1), &whole[..cut]).expect("written");
        let mut outbox = open(&dir);
        let kept = texts(&mut outbox);
        assert_eq!(kept, ["first", "second", "third"][..kept.len()], "cut at {cut}");
        let before = outbox.next_id();
        push(&mut outbox, Class::Event, "after");
        drop(outbox);
        let mut outbox = open(&dir);
        assert_eq!(texts(&mut outbox).last().map(String::as_str), Some("after"), "cut at {cut}");
        assert_eq!(outbox.next_id(), before + 1, "cut at {cut}");
    }
}

#[test]
fn a_full_disk_costs_telemetry_and_no_report() {
    for after in 0..40 {
        let dir = dir();
        let disk = Arc::new(FaultyDisk::new(after, Fault::StaysFull));
        let mut outbox = open_with(&dir, disk.clone());
        let mut ends = 0;
        for n in 0..20 {
            push(&mut outbox, Class::Telemetry, "measured");
            report(&mut outbox, n, true);
            ends += 1;
        }
        assert_eq!(outbox.reports().count(), ends, "full after {after} writes");
        drop(outbox);
        assert_eq!(open(&dir).reports().count(), ends, "full after {after} writes, and a restart");
    }
}

#[test]
fn what_push_has_promised_survives_any_fault() {
    for fault in [Fault::Full, Fault::Broken, Fault::PowerLoss] {
        for after in 0.. {
            let dir = dir();
            let disk = Arc::new(FaultyDisk::new(after, fault));
            let mut promised = Vec::new();
            if let Ok(mut outbox) = Outbox::open(disk.clone(), dir.path(), OutboxLimits::default()) {
                for n in 0..6u64 {
                    let _ = outbox.push(Class::Telemetry, &topic(Class::Telemetry), None, b"measured");
                    let tag = Tag { component: "camera".parse().expect("name"), seq: n, end: true };
                    promised.extend(outbox.push(Class::Report, &topic(Class::Report), Some(tag), b"report").ok());
                    outbox.flush();
                }
            }
            let outbox = open(&dir);
            let kept: Vec<u64> = outbox.reports().map(|(id, _)| id).collect();
            assert!(promised.iter().all(|id| kept.contains(id)), "{fault:?} after {after}: {promised:?} {kept:?}");
            let mut ids = kept.clone();
            ids.dedup();
            assert_eq!(ids.len(), kept.len());
            if !disk.is_dead() {
                break;
            }
        }
    }
}
