//! A bundle's way into a slot, chunk by chunk, over breaks of the line and of the power.
//!
//! A value that is told what arrives and what time it is, and says what to send. It writes to its slot, since a chunk
//! counts only once it is there. What always holds:
//! - Only content with the digest that the index gives is written, and only as many bytes as were signed.
//! - What was synced is not fetched again. If power dies, the chunks since the last saved bits are.
//! - Chunks come without acknowledgement: what does not arrive is wanted again, with growing pauses, and a server from
//!   which nothing comes at all is a failed attempt.
//! - No more bytes are spent than the order allows, all attempts together.
//!
//! Whether the whole is what was signed is seen when the staged bundle is verified.

use crate::fetch::{Fetch, Fetched};
use crate::slots::{Have, SlotError, Slots};
use sedge_protocol::deployment::{Answer, Slot, Ticket};
use sedge_protocol::id::ComponentName;
use sedge_protocol::limits::{CHUNK_BYTES_MAX, DOCUMENT_BYTES_MAX};
use sedge_protocol::message::{
    Announcement, Chunk, ChunkEncoding, ChunkIndex, Document, Message as _, MetadataSegment, Reply, Want,
};
use sedge_protocol::topic::{BundleLevel, DeviceTopic, bundle_filters};
use sedge_protocol::{BundleDigest, Sha256Digest};
use std::collections::BTreeMap;

/// Chunks that may be on their way at once.
const CREDIT_CHUNKS: u16 = 32;
/// Bits are saved after so many chunks, or after so long: on a slow line a second's chunk has cost something.
const SAVE_EVERY: u32 = 16;
const SAVE_MS: u64 = 1_000;
/// Silence after which chunks are wanted again, at first.
const QUIET_MS: u64 = 2_000;
const QUIET_MS_MAX: u64 = 60_000;
/// Wants in a row without any chunk that end an attempt.
const FRUITLESS_MAX: u32 = 8;
/// How often a chunk may arrive with wrong content. TLS keeps the line from changing it, so then the server's copy is
/// wrong, and asking on would not mend it.
const BAD_MAX: u8 = 3;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Publish on a topic of this device.
    Send(DeviceTopic, Vec<u8>),
    /// Subscribe.
    Subscribe(Vec<String>),
    /// Unsubscribe.
    Unsubscribe(Vec<String>),
    /// Answer the deployment.
    Answer(Answer),
}

/// What is to be downloaded, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Comes back with every answer.
    pub ticket: Ticket,
    /// Whose slot.
    pub component: ComponentName,
    /// Which slot.
    pub slot: Slot,
    /// The bundle as topics name it.
    pub level: BundleLevel,
    /// Its length, as signed.
    pub length_bytes: u64,
    /// Most bytes it may cost over all attempts.
    pub bytes_max: Option<u64>,
    /// Fastest pace that is allowed here.
    pub bytes_per_s_max: Option<u64>,
}

#[derive(Debug)]
struct Arriving {
    index: ChunkIndex,
    /// Where each chunk begins in the bundle.
    offsets: Vec<u64>,
    have: Have,
    left: u32,
    done_bytes: u64,
    unsaved: u32,
    /// When they were last saved.
    saved_ms: u64,
    /// Chunks since the last want.
    arrived: u32,
    /// When chunks are wanted again unless one arrives.
    due_ms: u64,
    quiet_ms: u64,
    fruitless: u32,
    /// How often chunks came with wrong content.
    bad: BTreeMap<u32, u8>,
}

#[derive(Debug)]
enum State {
    Index(Box<Fetch>),
    Chunks(Box<Arriving>),
    Ended,
}

/// A download at work.
#[derive(Debug)]
pub struct Download {
    job: Job,
    state: State,
}

impl Download {
    /// Goes on from what the slot holds.
    pub fn new(job: Job, slots: &mut Slots) -> (Self, Vec<Step>) {
        let mut download = Self { job, state: State::Ended };
        let mut steps = vec![download.subscribe()];
        match slots.resume(&download.job.component, download.job.slot, download.bundle()) {
            // Agreed with what is signed when it was stored; an order for other bytes has another digest or length.
            Some((index, have)) if index.packed_bytes == download.job.length_bytes => {
                steps.extend(download.arriving(index, have, slots));
            }
            _ => {
                let document = Document::ChunkIndex { bundle: download.bundle() };
                download.state = State::Index(Box::new(Fetch::new(document, DOCUMENT_BYTES_MAX)));
            }
        }
        (download, steps)
    }

