//! Float models in 8 bits: the reference models keep their answers, and what cannot be quantized is named.

use ndarray::{Array, Array1, ArrayD, Axis, IxDyn};
use ndarray_npy::{NpzReader, NpzWriter, write_npy};
use sedge_runtime::api::{ElementType, Tensor};
use sedge_runtime::quantize::{FloatModel, Method, Options, QuantizeError, Quantized};
use sedge_runtime::{Model, ModelOptions};
use sedge_tests::onnx::{Graph, Node, Weight};
use sedge_tests::requirement::reference_models;
use std::fs::File;
use std::path::Path;

fn quantize(onnx: &[u8], samples: &Path, options: &Options) -> Result<Quantized, QuantizeError> {
    let float = FloatModel::parse(onnx)?;
    let samples = float.samples(samples)?;
    float.quantize(&samples, &samples, options, &mut |_, _, _| {})
}

/// The arrays `x` and `onnxruntime` of a golden file, sample by sample.
fn golden(path: &Path) -> Vec<(ArrayD<f32>, ArrayD<f32>)> {
    let mut npz = NpzReader::new(File::open(path).expect("the golden file")).expect("an archive");
    let mut read = |name: &str| -> ArrayD<f32> {
        npz.by_name(name).or_else(|_| npz.by_name(&format!("{name}.npy"))).expect("an array")
    };
    let (x, y) = (read("x"), read("onnxruntime"));
    x.axis_iter(Axis(0)).zip(y.axis_iter(Axis(0))).map(|(x, y)| (x.to_owned(), y.to_owned())).collect()
}

fn run(model: &mut Model, x: &ArrayD<f32>) -> Vec<f32> {
    let spec = model.inputs()[0].clone();
    let values: Vec<f32> = x.iter().copied().collect();
    let input = Tensor::from_real(&spec, &values).expect("it fits");
    let output = model.run(&[input.view()]).expect("it runs").remove(0);
    output.view().to_real(model.outputs()[0].quantization).expect("numbers")
}

fn best(values: &[f32]) -> Option<usize> {
    values.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(ix, _)| ix)
}

/// Noise in each layer and at the output is bounded, tightly enough that a scale of a wrong channel, a bias in a wrong
/// step or a wrong zero point breaks it; what comes out is held against another engine's float results.
#[test]
fn reference_models_keep_their_answers() {
    let Some(models) = reference_models("mlperf-tiny") else { return };
    for (stem, layer_db, output_db, size) in
        [("kws", 24.0, 24.0, 1.6), ("ic", 18.5, 20.0, 0.4), ("vww", 24.0, 33.0, 0.37), ("ad", 18.0, 27.0, 0.3)]
    {
        let onnx = std::fs::read(models.join(format!("{stem}_f32.onnx"))).expect("the model");
        let samples = models.join(format!("{stem}_f32.golden.npz"));
        for method in [Method::MinMax, Method::Percentile(99.999)] {
            let options = Options { method, ..Options::default() };
            let quantized = quantize(&onnx, &samples, &options).expect(stem);
            let report = &quantized.report;
            let place = format!("{stem}, {method:?}: {report:#?}");
            assert_eq!((report.samples, report.left_in_float.len(), report.accuracy), (8, 0, None), "{place}");
            assert!(report.layers.iter().all(|l| l.sqnr_db.is_none_or(|db| db > layer_db)), "{place}");
            assert!(report.outputs[0].sqnr_db.is_some_and(|db| db > output_db), "{place}");
            assert_eq!(report.outputs[0].same_best, 8, "{place}");
            assert_eq!((report.bytes_before, report.bytes_after), (onnx.len(), quantized.onnx.len()), "{place}");
            assert!((report.bytes_after as f64) < size * report.bytes_before as f64, "{place}");
            let mut model = Model::load(&quantized.onnx, &ModelOptions::default()).expect(stem);
            let (mut signal, mut noise) = (0.0, 0.0);
            for (x, expected) in golden(&samples) {
                let found = run(&mut model, &x);
                let expected: Vec<f32> = expected.iter().copied().collect();
                assert_eq!(best(&found), best(&expected), "{place}");
                signal += expected.iter().map(|e| e * e).sum::<f32>();
                noise += found.iter().zip(&expected).map(|(f, e)| (f - e) * (f - e)).sum::<f32>();
            }
            let db = 10.0 * (signal / noise).log10();
            assert!(db > output_db as f32, "{db} dB from ONNX Runtime's: {place}");
        }
    }
}

