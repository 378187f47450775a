//! Dynamically quantized models, as ONNX Runtime's `quantize_dynamic` writes them and its optimizer fuses them: each bit of
//! what ONNX Runtime computes, and what is no such layer is left to tract with the reason.

use ndarray::{ArrayD, Axis};
use ndarray_npy::NpzReader;
use sedge_runtime::api::{ElementType, Tensor};
use sedge_runtime::model::{Engine, Fate, Reason};
use sedge_runtime::{Model, ModelOptions};
use sedge_tests::quantized::{Builder, Setting, Type};
use std::fs::File;
use std::path::{Path, PathBuf};

fn load(onnx: &[u8], engine: Engine) -> Model {
    Model::load(onnx, &ModelOptions { engine, ..ModelOptions::default() }).unwrap_or_else(|e| panic!("{e}"))
}

/// The models beside this file, which `dynamic/make.py` made.
fn models() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("dynamic");
    let files = std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "onnx")).collect();
    files.sort();
    files
}

fn tensor(name: &str, shape: &[usize], values: impl IntoIterator<Item = f32>) -> Tensor {
    Tensor {
        name: name.to_owned(),
        ty: ElementType::Float32,
        shape: shape.iter().map(|size| *size as u32).collect(),
        data: values.into_iter().flat_map(f32::to_le_bytes).collect(),
    }
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.data.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
}

#[test]
fn every_layer_computes_each_bit_that_onnx_runtime_does() {
    let models = models();
    assert_eq!(models.len(), 12);
    for path in models {
        let name = path.file_stem().unwrap_or_default().display().to_string();
        let mut model = load(&std::fs::read(&path).expect("the model"), Engine::Fused);
        let fusion = model.fusion().clone();
        assert_eq!(fusion.regions, 1, "{name}: layers that read one tensor are one operator");
        let left: Vec<&str> = fusion.left().map(|(node, _)| node.operator.as_str()).collect();
        let relu = if matches!(name.as_str(), "conv_s8" | "conv_u8") { &["Relu"][..] } else { &[] };
        assert_eq!(left, relu, "{name}");
        let mut golden =
            NpzReader::new(File::open(path.with_extension("golden.npz")).expect("it")).expect("an archive");
        let mut array = |name: &str| -> ArrayD<f32> { golden.by_name(name).expect("an array") };
        let x = array("x");
        let expected: Vec<ArrayD<f32>> = model.outputs().iter().map(|spec| array(&spec.name)).collect();
        for (at, sample) in x.axis_iter(Axis(0)).enumerate() {
            let given = tensor("x", sample.shape(), sample.iter().copied());
            let found = model.run(&[given.view()]).unwrap_or_else(|e| panic!("{name}: {e}"));
            for (found, expected) in found.iter().zip(&expected) {
                let expected: Vec<u32> = expected.index_axis(Axis(0), at).iter().map(|value| value.to_bits()).collect();
                assert!(bits(found) == expected, "{name}: `{}` of sample {at}", found.name);
            }
        }
    }
}

/// A dynamically quantized layer after a float tensor of four columns.
fn layer(b: &mut Builder, x: &str, number: usize) -> String {
    let [bytes, scale, zero_point] = ["bytes", "scale", "zero"].map(|what| format!("{what}{number}"));
    b.named("DynamicQuantizeLinear", &[x], &[&bytes, &scale, &zero_point], &[]);
    product(b, [&bytes, &scale, &zero_point])
}

fn product(b: &mut Builder, [bytes, scale, zero_point]: [&str; 3]) -> String {
    let weights = b.raw(Type::I8, &[4, 3], &[1, 255, 7, 128, 127, 3, 0, 9, 60, 200, 100, 50]);
    let (weight_scale, weight_zero) = b.parameters((Type::I8, 0.03, 2));
    let sums = b.node("MatMulInteger", &[bytes, &weights, zero_point, &weight_zero], &[]);
    let scales = b.node("Mul", &[&weight_scale, scale], &[]);
    let real = b.node("Cast", &[&sums], &[Setting::Int("to", 1)]);
    b.node("Mul", &[&scales, &real], &[])
}

fn result(b: &mut Builder, from: &str, name: &str, shape: &[i64]) {
    b.named("Identity", &[from], &[name], &[]);
    b.output(name, Type::F32, shape);
}

