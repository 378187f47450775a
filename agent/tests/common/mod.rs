//! Bundles and worker processes for tests.
#![allow(dead_code, reason = "each test file uses a part of it")]

use sedge_agent::source::Sample;
use sedge_agent::worker::{Deadlines, Limits, Load, Worker, WorkerProgram};
use sedge_protocol::BundleDigest;
use sedge_runtime::pack::Layout;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, span};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits")
}

pub(crate) fn images() -> PathBuf {
    examples().join("images/field")
}

/// A packed bundle.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    pub(crate) path: PathBuf,
    pub(crate) digest: BundleDigest,
}

/// Packs a version of the digits bundle, its manifest changed by `change`.
pub(crate) fn pack(into: &Path, version: &str, name: &str, change: impl Fn(String) -> String) -> Packed {
    let from = examples().join(version);
    let work = into.join(format!("{name}.source"));
    std::fs::create_dir_all(work.join("golden")).expect("directory");
    for part in ["", "golden"] {
        for entry in std::fs::read_dir(from.join(part)).expect("listed").flatten() {
            if entry.path().is_file() {
                std::fs::copy(entry.path(), work.join(part).join(entry.file_name())).expect("copied");
            }
        }
    }
    let runtime = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime").canonicalize().expect("there");
    let manifest = std::fs::read_to_string(from.join("bundle.toml")).expect("read");
    let manifest = manifest.replace("../../../runtime", &runtime.display().to_string());
    std::fs::write(work.join("bundle.toml"), change(manifest)).expect("written");
    let layout = Layout::pack(&work).expect("packed");
    let path = into.join(format!("{name}.tar"));
    layout.write(&path).expect("written");
    Packed { path, digest: layout.digest().expect("one bundle") }
}

/// The digits bundle as it is.
pub(crate) fn digits(into: &Path, version: &str) -> Packed {
    pack(into, version, version, |manifest| manifest)
}

pub(crate) fn program() -> WorkerProgram {
    WorkerProgram {
        program: env!("CARGO_BIN_EXE_sedge-agent").into(),
        arguments: vec!["worker".into()],
        compile_arguments: vec!["compile-processor".to_owned()],
    }
}

pub(crate) fn load(bundle: &Packed) -> Load {
    Load {
        bundle: bundle.path.clone(),
        digest: bundle.digest,
        settings: serde_json::Value::Null,
        grants_allowed: Default::default(),
        compile_arguments: Vec::new(),
    }
}

pub(crate) async fn start(deadlines: Deadlines) -> Worker {
    Worker::start(&program(), Limits::default(), deadlines, "test".to_owned()).await.expect("started")
}

pub(crate) fn sample(seq: u64, name: &str, data: Vec<u8>) -> Sample {
    Sample { seq, ts_ms: 1, source: "test".into(), name: name.to_owned(), data, label: None }
}

pub(crate) fn image(name: &str) -> Vec<u8> {
    std::fs::read(images().join(name)).expect("read")
}

pub(crate) fn signal(pid: u32, signal: i32) {
    // SAFETY: kill takes two numbers; the process is one that this test has started.
    assert_eq!(unsafe { libc::kill(i32::try_from(pid).expect("a pid"), signal) }, 0);
}

/// The warnings of this thread, each with the file that it is about.
#[derive(Clone, Default)]
pub(crate) struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("whole"))
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if ["message", "file"].contains(&field.name()) {
            self.0.push_str(&format!("{value:?} "));
        }
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().expect("whole").push(line.0);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// What lies in files.
pub(crate) trait EachBytes {
    fn each_bytes(&self) -> Vec<Vec<u8>>;
}

impl EachBytes for Vec<PathBuf> {
    fn each_bytes(&self) -> Vec<Vec<u8>> {
        self.iter().map(|path| std::fs::read(path).expect("read")).collect()
    }
}