#[test]
fn entropy_cuts_what_matters_little() {
    let Some(models) = reference_models("mlperf-tiny") else { return };
    for stem in ["ad", "ic"] {
        let onnx = std::fs::read(models.join(format!("{stem}_f32.onnx"))).expect("the model");
        let options = Options { method: Method::Entropy, ..Options::default() };
        let report = quantize(&onnx, &models.join(format!("{stem}_f32.golden.npz")), &options).expect(stem).report;
        assert!(report.outputs[0].sqnr_db.is_some_and(|db| db > 18.0), "{report:#?}");
    }
}

#[test]
fn integer_inputs_and_outputs_carry_the_same_values() {
    let Some(models) = reference_models("mlperf-tiny") else { return };
    for stem in ["kws", "ad"] {
        let onnx = std::fs::read(models.join(format!("{stem}_f32.onnx"))).expect("the model");
        let samples = models.join(format!("{stem}_f32.golden.npz"));
        let load = |integer_io| {
            let options = Options { integer_io, ..Options::default() };
            let quantized = quantize(&onnx, &samples, &options).expect(stem);
            assert_eq!(quantized.onnx, quantize(&onnx, &samples, &options).expect(stem).onnx, "the same bytes again");
            Model::load(&quantized.onnx, &ModelOptions::default()).expect(stem)
        };
        let (mut float, mut integer) = (load(false), load(true));
        for (of_float, of_integer) in
            [(&float.inputs()[0], &integer.inputs()[0]), (&float.outputs()[0], &integer.outputs()[0])]
        {
            assert_eq!((of_float.ty, of_integer.ty), (ElementType::Float32, ElementType::Int8));
            assert_eq!((&of_float.name, &of_float.shape), (&of_integer.name, &of_integer.shape));
            assert!(of_integer.quantization.is_some());
        }
        for (x, _) in golden(&samples) {
            assert_eq!(run(&mut float, &x), run(&mut integer, &x));
        }
    }
}

#[test]
fn a_layer_stays_in_float_when_asked() {
    let Some(models) = reference_models("mlperf-tiny") else { return };
    let onnx = std::fs::read(models.join("ic_f32.onnx")).expect("the model");
    let samples = models.join("ic_f32.golden.npz");
    let all = quantize(&onnx, &samples, &Options::default()).expect("ic");
    let first = all.report.layers[0].layer.clone();
    let options = Options { keep_float: vec![first.clone()], ..Options::default() };
    let kept = quantize(&onnx, &samples, &options).expect("ic").report;
    assert!(kept.left_in_float.iter().any(|l| l.node == first && l.reason == "kept in float as asked"), "{kept:#?}");
    assert!(kept.layers.iter().all(|l| l.layer != first) && kept.layers.len() + 1 == all.report.layers.len());
    assert!(kept.bytes_after > all.report.bytes_after, "its weights are float");
    let options = Options { keep_float: vec!["conv1".to_owned()], ..Options::default() };
    let error = quantize(&onnx, &samples, &options).expect_err("no such node").to_string();
    assert!(error.contains("no node `conv1` to keep in float; it has `") && error.contains(" more"), "{error}");
}

/// Numbers that look random and are the same in every run.
fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn weight(name: &'static str, dims: &'static [i64], values: &[f32]) -> Weight {
    Weight { name, dims, data: Some(values.iter().flat_map(|v| v.to_le_bytes()).collect()) }
}

/// `x`, 1 × 8, times a matrix into 3 classes.
fn classifier() -> Graph {
    Graph {
        nodes: vec![Node { op: "MatMul", name: "product", inputs: &["x", "w"], output: "y" }],
        inputs: vec![("x", &[1, 8])],
        outputs: vec![("y", &[1, 3])],
        weights: vec![weight("w", &[8, 3], &noise(24, 7))],
    }
}

#[test]
fn labels_give_the_accuracy_of_both() {
    let folder = tempfile::tempdir().expect("a folder");
    let onnx = classifier().to_model();
    let x = ArrayD::from_shape_vec(IxDyn(&[40, 8]), noise(320, 3)).expect("a batch");
    let mut float = Model::load(&onnx, &ModelOptions::default()).expect("it loads");
    let mut classes: Vec<i64> = Vec::new();
    for row in x.axis_iter(Axis(0)) {
        classes.push(best(&run(&mut float, &row.to_owned())).expect("a class") as i64);
    }
    // One label in ten is wrong.
    classes.iter_mut().step_by(10).for_each(|c| *c = (*c + 1) % 3);
    let mut npz = NpzWriter::new(File::create(folder.path().join("batch.npz")).expect("made"));
    npz.add_array("x", &x).expect("written");
    npz.add_array("y", &Array1::from(classes)).expect("written");
    npz.finish().expect("written");
    let report = quantize(&onnx, folder.path(), &Options::default()).expect("quantized").report;
    let accuracy = report.accuracy.expect("there are labels");
    assert_eq!((accuracy.labelled, accuracy.float), (40, 0.9));
    assert!((0.8..=0.95).contains(&accuracy.quantized), "{accuracy:?}");
}

