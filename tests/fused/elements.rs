//! Pools, functions of one element, sums and products of two tensors, softmax.

use crate::compare::{X, compare, one, two, typed, whole};
use sedge_tests::quantized::{Builder, Setting, Type};

#[test]
fn pools_and_means() {
    let max = typed(X, X, &[1, 4, 9, 7], &[1, 4, 5, 4], |b, x| {
        let settings = [Setting::Ints("kernel_shape", &[3, 3]), Setting::Ints("strides", &[2, 2])];
        b.node("MaxPool", &[x], &[&settings[..], &[Setting::Ints("pads", &[1, 1, 1, 1])]].concat())
    });
    whole("MaxPool", &max, 0.0);
    for (name, include, out) in [("AveragePool", 0, [1, 4, 5, 4]), ("with padding", 1, [1, 4, 5, 4])] {
        let onnx = one(&[1, 4, 9, 7], &out, |b, x| {
            b.node(
                "AveragePool",
                &[x],
                &[
                    Setting::Ints("kernel_shape", &[3, 3]),
                    Setting::Ints("strides", &[2, 2]),
                    Setting::Ints("pads", &[1, 1, 1, 1]),
                    Setting::Int("count_include_pad", include),
                ],
            )
        });
        whole(name, &onnx, 1.0);
    }
    let global = one(&[2, 4, 9, 7], &[2, 4, 1, 1], |b, x| b.node("GlobalAveragePool", &[x], &[]));
    whole("GlobalAveragePool", &global, 1.0);
    for (axes, keep, out) in [([2, 3], 1, vec![2, 4, 1, 1]), ([1, 2], 0, vec![2, 7]), ([-1, -2], 0, vec![2, 4])] {
        let onnx = one(&[2, 4, 9, 7], &out, |b, x| {
            b.node("ReduceMean", &[x], &[Setting::Ints("axes", &axes), Setting::Int("keepdims", keep)])
        });
        whole("ReduceMean", &onnx, 1.0);
    }
}

#[test]
fn functions_of_one_element() {
    for op in
        ["Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Abs", "Neg", "Exp", "Softplus"]
    {
        let opset = if op == "HardSwish" { 14 } else { 13 };
        let y = (Type::U8, 0.02, 40);
        let mut b = Builder::default();
        let input = b.input("x", Type::U8, &[1, 256]);
        let real = b.dequantize(&input, (Type::U8, 0.03, 100));
        let result = b.node(op, &[&real], &[]);
        b.quantize_as(&result, y, "y");
        b.output("y", Type::U8, &[1, 256]);
        whole(op, &b.model(opset), 1.0);
    }
    // x * clip(x + 3, 0, 6) / 6, as exporters without HardSwish write it.
    let decomposed = one(&[1, 256], &[1, 256], |b, x| {
        let (three, zero, six) = (b.f32s(&[], &[3.0]), b.f32s(&[], &[0.0]), b.f32s(&[], &[6.0]));
        let sum = b.node("Add", &[x, &three], &[]);
        let clipped = b.node("Clip", &[&sum, &zero, &six], &[]);
        let product = b.node("Mul", &[x, &clipped], &[]);
        b.node("Div", &[&product, &six], &[])
    });
    whole("decomposed", &decomposed, 1.0);
}

#[test]
fn softmax_over_the_last_axis() {
    let y = (Type::U8, 1.0 / 256.0, 0);
    let onnx = typed(X, y, &[3, 10], &[3, 10], |b, x| b.node("Softmax", &[x], &[]));
    let (_, fusion) = compare("Softmax", &onnx, y.1, 1.0);
    assert!(fusion.whole);
    let onnx = typed(X, y, &[1, 5, 4, 6], &[1, 5, 4, 6], |b, x| b.node("Softmax", &[x], &[Setting::Int("axis", 1)]));
    whole("over channels", &onnx, 1.0);
}

#[test]
fn operators_of_two_tensors() {
    for op in ["Add", "Sub", "Mul"] {
        for (a, c) in [([2, 4, 5, 3], [2, 4, 5, 3]), ([2, 4, 5, 3], [1, 4, 1, 1]), ([1, 1, 5, 1], [2, 4, 5, 3])] {
            let onnx = two([&a, &c], &[2, 4, 5, 3], |b, one, two| b.node(op, &[one, two], &[]));
            whole(&format!("{op} {a:?} {c:?}"), &onnx, 1.0);
        }
        let onnx = two([&[2, 4, 5, 3], &[5, 3]], &[2, 4, 5, 3], |b, one, two| b.node(op, &[one, two], &[]));
        whole(op, &onnx, 1.0);
    }
    let onnx = two([&[1, 4, 5, 3], &[1, 2, 5, 3]], &[1, 6, 5, 3], |b, one, two| {
        b.node("Concat", &[one, two], &[Setting::Int("axis", 1)])
    });
    whole("Concat", &onnx, 1.0);
    let onnx = two([&[2, 3, 5, 6], &[2, 3, 6, 4]], &[2, 3, 5, 4], |b, one, two| b.node("MatMul", &[one, two], &[]));
    whole("MatMul", &onnx, 1.0);
    let onnx = two([&[3, 5, 6], &[3, 4, 6]], &[3, 5, 4], |b, one, two| {
        let turned = b.node("Transpose", &[two], &[Setting::Ints("perm", &[0, 2, 1])]);
        b.node("MatMul", &[one, &turned], &[])
    });
    whole("MatMul with the second turned", &onnx, 1.0);
    let onnx = two([&[5, 6], &[1, 1, 6, 4]], &[1, 1, 5, 4], |b, one, two| b.node("MatMul", &[one, two], &[]));
    whole("MatMul with more axes in the second", &onnx, 1.0);
    let spread = one(&[2, 5, 1], &[2, 5, 3], |b, x| {
        let data = b.raw(Type::I8, &[1, 1, 3], &[3, 250, 90]);
        let real = b.dequantize(&data, X);
        b.node("Mul", &[&real, x], &[])
    });
    whole("Mul with a constant, each spread along the other", &spread, 1.0);
    let constant = one(&[1, 4, 5, 3], &[1, 4, 5, 3], |b, x| {
        let data = b.raw(Type::I8, &[4, 1, 1], &[3, 250, 90, 7]);
        let real = b.dequantize(&data, X);
        b.node("Mul", &[x, &real], &[])
    });
    whole("Mul with a constant for each channel", &constant, 1.0);
}
