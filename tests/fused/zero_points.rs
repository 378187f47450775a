//! Weights whose zero points differ by channel.

use crate::compare::{Random, load, one, whole};
use sedge_runtime::api::{ElementType, Tensor};
use sedge_runtime::model::Engine;
use sedge_tests::quantized::{Builder, Setting, Type};

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
