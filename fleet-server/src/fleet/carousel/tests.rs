//! Properties: never above credit or rate, everybody gets everything, nothing is kept for ever.

use super::*;
use crate::fleet::testing::device;
use proptest::prelude::*;
use sedge_protocol::Sha256Digest;
use std::collections::{BTreeSet, HashMap};

fn index(seed: u8, count: u32) -> Arc<ChunkIndex> {
    let entry = |i: u32| {
        let length = 16_384 + (i % 7) * 10_000;
        ChunkEntry { sha256: Sha256Digest::of(&[seed, i.to_le_bytes()[0]]), length_bytes: length, stored_bytes: length }
    };
    let entries: Vec<_> = (0..count).map(entry).collect();
    Arc::new(ChunkIndex::new(BundleDigest(Sha256Digest::of(&[seed])), Sha256Digest::of(b"packed"), &entries))
}

fn want(index: &ChunkIndex, credit: u16, rate: Option<u64>, missing: impl Fn(u32) -> bool) -> Want {
    let mut want = Want::new(index.bundle, index.count(), credit, missing);
    want.bytes_per_s_max = rate;
    want
}

/// A device of the simulation: it loses chunks, and says anew what it lacks when its credit is used up or time passes.
struct Simulated {
    name: Principal,
    index: Arc<ChunkIndex>,
    got: BTreeSet<u32>,
    rate: Option<u64>,
    credit: u16,
    used: u16,
    said_ms: u64,
    sent: Vec<(u64, u64)>,
}

impl Simulated {
    fn say(&mut self, carousel: &mut Carousel, now_ms: u64) {
        self.used = 0;
        self.said_ms = now_ms;
        let want = want(&self.index, self.credit, self.rate, |i| !self.got.contains(&i));
        carousel.handle(&self.name, &want, &self.index, now_ms).expect("served");
    }

