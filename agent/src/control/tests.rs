//! Updates end to end, against a server and a data plane in the same process: good ones, bad ones, and every way in
//! which power, disk and line can fail on the way.

use crate::testing::disk::{Fault, FaultyDisk};
use crate::testing::fleet::*;
use sedge_protocol::id::Generation;
use sedge_protocol::message::{
    Action, Command, DeploymentState, Desired, ErrorCode, EventBody, Failure, Health, Message as _, Status, V1, Verdict,
};
use sedge_protocol::time::UnixSeconds;
use sedge_protocol::uptane::director_targets;
use std::sync::Arc;
use tokio::time::timeout;

/// A device that runs bundle 1 of generation 1, and the server knows.
async fn running() -> (Server, Device) {
    let server = Server::new().await;
    let mut device = Device::new(&server);
    server.desire(&desired(1, 1));
    device.start();
    server.reported(1, "committed").await;
    (server, device)
}

fn code(failure: Option<Failure>) -> ErrorCode {
    failure.expect("a failure").code
}

#[tokio::test]
async fn a_good_update_arrives_is_committed_and_reported() {
    let (server, mut device) = running().await;
    server.desire(&desired(2, 2));
    server.reported(2, "committed").await;
    assert_eq!(device.serving(), Some(digest(2)));
    server
        .until("its end is told as an event", |seen| {
            seen.events.iter().any(|e| {
                matches!(&e.body, EventBody::DeploymentResult { generation: Generation(2), outcome, running, .. }
                if *outcome == DeploymentState::Committed && *running == Some(digest(2).0))
            })
        })
        .await;
    let runs_it = |h: &Health| h.components.get(&camera()).is_some_and(|c| c.running == digest(2));
    server.until("a heartbeat says so at once", |seen| seen.heartbeats.iter().any(runs_it)).await;
    server.settled().await;
    device.stop().await;
    let status = device.status();
    let camera = &status.components[&camera()];
    assert_eq!((camera.active, camera.committed, camera.reports), (Some(digest(2)), Generation(2), 0));
    assert_eq!((camera.phase.as_str(), status.generation), ("reported", Generation(2)));
    server.until("it has said goodbye", |seen| matches!(seen.births.last(), Some(Status::Offline(_)))).await;
    let seen = server.seen.lock().expect("seen");
    let mut seqs: Vec<u64> = seen.reports.iter().map(|r| r.seq).collect();
    let hash = desired(2, 2).hash;
    assert!(seen.reports.iter().filter(|r| r.generation == Generation(2)).all(|r| r.hash == Some(hash)));
    let count = seqs.len();
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs.len(), count, "no report has another's number");
}

#[tokio::test]
async fn a_wrong_golden_sample_takes_it_back() {
    let (server, device) = running().await;
    device.plane.lock().expect("plane").wrong.insert(digest(2));
    server.desire(&desired(2, 2));
    assert_eq!(code(server.reported(2, "reverted").await), ErrorCode::GoldenFailed);
    assert_eq!(device.serving(), Some(digest(1)));
    assert!(!device.plane.lock().expect("plane").served.contains(&digest(2)), "it never got a sample");
    server.desire(&desired(3, 3));
    server.reported(3, "committed").await;
    assert_eq!(device.serving(), Some(digest(3)));
}

#[tokio::test]
async fn chunks_that_are_wrong_or_lost_cost_time_and_nothing_else() {
    let (server, device) = running().await;
    server.set(|rules| rules.lose_each = 3);
    server.desire(&desired(2, 2));
    server.reported(2, "committed").await;
    server.set(|rules| (rules.lose_each, rules.corrupt) = (u32::MAX, true));
    server.desire(&desired(3, 3));
    server.reported(3, "downloading").await;
    server.until("it was asked for again and again", |seen| seen.wanted.len() > 8).await;
    assert_eq!(device.serving(), Some(digest(2)));
    server.set(|rules| rules.corrupt = false);
    server.reported(3, "committed").await;
}

#[tokio::test]
async fn a_download_goes_on_where_power_was_lost() {
    let (server, mut device) = running().await;
    let disk = Arc::new(crate::disk::FileSystem);
    server.set(|rules| rules.cut_after_chunks = Some(19 + 17));
    let wants = server.seen.lock().expect("seen").wanted.len();
    server.desire(&desired(2, 2));
    server.until("17 chunks of it were sent", |_| server.rules.lock().expect("rules").cut_after_chunks.is_none()).await;
    server.until("it asks for the rest", |seen| seen.wanted.len() > wants + 1).await;
    device.kill().await;
    let wants = server.seen.lock().expect("seen").wanted.len();
    device.start_with(disk);
    server.reported(2, "committed").await;
    let seen = server.seen.lock().expect("seen");
    let first = seen.wanted[wants..].first();
    assert!(first.is_none_or(|missing| missing.len() <= 3), "{first:?}");
}