/// Runs a model both ways on the same values, and holds the results against each other.
fn compare(onnx: &[u8], shape: &[usize]) -> Model {
    let (mut fused, mut float) = (load(onnx, Engine::Fused), load(onnx, Engine::Tract));
    let count = shape.iter().product::<usize>();
    let x = tensor("x", shape, (0..count).map(|i| (i * 37 % 23) as f32 / 7.0 - 1.3));
    let (found, expected) = (fused.run(&[x.view()]).expect("it runs"), float.run(&[x.view()]).expect("it runs"));
    for (found, expected) in found.iter().zip(&expected) {
        let real = |tensor: &Tensor| tensor.view().to_real(None).expect("numbers");
        let pairs = real(found).into_iter().zip(real(expected));
        let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest <= 1e-5, "{}: {largest}", found.name);
    }
    fused
}

#[test]
fn quantized_regions_and_dynamic_layers_stand_side_by_side() {
    let mut b = Builder::default();
    let x = b.input("x", Type::F32, &[5, 4]);
    let bytes = b.quantize(&x, (Type::I8, 0.03, 1));
    let real = b.dequantize(&bytes, (Type::I8, 0.03, 1));
    let limited = b.node("Relu", &[&real], &[]);
    let bytes = b.quantize(&limited, (Type::I8, 0.02, -128));
    let real = b.dequantize(&bytes, (Type::I8, 0.02, -128));
    let product = layer(&mut b, &real, 1);
    let bytes = b.quantize(&product, (Type::U8, 0.05, 128));
    let real = b.dequantize(&bytes, (Type::U8, 0.05, 128));
    let limited = b.node("Relu", &[&real], &[]);
    b.quantize_as(&limited, (Type::U8, 0.03, 0), "y");
    b.output("y", Type::U8, &[5, 3]);
    let model = compare(&b.model(13), &[5, 4]);
    let fusion = model.fusion();
    assert_eq!((fusion.regions, fusion.whole, fusion.left().count()), (3, false, 0), "{fusion:?}");
    let of = |operator: &str| fusion.nodes.iter().find(|node| node.operator == operator).map(|node| &node.fate);
    assert_eq!(of("MatMulInteger"), Some(&Fate::Fused { region: 2 }));
    assert_eq!(of("DynamicQuantizeLinear"), Some(&Fate::Fused { region: 2 }));
}

#[test]
fn what_a_layer_shares_with_others_stays_there_for_them() {
    let mut b = Builder::default();
    let x = b.input("x", Type::F32, &[5, 4]);
    let y = layer(&mut b, &x, 1);
    let doubled = b.node("Add", &[&y, &y], &[]);
    let second = product(&mut b, ["bytes1", "scale1", "zero1"]);
    let again = layer(&mut b, &x, 2);
    let all = b.node("Concat", &[&doubled, &second, &again], &[Setting::Int("axis", 1)]);
    let scaled = b.node("Mul", &[&all, "scale1"], &[]);
    result(&mut b, &scaled, "z", &[5, 9]);
    let model = compare(&b.model(13), &[5, 4]);
    let fusion = model.fusion();
    assert_eq!(fusion.regions, 1, "both quantizers read the same tensor");
    let left: Vec<&str> = fusion.left().map(|(node, _)| node.operator.as_str()).collect();
    assert_eq!(left, ["Add", "Concat", "Mul", "Identity"]);
}

