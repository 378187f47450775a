//! TFLite models: what is read computes what TensorFlow Lite does, and what cannot be read is refused by name.

use ndarray::{ArrayD, Axis};
use ndarray_npy::NpzReader;
use sedge_engine::{Element, Options, Port, Program};
use sedge_runtime::tflite::{Imported, import};
use sedge_tests::requirement::reference_models;
use std::fs::File;
use std::path::{Path, PathBuf};

/// How far a model's bytes are from those of a reference.
#[derive(Debug, Default)]
struct Distance {
    elements: usize,
    unequal: usize,
    largest: f32,
}

impl Distance {
    fn add(&mut self, found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            self.elements += 1;
            self.unequal += usize::from(f != e);
            self.largest = self.largest.max((f - e).abs());
        }
    }
}

fn load(path: &Path) -> Imported {
    let bytes = std::fs::read(path).expect("the model");
    import(&bytes).unwrap_or_else(|e| panic!("{}: {e}: {:?}", path.display(), std::error::Error::source(&e)))
}

/// The small models beside this file, which `tflite/make.py` made: one for each operator.
fn small_models() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tflite");
    let files = std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "tflite")).collect();
    files.sort();
    files
}

type Archive = NpzReader<File>;

fn golden(model: &Path) -> Archive {
    NpzReader::new(File::open(model.with_extension("golden.npz")).expect("the golden file")).expect("an archive")
}

/// Samples of an array, of which the first axis counts them, as bytes.
fn samples(archive: &mut Archive, name: &str, element: Element) -> Vec<Vec<u8>> {
    fn each<T: Copy, const N: usize>(array: ArrayD<T>, bytes: impl Fn(T) -> [u8; N]) -> Vec<Vec<u8>> {
        array.axis_iter(Axis(0)).map(|sample| sample.iter().flat_map(|value| bytes(*value)).collect()).collect()
    }
    match element {
        Element::I8 => each(archive.by_name(name).expect("an array of int8"), i8::to_ne_bytes),
        Element::U8 => each(archive.by_name(name).expect("an array of uint8"), u8::to_ne_bytes),
        Element::F32 => each(archive.by_name(name).expect("an array of floats"), f32::to_ne_bytes),
    }
}

/// Quanta of a port's tensor.
fn quanta(bytes: &[u8], element: Element, scale: f32) -> Vec<f32> {
    match element {
        Element::I8 => bytes.iter().map(|byte| f32::from(*byte as i8)).collect(),
        Element::U8 => bytes.iter().map(|byte| f32::from(*byte)).collect(),
        Element::F32 => bytes.as_chunks().0.iter().map(|bytes| f32::from_ne_bytes(*bytes) / scale).collect(),
    }
}

/// Runs a model on its golden samples, the first `count` of them, and says how far it is from each reference. Arrays
/// of inputs and outputs are named by `name`.
fn compare(path: &Path, references: &[&str], count: usize, name: impl Fn(&str, usize) -> String) -> Vec<Distance> {
    let model = load(path);
    let mut archive = golden(path);
    let port_scale = |port: &Port| model.graph.values[port.value.0].quantization.scale;
    let (inputs, outputs) = (model.graph.inputs.clone(), model.graph.outputs.clone());
    let scales: Vec<f32> = outputs.iter().map(port_scale).collect();
    let program = Program::compile(&model.graph, &Options::default()).expect("it was checked");
    let mut session = program.session();
    let x: Vec<_> =
        inputs.iter().enumerate().map(|(i, port)| samples(&mut archive, &name("x", i), port.element)).collect();
    let mut found = Vec::new();
    for sample in 0..count.min(x[0].len()) {
        let given: Vec<&[u8]> = x.iter().map(|x| x[sample].as_slice()).collect();
        let mut y: Vec<Vec<u8>> = program.output_bytes().map(|bytes| vec![0; bytes]).collect();
        program
            .run(&mut session, &given, &mut y.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>())
            .expect("it runs");
        found.push(y);
    }
    let mut distances = Vec::new();
    for reference in references {
        let mut distance = Distance::default();
        for (place, (port, scale)) in outputs.iter().zip(&scales).enumerate() {
            let expected = samples(&mut archive, &name(reference, place), port.element);
            for (found, expected) in found.iter().zip(&expected) {
                let as_quanta = |bytes: &[u8]| quanta(bytes, port.element, *scale);
                distance.add(&as_quanta(&found[place]), &as_quanta(expected));
            }
        }
        distances.push(distance);
    }
    distances
}

