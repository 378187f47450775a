//! Two places per component for packed bundles, and what a download leaves there.
//!
//! ```text
//! slots/<component>/<a|b>/bundle.tar   the packed bundle, at its full length from the start of the download
//!                         index.cbor   the chunk index that it is put together by
//!                         have.bits    which chunks are there and synced
//! ```
//!
//! What always holds: a bit is set only after the chunk is on the medium; space is looked for before anything is deleted,
//! and set aside before the first chunk; and nothing here decides which slot may be written to, deployments do. If power
//! dies, chunks since the last written bits are fetched once more.

use crate::disk::Disk;
use sedge_protocol::Sha256Digest;
use sedge_protocol::deployment::Slot;
use sedge_protocol::id::ComponentName;
use sedge_protocol::message::{ChunkIndex, Message as _};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Left free for journal, outbox and logs.
const MARGIN_BYTES: u64 = 2 << 20;

/// Why a slot could not be used.
#[derive(Debug, thiserror::Error)]
#[error("slot {} cannot be {action}", path.display())]
pub struct SlotError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl SlotError {
    /// Whether there was no space.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// All slots of a device.
#[derive(Debug)]
pub struct Slots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Promised to downloads that have not set their space aside yet.
    promised: BTreeMap<ComponentName, u64>,
}

/// Which chunks of a download are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Have {
    bits: Vec<u8>,
    /// Bytes received so far, over all attempts.
    pub spent_bytes: u64,
}

impl Have {
    /// None of `count`.
    pub fn none(count: u32) -> Self {
        Self { bits: vec![0; count.div_ceil(8) as usize], spent_bytes: 0 }
    }

    /// Whether this one is there.
    pub fn has(&self, chunk: u32) -> bool {
        self.bits.get((chunk / 8) as usize).is_some_and(|byte| byte >> (chunk % 8) & 1 == 1)
    }

    /// This one is.
    pub fn set(&mut self, chunk: u32) {
        if let Some(byte) = self.bits.get_mut((chunk / 8) as usize) {
            *byte |= 1 << (chunk % 8);
        }
    }
}

impl Slots {
    /// Below the state directory.
    pub fn new(disk: Arc<dyn Disk>, state_dir: &Path) -> Self {
        Self { disk, dir: state_dir.join("slots"), promised: BTreeMap::new() }
    }

    fn dir(&self, component: &ComponentName, slot: Slot) -> PathBuf {
        let slot = match slot {
            Slot::A => "a",
            Slot::B => "b",
        };
        self.dir.join(component.as_str()).join(slot)
    }

    /// Where a slot's bundle is.
    pub fn bundle(&self, component: &ComponentName, slot: Slot) -> PathBuf {
        self.dir(component, slot).join("bundle.tar")
    }