#[test]
fn what_cannot_be_quantized_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    write_npy(at("good.npy"), &Array::from_vec(noise(8, 1))).expect("written");
    write_npy(at("short.npy"), &Array::from_vec(noise(7, 1))).expect("written");
    write_npy(at("double.npy"), &Array::from_vec(vec![0.5f64; 8])).expect("written");
    write_npy(at("nan.npy"), &Array::from_vec([vec![f32::NAN], noise(7, 1)].concat())).expect("written");
    write_npy(at("infinite.npy"), &Array::from_vec([noise(7, 1), vec![f32::INFINITY]].concat())).expect("written");
    write_npy(at("none.npy"), &ArrayD::<f32>::zeros(IxDyn(&[0, 8]))).expect("written");
    std::fs::write(at("text.npz"), "no archive").expect("written");
    std::fs::create_dir(at("empty")).expect("made");
    let mut other = NpzWriter::new(File::create(at("other.npz")).expect("made"));
    other.add_array("a", &Array::from_vec(noise(8, 1))).expect("written");
    other.add_array("b", &Array::from_vec(noise(8, 1))).expect("written");
    other.finish().expect("written");
    let good = classifier().to_model();
    let changing = Graph {
        nodes: vec![Node { op: "Conv", name: "moving", inputs: &["x", "k"], output: "y" }],
        inputs: vec![("x", &[1, 1, 4, 4]), ("k", &[1, 1, 3, 3])],
        outputs: vec![("y", &[1, 1, 2, 2])],
        weights: vec![],
    };
    let mut pair = NpzWriter::new(File::create(at("pair.npz")).expect("made"));
    pair.add_array("x", &Array::from_shape_vec((1, 4, 4), noise(16, 1)).expect("an image")).expect("written");
    pair.add_array("k", &Array::from_shape_vec((1, 1, 3, 3), noise(9, 1)).expect("a kernel")).expect("written");
    pair.finish().expect("written");
    let mut no_weights = classifier();
    no_weights.nodes = vec![Node { op: "Relu", name: "only", inputs: &["x"], output: "y" }];
    no_weights.outputs = vec![("y", &[1, 8])];
    let mut broken = classifier();
    broken.weights = vec![weight("w", &[8, 3], &[f32::NAN; 24])];
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits/v1/model.int8.onnx");
    let digits = std::fs::read(digits).expect("the example's model");
    for (onnx, samples, expected) in [
        (b"no model".to_vec(), "good.npy", "not a readable ONNX model"),
        (good[..good.len() / 2].to_vec(), "good.npy", "not a readable ONNX model"),
        (digits, "good.npy", "the model is quantized already: it has QuantizeLinear ("),
        (changing.to_model(), "pair.npz", "the weights `k` of Conv (moving) are no constant"),
        (no_weights.to_model(), "good.npy", "nothing in the model can be quantized: Relu (only): what it reads"),
        (broken.to_model(), "good.npy", "`w` of product is NaN at element 0"),
        (good.clone(), "absent", "absent cannot be read"),
        (good.clone(), "empty", "empty holds no sample"),
        (good.clone(), "none.npy", "none.npy: `x` holds no sample"),
        (good.clone(), "short.npy", "short.npy: `x` has shape [7]; the input `x` is float32 [1, 8]"),
        (good.clone(), "double.npy", "double.npy: `x` is no float32 array"),
        (good.clone(), "text.npz", "text.npz: `the file` is no readable .npz archive"),
        (good.clone(), "other.npz", "other.npz: `x` has no array; the file holds a, b"),
        (good.clone(), "nan.npy", "nan.npy: `x` becomes infinite or no number at element 0"),
        (good.clone(), "infinite.npy", "infinite.npy: `x` becomes infinite or no number at element 7"),
    ] {
        let error = quantize(&onnx, &at(samples), &Options::default()).expect_err(expected).to_string();
        assert!(error.contains(expected), "expected `{expected}`, got `{error}`");
        assert!(!error.contains('\n'), "not one line: {error}");
    }
    let options = Options { keep_float: vec!["moving".to_owned()], ..Options::default() };
    let error = quantize(&changing.to_model(), &at("pair.npz"), &options).expect_err("nothing is left").to_string();
    assert!(error.contains("Conv (moving): kept in float as asked"), "{error}");
}
