//! Which chunk goes to which device next: a value without IO.
//!
//! Devices take turns, one chunk each, whatever they want and however much. A device gets no more chunks than the credit
//! it gave with its last word on a bundle, and no more bytes per second than it asked for; all together get no more than
//! the server's limit. What was sent is not sent again at once, although the device, whose word crossed it, still wants
//! it. What is kept is bounded; whoever is refused or forgotten says it again.
//!
//! If power dies: nothing is stored. Devices repeat what they want.

use sedge_protocol::BundleDigest;
use sedge_protocol::id::Principal;
use sedge_protocol::message::{ChunkEntry, ChunkIndex, Want};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Bundles that one device fetches at once.
const STREAMS_MAX: usize = 4;
/// What a chunk's envelope and packet add.
const OVERHEAD_BYTES: u64 = 256;

/// Bounds of a [`Carousel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// To one device, whatever it asks for.
    pub device_bytes_per_s_max: u64,
    /// To all devices.
    pub total_bytes_per_s_max: u64,
    /// Devices that are served at once; with 8 KiB for each bundle that one fetches, this bounds memory.
    pub devices_max: usize,
    /// A device that says nothing for so long is forgotten.
    pub silent_ms: u64,
    /// What was sent so recently is not sent again.
    pub again_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            device_bytes_per_s_max: 2 << 20,
            total_bytes_per_s_max: 64 << 20,
            devices_max: 4096,
            silent_ms: 120_000,
            again_ms: 3_000,
        }
    }
}

/// Why a device is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WantError {
    /// It counts other chunks than there are.
    #[error("it counts {wanted} chunks of bundle {bundle}, which has {present}")]
    OtherCount {
        /// Of which bundle.
        bundle: BundleDigest,
        /// Chunks that the device counts.
        wanted: u32,
        /// Chunks that there are.
        present: u32,
    },
    /// Too many others are served.
    #[error("{devices} devices are being served, as many as at most")]
    Full {
        /// Devices that are served.
        devices: usize,
    },
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Send a chunk.
    Send {
        /// To this device.
        device: Principal,
        /// Of this bundle.
        bundle: BundleDigest,
        /// This one.
        index: u32,
        /// What it is.
        entry: ChunkEntry,
    },
    /// Ask again at this time, or after the next want if there is none.
    Wait(Option<u64>),
}

/// A rate: after so many bytes, it is ready again when they have had their time.
#[derive(Debug, Clone, Copy)]
struct Pace {
    bytes_per_s: u64,
    ready_us: u64,
}

impl Pace {
    fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s.max(1), ready_us: 0 }
    }

    fn ready_ms(&self) -> u64 {
        self.ready_us.div_ceil(1000)
    }

    fn charge(&mut self, bytes: u64, now_ms: u64) {
        let took_us = bytes.saturating_mul(1_000_000).div_ceil(self.bytes_per_s);
        self.ready_us = self.ready_us.max(now_ms.saturating_mul(1000)).saturating_add(took_us);
    }
}

#[derive(Debug)]
struct Stream {
    index: Arc<ChunkIndex>,
    missing: Vec<u8>,
    /// Where the search goes on.
    cursor: u32,
    credit: u16,
    /// When what was sent lately was sent; bounded by credit, as it is emptied with each want.
    recent: BTreeMap<u32, u64>,
    heard_ms: u64,
}

impl Stream {
    /// The next chunk that is missing and was not sent lately; else, when one of those sent lately may be sent again.
    fn next(&self, again_ms: u64, now_ms: u64) -> Result<u32, Option<u64>> {
        if self.credit == 0 {
            return Err(None);
        }
        let (count, mut wake) = (self.index.count(), None::<u64>);
        let mut step = 0;
        while step < count {
            let index = (self.cursor + step) % count;
            let byte = self.missing.get((index / 8) as usize).copied().unwrap_or_default();
            if byte == 0 {
                // On to the next byte, or to the first of all.
                step += (8 - index % 8).min(count - index);
                continue;
            }
            step += 1;
            if byte >> (index % 8) & 1 == 0 {
                continue;
            }
            match self.recent.get(&index).map(|sent| sent.saturating_add(again_ms)) {
                Some(at) if at > now_ms => wake = Some(wake.map_or(at, |wake| wake.min(at))),
                _ => return Ok(index),
            }
        }
        Err(wake)
    }

    fn sent(&mut self, index: u32, now_ms: u64) {
        if let Some(byte) = self.missing.get_mut((index / 8) as usize) {
            *byte &= !(1 << (index % 8));
        }
        self.cursor = (index + 1) % self.index.count().max(1);
        self.credit = self.credit.saturating_sub(1);
        self.recent.insert(index, now_ms);
    }
}

#[derive(Debug)]
struct Device {
    pace: Pace,
    streams: VecDeque<Stream>,
}

/// Everybody who wants chunks.
#[derive(Debug)]
pub struct Carousel {
    limits: Limits,
    total: Pace,
    devices: BTreeMap<Principal, Device>,
    /// Whose turn it is; each device once.
    turns: VecDeque<Principal>,
}