    /// What it is about.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Whether it has answered for the last time.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    fn bundle(&self) -> BundleDigest {
        self.job.level.bundle
    }

    fn subscribe(&self) -> Step {
        Step::Subscribe(bundle_filters(&self.job.level).into())
    }

    /// When [`Download::tick`] has something to do.
    pub fn due_ms(&self) -> Option<u64> {
        match &self.state {
            State::Index(fetch) => Some(fetch.due_ms()),
            State::Chunks(arriving) => Some(arriving.due_ms),
            State::Ended => None,
        }
    }

    /// The connection was made anew.
    pub fn line_up(&mut self) -> Vec<Step> {
        match &mut self.state {
            State::Index(fetch) => fetch.line_up(),
            State::Chunks(arriving) => {
                (arriving.due_ms, arriving.fruitless, arriving.quiet_ms) = (0, 0, quiet_ms(&self.job));
            }
            State::Ended => return Vec::new(),
        }
        vec![self.subscribe()]
    }

    /// Asks for what is missing, if it is time. Not to be called without a connection.
    pub fn tick(&mut self, slots: &Slots, now_ms: u64, packet_bytes_max: usize) -> Vec<Step> {
        match &mut self.state {
            State::Index(fetch) if fetch.due_ms() <= now_ms => {
                let request = fetch.ask(now_ms, packet_bytes_max);
                request.to_cbor().map(|bytes| Step::Send(DeviceTopic::Request, bytes)).into_iter().collect()
            }
            State::Chunks(arriving) if arriving.due_ms <= now_ms => {
                if arriving.arrived == 0 {
                    arriving.fruitless += 1;
                    arriving.quiet_ms = (arriving.quiet_ms * 2).min(QUIET_MS_MAX.max(quiet_ms(&self.job)));
                }
                if arriving.fruitless > FRUITLESS_MAX {
                    let left = arriving.left;
                    return self.fail(slots, false, &format!("no chunk has arrived for long; {left} are missing"));
                }
                self.want(slots, now_ms)
            }
            _ => Vec::new(),
        }
    }

    fn want(&mut self, slots: &Slots, now_ms: u64) -> Vec<Step> {
        let mut steps = self.save(slots);
        let State::Chunks(arriving) = &mut self.state else { return steps };
        arriving.arrived = 0;
        arriving.due_ms = now_ms + arriving.quiet_ms;
        let mut want =
            Want::new(self.job.level.bundle, arriving.index.count(), CREDIT_CHUNKS, |i| !arriving.have.has(i));
        want.bytes_per_s_max = self.job.bytes_per_s_max;
        steps.extend(want.to_cbor().map(|bytes| Step::Send(DeviceTopic::Want, bytes)));
        steps
    }

    /// Takes an announcement on the bundle's own topic.
    pub fn announced(&mut self, announcement: &Announcement, slots: &mut Slots) -> Vec<Step> {
        let State::Index(_) = self.state else { return Vec::new() };
        match &announcement.index {
            Some(bytes) if announcement.bundle == self.bundle() => match announcement.read_index(bytes) {
                Ok(index) => self.indexed(index, slots),
                Err(_) => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    /// Takes a segment of the index.
    pub fn segment(&mut self, segment: &MetadataSegment, slots: &mut Slots, now_ms: u64) -> Vec<Step> {
        let State::Index(fetch) = &mut self.state else { return Vec::new() };
        let fetched = fetch.segment(segment.clone(), now_ms);
        self.fetched(fetched, slots)
    }

    /// Takes a refusal.
    pub fn refused(&mut self, reply: &Reply, slots: &mut Slots, now_ms: u64) -> Vec<Step> {
        let State::Index(fetch) = &mut self.state else { return Vec::new() };
        let fetched = fetch.refused(reply, now_ms);
        self.fetched(fetched, slots)
    }

    fn fetched(&mut self, fetched: Fetched, slots: &mut Slots) -> Vec<Step> {
        match fetched {
            Fetched::Nothing => Vec::new(),
            Fetched::Document(bytes) => match ChunkIndex::from_cbor(&bytes) {
                Ok(index) if index.bundle == self.bundle() => self.indexed(index, slots),
                Ok(index) => {
                    let detail = format!("the chunk index is that of {}", index.bundle);
                    self.fail(slots, true, &detail)
                }
                Err(e) => self.fail(slots, true, &format!("the chunk index cannot be read: {e}")),
            },
            Fetched::Unavailable(why) => self.fail(slots, true, &format!("the server has no such bundle ({why})")),
            Fetched::TooLong { bytes, bytes_max } => {
                self.fail(slots, true, &format!("a chunk index of {bytes} bytes; at most {bytes_max} are read"))
            }
        }
    }

    fn indexed(&mut self, index: ChunkIndex, slots: &mut Slots) -> Vec<Step> {
        if index.packed_bytes != self.job.length_bytes {
            let (found, signed) = (index.packed_bytes, self.job.length_bytes);
            let detail = format!("E_DIGEST_MISMATCH: the chunk index makes {found} bytes, and signed are {signed}");
            return self.fail(slots, true, &detail);
        }
        if let Err(e) = slots.begin(&self.job.component, self.job.slot, &index) {
            return self.broke(slots, &e);
        }
        let have = Have::none(index.count());
        self.arriving(index, have, slots)
    }

    fn arriving(&mut self, index: ChunkIndex, have: Have, slots: &Slots) -> Vec<Step> {
        let mut offsets = Vec::with_capacity(index.count() as usize);
        let (mut offset, mut left, mut done_bytes) = (0u64, 0, 0);
        for (i, chunk) in (0..).zip(index.chunks()) {
            offsets.push(offset);
            offset += u64::from(chunk.length_bytes);
            if have.has(i) {
                done_bytes += u64::from(chunk.length_bytes);
            } else {
                left += 1;
            }
        }
        self.state = State::Chunks(Box::new(Arriving {
            index,
            offsets,
            have,
            left,
            done_bytes,
            unsaved: 0,
            saved_ms: 0,
            // The first want is no repetition.
            arrived: 1,
            due_ms: 0,
            quiet_ms: quiet_ms(&self.job),
            fruitless: 0,
            bad: BTreeMap::new(),
        }));
        if left == 0 { self.complete(slots) } else { vec![Step::Answer(Answer::ChunkProgress { done_bytes })] }
    }

    /// Takes a chunk.
    pub fn chunk(&mut self, chunk: &Chunk, slots: &Slots, now_ms: u64) -> Vec<Step> {
        let State::Chunks(arriving) = &mut self.state else { return Vec::new() };
        if chunk.bundle != arriving.index.bundle {
            return Vec::new();
        }
        arriving.have.spent_bytes += chunk.data.len() as u64;
        if let Some(most) = self.job.bytes_max.filter(|most| arriving.have.spent_bytes > *most) {
            return self.fail(slots, true, &format!("E_OVER_BUDGET: more than the {most} bytes that the order allows"));
        }
        if arriving.have.has(chunk.index) {
            return Vec::new();
        }
        let Some(content) = content(chunk, &arriving.index) else {
            // Something arrives, so it need not be asked for ever more slowly.
            arriving.arrived += 1;
            let Some(entry) = arriving.index.chunk(chunk.index) else { return Vec::new() };
            let times = arriving.bad.entry(chunk.index).or_default();
            *times += 1;
            if *times < BAD_MAX {
                return Vec::new();
            }
            let detail = format!(
                "E_DIGEST_MISMATCH: chunk {} came {BAD_MAX} times without the content {} that is agreed; the server's copy \
                 is damaged: publish the bundle again",
                chunk.index,
                entry.sha256.short()
            );
            return self.fail(slots, true, &detail);
        };
        let Some(&offset) = arriving.offsets.get(chunk.index as usize) else { return Vec::new() };
        if let Err(e) = slots.write(&self.job.component, self.job.slot, offset, &content) {
            return self.broke(slots, &e);
        }
        arriving.have.set(chunk.index);
        arriving.left -= 1;
        arriving.done_bytes += content.len() as u64;
        arriving.unsaved += 1;
        arriving.arrived += 1;
        arriving.fruitless = 0;
        arriving.quiet_ms = quiet_ms(&self.job);
        arriving.due_ms = now_ms + arriving.quiet_ms;
        let (left, all_arrived) = (arriving.left, arriving.arrived >= CREDIT_CHUNKS.into());
        if left == 0 {
            return self.complete(slots);
        }
        if all_arrived {
            return self.want(slots, now_ms);
        }
        if arriving.unsaved >= SAVE_EVERY || now_ms >= arriving.saved_ms + SAVE_MS {
            arriving.saved_ms = now_ms;
            return self.save(slots);
        }
        Vec::new()
    }

    fn save(&mut self, slots: &Slots) -> Vec<Step> {
        let State::Chunks(arriving) = &mut self.state else { return Vec::new() };
        if std::mem::take(&mut arriving.unsaved) == 0 {
            return Vec::new();
        }
        let done_bytes = arriving.done_bytes;
        match slots.save(&self.job.component, self.job.slot, &arriving.index, &arriving.have) {
            Ok(()) => vec![Step::Answer(Answer::ChunkProgress { done_bytes })],
            Err(e) => self.broke(slots, &e),
        }
    }

    fn complete(&mut self, slots: &Slots) -> Vec<Step> {
        let mut steps = self.save(slots);
        if !self.is_ended() {
            steps.extend(self.stop(slots));
            steps.push(Step::Answer(Answer::Downloaded));
        }
        steps
    }

    fn broke(&mut self, slots: &Slots, e: &SlotError) -> Vec<Step> {
        if e.is_full() {
            let mut steps = self.stop(slots);
            steps.push(Step::Answer(Answer::NoSpace));
            return steps;
        }
        self.fail(slots, false, &format!("E_STORAGE_FAILED: {e}"))
    }

    fn fail(&mut self, slots: &Slots, permanent: bool, detail: &str) -> Vec<Step> {
        let mut steps = self.stop(slots);
        steps.push(Step::Answer(Answer::DownloadFailed { permanent, detail: detail.to_owned() }));
        steps
    }

    /// Wants nothing more; what is there stays there.
    pub fn stop(&mut self, slots: &Slots) -> Vec<Step> {
        let mut steps = Vec::new();
        if let State::Chunks(arriving) = std::mem::replace(&mut self.state, State::Ended) {
            if arriving.unsaved > 0 {
                // If it fails, the chunks are fetched once more.
                let _ = slots.save(&self.job.component, self.job.slot, &arriving.index, &arriving.have);
            }
            let nothing = Want::new(self.bundle(), arriving.index.count(), 0, |_| false);
            steps.extend(nothing.to_cbor().map(|bytes| Step::Send(DeviceTopic::Want, bytes)));
        }
        steps.push(Step::Unsubscribe(bundle_filters(&self.job.level).into()));
        steps
    }
}

/// A slow line must not look like a silent one.
fn quiet_ms(job: &Job) -> u64 {
    let per_chunk = job.bytes_per_s_max.map_or(0, |pace| CHUNK_BYTES_MAX as u64 * 1000 / pace.max(1));
    QUIET_MS.max(3 * per_chunk)
}

/// The content of a chunk, if it is what the index says.
fn content(chunk: &Chunk, index: &ChunkIndex) -> Option<Vec<u8>> {
    chunk.check_index(index).ok()?;
    let entry = index.chunk(chunk.index)?;
    let content = match chunk.encoding {
        ChunkEncoding::None => chunk.data.0.clone(),
        ChunkEncoding::Zstd => zstd::bulk::decompress(&chunk.data, entry.length_bytes as usize).ok()?,
    };
    (content.len() == entry.length_bytes as usize && Sha256Digest::of(&content) == entry.sha256).then_some(content)
}

#[cfg(test)]
mod tests;
