//! Guests that attack the sandbox, one per file in `hostile/`, and some that no text can express. Each must end in one
//! clear error, leave the next sample and every other guest unharmed, and be given up when it goes on.
//!
//! A guest's file tells what it attacks and, in lines that begin with `;;!`, what must come of it: `expect: WORDS`, and
//! where needed `world: NAME`, `as: STAGE` and `grants: NAME`. Adding one needs no Rust.

use anyhow::{Context as _, Result};
use sedge_protocol::manifest::Grant;
use sedge_runtime::api::{Input, Meta};
use sedge_runtime::bundle::Trust;
use sedge_runtime::pack::Layout;
use sedge_runtime::pipeline::PipelineOptions;
use sedge_runtime::sandbox::{LogLine, MemoryProfile};
use sedge_runtime::{Pipeline, VerifiedBundle};
use sedge_tests::component::from_wat;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every profile that this machine can do.
fn profiles() -> Vec<MemoryProfile> {
    let mut profiles = vec![MemoryProfile::Tight];
    if MemoryProfile::probe() == MemoryProfile::Roomy {
        profiles.push(MemoryProfile::Roomy);
    }
    profiles
}

struct Guest {
    name: String,
    component: Vec<u8>,
    stage: String,
    grants: Vec<String>,
    expect: String,
}

impl Guest {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)?;
        let directive =
            |key: &str| text.lines().find_map(|l| l.strip_prefix(";;!")?.trim().strip_prefix(key)?.strip_prefix(':'));
        let world = directive("world").map_or("preprocessor", str::trim);
        let stage = directive("as").map_or_else(|| world.split('-').next().unwrap_or(world), str::trim);
        Ok(Self {
            name: path.file_stem().context("a name")?.to_string_lossy().into_owned(),
            component: from_wat(&include(&text)?, world).with_context(|| path.display().to_string())?,
            stage: stage.to_owned(),
            grants: directive("grants").into_iter().flat_map(|g| g.split(',')).map(|g| g.trim().to_owned()).collect(),
            expect: directive("expect").context("an expectation")?.trim().to_owned(),
        })
    }

    /// A preprocessor that was made elsewhere.
    fn made(name: &str, component: Vec<u8>, expect: &str) -> Self {
        Self { name: name.into(), component, stage: "preprocessor".into(), grants: vec![], expect: expect.into() }
    }

    /// Packs the guest into a bundle around the digits model, and loads it.
    fn load(&self, profile: MemoryProfile, log: &Log) -> Result<Pipeline> {
        let directory = tempfile::tempdir()?;
        let digits = here().join("../examples/digits/v1");
        let (pre, post) = match self.stage.as_str() {
            "preprocessor" => ("guest.wasm", "builtin:classify@1"),
            _ => ("builtin:tensor@1", "guest.wasm"),
        };
        let grants = format!("grants = {:?}", self.grants);
        let of = |component: &str| if component == "guest.wasm" { grants.as_str() } else { "" };
        fs::write(directory.path().join("guest.wasm"), &self.component)?;
        fs::copy(digits.join("model.int8.onnx"), directory.path().join("model.onnx"))?;
        fs::copy(digits.join("labels.txt"), directory.path().join("labels.txt"))?;
        let manifest = format!(
            r#"schema = "sedge.bundle/1"
            bundle = {{ name = "hostile", version = "1.0.0", license = "MIT" }}
            variant = [{{ name = "int8", file = "model.onnx", format = "onnx" }}]
            input = [{{ name = "image", dtype = "float32", shape = [1, 1, 16, 16] }}]
            output = [{{ name = "logits", dtype = "float32", shape = [1, 10] }}]
            confidence = {{ output = "logits", kind = "logits" }}
            labels = {{ file = "labels.txt" }}
            limits = {{ sandbox_memory_mib = 8, sandbox_ms = 100 }}
            [preprocessor]
            component = "{pre}"
            {}
            [postprocessor]
            component = "{post}"
            {}"#,
            of(pre),
            of(post)
        );
        fs::write(directory.path().join("bundle.toml"), manifest)?;
        let packed = directory.path().join("hostile.tar");
        Layout::pack(directory.path())?.write(&packed)?;
        let bundle = VerifiedBundle::open(&packed, &Trust::Unsigned)?;
        let log = log.clone();
        let options = PipelineOptions {
            profile,
            grants_allowed: BTreeSet::from([Grant::Clock, Grant::Random, Grant::Kv]),
            log: Arc::new(move |line| log.lock().expect("no panic in a sink").push(line.clone())),
            ..PipelineOptions::default()
        };
        Ok(Pipeline::load(&bundle, &options)?)
    }
}

type Log = Arc<Mutex<Vec<LogLine>>>;

/// Replaces `;;! include NAME` by the file NAME.inc.
fn include(text: &str) -> Result<String> {
    let mut whole = String::new();
    for line in text.lines() {
        match line.trim().strip_prefix(";;! include ") {
            Some(name) => whole.push_str(&fs::read_to_string(here().join("hostile").join(format!("{name}.inc")))?),
            None => whole.push_str(line),
        }
        whole.push('\n');
    }
    Ok(whole)
}

fn run(pipeline: &mut Pipeline) -> Result<()> {
    pipeline.process(&Meta { source: "test".into(), ..Meta::default() }, &Input::Raw(&[0; 1024]))?;
    Ok(())
}

