//! Models that are saved and opened again: the same answers to the byte, and one line for a file that is of no use.

use sedge_protocol::Sha256Digest;
use sedge_runtime::api::{Tensor, TensorSpec};
use sedge_runtime::model::{Check, Engine, SavedModelError};
use sedge_runtime::{Model, ModelOptions};
use sedge_tests::quantized::{Builder, Setting, Type};
use sedge_tests::requirement::reference_models;
use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};

const HEADER_BYTES: usize = 64;

fn saved(model: &Model, of: Sha256Digest) -> Vec<u8> {
    let form = model.saved(of).expect("one region");
    let mut bytes = Vec::new();
    form.write_to(model, &mut bytes).expect("written");
    assert_eq!(bytes.len(), form.bytes());
    let mut piece = [1; 100];
    for offset in (0..bytes.len()).step_by(977) {
        let count = form.read_at(model, offset, &mut piece);
        assert_eq!(piece[..count], bytes[offset..bytes.len().min(offset + 100)], "from {offset} on");
    }
    bytes
}

fn kept(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).and_then(|()| file.rewind()).expect("written");
    file
}

fn open_with(bytes: &[u8], of: Sha256Digest, options: &ModelOptions) -> Result<Model, SavedModelError> {
    // SAFETY: nobody else knows of the file.
    unsafe { Model::open_saved(&kept(bytes), of, options, Check::Head) }
}

fn open(bytes: &[u8], of: Sha256Digest) -> Result<Model, SavedModelError> {
    open_with(bytes, of, &ModelOptions::default())
}

fn refused(result: Result<Model, SavedModelError>) -> SavedModelError {
    match result {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}

fn inputs(model: &Model, seed: u64) -> Vec<Tensor> {
    let mut state = seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let one = |spec: &TensorSpec| {
        let mut tensor = Tensor::empty(spec).expect("concrete sizes");
        let elements = tensor.shape.iter().product::<u32>() as usize;
        tensor.data = match spec.ty.size_bytes() {
            4 => (0..elements).flat_map(|_| ((next() >> 40) as f32 / 8e6 - 1.0).to_le_bytes()).collect(),
            _ => (0..elements).map(|_| (next() >> 40) as u8).collect(),
        };
        tensor
    };
    model.inputs().iter().map(one).collect()
}

fn same(name: &str, loaded: &mut Model, opened: &mut Model) {
    assert_eq!(loaded.inputs(), opened.inputs(), "{name}");
    assert_eq!(loaded.outputs(), opened.outputs(), "{name}");
    assert_eq!((loaded.summary(), loaded.fusion()), (opened.summary(), opened.fusion()), "{name}");
    for output in 0..loaded.outputs().len() {
        assert_eq!(loaded.softmax(output), opened.softmax(output), "{name}");
    }
    for seed in [0x9e37_79b9, 0x1234_5678, 77] {
        let given = inputs(loaded, seed);
        let views: Vec<_> = given.iter().map(Tensor::view).collect();
        let expected = loaded.run(&views).unwrap_or_else(|e| panic!("{name}: {e}"));
        let found = opened.run(&views).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(found, expected, "{name}");
    }
}

/// A small network: floats come in, and go out of a convolution.
fn network() -> Vec<u8> {
    let (x, y) = ((Type::I8, 0.05, 3), (Type::I8, 0.11, -7));
    let mut b = Builder::default();
    let input = b.input("x", Type::I8, &[1, 4, 6, 6]);
    let real = b.dequantize(&input, x);
    let data = b.raw(Type::I8, &[8, 4, 3, 3], &(0..288_u32).map(|i| (i * 37 % 251) as u8).collect::<Vec<_>>());
    let (scale, zero) = b.parameters((Type::I8, 0.004, 0));
    let weights = b.node("DequantizeLinear", &[&data, &scale, &zero], &[]);
    let result = b.node("Conv", &[&real, &weights], &[Setting::Ints("pads", &[1, 1, 1, 1])]);
    b.quantize_as(&result, y, "y");
    b.output("y", Type::I8, &[1, 8, 6, 6]);
    b.model(13)
}

struct Small {
    of: Sha256Digest,
    model: Model,
    bytes: Vec<u8>,
}

fn small() -> Small {
    let onnx = network();
    let of = Sha256Digest::of(&onnx);
    let model = Model::load(&onnx, &ModelOptions::default()).expect("sound");
    let bytes = saved(&model, of);
    Small { of, model, bytes }
}

#[test]
fn what_is_opened_answers_as_what_was_saved() {
    let Small { of, mut model, bytes } = small();
    let mut opened = open(&bytes, of).expect("as saved");
    same("a small network", &mut model, &mut opened);
    assert_eq!(saved(&opened, of), bytes, "an opened model can be saved");
    let two = ModelOptions { threads: 2, ..ModelOptions::default() };
    same("on two threads", &mut model, &mut open_with(&bytes, of, &two).expect("threads are no part of it"));
}

#[test]
fn reference_models_answer_the_same_from_their_saved_form() {
    let Some(folder) = reference_models("mlperf-tiny") else { return };
    let model = |path: &Path| path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("_int8"));
    let known = |path: &Path| path.extension().is_some_and(|e| e == "onnx" || e == "tflite");
    let files = fs::read_dir(folder).expect("listed").map(|entry| entry.expect("listed").path());
    let files: Vec<PathBuf> = files.filter(|path| model(path) && known(path)).collect();
    assert_eq!(files.len(), 10, "{files:?}");
    for path in files {
        let (name, file) = (path.display().to_string(), fs::read(&path).expect("read"));
        let of = Sha256Digest::of(&file);
        let mut loaded = Model::load_owned(file, &ModelOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut opened = open(&saved(&loaded, of), of).unwrap_or_else(|e| panic!("{name}: {e}"));
        same(&name, &mut loaded, &mut opened);
    }
}

#[test]
fn every_truncation_is_told() {
    let Small { of, bytes, .. } = small();
    for end in 0..bytes.len() {
        let error = refused(open(&bytes[..end], of));
        let damaged = matches!(error, SavedModelError::Damaged(_)) && error.to_string().contains("made anew");
        // An empty file cannot be mapped.
        assert!(damaged || end == 0, "cut off at {end}: {error}");
    }
    assert!(matches!(open(&[&bytes[..], b"x"].concat(), of), Err(SavedModelError::Damaged(_))));
}

#[test]
fn damage_is_told_or_harmless() {
    let Small { of, bytes, model } = small();
    let weights = u64::from_le_bytes(bytes[56..64].try_into().expect("eight")) as usize;
    let given = inputs(&model, 5);
    let views: Vec<_> = given.iter().map(Tensor::view).collect();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        match open(&damaged, of) {
            Ok(mut model) => {
                // SAFETY: nobody else knows of the file.
                let whole = unsafe { Model::open_saved(&kept(&damaged), of, &ModelOptions::default(), Check::Whole) };
                assert!(matches!(whole, Err(SavedModelError::Damaged(_))), "byte {at}");
                assert!(at >= weights, "byte {at} of the head is any");
                model.run(&views).expect("an answer, if a wrong one");
            }
            Err(error) => assert!(at < weights && error.is_mended_by_saving(), "byte {at}: {error}"),
        }
    }
}

