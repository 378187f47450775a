//! What is stored twice is stored once, and what one device can fill is bounded.

use super::super::records::Records;
use super::super::session::{Record, Said};
use super::simulated::Simulated;
use crate::fleet::testing::{device, pool};
use sedge_protocol::id::Generation;
use sedge_protocol::message::{Event, EventBody, V1};

#[tokio::test]
async fn the_latest_report_counts_whatever_the_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let pool = pool(directory.path()).await;
    let records = Records::new(pool.clone());
    // Nobody listens there.
    let cam = Simulated::connect(&device("cam-1"), 1).await;
    let report = |generation, seq| {
        let said = Said::Reported(cam.report(Generation(generation), seq));
        Record { device: device("cam-1"), json: false, said }
    };
    let batch = [report(2, 9), report(1, 12), report(2, 8), report(2, 9)];
    records.store(&batch, 1).await.expect("stored");
    records.store(&batch, 2).await.expect("stored");
    let latest = records.reported(&device("cam-1")).await.expect("readable");
    let latest = latest.values().next().expect("a component");
    assert_eq!((latest.generation, latest.seq, latest.received_ms), (2, 9, 1));
    let count = "SELECT count(*) FROM reported";
    let rows = |n: i64| assert_eq!(n, 3);
    let (n,): (i64,) = sqlx::query_as(count).fetch_one(&pool).await.expect("a count");
    rows(n);
    let many: Vec<_> = (100..1200).map(|seq| report(3, seq)).collect();
    records.store(&many, 3).await.expect("stored");
    let (n,): (i64,) = sqlx::query_as(count).fetch_one(&pool).await.expect("a count");
    assert_eq!(n, 500);
    let events: Vec<_> = (0..800)
        .map(|i| {
            let id = format!("e{i}").parse().expect("a name");
            let boot = "b1".parse().expect("a name");
            let said = Said::Event(Event { v: V1, id, ts_ms: 1, boot, seq: i, body: EventBody::Unknown });
            Record { device: device("cam-1"), json: false, said }
        })
        .collect();
    for (at, event) in (1..).zip(events) {
        records.store(&[event], at).await.expect("stored");
    }
    let events = records.events(&device("cam-1"), 1000).await.expect("readable");
    assert_eq!((events.len(), events[0].seq), (500, 799));
}
