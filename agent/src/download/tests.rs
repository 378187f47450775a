//! A download by itself: what it asks for and when, and what it does not put up with.

use super::*;
use crate::disk::FileSystem;
use sedge_protocol::cbor::Bytes;
use sedge_protocol::message::{ChunkEntry, V1};
use std::sync::Arc;
use tempfile::TempDir;

struct Bench {
    dir: TempDir,
    slots: Slots,
    content: Vec<u8>,
    index: ChunkIndex,
}

const CHUNK: usize = 20_000;

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let slots = Slots::new(Arc::new(FileSystem), dir.path());
        let content: Vec<u8> = (0..70 * CHUNK as u64).map(|i| ((i * i) >> 7) as u8).collect();
        let entry = |part: &[u8]| {
            let length = part.len() as u32;
            ChunkEntry { sha256: Sha256Digest::of(part), length_bytes: length, stored_bytes: length }
        };
        let entries: Vec<ChunkEntry> = content.chunks(CHUNK).map(entry).collect();
        let sha256 = Sha256Digest::of(&content);
        let index = ChunkIndex::new(BundleDigest(sha256), sha256, &entries);
        Self { dir, slots, content, index }
    }

    fn job(&self) -> Job {
        Job {
            ticket: Ticket(1),
            component: "camera".parse().expect("name"),
            slot: Slot::A,
            level: BundleLevel { project: "acme".parse().expect("name"), bundle: self.index.bundle },
            length_bytes: self.content.len() as u64,
            bytes_max: None,
            bytes_per_s_max: None,
        }
    }

    fn start(&mut self, job: Job) -> Download {
        let (mut download, _) = Download::new(job, &mut self.slots);
        download.announced(&Announcement::of(&self.index, 1).expect("announced"), &mut self.slots);
        download
    }

    fn chunk(&self, index: u32) -> Chunk {
        let at = index as usize * CHUNK;
        let data = Bytes::from(&self.content[at..at + CHUNK]);
        Chunk { v: V1, bundle: self.index.bundle, index, encoding: ChunkEncoding::None, key_id: None, data }
    }
}

fn wants(steps: &[Step]) -> Vec<Want> {
    let want = |step: &Step| match step {
        Step::Send(DeviceTopic::Want, bytes) => Some(Want::from_cbor(bytes).expect("a want")),
        _ => None,
    };
    steps.iter().filter_map(want).collect()
}

fn answer(steps: &[Step]) -> Option<&Answer> {
    let answers = steps.iter().filter_map(|step| match step {
        Step::Answer(answer) => Some(answer),
        _ => None,
    });
    answers.into_iter().find(|answer| !matches!(answer, Answer::ChunkProgress { .. }))
}

#[test]
fn chunks_in_any_order_and_twice_make_the_bundle() {
    let mut bench = Bench::new();
    let mut download = bench.start(bench.job());
    let steps = download.tick(&bench.slots, 0, 120_000);
    assert_eq!((wants(&steps)[0].missing().count(), wants(&steps)[0].credit_chunks), (70, 32));
    let mut done = None;
    for n in 0..140u32 {
        let steps = download.chunk(&bench.chunk((n * 37 + n / 70) % 70), &bench.slots, 1);
        if n == 31 {
            assert_eq!(wants(&steps)[0].missing().count(), 38, "all that was granted has arrived");
        }
        done = done.or(answer(&steps).cloned().map(|answer| (n, answer)));
    }
    assert_eq!(done, Some((69, Answer::Downloaded)));
    assert!(download.is_ended());
    let path = bench.slots.bundle(&"camera".parse().expect("name"), Slot::A);
    assert_eq!(std::fs::read(path).expect("bundle"), bench.content);
    let (download, steps) = Download::new(bench.job(), &mut bench.slots);
    assert!(download.is_ended() && answer(&steps) == Some(&Answer::Downloaded), "nothing is asked for twice");
}

