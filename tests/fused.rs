//! Quantized graphs, fused and in float: the same to one step of the output, operator by operator; whole regions where
//! all is quantized, several where something is not, and one line for what is wrong in a file.

use sedge_runtime::api::{ElementType, Tensor};
use sedge_runtime::model::{Engine, Fusion};
use sedge_runtime::{Model, ModelError, ModelOptions};
use sedge_tests::quantized::{Builder, Setting, Type};
use sedge_tests::requirement::reference_models;

/// Inputs on which each graph is run.
const RUNS: u64 = 4;

type Parameters = (Type, f32, i32);

const X: Parameters = (Type::I8, 0.05, 3);
const Y: Parameters = (Type::I8, 0.11, -7);

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 40) as u8).collect()
    }
}

fn load(onnx: &[u8], engine: Engine) -> Result<Model, ModelError> {
    Model::load(onnx, &ModelOptions { engine, ..ModelOptions::default() })
}

fn inputs(model: &Model, random: &mut Random) -> Vec<Tensor> {
    let one = |spec: &sedge_runtime::api::TensorSpec| {
        let mut tensor = Tensor::empty(spec).expect("concrete sizes");
        let count = tensor.shape.iter().product::<u32>() as usize;
        tensor.data = match spec.ty {
            ElementType::Float32 => {
                (0..count).flat_map(|_| ((random.next() >> 40) as f32 / 1e6 - 8.0).to_le_bytes()).collect()
            }
            _ => random.bytes(count),
        };
        tensor
    };
    model.inputs().iter().map(one).collect()
}

/// Steps between two outputs, element by element.
fn steps(one: &Tensor, two: &Tensor, scale: f32) -> Vec<f32> {
    assert_eq!((&one.name, &one.shape, one.ty), (&two.name, &two.shape, two.ty));
    let unit = if one.ty == ElementType::Float32 { scale } else { 1.0 };
    let (one, two) = (one.view().to_real(None).expect("numbers"), two.view().to_real(None).expect("numbers"));
    one.iter().zip(&two).map(|(a, b)| ((a - b) / unit).abs()).collect()
}

/// Runs a graph both ways and holds every element to `most` steps; the share that differs.
fn compare(name: &str, onnx: &[u8], scale: f32, most: f32) -> (f64, Fusion) {
    let mut fused = load(onnx, Engine::Fused).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut float = load(onnx, Engine::Tract).unwrap_or_else(|e| panic!("{name} in tract: {e}"));
    let fusion = fused.fusion().clone();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut unequal, mut all) = (0, 0);
    for _ in 0..RUNS {
        let given = inputs(&fused, &mut random);
        let views: Vec<_> = given.iter().map(Tensor::view).collect();
        let found = fused.run(&views).unwrap_or_else(|e| panic!("{name}: {e}"));
        let expected = float.run(&views).unwrap_or_else(|e| panic!("{name} in tract: {e}"));
        for (found, expected) in found.iter().zip(&expected) {
            for (place, difference) in steps(found, expected, scale).into_iter().enumerate() {
                assert!(difference <= most + 1e-3, "{name}: element {place} is {difference} steps off");
                unequal += usize::from(difference > 1e-3);
                all += 1;
            }
        }
    }
    (unequal as f64 / all as f64, fusion)
}

#[allow(clippy::print_stdout)]
fn whole(name: &str, onnx: &[u8], most: f32) {
    let (unequal, fusion) = compare(name, onnx, Y.1, most);
    let left: Vec<_> = fusion.left().collect();
    assert!(fusion.whole && left.is_empty(), "{name}: {left:?}");
    println!("{name}: {:.2} % of the elements differ", unequal * 100.0);
}

/// A graph of one operator between dequantization and quantization, with an input of bytes.
fn one(shape: &[i64], out: &[i64], operator: impl FnOnce(&mut Builder, &str) -> String) -> Vec<u8> {
    typed(X, Y, shape, out, operator)
}

fn typed(
    x: Parameters,
    y: Parameters,
    shape: &[i64],
    out: &[i64],
    operator: impl FnOnce(&mut Builder, &str) -> String,
) -> Vec<u8> {
    let mut b = Builder::default();
    let input = b.input("x", x.0, shape);
    let real = b.dequantize(&input, x);
    let result = operator(&mut b, &real);
    b.quantize_as(&result, y, "y");
    b.output("y", y.0, out);
    b.model(13)
}

