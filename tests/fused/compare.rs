//! Graphs of a few operators, run fused and in float.

use sedge_runtime::api::{ElementType, Tensor};
use sedge_runtime::model::{Engine, Fusion};
use sedge_runtime::{Model, ModelError, ModelOptions};
use sedge_tests::quantized::{Builder, Setting, Type};

/// Inputs on which each graph is run.
const RUNS: u64 = 4;

pub(crate) type Parameters = (Type, f32, i32);

pub(crate) const X: Parameters = (Type::I8, 0.05, 3);
pub(crate) const Y: Parameters = (Type::I8, 0.11, -7);

pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 40) as u8).collect()
    }
}

pub(crate) fn load(onnx: &[u8], engine: Engine) -> Result<Model, ModelError> {
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
pub(crate) fn compare(name: &str, onnx: &[u8], scale: f32, most: f32) -> (f64, Fusion) {
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
pub(crate) fn whole(name: &str, onnx: &[u8], most: f32) {
    let (unequal, fusion) = compare(name, onnx, Y.1, most);
    let left: Vec<_> = fusion.left().collect();
    assert!(fusion.whole && left.is_empty(), "{name}: {left:?}");
    println!("{name}: {:.2} % of the elements differ", unequal * 100.0);
}

/// A graph of one operator between dequantization and quantization, with an input of bytes.
pub(crate) fn one(shape: &[i64], out: &[i64], operator: impl FnOnce(&mut Builder, &str) -> String) -> Vec<u8> {
    typed(X, Y, shape, out, operator)
}

pub(crate) fn typed(
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
pub(crate) fn weights(b: &mut Builder, dims: &[i64], axis: i64) -> String {
    let count: i64 = dims.iter().product();
    let data = b.raw(Type::I8, dims, &Random(77).bytes(count as usize));
    let channels = dims[axis as usize];
    let scales: Vec<f32> = (0..channels).map(|c| 0.002 + 0.0003 * c as f32).collect();
    let scales = b.f32s(&[channels], &scales);
    let zeros = b.raw(Type::I8, &[channels], &vec![0; channels as usize]);
    b.node("DequantizeLinear", &[&data, &scales, &zeros], &[Setting::Int("axis", axis)])
}

pub(crate) fn bias(b: &mut Builder, channels: usize) -> String {
    let values: Vec<f32> = (0..channels).map(|c| c as f32 * 0.3 - 1.0).collect();
    b.f32s(&[channels as i64], &values)
}

/// Two inputs of bytes.
pub(crate) fn two(
    shapes: [&[i64]; 2],
    out: &[i64],
    operator: impl FnOnce(&mut Builder, &str, &str) -> String,
) -> Vec<u8> {
    let other = (Type::U8, 0.07, 120);
    let mut b = Builder::default();
    let (first, second) = (b.input("a", X.0, shapes[0]), b.input("b", other.0, shapes[1]));
    let (one, two) = (b.dequantize(&first, X), b.dequantize(&second, other));
    let result = operator(&mut b, &one, &two);
    b.quantize_as(&result, Y, "y");
    b.output("y", Y.0, out);
    b.model(13)
}
