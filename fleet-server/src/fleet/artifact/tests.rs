//! Uploads that are right, and those that are not.

use super::*;
use crate::fleet::testing::{NOW, Packed, acme, chain, file, noise, packed, pool, publish, repository};
use sedge_protocol::Version;
use sedge_protocol::message::ChunkEncoding;
use std::collections::BTreeMap;

struct World {
    artifacts: Artifacts,
    directory: tempfile::TempDir,
}

async fn world() -> World {
    let directory = tempfile::tempdir().expect("a directory");
    let pool = pool(directory.path()).await;
    sqlx::query("INSERT INTO fleet_project (project) VALUES ('acme')").execute(&pool).await.expect("a project");
    let store = ChunkStore::local(directory.path()).expect("a store");
    World { artifacts: Artifacts::new(pool, store), directory }
}

fn releasing(bundles: &[(&Packed, u64)]) -> TrustedSet {
    let mut repository = repository(NOW);
    for (bundle, minor) in bundles {
        bundle.released(&mut repository, "digits", Version::new(1, *minor, 0));
    }
    publish(&mut repository, NOW);
    repository.client(NOW).expect("valid")
}

impl World {
    async fn add(&self, bytes: &[u8], publisher: &TrustedSet) -> Result<(Artifact, bool), String> {
        self.artifacts.add(&acme(), file(bytes), publisher, NOW).await.map_err(|e| chain(&e))
    }

    async fn index(&self, digest: BundleDigest) -> ChunkIndex {
        let index = self.artifacts.index(&acme(), digest).await.expect("readable").expect("an index");
        ChunkIndex::from_cbor(&index).expect("valid")
    }

    fn objects(&self) -> BTreeMap<std::path::PathBuf, u64> {
        let mut found = BTreeMap::new();
        for shard in std::fs::read_dir(self.directory.path().join("chunks")).expect("chunks").flatten() {
            for object in std::fs::read_dir(shard.path()).expect("a directory").flatten() {
                found.insert(object.path(), object.metadata().expect("a file").len());
            }
        }
        found
    }
}

#[tokio::test]
async fn chunks_in_order_make_the_packed_bundle() {
    let world = world().await;
    let text = "a line that compresses\n".repeat(20_000).into_bytes();
    let bundle = packed("digits", "1.0.0", &[("model.onnx", noise(1, 700_000)), ("labels.txt", text)]);
    let (artifact, new) = world.add(&bundle.tar, &releasing(&[(&bundle, 0)])).await.expect("accepted");
    assert!(new && artifact.stored_bytes < artifact.packed_bytes);
    let index = world.index(bundle.digest).await;
    index.check_signed(Sha256Digest::of(&bundle.tar), bundle.tar.len() as u64).expect("what was uploaded");
    let mut whole = Vec::new();
    for entry in index.chunks() {
        let stored = world.artifacts.chunk(&entry).await.expect("stored");
        let content = match entry.encoding() {
            ChunkEncoding::None => stored,
            ChunkEncoding::Zstd => zstd::bulk::decompress(&stored, entry.length_bytes as usize).expect("zstd"),
        };
        assert_eq!(Sha256Digest::of(&content), entry.sha256);
        whole.extend(content);
    }
    assert!(whole == bundle.tar);
    let encodings: Vec<_> = index.chunks().map(|c| c.encoding()).collect();
    assert!(encodings.contains(&ChunkEncoding::None) && encodings.contains(&ChunkEncoding::Zstd));
    let announcement = Announcement::of(&index, 1).expect("valid");
    assert_eq!(announcement.read_index(&index.to_cbor().expect("valid")), Ok(index));
}

#[tokio::test]
async fn what_two_bundles_share_is_kept_once() {
    let world = world().await;
    let common = noise(7, 1_000_000);
    let one = packed("digits", "1.0.0", &[("model.onnx", common.clone()), ("a", noise(8, 30_000))]);
    let two = packed("digits", "1.1.0", &[("model.onnx", common), ("a", noise(9, 30_000))]);
    let publisher = releasing(&[(&one, 0), (&two, 1)]);
    world.add(&one.tar, &publisher).await.expect("accepted");
    let before = world.objects();
    world.add(&two.tar, &publisher).await.expect("accepted");
    let after = world.objects();
    let shared: usize = before.keys().filter(|path| after.contains_key(*path)).count();
    assert_eq!(shared, before.len());
    let added = after.len() - before.len();
    assert!(added * 3 <= before.len(), "{added} new chunks beside {}", before.len());
    // The same again changes nothing.
    assert!(!world.add(&two.tar, &publisher).await.expect("accepted").1);
    assert_eq!(world.objects(), after);
    assert_eq!(world.artifacts.list(&acme()).await.expect("readable").len(), 2);
}