#[tokio::test]
async fn reports_come_again_until_they_are_acknowledged() {
    let (server, mut device) = running().await;
    server.set(|rules| rules.acknowledges = false);
    device.plane.lock().expect("plane").wrong.insert(digest(2));
    server.desire(&desired(2, 2));
    server.reported(2, "reverted").await;
    device.kill().await;
    server.set(|rules| rules.acknowledges = true);
    server.seen.lock().expect("seen").reports.clear();
    device.start();
    assert_eq!(code(server.reported(2, "reverted").await), ErrorCode::GoldenFailed);
    server.desire(&desired(3, 3));
    server.reported(3, "committed").await;
    server.settled().await;
    device.stop().await;
    assert_eq!(device.status().components[&camera()].reports, 0);
}

type Forge = fn() -> Desired;

#[tokio::test]
async fn what_is_not_genuine_is_named_and_changes_nothing() {
    let (server, mut device) = running().await;
    server.desire(&desired(5, 5));
    server.reported(5, "committed").await;
    let cases: &[(&str, u64, ErrorCode, Forge)] = &[
        ("tampered", 6, ErrorCode::SigInvalid, || {
            let [timestamp, ..] = files(&key(2), &assigned(6, 6), LATER);
            let text = String::from_utf8(timestamp).expect("JSON").replace("\"version\":6", "\"version\":60");
            let [_, snapshot, targets] = files(&key(2), &assigned(6, 6), LATER);
            desired_of(6, [text.into_bytes(), snapshot, targets])
        }),
        ("signed by somebody else", 7, ErrorCode::SigInvalid, || {
            desired_of(7, files(&key(66), &assigned(7, 6), LATER))
        }),
        ("truncated", 8, ErrorCode::MetadataInvalid, || {
            let [mut timestamp, snapshot, targets] = files(&key(2), &assigned(8, 6), LATER);
            timestamp.truncate(100);
            desired_of(8, [timestamp, snapshot, targets])
        }),
        ("expired", 9, ErrorCode::MetadataExpired, || {
            desired_of(9, files(&key(2), &assigned(9, 6), UnixSeconds(NOW.0 - 10)))
        }),
        ("rolled back", 4, ErrorCode::MetadataRolledBack, || desired(4, 4)),
        ("mixed", 10, ErrorCode::MetadataInvalid, || {
            let [timestamp, ..] = files(&key(2), &assigned(10, 6), LATER);
            let [_, snapshot, targets] = files(&key(2), &assigned(10, 7), LATER);
            desired_of(10, [timestamp, snapshot, targets])
        }),
        ("for another device", 11, ErrorCode::NotAuthorized, || {
            let mut targets = director_targets(&"acme:cam-8".parse().expect("name"), Generation(11), LATER);
            targets.targets = assigned(11, 6).targets;
            desired_of(11, files(&key(2), &targets, LATER))
        }),
        ("not released", 12, ErrorCode::NotAuthorized, || desired(12, 66)),
        ("of settings that nobody knows", 13, ErrorCode::SettingsInvalid, || {
            let mut targets = assigned(13, 6);
            let custom = targets.targets.values_mut().next().and_then(|t| t.custom.as_mut()).expect("custom");
            custom["settings"]["deployment"]["probation"] = 5.into();
            desired_of(13, files(&key(2), &targets, LATER))
        }),
    ];
    for (what, generation, expected, forge) in cases {
        server.desire(&forge());
        assert_eq!(code(server.reported(*generation, "rejected").await), *expected, "{what}");
        assert_eq!(device.serving(), Some(digest(5)), "{what}");
    }
    for garbage in [&b"\xff"[..], b"", b"{}", &[0xa1; 5000]] {
        for of in ["in/s", "in/c", "in/ack", "in/meta", "in/q", "in/chunk"] {
            server.send(of, garbage.to_vec());
        }
    }
    // None of it is remembered against the real one, and a restart changes nothing.
    device.kill().await;
    device.start();
    server.desire(&desired(20, 6));
    server.reported(20, "committed").await;
    assert_eq!(device.serving(), Some(digest(6)));
    let served = device.plane.lock().expect("plane").served.clone();
    assert_eq!(served.len(), 3, "1, 5 and 6, and nothing else ever");
}

#[tokio::test]
async fn an_expired_publisher_stops_what_is_new_and_nothing_that_runs() {
    let (server, device) = running().await;
    let mut targets = publisher_targets();
    targets.header.version = 2;
    server.set(|rules| rules.publisher = files(&key(1), &targets, UnixSeconds(NOW.0 - 10)));
    let mut desired = desired(2, 2);
    desired.publisher.timestamp_version = 2;
    server.desire(&desired);
    assert_eq!(code(server.reported(2, "rejected").await), ErrorCode::MetadataExpired);
    assert_eq!(device.serving(), Some(digest(1)));
}

