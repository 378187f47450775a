//! What the sandbox costs: a call, a stage against its built-in twin, an instantiation, a kill; and memory over a
//! million calls. Run with `cargo bench --workspace --bench sandbox`.
#![allow(missing_docs, clippy::print_stdout)]

use criterion::{Criterion, criterion_group};
use sedge_runtime::api::{
    ConfidenceKind, ConfidenceSource, ElementType, ImageFrame, Input, Meta, ModelInfo, PixelFormat, Tensor, TensorSpec,
};
use sedge_runtime::bundle::Trust;
use sedge_runtime::pack::Layout;
use sedge_runtime::pipeline::PipelineOptions;
use sedge_runtime::sandbox::{
    CallError, CompiledCode, Compiler, Grants, Limits, MemoryProfile, PostprocessorInstance, PreprocessorInstance,
    Sandbox, Setup,
};
use sedge_runtime::{Pipeline, Sample, Timings, VerifiedBundle};
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PROFILE: MemoryProfile = MemoryProfile::Roomy;
const IMAGE: &[u8] = include_bytes!("../../runtime/processors/image/image.wasm");
const CLASSIFY: &[u8] = include_bytes!("../../runtime/processors/classify/classify.wasm");

fn model(shape: &[i32]) -> ModelInfo {
    let spec = |name: &str, shape: &[i32]| TensorSpec {
        name: name.into(),
        ty: ElementType::Float32,
        shape: shape.to_vec(),
        quantization: None,
    };
    ModelInfo {
        name: "bench".into(),
        version: "1.0.0".into(),
        digest: String::new(),
        inputs: vec![spec("image", shape)],
        outputs: vec![spec("logits", &[1, 10])],
        labels: (0..10).map(|i| i.to_string()).collect(),
        confidence: Some(ConfidenceSource { output: "logits".into(), kind: ConfidenceKind::Logits }),
    }
}

fn setup<'a>(code: &'a CompiledCode, config: &'a str, model: &'a ModelInfo, grants: &'a Grants) -> Setup<'a> {
    Setup {
        sandbox: Sandbox::shared(PROFILE).expect("the engine starts"),
        code,
        config,
        model,
        grants,
        limits: Limits::default(),
        log: Arc::new(|_| {}),
    }
}

fn compile(wasm: &[u8]) -> CompiledCode {
    Compiler::InProcess.compile(wasm, PROFILE).expect("it compiles")
}

fn guest(text: &str) -> CompiledCode {
    compile(&sedge_tests::component::from_wat(text, "preprocessor").expect("a component"))
}

fn noop() -> CompiledCode {
    guest(include_str!("../guests/noop.wat"))
}

fn meta() -> Meta {
    Meta { source: "camera".into(), prediction_id: "0".into(), ..Meta::default() }
}

fn calls(c: &mut Criterion) {
    let grants = Grants::default();
    let meta = meta();
    let digits = model(&[1, 1, 16, 16]);
    let code = noop();
    let mut pre = PreprocessorInstance::start(setup(&code, "{}", &digits, &grants)).expect("starts");
    c.bench_function("warm no-op call, empty input", |b| {
        b.iter(|| pre.process(&meta, &Input::Raw(&[])).expect("answers"))
    });

    let logits =
        Tensor::from_real(&digits.outputs[0], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]).expect("valid");
    let code = compile(CLASSIFY);
    let mut post = PostprocessorInstance::start(setup(&code, "{}", &digits, &grants)).expect("starts");
    c.bench_function("classify, 10 classes", |b| {
        b.iter(|| post.process(&meta, &[logits.view()], "").expect("answers"))
    });

    let photo: Vec<u8> = (0..640 * 480 * 3).map(|i| (i % 251) as u8).collect();
    let frame = ImageFrame { width: 640, height: 480, stride: 1920, format: PixelFormat::Rgb8, data: &photo };
    let input = Input::Image(frame);
    let large = model(&[1, 3, 224, 224]);
    let code = compile(IMAGE);
    let mut pre = PreprocessorInstance::start(setup(&code, "{}", &large, &grants)).expect("starts");
    c.bench_function("image 640x480 to 224x224x3, sandboxed", |b| {
        b.iter(|| pre.process(&meta, &input).expect("answers"))
    });
    let mut native =
        <sedge_processor_image::Image as sedge_processor_sdk::Preprocessor>::configure("{}", &large).expect("fits");
    c.bench_function("image 640x480 to 224x224x3, built in", |b| {
        b.iter(|| black_box(sedge_processor_sdk::Preprocessor::process(&mut native, &meta, &input).expect("answers")));
    });
}