/// The chain of causes as the command prints it.
fn text(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.contains(&cause) {
        true => text,
        false if text.is_empty() => cause,
        false => format!("{text}: {cause}"),
    })
}

/// What came of it: the error at load or at the first sample, and whether the guest was given up in the end.
fn attack(guest: &Guest, profile: MemoryProfile, log: &Log) -> (Result<()>, bool) {
    let mut pipeline = match guest.load(profile, log) {
        Ok(pipeline) => pipeline,
        Err(error) => return (Err(error), false),
    };
    let first = run(&mut pipeline);
    let given_up = (0..6).any(|_| run(&mut pipeline).is_err_and(|e| text(&e).contains("given up after 5 failures")));
    (first, given_up)
}

fn check(guest: &Guest, profile: MemoryProfile, log: &Log) {
    let place = format!("{} ({profile})", guest.name);
    let (result, given_up) = attack(guest, profile, log);
    let error = text(&result.expect_err(&place));
    assert!(error.contains(&guest.expect), "{place}: expected `{}`, got `{error}`", guest.expect);
    assert!(error.len() < 600 && !error.contains(char::is_control), "{place}: not one short line: {error:?}");
    let poisoned =
        ["failed inside", "it was stopped"].iter().any(|w| error.contains(w)) && !error.contains("guest.wasm");
    assert_eq!(given_up, poisoned, "{place}: a guest that traps is given up, another is not: {error}");
}

fn guests() -> Vec<Guest> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(here().join("hostile")).expect("the folder").map(|e| e.expect("an entry").path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "wat"));
    files.sort();
    files.iter().map(|f| Guest::read(f).unwrap_or_else(|e| panic!("{}: {e:#}", f.display()))).collect()
}

/// A preprocessor that behaves, from the same parts as the hostile ones.
fn good() -> Guest {
    let text = include("(module\n;;! include _pre\n;;! include _answer\n)").expect("the parts");
    Guest::made("good", from_wat(&text, "preprocessor").expect("a component"), "")
}

#[test]
fn every_guest_ends_in_its_error_and_harms_no_other() {
    let guests = guests();
    assert!(guests.len() >= 35, "only {} guests were found", guests.len());
    for profile in profiles() {
        let log = Log::default();
        let mut neighbour = good().load(profile, &log).expect("the neighbour loads");
        for guest in &guests {
            check(guest, profile, &log);
            run(&mut neighbour).unwrap_or_else(|e| panic!("{} harmed its neighbour: {e:#}", guest.name));
        }
    }
}

#[test]
fn a_flood_of_lines_is_cut_to_a_trickle() {
    let guest = Guest::read(&here().join("hostile/floods-the-log.wat")).expect("the guest");
    let log = Log::default();
    let mut pipeline = guest.load(MemoryProfile::probe(), &log).expect("it loads");
    run(&mut pipeline).expect_err("it never answers");
    let lines = log.lock().expect("no panic in a sink");
    assert_eq!(lines.len(), 20, "100 ms of logging");
    assert!(
        lines.iter().all(|l| l.stage == "preprocessor" && l.text.len() <= 1024 && !l.text.contains(char::is_control))
    );
}

#[test]
fn what_is_no_component_is_refused_by_name() {
    let good = good().component;
    let core = wat::parse_str("(module (memory (export \"memory\") 1))").expect("a module");
    let functions = format!("(component (core module {}))", "(func)".repeat(20_001));
    let body = format!("(component (core module (func {})))", "nop ".repeat(600 << 10));
    let component = |text: &str| wat::parse_str(text).expect("a component");
    let core_feature = |text: &str| component(&format!("(component (core module {text}))"));
    let wasi = r#"(component (import "wasi:cli/environment@0.2.0" (instance (export "get" (func)))))"#;
    let other = r#"(component (import "sedge:processor/kv@0.2.0" (instance (export "get" (func)))))"#;
    let mut damaged = good.clone();
    damaged.truncate(good.len() / 2);
    for guest in [
        Guest::made("empty", vec![], "not a valid component"),
        Guest::made("text", b"not a component".to_vec(), "not a valid component"),
        Guest::made("truncated", damaged, "not a valid component"),
        Guest::made("core-module", core, "a core WebAssembly module, not a component"),
        Guest::made("large", vec![0; (8 << 20) + 1], "the component has 8388609 bytes; at most 8388608"),
        Guest::made("many-functions", component(&functions), "functions: 20001, at most 20000"),
        Guest::made("large-function", component(&body), "bytes in one function"),
        Guest::made(
            "wasi",
            component(wasi),
            "imports `wasi:cli/environment@0.2.0`, which the sandbox does not offer; build it for wasm32-unknown-unknown",
        ),
        Guest::made("other-version", component(other), "this runtime offers version 0.1 of sedge:processor"),
        Guest::made("no-exports", component("(component)"), "it exports nothing"),
        Guest::made("threads", core_feature("(memory 1 1 shared)"), "threads"),
        Guest::made("memory64", core_feature("(memory i64 1)"), "memory64"),
        Guest::made("two-memories", core_feature("(memory 1) (memory 1)"), "multiple memories"),
        Guest::made("tail-calls", core_feature("(func $f (return_call $f))"), "tail calls"),
        Guest::made("exceptions", core_feature("(tag)"), "exceptions"),
        Guest::made("garbage-collection", core_feature("(type (struct))"), "gc"),
    ] {
        check(&guest, MemoryProfile::probe(), &Log::default());
    }
}
