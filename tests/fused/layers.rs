//! Convolutions and dense layers, and the weights that they take.

use crate::compare::{Random, Y, bias, compare, one, weights, whole};
use sedge_tests::quantized::{Builder, Setting, Type};

#[test]
fn convolutions() {
    for (name, settings, out) in [
        ("3x3", vec![Setting::Ints("pads", &[1, 1, 1, 1])], [1, 6, 9, 7]),
        ("strided", vec![Setting::Ints("strides", &[2, 2])], [1, 6, 4, 3]),
        ("dilated", vec![Setting::Ints("dilations", &[2, 2]), Setting::Ints("pads", &[2, 0, 1, 3])], [1, 6, 8, 6]),
        ("same", vec![Setting::Text("auto_pad", "SAME_UPPER"), Setting::Ints("strides", &[2, 2])], [1, 6, 5, 4]),
    ] {
        let onnx = one(&[1, 4, 9, 7], &out, |b, x| {
            let (w, bias) = (weights(b, &[6, 4, 3, 3], 0), bias(b, 6));
            b.node("Conv", &[x, &w, &bias], &settings)
        });
        whole(name, &onnx, 1.0);
    }
    for (name, groups, dims) in [("grouped", 2, [6, 2, 3, 3]), ("depthwise", 4, [8, 1, 3, 3])] {
        let onnx = one(&[2, 4, 9, 7], &[2, dims[0], 7, 5], |b, x| {
            let w = weights(b, &dims, 0);
            let sums = b.node("Conv", &[x, &w], &[Setting::Int("group", groups)]);
            b.node("Relu", &[&sums], &[])
        });
        whole(name, &onnx, 1.0);
    }
    let line = one(&[1, 4, 20], &[1, 5, 18], |b, x| {
        let w = weights(b, &[5, 4, 3], 0);
        b.node("Conv", &[x, &w], &[])
    });
    whole("of a line", &line, 1.0);
}

#[test]
fn limits_are_fused() {
    let onnx = one(&[1, 4, 6, 6], &[1, 6, 6, 6], |b, x| {
        let w = weights(b, &[6, 4, 1, 1], 0);
        let sums = b.node("Conv", &[x, &w], &[]);
        let (low, high) = (b.f32s(&[], &[-0.5]), b.f32s(&[], &[2.0]));
        b.node("Clip", &[&sums, &low, &high], &[])
    });
    whole("Clip", &onnx, 1.0);
}

#[test]
fn dense_layers() {
    for (name, shape, out) in
        [("row", vec![1, 10], vec![1, 7]), ("rows", vec![3, 10], vec![3, 7]), ("cube", vec![2, 3, 10], vec![2, 3, 7])]
    {
        let onnx = one(&shape, &out, |b, x| {
            let (w, bias) = (weights(b, &[10, 7], 1), bias(b, 7));
            let sums = b.node("MatMul", &[x, &w], &[]);
            b.node("Add", &[&bias, &sums], &[])
        });
        whole(name, &onnx, 1.0);
    }
    let gemm = one(&[3, 10], &[3, 7], |b, x| {
        let (w, bias) = (weights(b, &[7, 10], 0), bias(b, 7));
        b.node("Gemm", &[x, &w, &bias], &[Setting::Int("transB", 1)])
    });
    whole("Gemm", &gemm, 1.0);
}

#[test]
fn pictures_lie_in_any_order_outside() {
    let onnx = one(&[1, 9, 7, 4], &[1, 9, 7, 6], |b, x| {
        let first = b.node("Transpose", &[x], &[Setting::Ints("perm", &[0, 3, 1, 2])]);
        let w = weights(b, &[6, 4, 1, 1], 0);
        let sums = b.node("Conv", &[&first, &w], &[]);
        b.node("Transpose", &[&sums], &[Setting::Ints("perm", &[0, 2, 3, 1])])
    });
    whole("channels last outside", &onnx, 1.0);
}

#[test]
fn unsigned_weights_with_any_zero_point() {
    let dense = |zero_point: u8, low: u8| {
        one(&[1, 6], &[1, 4], move |b, x| {
            let data: Vec<u8> = Random(5).bytes(24).into_iter().map(|byte| byte.max(low)).collect();
            let data = b.raw(Type::U8, &[6, 4], &data);
            let w = b.dequantize(&data, (Type::U8, 0.01, zero_point.into()));
            b.node("MatMul", &[x, &w], &[])
        })
    };
    whole("zero point 128", &dense(128, 0), 1.0);
    whole("zero point 140 where all fit", &dense(140, 20), 1.0);
    whole("zero point 20 where some do not fit", &dense(20, 0), 1.0);
}

#[test]
fn weights_that_are_quantized_in_the_graph() {
    let onnx = one(&[1, 6], &[1, 3], |b, x| {
        let floats: Vec<f32> = (0..18).map(|i| (i as f32 * 1.7).sin()).collect();
        let floats = b.f32s(&[6, 3], &floats);
        let bytes = b.quantize(&floats, (Type::I8, 0.008, 0));
        let w = b.dequantize(&bytes, (Type::I8, 0.008, 0));
        b.node("MatMul", &[x, &w], &[])
    });
    whole("weights quantized in the graph", &onnx, 1.0);
}

#[test]
fn a_bias_for_each_row_is_none_for_each_channel() {
    let gemm = one(&[4, 10], &[4, 4], |b, x| {
        let (w, rows) = (weights(b, &[4, 10], 0), b.f32s(&[4, 1], &[3.0, -2.0, 0.5, 1.0]));
        b.node("Gemm", &[x, &w, &rows], &[Setting::Int("transB", 1)])
    });
    let (_, fusion) = compare("Gemm with a bias for each row", &gemm, Y.1, 1.0);
    assert_eq!(fusion.fused(), 0, "{fusion:?}");
}

#[test]
fn products_whose_steps_do_not_fit_are_left_to_float() {
    let coarse = (Type::U8, 1e3, 0);
    let mut b = Builder::default();
    let inputs = [b.input("a", coarse.0, &[3, 30]), b.input("b", coarse.0, &[30, 5])];
    let [one, two] = inputs.map(|input| b.dequantize(&input, coarse));
    let product = b.node("MatMul", &[&one, &two], &[]);
    b.quantize_as(&product, (Type::U8, 0.003, 0), "y");
    b.output("y", Type::U8, &[3, 5]);
    let (_, fusion) = compare("MatMul of coarse tensors", &b.model(13), 1.0, 0.0);
    let reasons: Vec<String> = fusion.left().map(|(_, reason)| reason.to_string()).collect();
    assert!(reasons.iter().any(|reason| reason.contains("than 32 bits hold")), "{reasons:?}");
}