    fn done(&self) -> bool {
        self.got.len() == self.index.count() as usize
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn everybody_gets_everything_within_credit_and_rate(
        fleet in prop::collection::vec((1u32..60, 1u16..20, prop::option::of(50_000u64..3_000_000)), 1..8),
        loss_every in 3u64..12,
        total in 500_000u64..20_000_000,
    ) {
        let limits = Limits { total_bytes_per_s_max: total, ..Limits::default() };
        let mut carousel = Carousel::new(limits);
        let mut devices: Vec<_> = fleet.iter().enumerate().map(|(i, &(count, credit, rate))| Simulated {
            name: device(&format!("cam-{i}")),
            index: index(u8::try_from(i).expect("few") / 2, count),
            got: BTreeSet::new(), rate, credit, used: 0, said_ms: 0, sent: Vec::new(),
        }).collect();
        let (mut now, mut number, mut all) = (0u64, 0u64, Vec::new());
        devices.iter_mut().for_each(|d| d.say(&mut carousel, 0));
        while devices.iter().any(|d| !d.done()) {
            prop_assert!(now < 3_600_000, "it takes for ever");
            match carousel.next(now) {
                Turn::Send { device, bundle, index, entry } => {
                    number += 1;
                    let d = devices.iter_mut().find(|d| d.name == device).expect("a device");
                    prop_assert_eq!(bundle, d.index.bundle);
                    prop_assert_eq!(Some(entry), d.index.chunk(index));
                    d.used += 1;
                    prop_assert!(d.used <= d.credit, "above credit");
                    d.sent.push((now, entry.stored_bytes.into()));
                    all.push((now, u64::from(entry.stored_bytes)));
                    if number % loss_every != 0 {
                        d.got.insert(index);
                    }
                    if d.used == d.credit {
                        d.say(&mut carousel, now);
                    }
                }
                Turn::Wait(until) => {
                    now = until.unwrap_or(now + 1000).max(now + 1);
                    for d in devices.iter_mut().filter(|d| now - d.said_ms >= 5_000 || d.done()) {
                        d.say(&mut carousel, now);
                    }
                }
            }
        }
        devices.iter_mut().for_each(|d| d.say(&mut carousel, now));
        prop_assert!(carousel.is_empty(), "whoever lacks nothing is forgotten");
        let within = |sent: &[(u64, u64)], rate: u64| {
            // In no span more than the rate allows, but for the chunk that begins it.
            (0..sent.len()).all(|from| {
                let mut bytes = 0;
                sent[from..].iter().all(|&(at, chunk)| {
                    let allowed = rate * (at - sent[from].0 + 1) / 1000;
                    let kept = bytes <= allowed;
                    bytes += chunk;
                    kept
                })
            })
        };
        for d in &devices {
            prop_assert!(within(&d.sent, d.rate.unwrap_or(u64::MAX / 4_000_000).min(limits.device_bytes_per_s_max)));
        }
        prop_assert!(within(&all, total));
    }
}

#[test]
fn a_small_device_does_not_wait_for_a_large_one() {
    let mut carousel = Carousel::new(Limits {
        device_bytes_per_s_max: u64::MAX,
        total_bytes_per_s_max: u64::MAX,
        ..Limits::default()
    });
    let (large, small) = (index(1, 1000), index(2, 10));
    carousel.handle(&device("large"), &want(&large, 1000, None, |_| true), &large, 0).expect("served");
    carousel.handle(&device("small"), &want(&small, 10, None, |_| true), &small, 0).expect("served");
    let mut sent: HashMap<Principal, u32> = HashMap::new();
    for now in 0..20 {
        if let Turn::Send { device, .. } = carousel.next(now) {
            *sent.entry(device).or_default() += 1;
        }
    }
    assert_eq!(sent.get(&device("small")), Some(&10));
}

#[test]
fn what_is_on_its_way_is_not_sent_twice_until_time_has_passed() {
    let mut carousel = Carousel::new(Limits { device_bytes_per_s_max: u64::MAX, ..Limits::default() });
    let bundle = index(1, 2);
    let all = want(&bundle, 10, None, |_| true);
    let next = |carousel: &mut Carousel, now| match carousel.next(now) {
        Turn::Send { index, .. } => Some(index),
        Turn::Wait(_) => None,
    };
    carousel.handle(&device("cam-1"), &all, &bundle, 0).expect("served");
    assert_eq!((next(&mut carousel, 0), next(&mut carousel, 10)), (Some(0), Some(1)));
    carousel.handle(&device("cam-1"), &all, &bundle, 20).expect("served");
    assert_eq!(carousel.next(20), Turn::Wait(Some(3000)));
    assert_eq!(next(&mut carousel, 3000), Some(0));
    // Who begins anew has lost what was on its way.
    carousel.forget(&device("cam-1"));
    carousel.handle(&device("cam-1"), &all, &bundle, 3010).expect("served");
    assert_eq!((next(&mut carousel, 3010), next(&mut carousel, 3020)), (Some(0), Some(1)));
}

#[test]
fn what_is_kept_is_bounded() {
    let mut carousel = Carousel::new(Limits { devices_max: 2, ..Limits::default() });
    let bundles: Vec<_> = (0..10).map(|seed| index(seed, 3)).collect();
    for bundle in &bundles {
        carousel.handle(&device("cam-1"), &want(bundle, 1, None, |_| true), bundle, 0).expect("served");
    }
    assert_eq!(carousel.devices[&device("cam-1")].streams.len(), STREAMS_MAX);
    let mut asks = |name: &str, credit| {
        carousel
            .handle(&device(name), &want(&bundles[0], credit, None, |_| true), &bundles[0], 0)
            .map_err(|e| e.to_string())
    };
    assert_eq!(asks("cam-2", 1), Ok(()));
    assert_eq!(asks("cam-3", 1), Err("2 devices are being served, as many as at most".to_owned()));
    let other = want(&bundles[1], 1, None, |_| true);
    let longer = index(1, 4);
    let e = carousel.handle(&device("cam-1"), &other, &longer, 0).expect_err("another count");
    assert!(e.to_string().contains("it counts 3 chunks"), "{e}");
    carousel.sweep(119_999);
    assert_eq!((carousel.len(), carousel.turns.len()), (2, 2));
    carousel.sweep(120_000);
    assert!(carousel.is_empty() && carousel.turns.is_empty());
    assert_eq!(carousel.next(120_000), Turn::Wait(None));
}