#[test]
#[allow(clippy::print_stderr)]
fn the_reference_models_answer_as_tensorflow_lite_does() {
    let Some(folder) = reference_models("mlperf-tiny") else { return };
    // Behind a softmax, a quantum of the logits is many of the output: see docs/models.md.
    for (name, accepted) in [("ad", 1.0), ("kws", 1.0), ("sww", 1.0), ("vww", 1.0), ("ic", 44.0)] {
        let path = folder.join(format!("{name}_int8.tflite"));
        let references = ["tflite", "onnxruntime"];
        for (reference, distance) in references.iter().zip(compare(&path, &references, 8, |name, _| name.to_owned())) {
            eprintln!("{name} against {reference}: {distance:?}");
            assert!(distance.largest <= accepted, "{name} against {reference}: {distance:?}");
        }
    }
}

#[test]
#[allow(clippy::print_stderr)]
fn each_operator_is_within_a_quantum_of_tensorflow_lite() {
    for path in small_models() {
        let name = path.file_stem().unwrap_or_default().display().to_string();
        let names = golden(&path).names().expect("names");
        let mut references = vec!["reference", "xnnpack"];
        references.retain(|reference| names.iter().any(|name| name.starts_with(reference)));
        // XNNPACK's product of two matrices is up to 36 quanta from TensorFlow Lite's own; we agree with the latter.
        references.retain(|&reference| reference == "reference" || !name.starts_with("batch_matmul"));
        assert!(!references.is_empty(), "{name} is compared with nothing");
        let distances = compare(&path, &references, 4, |name, place| format!("{name}{place}"));
        for (reference, distance) in references.iter().zip(distances) {
            eprintln!("{name:20} {reference:10} {distance:?}");
            assert!(distance.largest <= 1.01, "{name} against {reference}: {distance:?}");
        }
    }
}

#[test]
fn padding_goes_into_the_convolution_behind_it() {
    let model = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tflite/conv_pad.tflite"));
    let names: Vec<_> = model.graph.nodes.iter().map(|node| node.op.name()).collect();
    assert_eq!(names, ["Conv", "MaxPool"]);
}

/// Quanta that a generated model may be away from the closer of both references: the detector is 25.
const GENERATED_MAX: f32 = 32.0;

/// The folder of models that `scripts/bench-engines` generates, with TensorFlow and much else: nothing requires them.
#[allow(clippy::print_stderr)]
fn generated_models() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/sedge"));
    let cache = std::env::var_os("SEDGE_CACHE").map(PathBuf::from).or_else(home);
    let found = cache.map(|cache| cache.join("peers/models")).filter(|place| place.is_dir());
    if found.is_none() {
        eprintln!("skipped: scripts/bench-engines has generated no models here");
    }
    found
}

#[test]
#[allow(clippy::print_stderr)]
fn the_generated_models_answer_as_tensorflow_lite_does() {
    let Some(folder) = generated_models() else { return };
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("the models").map(|e| e.expect("an entry").path()).collect();
    files.retain(|path| path.to_string_lossy().ends_with("_int8.tflite"));
    files.sort();
    for path in files {
        match import(&std::fs::read(&path).expect("the model")) {
            Err(e) => eprintln!("{}: {e}", path.display()),
            Ok(_) => {
                let distances = compare(&path, &["tflite", "onnxruntime"], 1, |name, _| name.to_owned());
                eprintln!("{}: {distances:?}", path.display());
                // Random weights make much of one quantum early on.
                let closest = distances.iter().map(|distance| distance.largest).fold(f32::INFINITY, f32::min);
                assert!(closest <= GENERATED_MAX, "{}: {distances:?}", path.display());
            }
        }
    }
}

fn refused(bytes: &[u8]) -> String {
    let error = import(bytes).expect_err("it must not import");
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

#[test]
fn what_is_not_a_quantized_model_is_refused() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tflite/conv.tflite");
    let good = std::fs::read(path).expect("the model");
    let mut other = good.clone();
    other[4..8].copy_from_slice(b"TFL2");
    assert!(refused(&other).contains("`TFL3` does not stand at byte 4"));
    assert!(refused(b"").contains("`TFL3` does not stand at byte 4"));
    assert!(refused(&good[..8]).contains("an offset points outside of the file at byte 0"), "{}", refused(&good[..8]));
    let mut circle = good.clone();
    circle[..4].fill(0);
    assert!(refused(&circle).contains("an offset points outside of the file at byte 0"));
    let Some(folder) = reference_models("mlperf-tiny") else { return };
    for name in ["kws", "ad", "ic", "vww"] {
        let float = std::fs::read(folder.join(format!("{name}_f32.tflite"))).expect("the model");
        assert!(refused(&float).contains("the model computes in float"));
    }
}

