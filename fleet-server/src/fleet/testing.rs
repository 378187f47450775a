//! What the tests here share: a database, a publisher with keys, and a packed bundle.

use super::publisher::Publisher;
use sedge_protocol::id::{Principal, ProjectId};
use sedge_protocol::oci::{self, Descriptor, ImageManifest, Index};
use sedge_protocol::signature::SecretKey;
use sedge_protocol::time::UnixSeconds;
use sedge_protocol::tuf::repository::{PublisherRepository, TrustedKeys, Validity};
use sedge_protocol::uptane::{Kind, Release};
use sedge_protocol::{BundleDigest, Version};
use sqlx::SqlitePool;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use std::collections::BTreeMap;
use std::io::{Seek as _, Write as _};
use std::path::Path;

pub(crate) const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
pub(crate) const YEAR_S: i64 = 365 * 86_400;
pub(crate) const VALIDITY: Validity = Validity { snapshot_s: 10 * 86_400, timestamp_s: 86_400 };

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

pub(crate) fn acme() -> ProjectId {
    "acme".parse().expect("a name")
}

pub(crate) fn device(name: &str) -> Principal {
    format!("acme:{name}").parse().expect("a principal")
}

pub(crate) async fn pool(directory: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(directory.join("sedge.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(std::time::Duration::from_secs(20));
    let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.expect("a database");
    let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    Migrator::new(migrations).await.expect("migrations").run(&pool).await.expect("migrated");
    pool
}

/// A repository with one key for each role but targets, which need two of three.
pub(crate) fn repository(now: UnixSeconds) -> PublisherRepository {
    let keys = TrustedKeys {
        root: vec![key(1).public()],
        root_threshold: 1,
        targets: vec![key(3).public(), key(4).public(), key(5).public()],
        targets_threshold: 2,
        refresh: vec![key(6).public()],
    };
    let mut repository = PublisherRepository::create(&keys, now.plus(YEAR_S)).expect("keys that suffice");
    repository.sign(&key(1)).expect("a root to sign");
    publish(&mut repository, now);
    repository
}

/// Has targets signed and lists them.
pub(crate) fn publish(repository: &mut PublisherRepository, now: UnixSeconds) {
    for seed in [3, 4] {
        // Nothing to sign when only the dates are new.
        let _signed = repository.sign(&key(seed));
    }
    repository.refresh(&[&key(6)], VALIDITY, now).expect("complete");
}

pub(crate) async fn upload(publisher: &Publisher, repository: &PublisherRepository, now: UnixSeconds) {
    for (name, file) in repository.uploads(1).expect("published") {
        publisher.import(&acme(), &name, file, now).await.expect(&name);
    }
}

/// A packed bundle.
pub(crate) struct Packed {
    pub(crate) digest: BundleDigest,
    pub(crate) manifest_bytes: u64,
    pub(crate) tar: Vec<u8>,
}

/// Bytes that don't compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

/// Packs files as `sedge bundle pack` does.
pub(crate) fn packed(name: &str, version: &str, files: &[(&str, Vec<u8>)]) -> Packed {
    let mut blobs: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut add = |kind: &str, bytes: &[u8]| {
        let descriptor = Descriptor::of(kind, bytes);
        blobs.insert(format!("blobs/sha256/{}", descriptor.digest.hex()), bytes.to_vec());
        descriptor
    };
    let layers = files.iter().map(|(path, bytes)| {
        let mut layer = add(oci::FILE_TYPE, bytes);
        layer.annotations.insert(oci::TITLE.to_owned(), (*path).to_owned());
        layer
    });
    let layers = layers.collect();
    let image = ImageManifest {
        schema_version: 2,
        media_type: oci::MANIFEST_TYPE.to_owned(),
        artifact_type: oci::BUNDLE_TYPE.to_owned(),
        config: add(oci::CONFIG_TYPE, format!("{{\"version\":\"{version}\"}}").as_bytes()),
        layers,
        subject: None,
        annotations: BTreeMap::from([(oci::TITLE.to_owned(), name.to_owned())]),
    };
    let image = serde_json::to_vec(&image).expect("json");
    let mut bundle = add(oci::MANIFEST_TYPE, &image);
    bundle.artifact_type = Some(oci::BUNDLE_TYPE.to_owned());
    let digest = BundleDigest(bundle.digest);
    let index = serde_json::to_vec(&Index::new(vec![bundle])).expect("json");
    let fixed = [("oci-layout".to_owned(), oci::LAYOUT.as_bytes().to_vec()), ("index.json".to_owned(), index)];
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in fixed.into_iter().chain(blobs) {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, bytes.as_slice()).expect("a tar in memory");
    }
    Packed { digest, manifest_bytes: image.len() as u64, tar: tar.into_inner().expect("a tar in memory") }
}

impl Packed {
    pub(crate) fn release(&self, name: &str, version: Version) -> Release {
        let name = name.parse().expect("a name");
        Release { name, version, kind: Kind::Model, floor: None, bytes: self.tar.len() as u64 }
    }

    /// Releases it in this repository; to be published then.
    pub(crate) fn released(&self, repository: &mut PublisherRepository, name: &str, version: Version) {
        let release = self.release(name, version);
        repository.release(self.digest, self.manifest_bytes, &release, NOW.plus(20 * YEAR_S)).expect("a release");
    }

    pub(crate) fn file(&self) -> std::fs::File {
        file(&self.tar)
    }
}

pub(crate) fn file(bytes: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).and_then(|()| file.rewind()).expect("written");
    file
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text = format!("{text}: {e}");
        cause = e.source();
    }
    text
}