#[test]
fn what_is_no_dynamic_layer_is_left_with_its_reason() {
    type Making = fn(&mut Builder, &str) -> String;
    let scaled_otherwise: Making = |b, x| {
        b.named("DynamicQuantizeLinear", &[x], &["q", "s", "z"], &[]);
        let weights = b.raw(Type::I8, &[4, 3], &[5; 12]);
        let sums = b.node("MatMulInteger", &["q", &weights, "z"], &[]);
        b.node("Cast", &[&sums], &[Setting::Int("to", 1)])
    };
    let other_scale: Making = |b, x| {
        b.named("DynamicQuantizeLinear", &[x], &["q", "s", "z"], &[]);
        let doubled = b.node("Add", &[x, x], &[]);
        b.named("DynamicQuantizeLinear", &[&doubled], &["q2", "s2", "z2"], &[]);
        product(b, ["q", "s2", "z"])
    };
    let other_zero_point: Making = |b, x| {
        b.named("DynamicQuantizeLinear", &[x], &["q", "s", "z"], &[]);
        let doubled = b.node("Add", &[x, x], &[]);
        b.named("DynamicQuantizeLinear", &[&doubled], &["q2", "s2", "z2"], &[]);
        product(b, ["q", "s", "z2"])
    };
    let varying: Making = |b, x| {
        b.named("DynamicQuantizeLinear", &[x], &["q", "s", "z"], &[]);
        let turned = b.node("Transpose", &[x], &[]);
        b.named("DynamicQuantizeLinear", &[&turned], &["q2", "s2", "z2"], &[]);
        let sums = b.node("MatMulInteger", &["q", "q2", "z", "z2"], &[]);
        let real = b.node("Cast", &[&sums], &[Setting::Int("to", 1)]);
        let scale = b.f32s(&[], &[0.5]);
        let scales = b.node("Mul", &["s", &scale], &[]);
        b.node("Mul", &[&real, &scales], &[])
    };
    let not_dynamic = |reason: &Reason| matches!(reason, Reason::NotDynamic(_));
    let weights = |reason: &Reason| *reason == Reason::VaryingWeights;
    for (name, making, columns, fits) in [
        ("not scaled", scaled_otherwise, 3, &not_dynamic as &dyn Fn(&Reason) -> bool),
        ("another scale", other_scale, 3, &not_dynamic),
        ("another zero point", other_zero_point, 3, &not_dynamic),
        ("computed weights", varying, 5, &weights),
    ] {
        let mut b = Builder::default();
        let x = b.input("x", Type::F32, &[5, 4]);
        let y = making(&mut b, &x);
        result(&mut b, &y, "y", &[5, columns]);
        let model = compare(&b.model(13), &[5, 4]);
        let reason = model.fusion().left().find(|(node, _)| node.operator == "MatMulInteger").map(|(_, reason)| reason);
        assert!(reason.is_some_and(fits), "{name}: {reason:?}");
        assert_eq!(model.fusion().regions, 0, "{name}");
    }
}

#[test]
fn a_sum_over_another_axis_is_no_bias() {
    let mut b = Builder::default();
    let x = b.input("x", Type::F32, &[3, 4]);
    let y = layer(&mut b, &x, 1);
    let rows = b.f32s(&[3, 1], &[1.0, -2.0, 3.0]);
    let sum = b.node("Add", &[&y, &rows], &[]);
    result(&mut b, &sum, "y", &[3, 3]);
    let model = compare(&b.model(13), &[3, 4]);
    let left: Vec<&str> = model.fusion().left().map(|(node, _)| node.operator.as_str()).collect();
    assert_eq!((model.fusion().regions, left), (1, vec!["Add", "Identity"]));
}

#[test]
fn a_value_that_is_no_number_is_told() {
    let mut b = Builder::default();
    let x = b.input("x", Type::F32, &[1, 4]);
    let y = layer(&mut b, &x, 1);
    result(&mut b, &y, "y", &[1, 3]);
    let mut model = load(&b.model(13), Engine::Fused);
    for wrong in [f32::NAN, f32::INFINITY] {
        let error =
            model.run(&[tensor("x", &[1, 4], [1.0, wrong, 0.0, 2.0]).view()]).expect_err("no number").to_string();
        assert!(error.contains("NaN or infinite"), "{error}");
    }
    model.run(&[tensor("x", &[1, 4], [1.0, 0.5, 0.0, 2.0]).view()]).expect("it runs again");
}

#[test]
fn no_byte_of_a_damaged_model_can_end_the_process() {
    for name in ["conv_s8", "conv_grouped", "matmul_u8_per_channel", "one_u8_fused"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dynamic").join(format!("{name}.onnx"));
        let good = std::fs::read(path).expect("the model");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            // Weights may be changed into others that are valid; that is what digests are for.
            let Ok(mut model) = Model::load(&bad, &ModelOptions::default()) else { continue };
            let specs = model.inputs();
            let given: Option<Vec<Tensor>> = specs.iter().map(|spec| Tensor::empty(spec).ok()).collect();
            let Some(mut given) = given else { continue };
            for tensor in &mut given {
                let count = tensor.shape.iter().product::<u32>() as usize;
                tensor.data = (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect();
            }
            let views: Vec<_> = given.iter().map(Tensor::view).collect();
            let _ = model.run(&views);
        }
    }
}
