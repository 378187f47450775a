//! What is wrong in a file, and in what it is fed.

use crate::compare::{Parameters, X, Y, load, one, typed};
use sedge_runtime::api::{ElementType, Tensor};
use sedge_runtime::model::Engine;
use sedge_tests::quantized::{Builder, Setting, Type};

#[test]
fn what_is_wrong_in_a_file_is_told_with_the_node() {
    let relu = |x: Parameters, y: Parameters| typed(x, y, &[1, 8], &[1, 8], |b, x| b.node("Relu", &[x], &[]));
    let conv = |edit: fn(&mut Builder, &str) -> String| one(&[1, 4, 3, 3], &[1, 2, 3, 3], edit);
    let mut lost = Builder::default();
    let x = lost.input("x", X.0, &[1, 8]);
    let real = lost.dequantize(&x, X);
    let sums = lost.node("MatMul", &[&real, "weights"], &[]);
    lost.quantize_as(&sums, Y, "y");
    lost.output("y", Y.0, &[1, 8]);
    let mut circle = Builder::default();
    let x = circle.input("x", X.0, &[1, 8]);
    let real = circle.dequantize(&x, X);
    circle.named("Add", &[&real, "b"], &["a"], &[]);
    circle.named("Relu", &["a"], &["b"], &[]);
    circle.quantize_as("a", Y, "y");
    circle.output("y", Y.0, &[1, 8]);
    for (name, onnx, expected) in [
        ("scale 0", relu((Type::I8, 0.0, 0), Y), "its scale 0 is not a finite number above 0"),
        ("scale below 0", relu(X, (Type::I8, -0.5, 0)), "node `y`: its scale -0.5 is not"),
        ("no scale", relu((Type::I8, f32::NAN, 0), Y), "its scale NaN is not"),
        (
            "other type",
            {
                let mut b = Builder::default();
                let x = b.input("x", Type::U8, &[1, 8]);
                let real = b.dequantize(&x, X);
                let result = b.node("Relu", &[&real], &[]);
                b.quantize_as(&result, Y, "y");
                b.output("y", Y.0, &[1, 8]);
                b.model(13)
            },
            "its zero point has another type than its input",
        ),
        ("lost weights", lost.model(13), "it reads `weights`, which is nowhere"),
        ("a circle", circle.model(13), "it waits for its own result"),
        (
            "too many scales",
            conv(|b, x| {
                let data = b.raw(Type::I8, &[2, 4, 1, 1], &[1; 8]);
                let (scales, zeros) = (b.f32s(&[3], &[0.1; 3]), b.raw(Type::I8, &[3], &[0; 3]));
                let w = b.node("DequantizeLinear", &[&data, &scales, &zeros], &[Setting::Int("axis", 0)]);
                b.node("Conv", &[x, &w], &[])
            }),
            "it has 3 scales along axis 0 of [2, 4, 1, 1]",
        ),
        (
            "scales that do not fit",
            conv(|b, x| {
                let data = b.raw(Type::I8, &[2, 4, 1, 1], &[127; 8]);
                let w = b.dequantize(&data, (Type::I8, 1e20, 0));
                b.node("Conv", &[x, &w], &[])
            }),
            "they do not fit",
        ),
        (
            "overflow",
            one(&[1, 40_000], &[1, 1], |b, x| {
                let data = b.raw(Type::I8, &[40_000, 1], &vec![127; 40_000]);
                let w = b.dequantize(&data, (Type::I8, 0.001, 0));
                b.node("MatMul", &[x, &w], &[])
            }),
            "an accumulator holds 2147483647",
        ),
    ] {
        let error = load(&onnx, Engine::Fused).err().unwrap_or_else(|| panic!("{name} loads")).to_string();
        assert!(error.contains(expected) && error.contains("node `"), "{name}: expected `{expected}`, got `{error}`");
    }
}

#[test]
fn a_value_that_is_no_number_is_refused_and_not_rounded() {
    let mut b = Builder::default();
    let x = b.input("x", Type::F32, &[1, 4]);
    let bytes = b.quantize(&x, X);
    let real = b.dequantize(&bytes, X);
    let result = b.node("Relu", &[&real], &[]);
    b.quantize_as(&result, Y, "y");
    b.output("y", Y.0, &[1, 4]);
    let mut model = load(&b.model(13), Engine::Fused).expect("it loads");
    assert!(model.fusion().whole);
    let tensor = |values: [f32; 4]| Tensor {
        name: "x".to_owned(),
        ty: ElementType::Float32,
        shape: vec![1, 4],
        data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    let error = model.run(&[tensor([1.0, f32::NAN, 0.0, 0.0]).view()]).expect_err("not a number").to_string();
    assert!(error.contains("NaN"), "{error}");
    let infinite = model.run(&[tensor([f32::INFINITY, f32::NEG_INFINITY, 0.0, 0.0]).view()]).expect("it runs");
    assert_eq!(infinite[0].data[..2], [49, (-7_i8) as u8], "6.2 / 0.11 - 7, and 0");
}