impl Carousel {
    /// Serves nobody yet.
    pub fn new(limits: Limits) -> Self {
        let total = Pace::new(limits.total_bytes_per_s_max);
        Self { limits, total, devices: BTreeMap::new(), turns: VecDeque::new() }
    }

    /// What a device lacks of a bundle. It replaces what the device said of the same bundle before.
    ///
    /// # Errors
    /// [`WantError`]; what was wanted before stays.
    pub fn handle(
        &mut self,
        device: &Principal,
        want: &Want,
        index: &Arc<ChunkIndex>,
        now_ms: u64,
    ) -> Result<(), WantError> {
        let (wanted, present) = (want.chunk_count, index.count());
        if wanted != present {
            return Err(WantError::OtherCount { bundle: want.bundle, wanted, present });
        }
        if want.missing().next().is_none() {
            self.withdraw(device, want.bundle);
            return Ok(());
        }
        let known = self.devices.contains_key(device);
        if !known && self.devices.len() >= self.limits.devices_max {
            return Err(WantError::Full { devices: self.devices.len() });
        }
        let ceiling = self.limits.device_bytes_per_s_max;
        let rate = want.bytes_per_s_max.map_or(ceiling, |rate| rate.min(ceiling)).max(1);
        if !known {
            self.turns.push_back(device.clone());
        }
        let served = self
            .devices
            .entry(device.clone())
            .or_insert_with(|| Device { pace: Pace::new(rate), streams: VecDeque::new() });
        served.pace.bytes_per_s = rate;
        let again_ms = self.limits.again_ms;
        let place = served.streams.iter().position(|stream| stream.index.bundle == want.bundle);
        let before = place.and_then(|place| served.streams.remove(place));
        let (cursor, mut recent) = before.map(|before| (before.cursor, before.recent)).unwrap_or_default();
        recent.retain(|_, sent| sent.saturating_add(again_ms) > now_ms);
        if served.streams.len() >= STREAMS_MAX {
            let oldest = (0..served.streams.len()).min_by_key(|&i| served.streams.get(i).map(|s| s.heard_ms));
            oldest.and_then(|oldest| served.streams.remove(oldest));
        }
        let (missing, credit) = (want.missing.0.clone(), want.credit_chunks);
        let index = Arc::clone(index);
        served.streams.push_back(Stream { index, missing, cursor, credit, recent, heard_ms: now_ms });
        Ok(())
    }

    fn withdraw(&mut self, device: &Principal, bundle: BundleDigest) {
        let Some(served) = self.devices.get_mut(device) else { return };
        served.streams.retain(|stream| stream.index.bundle != bundle);
        if served.streams.is_empty() {
            self.forget(device);
        }
    }

    /// The device is gone, or has begun anew: what was on its way to it is lost.
    pub fn forget(&mut self, device: &Principal) {
        if self.devices.remove(device).is_some() {
            self.turns.retain(|other| other != device);
        }
    }

    /// Forgets those who have said nothing for long; to be called every second or so.
    pub fn sweep(&mut self, now_ms: u64) {
        let silent = |stream: &Stream| stream.heard_ms.saturating_add(self.limits.silent_ms) <= now_ms;
        for device in self.devices.values_mut() {
            device.streams.retain(|stream| !silent(stream));
        }
        self.devices.retain(|_, device| !device.streams.is_empty());
        self.turns.retain(|device| self.devices.contains_key(device));
    }

    /// Devices that are served.
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Whether nobody wants anything.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// What to do at `now_ms`. A chunk that is named counts as sent.
    pub fn next(&mut self, now_ms: u64) -> Turn {
        if self.total.ready_ms() > now_ms && !self.devices.is_empty() {
            return Turn::Wait(Some(self.total.ready_ms()));
        }
        let mut wake = None::<u64>;
        let mut earlier = |at: u64| wake = Some(wake.map_or(at, |wake| wake.min(at)));
        for _ in 0..self.turns.len() {
            let Some(device) = self.turns.pop_front() else { break };
            self.turns.push_back(device.clone());
            let Some(served) = self.devices.get_mut(&device) else { continue };
            let paced = served.pace.ready_ms();
            for _ in 0..served.streams.len() {
                served.streams.rotate_left(1);
                let Some(stream) = served.streams.back_mut() else { break };
                match stream.next(self.limits.again_ms, now_ms) {
                    Ok(_) if paced > now_ms => earlier(paced),
                    Ok(index) => {
                        let Some(entry) = stream.index.chunk(index) else { continue };
                        stream.sent(index, now_ms);
                        let bytes = u64::from(entry.stored_bytes) + OVERHEAD_BYTES;
                        let bundle = stream.index.bundle;
                        served.pace.charge(bytes, now_ms);
                        self.total.charge(bytes, now_ms);
                        return Turn::Send { device, bundle, index, entry };
                    }
                    Err(Some(at)) => earlier(at.max(paced)),
                    Err(None) => {}
                }
            }
        }
        Turn::Wait(wake)
    }
}

#[cfg(test)]
mod tests;
