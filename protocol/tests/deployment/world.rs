//! A device made of values: a journal, two slots, their workers, and a server that keeps what it is told.

use sedge_protocol::deployment::record::{encode_record, scan};
use sedge_protocol::deployment::*;
use sedge_protocol::id::Generation;
use sedge_protocol::{BundleDigest, Sha256Digest};
use std::collections::BTreeMap;

pub(crate) const LENGTH_BYTES: u64 = 1000;
const JITTER_SEED: u64 = 7;

pub(crate) fn digest(name: &str) -> BundleDigest {
    BundleDigest(Sha256Digest::of(name.as_bytes()))
}

pub(crate) fn bundle(name: &str, generation: u64) -> Bundle {
    Bundle {
        generation: Generation(generation),
        digest: digest(name),
        length_bytes: LENGTH_BYTES,
        settings: serde_json::Value::Null,
        rollout: None,
        restarts: false,
    }
}

pub(crate) fn index(slot: Slot) -> usize {
    match slot {
        Slot::A => 0,
        Slot::B => 1,
    }
}

/// What outlasts power.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Disk {
    pub(crate) journal: Vec<u8>,
    /// What [`scan`] finds in it, read again whenever it changes.
    pub(crate) found: Option<Found>,
    /// Bundle in each slot, and whether all of it is there.
    pub(crate) slots: [Option<(BundleDigest, bool)>; 2],
}

impl Disk {
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.journal.extend(bytes);
        self.found = Some(scan(&self.journal).found);
    }

    pub(crate) fn found(&self) -> Found {
        self.found.clone().unwrap_or(Found::Nothing)
    }
}

/// What does not.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Memory {
    pub(crate) workers: [Option<BundleDigest>; 2],
    /// Where samples go.
    pub(crate) route: Option<Slot>,
    pub(crate) holding: bool,
    pub(crate) open: Vec<(Ticket, Ask)>,
}

/// What of a world can be compared.
pub(crate) type Seen = (Found, [Option<(BundleDigest, bool)>; 2], Memory, Vec<u64>);

#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) machine: Deployment,
    pub(crate) now: Now,
    pub(crate) disk: Disk,
    pub(crate) memory: Memory,
    pub(crate) server: BTreeMap<u64, Report>,
    /// Whether reports get lost on their way.
    pub(crate) offline: bool,
    made_with: Option<Active>,
}

impl World {
    pub(crate) fn new(provisioned: Option<Active>) -> Self {
        let mut disk = Disk::default();
        if let Some(active) = &provisioned {
            disk.slots[index(active.slot)] = Some((active.bundle.digest, true));
        }
        let machine = Deployment::new(provisioned.clone(), JITTER_SEED);
        Self {
            machine,
            now: Now::default(),
            disk,
            memory: Memory::default(),
            server: BTreeMap::new(),
            offline: false,
            made_with: provisioned,
        }
    }

    /// Power goes and comes back. The event that follows is `Booted`.
    pub(crate) fn lose_power(&mut self) {
        self.memory = Memory::default();
        self.machine = match self.disk.found() {
            Found::Nothing => Deployment::new(self.made_with.clone(), JITTER_SEED),
            found => Deployment::restore(found, JITTER_SEED),
        };
        self.now.boot_ms = 500;
    }

    pub(crate) fn perform(&mut self, effect: &Effect) {
        match effect {
            Effect::Persist(record) => {
                if self.disk.journal.len() > 1024 {
                    self.disk.journal.clear();
                }
                self.disk.write(&encode_record(record));
            }
            Effect::Ask { ticket, ask } => {
                let routes = |ask: &Ask| matches!(ask, Ask::TakeOver { .. } | Ask::Serve { .. });
                if routes(ask) {
                    self.memory.open.retain(|(_, old)| !routes(old) && !matches!(old, Ask::BeginShadow { .. }));
                }
                self.memory.open.retain(|(old, _)| old != ticket);
                self.memory.open.push((*ticket, ask.clone()));
            }
            Effect::CancelDownload { slot } => {
                self.memory.open.retain(|(_, ask)| !matches!(ask, Ask::Download { slot: s, .. } if s == slot));
            }
            Effect::DeleteSlot { slot } => {
                self.disk.slots[index(*slot)] = None;
                self.memory.open.retain(
                    |(_, ask)| !matches!(ask, Ask::Download { slot: s, .. } | Ask::VerifyStaged { slot: s, .. } if s == slot),
                );
            }
            Effect::HoldSamples { .. } => self.memory.holding = true,
            Effect::StopWorker { slot } => {
                self.memory.workers[index(*slot)] = None;
                if self.memory.route == Some(*slot) {
                    self.memory.route = None;
                }
                self.memory.open.retain(|(_, ask)| worker_of(ask) != Some(*slot));
            }
            Effect::Report(report) if !self.offline => {
                self.server.insert(report.seq, report.clone());
            }
            Effect::Report(_) | Effect::StartProbation { .. } | Effect::Commit { .. } | Effect::Ignored(_) => {}
        }
    }