fn starts(c: &mut Criterion) {
    let grants = Grants::default();
    let digits = model(&[1, 1, 16, 16]);
    let config = r#"{"color": "gray"}"#;
    let code = compile(IMAGE);
    c.bench_function("image: load code, instantiate, configure", |b| {
        b.iter(|| PreprocessorInstance::start(setup(&code, config, &digits, &grants)).expect("starts"));
    });
    let mut group = c.benchmark_group("compile");
    group.sample_size(10);
    group.bench_function("image.wasm", |b| b.iter(|| compile(IMAGE)));
    group.finish();
}

/// How long after its deadline a guest that spins is gone.
fn kill(c: &mut Criterion) {
    let spin = include_str!("../guests/noop.wat").replace("(global.set $next (i32.const 1024))", "(loop (br 0))");
    let code = guest(&spin);
    let digits = model(&[1, 1, 16, 16]);
    let grants = Grants::default();
    let limits = Limits { process: Duration::from_millis(50), ..Limits::default() };
    let late = || {
        let mut pre =
            PreprocessorInstance::start(Setup { limits, ..setup(&code, "{}", &digits, &grants) }).expect("starts");
        let began = Instant::now();
        let answer = pre.process(&meta(), &Input::Raw(&[]));
        assert!(matches!(answer, Err(CallError::Deadline { .. })), "{answer:?}");
        began.elapsed().saturating_sub(limits.process)
    };
    let mut group = c.benchmark_group("kill");
    group.sample_size(20);
    group.bench_function("time after a 50 ms deadline", |b| b.iter_custom(|n| (0..n).map(|_| late()).sum()));
    group.finish();
}

/// Where the time of one field image goes in the digits bundle, sandboxed and built in.
fn stages(c: &mut Criterion) {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits");
    let directory = tempfile::tempdir().expect("a directory");
    let packed = directory.path().join("digits.tar");
    Layout::pack(&example.join("v1")).and_then(|l| l.write(&packed)).expect("it packs");
    let bundle = VerifiedBundle::open(&packed, &Trust::Unsigned).expect("it opens");
    let options = PipelineOptions { profile: PROFILE, ..PipelineOptions::default() };
    let mut pipeline = Pipeline::load(&bundle, &options).expect("it loads");
    let sample = Sample::read(&example.join("images/field/0043.png")).expect("an image");
    let mut group = c.benchmark_group("digits, one image");
    type Part = fn(&Timings) -> Duration;
    let parts: [(&str, Part); 6] = [
        ("decode", |t| t.decode),
        ("pre", |t| t.pre),
        ("inference", |t| t.inference),
        ("post", |t| t.post),
        ("crossing", |t| t.crossing),
        ("total", |t| t.total),
    ];
    for (name, part) in parts {
        let mut once = || pipeline.process(&meta(), &sample.input()).expect("runs").expect("answers").timings;
        group.bench_function(name, |b| b.iter_custom(|n| (0..n).map(|_| part(&once())).sum()));
    }
    group.finish();
}

/// Resident memory over a million calls through both digit processors.
fn memory() {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or("VmRSS: 0 kB").to_owned();
        line.split_whitespace().nth(1).and_then(|n| n.parse::<i64>().ok()).unwrap_or(0)
    };
    let grants = Grants::default();
    let digits = model(&[1, 1, 16, 16]);
    let config = r#"{"color": "gray", "resize": "area", "levels": "stretch"}"#;
    let (image, classify) = (compile(IMAGE), compile(CLASSIFY));
    let mut pre = PreprocessorInstance::start(setup(&image, config, &digits, &grants)).expect("starts");
    let mut post = PostprocessorInstance::start(setup(&classify, "{}", &digits, &grants)).expect("starts");
    let logits = Tensor::from_real(&digits.outputs[0], &[1.0; 10]).expect("valid");
    let pixels: Vec<u8> = (0..32 * 32).map(|i| (i % 251) as u8).collect();
    let frame = ImageFrame { width: 32, height: 32, stride: 32, format: PixelFormat::Gray8, data: &pixels };
    let mut pair = || {
        black_box(pre.process(&meta(), &Input::Image(frame)).expect("answers"));
        black_box(post.process(&meta(), &[logits.view()], "").expect("answers"));
    };
    (0..10_000).for_each(|_| pair());
    let before = resident();
    (0..500_000).for_each(|_| pair());
    println!("memory: {} KiB resident, {:+} KiB over a million calls", resident(), resident() - before);
}

criterion_group!(benches, calls, starts, kill, stages);

fn main() {
    memory();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
