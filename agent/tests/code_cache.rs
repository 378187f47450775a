//! Workers with a cache of compiled code: what is compiled, what is believed, and what the log says about it.
//!
//! The digits bundle has two components. A worker says how many it compiled; one without a compiler cannot lie about it.

mod common;

use common::{EachBytes as _, Packed, Warnings, digits, image, load, program, sample};
use sedge_agent::worker::{Answer, Caches, Deadlines, Limits, Loaded, Worker, WorkerError, WorkerProgram};
use sedge_runtime::sandbox::CodeCache;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tracing::subscriber::DefaultGuard;

struct Device {
    directory: tempfile::TempDir,
    bundle: Packed,
    cache: CodeCache,
    warnings: Warnings,
    _listens: DefaultGuard,
}

impl Device {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let bundle = digits(directory.path(), "v1");
        let cache = CodeCache::new(directory.path().join("code"));
        let warnings = Warnings::default();
        let _listens = tracing::subscriber::set_default(warnings.clone());
        Self { directory, bundle, cache, warnings, _listens }
    }

    async fn try_start(&self, program: WorkerProgram) -> Result<(Worker, Loaded), WorkerError> {
        let name = "test".to_owned();
        let mut worker = Worker::start(&program, Limits::default(), Deadlines::default(), name).await?;
        let loaded = worker.load(load(&self.bundle), &keeping(&self.cache)).await?;
        Ok((worker, loaded))
    }

    /// Starts a worker, has it answer a sample, and tells how many components it compiled.
    async fn compiled(&self, program: WorkerProgram) -> u32 {
        let (mut worker, loaded) = self.try_start(program).await.expect("started");
        let answer = worker.process(&sample(1, "0000.png", image("0000.png")), "p").await.expect("answered");
        assert!(matches!(answer, Answer::Outcome(_)), "{answer:?}");
        worker.kill().await;
        loaded.compiled
    }

    fn entries(&self) -> Vec<PathBuf> {
        let mut entries: Vec<_> =
            fs::read_dir(self.cache.dir()).expect("listed").flatten().map(|entry| entry.path()).collect();
        entries.sort();
        entries
    }

    fn take_warnings(&self) -> Vec<String> {
        self.warnings.take()
    }
}

fn keeping(code: &CodeCache) -> Caches {
    Caches { code: Some(code.clone()), ..Caches::default() }
}

/// Its compiling child fails.
fn without_compiler() -> WorkerProgram {
    WorkerProgram { compile_arguments: vec!["there-is-no-such-command".to_owned()], ..program() }
}

#[tokio::test]
async fn the_second_start_compiles_nothing() {
    let device = Device::new();
    let Err(error) = device.try_start(without_compiler()).await else { panic!("compiled by nobody") };
    assert!(matches!(error, WorkerError::Refused(_)), "{error}");
    assert_eq!(device.entries(), [] as [PathBuf; 0], "nothing is kept of what failed");
    assert_eq!(device.compiled(program()).await, 2);
    assert_eq!(device.entries().len(), 2);
    assert_eq!(device.compiled(without_compiler()).await, 0);
    assert_eq!(device.take_warnings(), [] as [String; 0]);
}

#[tokio::test]
async fn without_a_cache_every_start_compiles() {
    let device = Device::new();
    for _ in 0..2 {
        let mut worker = common::start(Deadlines::default()).await;
        assert_eq!(worker.load(load(&device.bundle), &Caches::default()).await.expect("loaded").compiled, 2);
    }
    assert!(!device.cache.dir().exists());
}

#[tokio::test]
async fn what_was_tampered_with_is_compiled_again_and_named() {
    let device = Device::new();
    assert_eq!(device.compiled(program()).await, 2);
    let entries = device.entries();
    let sound = entries.each_bytes();
    let flipped = |at: usize| {
        let mut bytes = sound[0].clone();
        bytes[at] ^= 1;
        bytes
    };
    let middle = sound[0].len() / 2;
    for (what, bytes, says) in [
        ("a byte of the code", flipped(middle), "its code has digest"),
        ("the recorded digest", flipped(60), "its code has digest"),
        ("the beginning", flipped(0), "does not begin"),
        ("a torn write", sound[0][..middle].to_vec(), "its header says otherwise"),
        ("nothing left", Vec::new(), "ends after 0 bytes"),
        ("the code of another key", sound[1].clone(), "from another component or for another engine"),
    ] {
        fs::write(&entries[0], &bytes).expect("written");
        assert_eq!(device.compiled(program()).await, 1, "{what}");
        let warnings = device.take_warnings();
        let [warning] = warnings.as_slice() else { panic!("{what}: {warnings:?}") };
        for part in [says, &entries[0].display().to_string(), ".wasm", "compiled again"] {
            assert!(warning.contains(part), "{what}: {part}: {warning}");
        }
        assert_eq!(entries.each_bytes(), sound, "{what}: it is mended");
    }
    assert_eq!(device.compiled(without_compiler()).await, 0);
}