    /// What the record just being written would leave if power went in the middle.
    pub(crate) fn tear(&mut self, record: &Record, keep_permille: u64) {
        let frame = encode_record(record);
        let keep = (frame.len() as u64 * keep_permille / 1000) as usize;
        self.disk.write(&frame[..keep.min(frame.len() - 1)]);
    }

    /// Does to the device what the answer says, and makes the event of it. Questions that answer once are closed.
    pub(crate) fn answer(&mut self, ticket: Ticket, ask: &Ask, answer: Answer) -> Event {
        match (ask, &answer) {
            (Ask::Download { slot, digest, .. }, Answer::ChunkProgress { .. }) => {
                self.disk.slots[index(*slot)] = Some((*digest, false));
            }
            (Ask::Download { slot, digest, .. }, Answer::Downloaded) => {
                self.disk.slots[index(*slot)] = Some((*digest, true));
            }
            (Ask::StartWorker { slot, digest, .. }, Answer::WorkerReady) => {
                self.memory.workers[index(*slot)] = Some(*digest);
            }
            (Ask::Serve { slot, digest, .. }, Answer::TookOver) => {
                self.memory.workers[index(*slot)] = Some(*digest);
                self.memory.route = Some(*slot);
                self.memory.holding = false;
            }
            (Ask::TakeOver { slot }, Answer::TookOver) => {
                self.memory.route = Some(*slot);
                self.memory.holding = false;
            }
            _ => {}
        }
        if !matches!(answer, Answer::ChunkProgress { .. } | Answer::Shadow(_)) {
            self.memory.open.retain(|(open, _)| *open != ticket);
        }
        Event::Answer { ticket, answer }
    }

    /// The device and its journal, for comparing; two equal frames at its end count as one.
    pub(crate) fn seen(&self) -> Seen {
        (self.disk.found(), self.disk.slots, self.memory.clone(), self.server.keys().copied().collect())
    }
}

pub(crate) fn worker_of(ask: &Ask) -> Option<Slot> {
    match ask {
        Ask::StartWorker { slot, .. }
        | Ask::RunGolden { slot }
        | Ask::BeginShadow { slot, .. }
        | Ask::TakeOver { slot }
        | Ask::Serve { slot, .. } => Some(*slot),
        _ => None,
    }
}

/// The answer that lets a deployment go on.
pub(crate) fn good_answer(ask: &Ask) -> Answer {
    match ask {
        Ask::Authorize { .. } => Answer::Authorized,
        Ask::ReserveSpace { .. } => Answer::SpaceReserved,
        Ask::Download { .. } => Answer::Downloaded,
        Ask::VerifyStaged { .. } => Answer::StagedVerified,
        Ask::StartWorker { .. } => Answer::WorkerReady,
        Ask::RunGolden { .. } => Answer::GoldenPassed,
        Ask::BeginShadow { limits, .. } => {
            Answer::Shadow(ShadowVerdict { samples: limits.samples_min, latency_p95_us: 500, ..Default::default() })
        }
        Ask::TakeOver { .. } | Ask::Serve { .. } => Answer::TookOver,
    }
}

/// The answer that stops it.
pub(crate) fn bad_answer(ask: &Ask) -> Answer {
    let detail = "as the test wants".to_owned();
    match ask {
        Ask::Authorize { .. } => Answer::Refused { code: "expired-metadata".into(), detail },
        Ask::ReserveSpace { .. } => Answer::NoSpace,
        Ask::Download { .. } => Answer::DownloadFailed { permanent: true, detail },
        Ask::VerifyStaged { .. } => Answer::StagedCorrupt { detail },
        Ask::StartWorker { .. } | Ask::TakeOver { .. } | Ask::Serve { .. } => Answer::WorkerFailed { detail },
        Ask::RunGolden { .. } => Answer::GoldenFailed { detail },
        Ask::BeginShadow { limits, .. } => {
            Answer::Shadow(ShadowVerdict { samples: 10, errors: limits.errors_max + 1, ..Default::default() })
        }
    }
}
