//! Bundles that devices can fetch: taken in packed, held against what the publisher released, cut into chunks.
//!
//! What always holds: an artifact that is listed is released under exactly this digest, manifest length and packed
//! length, and all of its chunks are in the store. Chunks are shared; nothing here deletes one.
//!
//! If power dies: chunks are synced before the artifact is listed, so that what is left of an upload that broke off is
//! some chunks, which the next one finds there.

mod chunks;
mod layout;

pub use chunks::{ChunkError, ChunkStore};
pub use layout::LayoutError;

use super::publisher::{Publisher, PublisherError, Released};
use super::store::{Doing as _, StoreError, signed, unsigned};
use layout::Layout;
use sedge_protocol::id::{BundleName, ProjectId};
use sedge_protocol::limits::CHUNKS_MAX;
use sedge_protocol::message::{Announcement, ChunkEntry, ChunkIndex, Message as _, MessageError};
use sedge_protocol::time::UnixSeconds;
use sedge_protocol::tuf::TrustedSet;
use sedge_protocol::uptane::Kind;
use sedge_protocol::{BundleDigest, Sha256Digest};
use serde::Serialize;
use sqlx::SqlitePool;
use std::fs::File;
use std::io::{self, Seek as _};
use tokio::task::JoinSet;

/// Chunks of one upload that are on their way to the disk at once; bounds memory to some MiB.
const WRITES_MAX: usize = 8;

/// Why an upload is not taken.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ArtifactError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is no packed bundle.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The publisher has not released it.
    #[error(transparent)]
    Publisher(#[from] PublisherError),
    /// It is not what the publisher released.
    #[error(
        "bundle {digest}: its {what} has {found} bytes, and the publisher signed {released}; release it anew or upload what was released"
    )]
    OtherLength { digest: BundleDigest, what: &'static str, found: u64, released: u64 },
    /// It has too many chunks.
    #[error("bundle {digest} is too large: more than {CHUNKS_MAX} chunks")]
    TooLarge { digest: BundleDigest },
    /// A chunk cannot be kept.
    #[error("bundle {digest} cannot be kept")]
    Chunk { digest: BundleDigest, source: ChunkError },
    /// The upload cannot be read back.
    #[error("the upload cannot be read back")]
    Read { source: io::Error },
    /// Its index is no message.
    #[error("the chunk index of bundle {digest} cannot be written")]
    Index { digest: BundleDigest, source: MessageError },
}

/// A bundle that devices can fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Artifact {
    /// Its digest.
    pub digest: BundleDigest,
    /// Its name.
    pub name: BundleName,
    /// Its version.
    pub version: String,
    /// What it is for.
    pub kind: Kind,
    /// Length of its OCI image manifest.
    pub manifest_bytes: u64,
    /// Length of the packed bundle.
    pub packed_bytes: u64,
    /// What its chunks take when sent.
    pub stored_bytes: u64,
}

/// The bundles of all projects.
#[derive(Debug, Clone)]
pub struct Artifacts {
    pool: SqlitePool,
    chunks: ChunkStore,
}

type Row = (String, String, String, String, i64, i64, i64);

fn artifact((digest, name, version, kind, manifest, packed, stored): Row) -> Option<Artifact> {
    Some(Artifact {
        digest: BundleDigest(Sha256Digest::from_hex(&digest).ok()?),
        name: name.parse().ok()?,
        version,
        kind: serde_json::from_value(kind.into()).ok()?,
        manifest_bytes: unsigned(manifest),
        packed_bytes: unsigned(packed),
        stored_bytes: unsigned(stored),
    })
}

impl Artifacts {
    /// Bundles listed in this database, with chunks in this store.
    pub fn new(pool: SqlitePool, chunks: ChunkStore) -> Self {
        Self { pool, chunks }
    }

    /// Takes a packed bundle in. One that is there already is left as it is. Whether it was new.
    ///
    /// # Errors
    /// [`ArtifactError`]; nothing is listed then.
    pub async fn add(
        &self,
        project: &ProjectId,
        mut file: File,
        publisher: &TrustedSet,
        now: UnixSeconds,
    ) -> Result<(Artifact, bool), ArtifactError> {
        let read = tokio::task::spawn_blocking(move || Layout::read(&mut file).map(|layout| (layout, file)));
        let (layout, file) = read.await.map_err(|e| ArtifactError::Read { source: io::Error::other(e) })??;
        let digest = layout.digest;
        let Released { release, manifest_bytes } = Publisher::released(project, publisher, &layout.name, digest, now)?;
        for (what, found, released) in [
            ("OCI image manifest", layout.manifest_bytes, manifest_bytes),
            ("packed form", layout.packed_bytes, release.bytes),
        ] {
            if found != released {
                return Err(ArtifactError::OtherLength { digest, what, found, released });
            }
        }
        if let Some(present) = self.get(project, digest).await? {
            return Ok((present, false));
        }
        let entries = self.keep_chunks(digest, file).await?;
        let index = ChunkIndex::new(digest, layout.packed_sha256, &entries);
        let artifact = Artifact {
            digest,
            name: release.name,
            version: release.version.to_string(),
            kind: release.kind,
            manifest_bytes,
            packed_bytes: layout.packed_bytes,
            stored_bytes: entries.iter().map(|entry| u64::from(entry.stored_bytes)).sum(),
        };
        self.list_it(project, &artifact, &index, &entries, now).await?;
        Ok((artifact, true))
    }

