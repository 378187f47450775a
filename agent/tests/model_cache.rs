//! Workers with a cache of saved models: what is loaded anew, what is believed, and what the log says about it.

mod common;

use common::{EachBytes as _, Packed, Warnings, digits, image, load, program, sample};
use sedge_agent::worker::{Answer, Caches, Deadlines, Limits, Outcome, Worker};
use sedge_runtime::model::ModelCache;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use tracing::subscriber::DefaultGuard;

struct Device {
    directory: tempfile::TempDir,
    bundle: Packed,
    cache: ModelCache,
    warnings: Warnings,
    _listens: DefaultGuard,
}

impl Device {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let bundle = digits(directory.path(), "v1");
        let cache = ModelCache::new(directory.path().join("models"));
        let warnings = Warnings::default();
        let _listens = tracing::subscriber::set_default(warnings.clone());
        Self { directory, bundle, cache, warnings, _listens }
    }

    /// Starts a worker, has it answer a sample, and tells whether its model came from the cache.
    async fn start(&self, bundle: &Packed) -> (bool, Outcome) {
        let (limits, deadlines) = (Limits::default(), Deadlines::default());
        let mut worker = Worker::start(&program(), limits, deadlines, "test".to_owned()).await.expect("started");
        let caches = Caches { models: Some(self.cache.clone()), ..Caches::default() };
        let loaded = worker.load(load(bundle), &caches).await.expect("loaded");
        assert_eq!(worker.golden().await.expect("as recorded"), 12);
        let answer = worker.process(&sample(1, "0000.png", image("0000.png")), "p").await.expect("answered");
        let Answer::Outcome(mut outcome) = answer else { panic!("{answer:?}") };
        outcome.timings = Default::default();
        worker.kill().await;
        (loaded.from_saved, outcome)
    }

    async fn opens_saved(&self) -> bool {
        self.start(&self.bundle).await.0
    }

    fn entries(&self) -> Vec<PathBuf> {
        let mut entries: Vec<_> =
            fs::read_dir(self.cache.dir()).expect("listed").flatten().map(|entry| entry.path()).collect();
        entries.sort();
        entries
    }
}

#[tokio::test]
async fn the_second_start_opens_what_the_first_has_saved() {
    let device = Device::new();
    let (from_saved, first) = device.start(&device.bundle).await;
    assert!(!from_saved);
    assert_eq!(device.entries().len(), 1);
    let (from_saved, second) = device.start(&device.bundle).await;
    assert!(from_saved);
    assert_eq!(first, second);
    assert_eq!(device.warnings.take(), [] as [String; 0]);
    // Another model has an entry of its own.
    let other = digits(device.directory.path(), "v2");
    assert!(!device.start(&other).await.0);
    assert!(device.start(&other).await.0);
    assert_eq!(device.entries().len(), 2);
}

#[tokio::test]
async fn what_was_damaged_is_named_and_saved_again() {
    let device = Device::new();
    let other = digits(device.directory.path(), "v2");
    assert!(!device.start(&other).await.0);
    let of_other = device.entries().each_bytes().remove(0);
    fs::remove_file(&device.entries()[0]).expect("removed");
    assert!(!device.opens_saved().await);
    let entries = device.entries();
    let sound = entries.each_bytes();
    let flipped = |at: usize| {
        let mut bytes = sound[0].clone();
        bytes[at] ^= 1;
        bytes
    };
    for (what, bytes, says) in [
        ("a weight", flipped(sound[0].len() - 100), "its weights have another digest"),
        ("a byte of the head", flipped(100), "its digest is another"),
        ("the beginning", flipped(0), "no header"),
        ("a torn write", sound[0][..sound[0].len() / 2].to_vec(), "the length that it says"),
        ("nothing left", Vec::new(), "no header"),
        ("another model", of_other, "is of the file sha256:"),
    ] {
        fs::write(&entries[0], &bytes).expect("written");
        assert!(!device.opens_saved().await, "{what}");
        let warnings = device.warnings.take();
        let [warning] = warnings.as_slice() else { panic!("{what}: {warnings:?}") };
        for part in [says, &entries[0].display().to_string(), "model.int8.onnx", "made anew"] {
            assert!(warning.contains(part), "{what}: {part}: {warning}");
        }
        assert_eq!(entries.each_bytes(), sound, "{what}: it is mended");
    }
    assert!(device.opens_saved().await);
}

#[tokio::test]
async fn a_directory_that_others_can_write_to_is_not_used() {
    let device = Device::new();
    assert!(!device.opens_saved().await);
    let chmod = |mode| fs::set_permissions(device.cache.dir(), fs::Permissions::from_mode(mode)).expect("changed");
    chmod(0o777);
    assert!(!device.opens_saved().await);
    let warnings = device.warnings.take();
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    for part in ["not trusted with a saved model", "its mode is 777", "chmod go-w", "from its file at every start"] {
        assert!(warning.contains(part), "{part}: {warning}");
    }
    chmod(0o700);
    assert!(device.opens_saved().await);
}

#[tokio::test]
async fn a_model_that_has_no_room_is_not_kept() {
    let mut device = Device::new();
    device.cache = device.cache.with_bytes_max(1000);
    assert!(!device.opens_saved().await);
    assert_eq!(device.entries(), [] as [PathBuf; 0], "nothing is left of it");
    let warnings = device.warnings.take();
    assert!(warnings.len() == 1 && warnings[0].contains("is not kept; at most 1000"), "{warnings:?}");
}

#[tokio::test]
async fn those_who_start_at_once_keep_one() {
    let device = Device::new();
    let (a, b, c) = tokio::join!(device.opens_saved(), device.opens_saved(), device.opens_saved());
    assert!(!(a && b && c));
    assert_eq!(device.entries().len(), 1);
    assert_eq!(device.warnings.take(), [] as [String; 0]);
    assert!(device.opens_saved().await);
}
