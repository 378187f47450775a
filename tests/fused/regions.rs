//! Where regions begin and end.

use crate::compare::{X, Y, compare, load, weights, whole};
use sedge_runtime::model::Engine;
use sedge_tests::quantized::{Builder, Setting, Type};
use sedge_tests::requirement::reference_models;

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