/// What is said of the file with `from` replaced by `to`, for each place where it stands.
fn replaced(good: &[u8], from: &[u8], to: &[u8]) -> Vec<String> {
    let places = good.windows(from.len()).enumerate().filter(|(_, window)| *window == from).map(|(at, _)| at);
    let changed = places.map(|at| {
        let mut bad = good.to_vec();
        bad[at..at + to.len()].copy_from_slice(to);
        import(&bad).err().map(|e| e.to_string()).unwrap_or_default()
    });
    changed.collect()
}

#[test]
fn what_makes_no_sense_is_refused_by_what_is_at_fault() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tflite/conv.tflite");
    let (good, model) = (std::fs::read(&path).expect("the model"), load(&path));
    let input = model.inputs[0].quantization.expect("a scale and a zero point");
    let (scale, zero_point) = (input.scale.to_le_bytes(), i64::from(input.zero_point).to_le_bytes());
    let integers = |values: &[i32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let shape = integers(&[1, 7, 9, 5]);
    for (from, to, expected) in [
        (&scale[..], f32::NAN.to_le_bytes().to_vec(), "tensor 0 (`t0`): the scale NaN is not a finite number above 0"),
        (&scale, vec![0; 4], "tensor 0 (`t0`): the scale 0 is not a finite number above 0"),
        (&zero_point, 128_i64.to_le_bytes().to_vec(), "tensor 0 (`t0`): the zero point 128 is outside of its bytes"),
        (&zero_point, i64::MIN.to_le_bytes().to_vec(), "the zero point -9223372036854775808 is outside"),
        (&shape, integers(&[1, -7, 9, 5]), "tensor 0 (`t0`): the shape [1, -7, 9, 5] is negative or has more than"),
        (&shape, integers(&[1, 70_000, 70_000, 5]), "is negative or has more than 268435456 elements"),
        (&shape, integers(&[1, 7, 9, 6]), "operator 0 (CONV_2D): weights for 5 channels do not fit an input of 6"),
        (&shape, integers(&[1, 7, 8, 5]), "operator 0 (CONV_2D): its output has the shape [1, 4, 5, 7], and must have"),
        (&[3], vec![36], "that are not read from TFLite: GATHER (operator 0)"),
        (&integers(&[3]), integers(&[300]), "tensor 300 is not there"),
    ] {
        let found = replaced(&good, from, &to);
        assert!(found.iter().any(|error| error.contains(expected)), "expected `{expected}`, got {found:#?}");
    }
}

#[test]
fn no_damage_is_more_than_an_error() {
    let mut imported = 0;
    for path in small_models() {
        let good = std::fs::read(&path).expect("the model");
        for end in 0..good.len() {
            // What lies behind the last table is padding.
            imported += usize::from(import(&good[..end]).is_ok());
        }
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff, good[at] ^ 1, good[at] ^ 0x10, good[at].wrapping_add(4)] {
                let mut bad = good.clone();
                bad[at] = value;
                // Weights may be changed into others that are valid; that is what digests are for.
                if let Ok(model) = import(&bad) {
                    imported += 1;
                    // Only what all tensors need at the same time is left to be refused.
                    let _ = Program::compile(&model.graph, &Options::default());
                }
            }
        }
    }
    assert!(imported > 0, "no damage at all went by: the test damages nothing");
}

#[test]
fn no_damage_of_a_reference_model_is_more_than_an_error() {
    let Some(folder) = reference_models("mlperf-tiny") else { return };
    let good = std::fs::read(folder.join("kws_int8.tflite")).expect("the model");
    for at in (0..good.len()).step_by(11) {
        let mut bad = good.clone();
        bad[at] ^= 0xff;
        let _ = import(&bad);
        let _ = import(&good[..at]);
        // Four bytes at once lead offsets far away, and sizes to the end of their range.
        bad[at..].iter_mut().take(4).for_each(|byte| *byte = 0x7f);
        let _ = import(&bad);
    }
}