#[tokio::test]
async fn a_chunk_that_was_cut_off_is_written_again() {
    let world = world().await;
    let bundle = packed("digits", "1.0.0", &[("model.onnx", noise(1, 200_000))]);
    let publisher = releasing(&[(&bundle, 0)]);
    world.add(&bundle.tar, &publisher).await.expect("accepted");
    let objects = world.objects();
    let victim = objects.keys().next().expect("a chunk");
    std::fs::write(victim, b"").expect("cut off");
    sqlx::query("DELETE FROM artifact").execute(&world.artifacts.pool).await.expect("as if power had died");
    world.add(&bundle.tar, &publisher).await.expect("accepted");
    assert_eq!(world.objects(), objects);
}

#[tokio::test]
async fn what_was_not_released_as_it_is_is_refused() {
    let world = world().await;
    let bundle = packed("digits", "1.0.0", &[("model.onnx", noise(1, 100_000))]);
    let other = packed("digits", "1.1.0", &[("model.onnx", noise(2, 100_000))]);
    let publisher = releasing(&[(&bundle, 0)]);
    let refused = |bytes: Vec<u8>, expected: &'static str| {
        let (world, publisher) = (&world, &publisher);
        async move {
            let e = world.add(&bytes, publisher).await.expect_err(expected);
            assert!(e.contains(expected), "{expected}: {e}");
        }
    };
    refused(other.tar.clone(), "no valid release of the publisher names `digits/").await;
    let mut longer = bundle.tar.clone();
    longer.extend([0; 512]);
    refused(longer, "its packed form has").await;
    let at = bundle.tar.windows(20).position(|w| w == &noise(1, 100_000)[..20]).expect("the model");
    let flip = |at: usize| {
        let mut bytes = bundle.tar.clone();
        bytes[at] ^= 1;
        bytes
    };
    refused(flip(at), "has another digest").await;
    refused(flip(10), "is no tar header, or was changed").await;
    refused(flip(bundle.tar.len() - 100), "not zero").await;
    refused(bundle.tar[..bundle.tar.len() - 2000].to_vec(), "cut off").await;
    refused(b"hello".to_vec(), "cut off").await;
    refused(vec![0; 2048], "`oci-layout` is missing").await;
    let mut wrong_length = repository(NOW);
    let release = bundle.release("digits", Version::new(1, 0, 0));
    wrong_length.release(bundle.digest, bundle.manifest_bytes + 1, &release, NOW.plus(1_000_000)).expect("a release");
    publish(&mut wrong_length, NOW);
    let e = world.add(&bundle.tar, &wrong_length.client(NOW).expect("valid")).await.expect_err("another length");
    assert!(e.contains("its OCI image manifest has"), "{e}");
    let late = publisher.clone();
    let e = world.artifacts.add(&acme(), bundle.file(), &late, NOW.plus(90 * 86_400)).await.expect_err("expired");
    assert!(chain(&e).contains("expired"), "{}", chain(&e));
    assert!(world.artifacts.list(&acme()).await.expect("readable").is_empty());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 300, ..Default::default() })]

    #[test]
    fn no_upload_is_taken_for_another_and_none_makes_the_reader_panic(
        flips in proptest::collection::vec((0usize..10_000, 1u8..=255), 0..4),
        cut in proptest::option::of(0usize..10_000),
        rest in proptest::collection::vec(proptest::num::u8::ANY, 0..600),
    ) {
        let whole = packed("digits", "1.0.0", &[("model.onnx", noise(1, 1_500)), ("labels.txt", noise(2, 70))]);
        let mut bytes = whole.tar.clone();
        if let Some(cut) = cut {
            bytes.truncate(cut);
            bytes.extend(rest);
        }
        for (at, flip) in flips {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= flip;
            }
        }
        if let Ok(layout) = Layout::read(&mut file(&bytes)) {
            // Only headers have bytes that nothing covers but their own checksum, and a reader that does not look.
            proptest::prop_assert_eq!((layout.digest, layout.packed_bytes), (whole.digest, whole.tar.len() as u64));
            proptest::prop_assert_eq!(layout.packed_sha256, Sha256Digest::of(&bytes));
        }
    }
}