    async fn keep_chunks(&self, digest: BundleDigest, mut file: File) -> Result<Vec<ChunkEntry>, ArtifactError> {
        let failed = |source| ArtifactError::Chunk { digest, source };
        file.rewind().map_err(|source| ArtifactError::Read { source })?;
        let (sender, mut cut) = tokio::sync::mpsc::channel(WRITES_MAX);
        let cutter = tokio::task::spawn_blocking(move || {
            for chunk in chunks::cut(&file) {
                let broken = chunk.is_err();
                if sender.blocking_send(chunk).is_err() || broken {
                    break;
                }
            }
        });
        let (mut entries, mut writes) = (Vec::new(), JoinSet::new());
        let place = |entries: &mut Vec<Option<ChunkEntry>>, done: Result<(usize, ChunkEntry), ChunkError>| {
            let (index, entry) = done.map_err(failed)?;
            if let Some(place) = entries.get_mut(index) {
                *place = Some(entry);
            }
            Ok::<_, ArtifactError>(())
        };
        while let Some(chunk) = cut.recv().await {
            let chunk = chunk.map_err(|source| ArtifactError::Read { source })?;
            if entries.len() >= CHUNKS_MAX as usize {
                return Err(ArtifactError::TooLarge { digest });
            }
            let (index, store) = (entries.len(), self.chunks.clone());
            entries.push(None);
            writes.spawn(async move { Ok((index, store.keep(chunk).await?)) });
            if writes.len() >= WRITES_MAX
                && let Some(Ok(done)) = writes.join_next().await
            {
                place(&mut entries, done)?;
            }
        }
        while let Some(done) = writes.join_next().await {
            place(&mut entries, done.unwrap_or_else(|e| Err(ChunkError::interrupted(&e))))?;
        }
        cutter.await.map_err(|e| ArtifactError::Read { source: io::Error::other(e) })?;
        let lost = || failed(ChunkError::interrupted(&"a chunk was not written"));
        entries.into_iter().map(|entry| entry.ok_or_else(lost)).collect()
    }

    async fn list_it(
        &self,
        project: &ProjectId,
        artifact: &Artifact,
        index: &ChunkIndex,
        entries: &[ChunkEntry],
        now: UnixSeconds,
    ) -> Result<(), ArtifactError> {
        let doing = "list an artifact";
        let invalid = |source| ArtifactError::Index { digest: artifact.digest, source };
        let encoded = index.to_cbor().map_err(invalid)?;
        Announcement::of(index, 1).map_err(invalid)?;
        let mut transaction = self.pool.begin().await.doing(doing)?;
        for entry in entries {
            sqlx::query("INSERT INTO chunk VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
                .bind(entry.sha256.as_bytes().as_slice())
                .bind(entry.length_bytes)
                .bind(entry.stored_bytes)
                .execute(&mut *transaction)
                .await
                .doing(doing)?;
        }
        sqlx::query("INSERT INTO artifact VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING")
            .bind(project.as_str())
            .bind(artifact.digest.0.hex())
            .bind(artifact.name.as_str())
            .bind(&artifact.version)
            .bind(artifact.kind.to_string())
            .bind(signed(artifact.manifest_bytes))
            .bind(signed(artifact.packed_bytes))
            .bind(signed(artifact.stored_bytes))
            .bind(encoded)
            .bind(now.0)
            .execute(&mut *transaction)
            .await
            .doing(doing)?;
        Ok(transaction.commit().await.doing(doing)?)
    }

    /// A bundle, if it is there.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get(&self, project: &ProjectId, digest: BundleDigest) -> Result<Option<Artifact>, StoreError> {
        let select = "SELECT digest, name, version, kind, manifest_bytes, packed_bytes, stored_bytes FROM artifact \
                      WHERE project = ? AND digest = ?";
        let row: Option<Row> = sqlx::query_as(select)
            .bind(project.as_str())
            .bind(digest.0.hex())
            .fetch_optional(&self.pool)
            .await
            .doing("read an artifact")?;
        Ok(row.and_then(artifact))
    }

    /// The newest 1000 bundles of a project.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(&self, project: &ProjectId) -> Result<Vec<Artifact>, StoreError> {
        let select = "SELECT digest, name, version, kind, manifest_bytes, packed_bytes, stored_bytes FROM artifact \
                      WHERE project = ? ORDER BY at DESC, digest LIMIT 1000";
        let rows: Vec<Row> =
            sqlx::query_as(select).bind(project.as_str()).fetch_all(&self.pool).await.doing("list artifacts")?;
        Ok(rows.into_iter().filter_map(artifact).collect())
    }

    /// The encoded index of a bundle's chunks.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn index(&self, project: &ProjectId, digest: BundleDigest) -> Result<Option<Vec<u8>>, StoreError> {
        let row: Option<(Vec<u8>,)> =
            sqlx::query_as("SELECT chunk_index FROM artifact WHERE project = ? AND digest = ?")
                .bind(project.as_str())
                .bind(digest.0.hex())
                .fetch_optional(&self.pool)
                .await
                .doing("read a chunk index")?;
        Ok(row.map(|(index,)| index))
    }

    /// A chunk as it is sent.
    ///
    /// # Errors
    /// [`ChunkError`] when the store has lost it.
    pub async fn chunk(&self, entry: &ChunkEntry) -> Result<Vec<u8>, ChunkError> {
        self.chunks.stored(entry).await
    }
}

#[cfg(test)]
mod tests;