    fn failed(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> SlotError {
        let path = path.to_owned();
        move |source| SlotError { action, path, source }
    }

    /// Bytes that are free for bundles.
    pub fn free_bytes(&self) -> u64 {
        let dir = if self.dir.exists() { self.dir.as_path() } else { self.dir.parent().unwrap_or(&self.dir) };
        self.disk.free_bytes(dir).unwrap_or(0).saturating_sub(MARGIN_BYTES)
    }

    /// Promises space, if there is enough without what the slot holds now. Deletes nothing.
    ///
    /// # Errors
    /// [`SlotError`] when the disk cannot be asked.
    pub fn promise(&mut self, component: &ComponentName, slot: Slot, bytes: u64) -> Result<bool, SlotError> {
        let path = self.bundle(component, slot);
        self.disk.create_dir(&self.dir).map_err(Self::failed(&self.dir, "made"))?;
        let held = self.disk.length(&path).map_err(Self::failed(&path, "read"))?.unwrap_or(0);
        let others: u64 = self.promised.iter().filter(|(c, _)| *c != component).map(|(_, bytes)| bytes).sum();
        let enough = self.free_bytes().saturating_add(held) >= bytes.saturating_add(others);
        if enough {
            self.promised.insert(component.clone(), bytes);
        }
        Ok(enough)
    }

    /// The index and the chunks that an earlier attempt left, if they are of this bundle.
    pub fn resume(
        &self,
        component: &ComponentName,
        slot: Slot,
        bundle: sedge_protocol::BundleDigest,
    ) -> Option<(ChunkIndex, Have)> {
        let dir = self.dir(component, slot);
        let bytes = self.disk.read(&dir.join("index.cbor")).ok()??;
        let index = ChunkIndex::from_cbor(&bytes).ok().filter(|index| index.bundle == bundle)?;
        let length = self.disk.length(&self.bundle(component, slot)).ok()?;
        let none = Have::none(index.count());
        let bits = self.disk.read(&dir.join("have.bits")).ok().flatten().unwrap_or_default();
        let have = bits.split_at_checked(40).and_then(|(head, bits)| {
            let (digest, spent) = head.split_at(32);
            let spent_bytes = u64::from_le_bytes(spent.try_into().ok()?);
            let same = digest == Sha256Digest::of(&bytes).as_bytes() && bits.len() == none.bits.len();
            same.then(|| Have { bits: bits.to_vec(), spent_bytes })
        });
        match have {
            Some(have) if length == Some(index.packed_bytes) => Some((index, have)),
            _ => Some((index, none)),
        }
    }

    /// Makes the slot ready for the chunks of `index`: all its space is set aside.
    ///
    /// # Errors
    /// [`SlotError`], with [`SlotError::is_full`] when there is no space.
    pub fn begin(&mut self, component: &ComponentName, slot: Slot, index: &ChunkIndex) -> Result<(), SlotError> {
        let dir = self.dir(component, slot);
        let failed = Self::failed(&dir, "written");
        let bytes = index.to_cbor().unwrap_or_default();
        let begun = self
            .disk
            .create_dir(&dir)
            .and_then(|()| self.disk.remove(&dir.join("have.bits")))
            .and_then(|()| self.disk.reserve(&dir.join("bundle.tar"), index.packed_bytes))
            .and_then(|()| self.disk.replace(&dir.join("index.cbor"), &bytes));
        if begun.is_ok() {
            self.promised.remove(component);
        }
        begun.map_err(failed)
    }

    /// Writes a chunk's content.
    ///
    /// # Errors
    /// [`SlotError`].
    pub fn write(&self, component: &ComponentName, slot: Slot, offset: u64, chunk: &[u8]) -> Result<(), SlotError> {
        let path = self.bundle(component, slot);
        self.disk.write_at(&path, offset, chunk).map_err(Self::failed(&path, "written"))
    }

    /// Syncs what was written, and then says that it is there.
    ///
    /// # Errors
    /// [`SlotError`]; nothing more is then said to be there.
    pub fn save(
        &self,
        component: &ComponentName,
        slot: Slot,
        index: &ChunkIndex,
        have: &Have,
    ) -> Result<(), SlotError> {
        let path = self.bundle(component, slot);
        self.disk.sync(&path).map_err(Self::failed(&path, "synced"))?;
        let digest = index.digest().unwrap_or(Sha256Digest::of(&[]));
        let bytes = [digest.as_bytes(), have.spent_bytes.to_le_bytes().as_slice(), &have.bits].concat();
        let path = self.dir(component, slot).join("have.bits");
        self.disk.replace(&path, &bytes).map_err(Self::failed(&path, "written"))
    }

    /// Deletes all that a slot holds. The bits go first: no chunk is said to be there that
    /// is not.
    ///
    /// # Errors
    /// [`SlotError`]; some of it may then be left.
    pub fn delete(&mut self, component: &ComponentName, slot: Slot) -> Result<(), SlotError> {
        let dir = self.dir(component, slot);
        for name in ["have.bits", "index.cbor", "bundle.tar"] {
            let path = dir.join(name);
            self.disk.remove(&path).map_err(Self::failed(&path, "deleted"))?;
        }
        Ok(())
    }

    /// Forgets what was promised to a component.
    pub fn release(&mut self, component: &ComponentName) {
        self.promised.remove(component);
    }
}