#[test]
fn silence_is_answered_with_growing_pauses_and_at_last_given_up() {
    let mut bench = Bench::new();
    let mut download = bench.start(bench.job());
    let (mut now, mut asked) = (0, Vec::new());
    let end = loop {
        now = download.due_ms().expect("something is due").max(now);
        let steps = download.tick(&bench.slots, now, 120_000);
        if let Some(answer) = answer(&steps) {
            break answer.clone();
        }
        asked.push(now);
        assert!(asked.len() < 100, "for ever");
    };
    let pauses: Vec<u64> = asked.windows(2).map(|w| w[1] - w[0]).collect();
    assert_eq!(pauses, [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
    assert!(matches!(end, Answer::DownloadFailed { permanent: false, .. }), "{end:?}");
}

#[test]
fn a_slow_pace_is_no_silence() {
    let mut bench = Bench::new();
    let job = Job { bytes_per_s_max: Some(10_000), ..bench.job() };
    let mut download = bench.start(job);
    let steps = download.tick(&bench.slots, 0, 120_000);
    assert_eq!(wants(&steps)[0].bytes_per_s_max, Some(10_000));
    assert!(download.due_ms() >= Some(3 * 11_000));
}

#[test]
fn an_index_of_other_bytes_than_were_signed_is_refused() {
    let mut bench = Bench::new();
    let job = Job { length_bytes: 5, ..bench.job() };
    let (mut download, _) = Download::new(job, &mut bench.slots);
    let steps = download.announced(&Announcement::of(&bench.index, 1).expect("announced"), &mut bench.slots);
    let Some(Answer::DownloadFailed { permanent: true, detail }) = answer(&steps) else { panic!("{steps:?}") };
    assert!(detail.contains("E_DIGEST_MISMATCH") && detail.contains("signed are 5"), "{detail}");
}

#[test]
fn wrong_content_is_not_written_and_has_a_bound() {
    let mut bench = Bench::new();
    let mut download = bench.start(bench.job());
    let mut bad = bench.chunk(0);
    bad.data.0[7] ^= 1;
    let foreign = Chunk { bundle: BundleDigest(Sha256Digest::of(b"other")), ..bench.chunk(1) };
    assert!(download.chunk(&foreign, &bench.slots, 0).is_empty());
    for _ in 1..BAD_MAX {
        assert_eq!(answer(&download.chunk(&bad, &bench.slots, 0)), None);
    }
    let steps = download.chunk(&bad, &bench.slots, 0);
    let Some(Answer::DownloadFailed { permanent: true, detail }) = answer(&steps) else { panic!("{steps:?}") };
    assert!(detail.starts_with("E_DIGEST_MISMATCH: chunk 0 came 3 times"), "{detail}");
    let path = bench.slots.bundle(&"camera".parse().expect("name"), Slot::A);
    assert!(std::fs::read(path).expect("reserved").iter().all(|byte| *byte == 0));
}

#[test]
fn the_byte_cap_counts_all_attempts() {
    let mut bench = Bench::new();
    let job = Job { bytes_max: Some(40 * CHUNK as u64), ..bench.job() };
    let mut download = bench.start(job.clone());
    for n in 0..16 {
        download.chunk(&bench.chunk(n), &bench.slots, 0);
    }
    drop(download);
    let (mut download, _) = Download::new(job, &mut bench.slots);
    let ends = (16..70).find(|n| answer(&download.chunk(&bench.chunk(*n), &bench.slots, 0)).is_some());
    assert_eq!(ends, Some(40));
    assert!(download.is_ended());
    assert!(bench.dir.path().join("slots/camera/a/have.bits").exists());
}

#[test]
fn without_space_nothing_begins() {
    let mut bench = Bench::new();
    let name = "camera".parse().expect("name");
    assert!(bench.slots.promise(&name, Slot::A, 1000).expect("asked"));
    assert!(!bench.slots.promise(&name, Slot::A, u64::MAX / 2).expect("asked"));
    let free = bench.slots.free_bytes();
    assert!(bench.slots.promise(&name, Slot::A, free - (1 << 20)).expect("asked"));
    assert!(
        !bench.slots.promise(&"other".parse().expect("name"), Slot::A, 512 << 20).expect("asked") || free > 600 << 20
    );
}