#[tokio::test]
async fn a_clock_in_1970_updates_and_still_knows_what_has_expired() {
    let server = Server::new().await;
    let mut device = Device::new(&server);
    device.clock_date = UnixSeconds(5);
    server.desire(&desired(1, 1));
    device.start();
    server.reported(1, "committed").await;
    // The director's signed time is remembered over a restart.
    device.kill().await;
    device.start();
    server.desire(&desired_of(2, files(&key(2), &assigned(2, 2), UnixSeconds(NOW.0 - 10))));
    assert_eq!(code(server.reported(2, "rejected").await), ErrorCode::MetadataExpired);
    assert_eq!(device.serving(), Some(digest(1)));
}

#[tokio::test]
async fn commands_are_carried_out_once_and_answered() {
    let (server, mut device) = running().await;
    server.desire(&desired(2, 2));
    server.reported(2, "committed").await;
    let camera = camera();
    let verdict = Action::Verdict { component: camera.clone(), generation: Generation(9), verdict: Verdict::Commit };
    let late = NOW.0 as u64 * 1000 + 1_000_000_000;
    for (request, action, not_after_ts_ms, expected) in [
        ("c1", Action::RollBack { component: camera.clone() }, late, None),
        ("c1", Action::RollBack { component: camera.clone() }, late, None),
        ("c2", verdict, late, Some(ErrorCode::RequestInvalid)),
        ("c3", Action::RollBack { component: "other".parse().expect("name") }, late, Some(ErrorCode::NotFound)),
        ("c4", Action::ReportNow, 1000, Some(ErrorCode::RequestExpired)),
        ("c5", Action::ReportNow, late, None),
        ("c6", Action::Unknown, late, Some(ErrorCode::CommandUnknown)),
    ] {
        let request: sedge_protocol::id::RequestId = request.parse().expect("name");
        let command = Command { v: V1, request: request.clone(), not_after_ts_ms, action };
        server.send("in/c", command.to_cbor().expect("CBOR"));
        server
            .until("it is answered", |seen| {
                let mut answers = seen.events.iter().filter_map(|e| match &e.body {
                    EventBody::CommandResult { request: of, error } if *of == request => Some(error),
                    _ => None,
                });
                answers.next().is_some_and(|error| error.as_ref().map(|e| &e.code) == expected.as_ref())
            })
            .await;
    }
    assert_eq!(code(server.reported(2, "reverted").await), ErrorCode::Operator);
    assert_eq!(device.serving(), Some(digest(1)));
    assert_eq!(device.roll_back().await, Ok(()), "and forward again, by hand");
    device.stop().await;
    assert_eq!(device.serving(), Some(digest(2)));
}

/// Lets an update to bundle 2 meet a fault at the n-th write, and more and more of them until none strikes.
async fn faults(fault: Fault, wrong_golden: bool) -> u64 {
    let (server, mut template) = running().await;
    server.settled().await;
    template.stop().await;
    if wrong_golden {
        template.plane.lock().expect("plane").wrong.insert(digest(2));
    }
    let mut n = 0;
    loop {
        let server = Server::new().await;
        let mut device = template.copy(&server);
        server.desire(&desired(2, 2));
        let disk = Arc::new(FaultyDisk::new(n, fault));
        device.start_with(disk.clone());
        let end = if wrong_golden { "reverted" } else { "committed" };
        let struck = if fault == Fault::PowerLoss {
            tokio::select! {
                biased;
                () = disk.died() => true,
                _ = server.reported(2, end) => disk.is_dead(),
            }
        } else {
            server.reported(2, end).await;
            disk.is_dead()
        };
        if fault == Fault::PowerLoss {
            device.kill().await;
            let births = server.seen.lock().expect("seen").births.len();
            device.start();
            server.until("it is back", |seen| seen.births.len() > births).await;
            // Interrupted in its trial it is tried again; that it ends, and how, is what counts.
            server.reported(2, end).await;
        }
        // The end may have been reported before the restart: what runs is asked once all is done.
        server.settled().await;
        let right = if wrong_golden { digest(1) } else { digest(2) };
        assert_eq!(device.serving(), Some(right), "{fault:?} at write {n}");
        device.stop().await;
        let status = device.status();
        assert_eq!(status.components[&camera()].active, Some(right), "{fault:?} at write {n}");
        if !struck {
            return n;
        }
        n += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_lost_at_any_write_ends_committed() {
    assert!(timeout(20 * PATIENCE, faults(Fault::PowerLoss, false)).await.expect("ends") > 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_lost_at_any_write_of_a_bad_update_ends_reverted() {
    assert!(timeout(20 * PATIENCE, faults(Fault::PowerLoss, true)).await.expect("ends") > 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_once_ends_committed() {
    assert!(timeout(20 * PATIENCE, faults(Fault::Full, false)).await.expect("ends") > 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_once_ends_committed() {
    assert!(timeout(20 * PATIENCE, faults(Fault::Broken, false)).await.expect("ends") > 30);
}
