//! Content-defined chunks, kept by the digest of their content.

use fastcdc::v2020::StreamCDC;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use sedge_protocol::Sha256Digest;
use sedge_protocol::limits::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, CHUNK_BYTES_TARGET};
use sedge_protocol::message::ChunkEntry;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::sync::Arc;

/// Uploads are rare and every device decompresses: worth some effort.
const ZSTD_LEVEL: i32 = 9;
/// Compression that gains less than this share of the bytes is not worth a device's time.
const GAIN_MIN_PERCENT: usize = 3;

/// Why a chunk cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ChunkError {
    /// The store cannot be opened.
    #[error("the artifact store in {path} cannot be opened")]
    Open { path: String, source: object_store::Error },
    /// It cannot be written.
    #[error("chunk {digest} cannot be written")]
    Write { digest: String, source: object_store::Error },
    /// It cannot be read.
    #[error("chunk {digest} cannot be read")]
    Read { digest: String, source: object_store::Error },
    /// It is not what was written.
    #[error("chunk {digest} is damaged in the store; upload its bundle again")]
    Damaged { digest: String },
    /// The server stops.
    #[error("a chunk was not written: {problem}")]
    Interrupted { problem: String },
}

impl ChunkError {
    pub(super) fn interrupted(problem: &dyn std::fmt::Display) -> Self {
        Self::Interrupted { problem: problem.to_string() }
    }
}

/// Cuts a file where its content says so: what two files have in common gives the same chunks in both.
pub(super) fn cut(file: &File) -> impl Iterator<Item = io::Result<Vec<u8>>> {
    let chunks = StreamCDC::new(BufReader::new(file), CHUNK_BYTES_MIN, CHUNK_BYTES_TARGET, CHUNK_BYTES_MAX);
    chunks.map(|chunk| chunk.map(|chunk| chunk.data).map_err(io::Error::other))
}

/// As it is sent: compressed if that is worth it, and then shorter.
fn encode(content: &[u8]) -> Vec<u8> {
    match zstd::bulk::compress(content, ZSTD_LEVEL) {
        Ok(packed) if packed.len() * 100 <= content.len() * (100 - GAIN_MIN_PERCENT) => packed,
        _ => content.to_vec(),
    }
}

/// Chunks in a place that outlives the process.
#[derive(Debug, Clone)]
pub struct ChunkStore {
    objects: Arc<dyn ObjectStore>,
}

fn place(digest: Sha256Digest) -> ObjectPath {
    let hex = digest.hex();
    ObjectPath::from_iter(["chunks", hex.get(..2).unwrap_or_default(), &hex])
}

impl ChunkStore {
    /// Chunks in files below this directory, which must exist.
    ///
    /// # Errors
    /// [`ChunkError::Open`].
    pub fn local(directory: &Path) -> Result<Self, ChunkError> {
        let failed = |source| ChunkError::Open { path: directory.display().to_string(), source };
        // Synced: an artifact is listed only when its chunks are safe.
        let objects = LocalFileSystem::new_with_prefix(directory).map_err(failed)?.with_fsync(true);
        Ok(Self::new(Arc::new(objects)))
    }

    /// Chunks in any object store.
    pub fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self { objects }
    }

    /// Keeps a chunk. One that is there stays as it is, as indices may name its stored length, unless it is damaged.
    pub(super) async fn keep(&self, content: Vec<u8>) -> Result<ChunkEntry, ChunkError> {
        let (stored, sha256, content) = tokio::task::spawn_blocking(move || {
            let digest = Sha256Digest::of(&content);
            (encode(&content), digest, content)
        })
        .await
        .map_err(|e| ChunkError::interrupted(&e))?;
        let length_bytes = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let entry = |stored: usize| ChunkEntry {
            sha256,
            length_bytes,
            stored_bytes: u32::try_from(stored).unwrap_or(u32::MAX),
        };
        let path = place(sha256);
        let failed = |source| ChunkError::Write { digest: sha256.short(), source };
        let create = PutOptions::from(PutMode::Create);
        match self.objects.put_opts(&path, stored.clone().into(), create).await {
            Ok(_) => return Ok(entry(stored.len())),
            Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(source) => return Err(failed(source)),
        }
        let present = self.read(sha256).await?;
        let whole = present == content
            || (present.len() < content.len()
                && zstd::bulk::decompress(&present, content.len()).is_ok_and(|found| found == content));
        if whole {
            return Ok(entry(present.len()));
        }
        tracing::warn!(chunk = %sha256, "a damaged chunk is replaced");
        self.objects.put(&path, stored.clone().into()).await.map_err(failed)?;
        Ok(entry(stored.len()))
    }

    async fn read(&self, digest: Sha256Digest) -> Result<Vec<u8>, ChunkError> {
        let failed = |source| ChunkError::Read { digest: digest.short(), source };
        let found = self.objects.get(&place(digest)).await.map_err(failed)?;
        if found.meta.size > CHUNK_BYTES_MAX as u64 {
            return Err(ChunkError::Damaged { digest: digest.short() });
        }
        Ok(found.bytes().await.map_err(failed)?.to_vec())
    }

    /// A chunk as it is sent.
    pub(super) async fn stored(&self, entry: &ChunkEntry) -> Result<Vec<u8>, ChunkError> {
        let stored = self.read(entry.sha256).await?;
        if stored.len() == entry.stored_bytes as usize {
            return Ok(stored);
        }
        Err(ChunkError::Damaged { digest: entry.sha256.short() })
    }
}