/// Code that is what was recorded, and yet none for this engine: what a mistake in the key would let in.
#[tokio::test]
async fn code_that_does_not_fit_is_compiled_again() {
    let device = Device::new();
    assert_eq!(device.compiled(program()).await, 2);
    let entries = device.entries();
    let sound = entries.each_bytes();
    let mut other = sound[0][..80].to_vec();
    let code = b"no code at all";
    other[40..48].copy_from_slice(&(code.len() as u64).to_le_bytes());
    other[48..80].copy_from_slice(sedge_protocol::Sha256Digest::of(code).as_bytes());
    other.extend_from_slice(code);
    fs::write(&entries[0], other).expect("written");
    assert_eq!(device.compiled(program()).await, 1);
    let warnings = device.take_warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("does not fit"), "{warnings:?}");
    assert_eq!(entries.each_bytes(), sound);
}

#[tokio::test]
async fn another_memory_profile_is_another_key() {
    let device = Device::new();
    assert_eq!(device.compiled(program()).await, 2);
    for compiled in [2, 0] {
        let mut worker = common::start(Deadlines::default()).await;
        let mut tight = load(&device.bundle);
        tight.settings = serde_json::json!({ "sandbox_memory": "tight" });
        assert_eq!(worker.load(tight, &keeping(&device.cache)).await.expect("loaded").compiled, compiled);
    }
    assert_eq!(device.entries().len(), 4);
}

#[tokio::test]
async fn a_directory_that_others_can_write_to_is_not_used() {
    let device = Device::new();
    assert_eq!(device.compiled(program()).await, 2);
    let before = device.entries().each_bytes();
    let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("changed");
    chmod(device.cache.dir(), 0o777);
    assert_eq!(device.compiled(program()).await, 2);
    let warnings = device.take_warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for warning in &warnings {
        for part in ["code is not trusted", "its mode is 777", "chmod go-w", "it is compiled at every start"] {
            assert!(warning.contains(part), "{part}: {warning}");
        }
    }
    assert_eq!(device.entries().each_bytes(), before, "nothing was written there");
    chmod(device.cache.dir(), 0o700);
    assert_eq!(device.compiled(without_compiler()).await, 0);
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_said_and_done_without() {
    let mut device = Device::new();
    let file = device.directory.path().join("file");
    fs::write(&file, b"").expect("written");
    device.cache = CodeCache::new(file.join("code"));
    assert_eq!(device.compiled(program()).await, 2);
    let warnings = device.take_warnings();
    assert!(warnings.len() == 2 && warnings[0].contains("cannot be made"), "{warnings:?}");
}

#[tokio::test]
async fn code_that_has_no_room_is_not_kept() {
    let mut device = Device::new();
    device.cache = device.cache.with_bytes_max(10_000);
    assert_eq!(device.compiled(program()).await, 2);
    assert_eq!(device.entries(), [] as [PathBuf; 0]);
    let warnings = device.take_warnings();
    assert!(warnings.len() == 2 && warnings[0].contains("is not kept; at most 9920"), "{warnings:?}");
}

#[tokio::test]
async fn those_who_start_at_once_compile_once() {
    let device = Device::new();
    let (a, b, c) = tokio::join!(device.compiled(program()), device.compiled(program()), device.compiled(program()));
    assert_eq!(a + b + c, 2, "{a} + {b} + {c}");
    assert_eq!(device.entries().len(), 2);
    assert_eq!(device.take_warnings(), [] as [String; 0]);
}

/// Run in a process of its own by the test below: takes the lock of a key and stays.
#[test]
#[ignore = "waits to be killed"]
fn holds_a_lock() {
    let directory = std::env::var_os("SEDGE_TEST_CODE").expect("set");
    let _lock = CodeCache::new(directory.into()).lock(any_key()).expect("opened").expect("free");
    // The harness writes to standard output, also in the middle of a line.
    fs::write("/dev/stderr", "held\n").expect("said");
    loop {
        std::thread::park();
    }
}

fn any_key() -> sedge_runtime::sandbox::CodeKey {
    let digest = sedge_protocol::Sha256Digest::of(b"any");
    sedge_runtime::sandbox::CodeKey::of(digest, digest)
}

#[test]
fn a_lock_is_free_when_its_holder_was_killed() {
    use std::io::BufRead as _;
    let directory = tempfile::tempdir().expect("directory");
    let cache = CodeCache::new(directory.path().join("code"));
    let mut holder = std::process::Command::new(std::env::current_exe().expect("known"))
        .args(["--exact", "holds_a_lock", "--ignored", "--nocapture"])
        .env("SEDGE_TEST_CODE", cache.dir())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("run");
    let said = std::io::BufReader::new(holder.stderr.take().expect("piped"));
    assert!(said.lines().any(|line| line.expect("read") == "held"));
    assert!(cache.lock(any_key()).expect("opened").is_none());
    holder.kill().expect("killed");
    holder.wait().expect("gone");
    assert!(cache.lock(any_key()).expect("opened").is_some());
}
