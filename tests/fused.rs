//! Quantized graphs, fused and in float: the same to one step of the output, operator by operator; whole regions where
//! all is quantized, several where something is not, and one line for what is wrong in a file.

use sedge_runtime::api::{ElementType, Tensor};
use sedge_runtime::model::{Engine, Fusion};
use sedge_runtime::{Model, ModelError, ModelOptions};
use sedge_tests::quantized::{Builder, Setting, Type};

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
