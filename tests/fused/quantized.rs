//! Quantized operators: bytes in, bytes out.

use crate::compare::{Parameters, load};
use sedge_runtime::Model;
use sedge_runtime::api::Tensor;
use sedge_runtime::model::Engine;
use sedge_tests::quantized::{Builder, Setting, Type};

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