/// Weights with a scale for each output channel.
fn weights(b: &mut Builder, dims: &[i64], axis: i64) -> String {
    let count: i64 = dims.iter().product();
    let data = b.raw(Type::I8, dims, &Random(77).bytes(count as usize));
    let channels = dims[axis as usize];
    let scales: Vec<f32> = (0..channels).map(|c| 0.002 + 0.0003 * c as f32).collect();
    let scales = b.f32s(&[channels], &scales);
    let zeros = b.raw(Type::I8, &[channels], &vec![0; channels as usize]);
    b.node("DequantizeLinear", &[&data, &scales, &zeros], &[Setting::Int("axis", axis)])
}

fn bias(b: &mut Builder, channels: usize) -> String {
    let values: Vec<f32> = (0..channels).map(|c| c as f32 * 0.3 - 1.0).collect();
    b.f32s(&[channels as i64], &values)
}

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

/// Two inputs of bytes.
fn two(shapes: [&[i64]; 2], out: &[i64], operator: impl FnOnce(&mut Builder, &str, &str) -> String) -> Vec<u8> {
    let other = (Type::U8, 0.07, 120);
    let mut b = Builder::default();
    let (first, second) = (b.input("a", X.0, shapes[0]), b.input("b", other.0, shapes[1]));
    let (one, two) = (b.dequantize(&first, X), b.dequantize(&second, other));
    let result = operator(&mut b, &one, &two);
    b.quantize_as(&result, Y, "y");
    b.output("y", Y.0, out);
    b.model(13)
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

#[test]
fn what_only_moves_data() {
    // A product of itself follows, so that there is something to compute.
    let squared = |b: &mut Builder, x: &str| b.node("Mul", &[x, x], &[]);
    type Moving = fn(&mut Builder, &str) -> String;
    let all: [(&str, &[i64], Moving); 9] = [
        ("Reshape", &[1, 8, 15], |b, x| {
            let shape = b.i64s(&[0, 8, -1]);
            b.node("Reshape", &[x, &shape], &[])
        }),
        ("Flatten", &[1, 120], |b, x| b.node("Flatten", &[x], &[])),
        ("Transpose", &[5, 4, 1, 6], |b, x| b.node("Transpose", &[x], &[Setting::Ints("perm", &[3, 1, 0, 2])])),
        ("Squeeze", &[4, 6, 5], |b, x| {
            let axes = b.i64s(&[0]);
            b.node("Squeeze", &[x, &axes], &[])
        }),
        ("Unsqueeze", &[1, 4, 6, 1, 5], |b, x| {
            let axes = b.i64s(&[3]);
            b.node("Unsqueeze", &[x, &axes], &[])
        }),
        ("Slice", &[1, 2, 3, 5], |b, x| {
            let (starts, ends) = (b.i64s(&[1, -6]), b.i64s(&[3, 1000]));
            let (axes, steps) = (b.i64s(&[1, 2]), b.i64s(&[1, 2]));
            b.node("Slice", &[x, &starts, &ends, &axes, &steps], &[])
        }),
        ("Pad", &[1, 4, 9, 6], |b, x| {
            let pads = b.i64s(&[0, 0, 1, 0, 0, 0, 2, 1]);
            b.node("Pad", &[x, &pads], &[])
        }),
        ("Tile", &[1, 8, 6, 15], |b, x| {
            let repeats = b.i64s(&[1, 2, 1, 3]);
            b.node("Tile", &[x, &repeats], &[])
        }),
        ("Resize", &[1, 4, 12, 15], |b, x| {
            let scales = b.f32s(&[4], &[1.0, 1.0, 2.0, 3.0]);
            let settings = [
                Setting::Text("mode", "nearest"),
                Setting::Text("coordinate_transformation_mode", "asymmetric"),
                Setting::Text("nearest_mode", "floor"),
            ];
            b.node("Resize", &[x, "", &scales], &settings)
        }),
    ];
    for (name, out, moved) in all {
        whole(
            name,
            &one(&[1, 4, 6, 5], out, |b, x| {
                let y = moved(b, x);
                squared(b, &y)
            }),
            1.0,
        );
    }
    let split = one(&[1, 4, 6, 5], &[1, 1, 6, 5], |b, x| {
        let sizes = b.i64s(&[1, 1, 2]);
        b.named("Split", &[x, &sizes], &["p", "q", "r"], &[Setting::Int("axis", 1)]);
        b.node("Add", &["p", "q"], &[])
    });
    whole("Split", &split, 1.0);
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
fn unsigned_weights_with_a_zero_point_for_each_channel() {
    // Each channel keeps away from its zero point on one side only, so that no shift makes int8 of all.
    let weights = |b: &mut Builder, dims: &[i64], axis: usize| {
        let count = dims.iter().product::<i64>() as usize;
        let data = b.raw(Type::U8, dims, &Random(9).bytes(count));
        let channels = dims[axis];
        let scales: Vec<f32> = (0..channels).map(|c| 0.002 + 0.0003 * c as f32).collect();
        let zeros: Vec<u8> = (0..channels).map(|c| [0, 255, 100, 154, 128, 1][c as usize % 6]).collect();
        let scales = b.f32s(&[channels], &scales);
        let zeros = b.raw(Type::U8, &[channels], &zeros);
        b.node("DequantizeLinear", &[&data, &scales, &zeros], &[Setting::Int("axis", axis as i64)])
    };
    let product = one(&[3, 40], &[3, 21], |b, x| {
        let w = weights(b, &[40, 21], 1);
        b.node("MatMul", &[x, &w], &[])
    });
    whole("MatMul", &product, 1.0);
    for (name, groups, channels) in [("Conv", 1, 10), ("grouped", 2, 10), ("depthwise", 6, 6)] {
        let conv = one(&[1, 6, 7, 5], &[1, channels, 7, 5], |b, x| {
            let w = weights(b, &[channels, 6 / groups, 3, 3], 0);
            b.node("Conv", &[x, &w], &[Setting::Int("group", groups), Setting::Ints("pads", &[1, 1, 1, 1])])
        });
        whole(name, &conv, 1.0);
    }
    let mut b = Builder::default();
    let x = b.input("x", Type::U8, &[2, 40]);
    let a = b.parameters((Type::U8, 0.05, 120));
    let y = b.parameters((Type::U8, 0.11, 128));
    let w = b.raw(Type::U8, &[40, 3], &Random(3).bytes(120));
    let scales = b.f32s(&[3], &[0.002, 0.003, 0.004]);
    let zeros = b.raw(Type::U8, &[3], &[100, 154, 3]);
    let bias = b.i32s(&[3], &[500, -700, 0]);
    b.named("QGemm", &[&x, &a.0, &a.1, &w, &scales, &zeros, &bias, &y.0, &y.1], &["y"], &[]);
    b.output("y", Type::U8, &[2, 3]);
    let mut model = load(&b.model(13), Engine::Fused).expect("it loads");
    assert!(model.fusion().whole);
    let x = Random(8).bytes(80);
    let given = Tensor { name: "x".to_owned(), ty: ElementType::Uint8, shape: vec![2, 40], data: x.clone() };
    let found = model.run(&[given.view()]).expect("it runs").remove(0).data;
    let w = Random(3).bytes(120);
    for (place, found) in found.into_iter().enumerate() {
        let (row, c) = (place / 3, place % 3);
        let zero = [100, 154, 3][c];
        let product = |k: usize| (i32::from(x[row * 40 + k]) - 120) * (i32::from(w[k * 3 + c]) - zero);
        let sum = (0..40).map(product).sum::<i32>() + [500, -700, 0][c];
        let real = sum as f32 * (0.05 * [0.002, 0.003, 0.004][c] / 0.11);
        let expected = (real.round_ties_even() as i32 + 128).clamp(0, 255);
        assert_eq!(i32::from(found), expected, "QGemm, element {place}");
    }
}

#[test]
fn a_float_operator_in_the_middle_parts_two_regions() {
    let mut b = Builder::default();
    let x = b.input("x", Type::F32, &[1, 4, 6, 6]);
    let layer = |b: &mut Builder, x: &str| {
        let bytes = b.quantize(x, X);
        let real = b.dequantize(&bytes, X);
        let w = weights(b, &[4, 4, 1, 1], 0);
        let sums = b.node("Conv", &[&real, &w], &[]);
        let bytes = b.quantize(&sums, Y);
        b.dequantize(&bytes, Y)
    };
    let before = layer(&mut b, &x);
    let float = b.node("Sin", &[&before], &[]);
    let after = layer(&mut b, &float);
    b.named("Identity", &[&after], &["y"], &[]);
    b.output("y", Type::F32, &[1, 4, 6, 6]);
    let (_, fusion) = compare("two regions", &b.model(13), Y.1, 1.0);
    assert_eq!((fusion.regions, fusion.whole, fusion.left().count()), (2, false, 1), "{fusion:?}");
}

#[test]
fn a_way_around_through_a_float_operator_does_not_close_a_circle() {
    let mut b = Builder::default();
    let x = b.input("x", X.0, &[1, 8]);
    let real = b.dequantize(&x, X);
    let w = weights(&mut b, &[8, 8], 1);
    let sums = b.node("MatMul", &[&real, &w], &[]);
    let bytes = b.quantize(&sums, Y);
    let direct = b.dequantize(&bytes, Y);
    let float = b.node("Sin", &[&direct], &[]);
    let around = b.quantize(&float, X);
    let around = b.dequantize(&around, X);
    let sum = b.node("Add", &[&direct, &around], &[]);
    b.quantize_as(&sum, Y, "y");
    b.output("y", Y.0, &[1, 8]);
    let (_, fusion) = compare("a way around", &b.model(13), Y.1, 1.0);
    assert_eq!((fusion.regions, fusion.left().count()), (2, 1), "{fusion:?}");
}

#[test]
fn residual_branches_and_outputs_that_are_read_inside() {
    let mut b = Builder::default();
    let x = b.input("x", Type::F32, &[1, 4, 6, 6]);
    let bytes = b.quantize(&x, X);
    let real = b.dequantize(&bytes, X);
    let w = weights(&mut b, &[4, 4, 3, 3], 0);
    let sums = b.node("Conv", &[&real, &w], &[Setting::Ints("pads", &[1, 1, 1, 1])]);
    b.quantize_as(&sums, Y, "inner");
    b.output("inner", Y.0, &[1, 4, 6, 6]);
    let branch = b.dequantize("inner", Y);
    let sum = b.node("Add", &[&branch, &real], &[]);
    let sum = b.node("Relu", &[&sum], &[]);
    let bytes = b.quantize(&sum, Y);
    let (scale, zero_point) = b.parameters(Y);
    b.named("DequantizeLinear", &[&bytes, &scale, &zero_point], &["y"], &[]);
    b.output("y", Type::F32, &[1, 4, 6, 6]);
    whole("a residual block", &b.model(13), 1.0);
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

/// A graph of one quantized operator; `parts` are constants or the names of inputs.
fn quantized(
    op: &str,
    shape: &[i64],
    out: &[i64],
    settings: &[Setting<'_>],
    inputs: impl FnOnce(&mut Builder, &str) -> Vec<String>,
) -> Model {
    let mut b = Builder::default();
    let x = b.input("x", Type::U8, shape);
    let inputs = inputs(&mut b, &x);
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    b.named(op, &inputs, &["y"], settings);
    b.output("y", Type::U8, out);
    let model = load(&b.model(13), Engine::Fused).unwrap_or_else(|e| panic!("{op}: {e}"));
    assert!(model.fusion().whole, "{op}: {:?}", model.fusion());
    model
}

/// Operators of ONNX Runtime's quantizer, which tract does not have: by what they must yield.
#[test]
fn quantized_operators_compute_what_their_float_form_does() {
    let a = (Type::U8, 0.05, 128);
    let y = (Type::U8, 0.1, 100);
    let push = |b: &mut Builder, all: &mut Vec<String>, p: Parameters| {
        let (scale, zero_point) = b.parameters(p);
        all.extend([scale, zero_point]);
    };
    let unary = |b: &mut Builder, x: &str| {
        let mut all = vec![x.to_owned()];
        push(b, &mut all, a);
        push(b, &mut all, y);
        all
    };
    let real = |byte: u8| (f32::from(byte) - 128.0) * 0.05;
    let byte = |real: f32| ((real / 0.1).round_ties_even() + 100.0).clamp(0.0, 255.0);
    let x: Vec<u8> = (0..=255).collect();
    let check = |op: &str, mut model: Model, expected: Vec<f32>| {
        let spec = model.inputs()[0].clone();
        let shape = spec.shape.iter().map(|d| *d as u32).collect();
        let tensor = Tensor { name: spec.name, ty: spec.ty, shape, data: x.clone() };
        let found = model.run(&[tensor.view()]).expect("it runs").remove(0);
        let found: Vec<f32> = found.data.iter().map(|b| f32::from(*b)).collect();
        for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!((found - expected).abs() <= 1.0, "{op}, element {place}: {found} instead of {expected}");
        }
        assert_eq!(found.len(), expected.len(), "{op}");
    };
    let of = |f: &dyn Fn(f32) -> f32| x.iter().map(|b| byte(f(real(*b)))).collect::<Vec<f32>>();
    let shape = [1, 4, 8, 8];
    check("QLinearSigmoid", quantized("QLinearSigmoid", &shape, &shape, &[], unary), of(&|x| 1.0 / (1.0 + (-x).exp())));
    let leaky = quantized("QLinearLeakyRelu", &shape, &shape, &[Setting::Real("alpha", 0.2)], unary);
    check("QLinearLeakyRelu", leaky, of(&|x| if x < 0.0 { 0.2 * x } else { x }));
    for (op, f) in [("QLinearAdd", (|x| x + x) as fn(f32) -> f32), ("QLinearMul", |x| x * x)] {
        let model = quantized(op, &shape, &shape, &[], |b, x| {
            let mut all = vec![x.to_owned()];
            push(b, &mut all, a);
            all.push(x.to_owned());
            push(b, &mut all, a);
            push(b, &mut all, y);
            all
        });
        check(op, model, of(&f));
    }
    let mean = |c: usize| byte(x[c * 64..][..64].iter().map(|b| real(*b)).sum::<f32>() / 64.0);
    let pooled = quantized("QLinearGlobalAveragePool", &shape, &[1, 4, 1, 1], &[], unary);
    check("QLinearGlobalAveragePool", pooled, (0..4).map(mean).collect());
    let joined = quantized("QLinearConcat", &shape, &[1, 8, 8, 8], &[Setting::Int("axis", 1)], |b, x| {
        let mut all = vec![];
        push(b, &mut all, y);
        for _ in 0..2 {
            all.push(x.to_owned());
            push(b, &mut all, a);
        }
        all
    });
    let twice = [of(&|x| x), of(&|x| x)].concat();
    check("QLinearConcat", joined, twice);
    let dense = quantized("QGemm", &[2, 128], &[2, 3], &[Setting::Int("transB", 1)], |b, x| {
        let mut all = vec![x.to_owned()];
        push(b, &mut all, a);
        all.push(b.raw(Type::I8, &[3, 128], &[[1_u8; 128], [255; 128], [0; 128]].concat()));
        push(b, &mut all, (Type::I8, 0.002, 0));
        all.push(b.i32s(&[3], &[0, 1000, -50_000]));
        push(b, &mut all, y);
        all
    });
    let sum = |row: usize| x[row * 128..][..128].iter().map(|b| real(*b)).sum::<f32>() * 0.002;
    let row = |row| [byte(sum(row)), byte(0.1 - sum(row)), byte(-5.0)];
    check("QGemm", dense, [row(0), row(1)].concat());
    let conv = quantized("QLinearConv", &shape, &[1, 1, 8, 8], &[], |b, x| {
        let mut all = vec![x.to_owned()];
        push(b, &mut all, a);
        all.push(b.raw(Type::I8, &[1, 4, 1, 1], &[10, 20, 0, 246]));
        push(b, &mut all, (Type::I8, 0.02, 0));
        push(b, &mut all, y);
        all.push(b.i32s(&[1], &[500]));
        all
    });
    let pixel = |i: usize| byte(0.2 * real(x[i]) + 0.4 * real(x[64 + i]) - 0.2 * real(x[192 + i]) + 0.5);
    check("QLinearConv", conv, (0..64).map(pixel).collect());
}

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

#[test]
fn reference_models_are_fused_from_end_to_end() {
    let Some(models) = reference_models("mlperf-tiny") else { return };
    for name in ["ad", "ic", "kws", "sww", "vww"] {
        let onnx = std::fs::read(models.join(format!("{name}_int8.onnx"))).expect("a model");
        let model = load(&onnx, Engine::Fused).unwrap_or_else(|e| panic!("{name}: {e}"));
        let left: Vec<_> = model.fusion().left().collect();
        assert!(model.fusion().whole && left.is_empty(), "{name}: {left:?}");
        let tract = load(&onnx, Engine::Tract).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((tract.inputs(), tract.outputs()), (model.inputs(), model.outputs()), "{name}");
        assert_eq!(tract.fusion().fused(), 0, "{name}");
    }
}