/// Heads that no program wrote, with a digest that is theirs.
#[test]
fn a_forged_head_reaches_nothing_foreign() {
    let Small { of, bytes, model } = small();
    let weights = u64::from_le_bytes(bytes[56..64].try_into().expect("eight")) as usize;
    let given = inputs(&model, 5);
    let views: Vec<_> = given.iter().map(Tensor::view).collect();
    let mut opened = 0;
    for at in HEADER_BYTES..weights {
        for change in [1, 0x10, 0x80, 0xff] {
            let mut forged = bytes.clone();
            forged[at] ^= change;
            let digest = Sha256Digest::of(&forged[40..weights]);
            forged[8..40].copy_from_slice(digest.as_bytes());
            if let Ok(mut model) = open(&forged, of) {
                opened += 1;
                let _ = model.run(&views);
            }
        }
    }
    assert!(opened > 0, "names at least may be any");
}

#[test]
fn what_is_stale_says_why() {
    let Small { of, bytes, .. } = small();
    let stale = |result, what: &str, part: &str| {
        let error = refused(result);
        let SavedModelError::Stale { what: found, .. } = &error else { panic!("{what}: {error}") };
        assert_eq!(*found, what);
        assert!(error.to_string().contains(part) && error.to_string().contains("made anew"), "{error}");
    };
    stale(open(&bytes, Sha256Digest::of(b"another")), "the file", &Sha256Digest::of(b"another").to_string());
    let sized = ModelOptions { shapes: vec![("x".to_owned(), vec![1, 4, 6, 6])], ..ModelOptions::default() };
    stale(open_with(&bytes, of, &sized), "inputs", "x [1, 4, 6, 6]");
    let mut format = bytes.clone();
    format[40] ^= 8;
    stale(open(&format, of), "format", "9");
    // Builds and instruction sets stand as text in head and description; another of the same length is another.
    for (text, what) in [(sedge_engine::build(), "engine"), (sedge_engine::isas()[0].to_owned(), "instruction set")] {
        let mut other = bytes.clone();
        let weights = u64::from_le_bytes(bytes[56..64].try_into().expect("eight")) as usize;
        let at = other.windows(text.len()).position(|w| w == text.as_bytes()).expect("it is there");
        other[at + text.len() - 1] = b'?';
        let digest = Sha256Digest::of(&other[40..weights]);
        other[8..40].copy_from_slice(digest.as_bytes());
        stale(open(&other, of), what, "?");
    }
}

#[test]
fn names_of_saved_models_tell_apart_what_cannot_replace_each_other() {
    let of = Sha256Digest::of(b"a model");
    let plain = ModelOptions::default();
    let key = Model::saved_key(of, &plain);
    assert_eq!(key, Model::saved_key(of, &ModelOptions { threads: 4, ..plain.clone() }));
    let sized = ModelOptions { shapes: vec![("x".to_owned(), vec![2])], ..plain.clone() };
    assert_ne!(key, Model::saved_key(of, &sized));
    assert_ne!(key, Model::saved_key(Sha256Digest::of(b"another"), &plain));
}

#[test]
fn a_model_that_tract_has_part_in_says_why_it_is_not_saved() {
    let tract = ModelOptions { engine: Engine::Tract, ..ModelOptions::default() };
    let model = Model::load(&network(), &tract).expect("sound");
    let error = model.saved(Sha256Digest::of(b"")).err().expect("tract's plans are not written");
    let text = error.to_string();
    assert!(matches!(error, SavedModelError::NotWhole { .. }), "{text}");
    assert!(text.contains("the first of them") && text.contains("the engine was set aside"), "{text}");
}
