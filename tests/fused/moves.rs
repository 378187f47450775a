//! What moves data.

use crate::compare::{Y, compare, one, whole};
use sedge_tests::quantized::{Builder, Setting};

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
fn limits_behind_a_padding_hold_for_it_too() {
    let limited = |low: f32| {
        one(&[1, 8], &[1, 11], move |b, x| {
            let (low, pads) = (b.f32s(&[], &[low]), b.i64s(&[0, 1, 0, 2]));
            let first = b.node("Relu", &[x], &[]);
            let padded = b.node("Pad", &[&first, &pads], &[]);
            b.node("Clip", &[&padded, &low], &[])
        })
    };
    whole("Clip that lets zeros pass", &limited(-1.0), 1.0);
    let (_, fusion) = compare("Clip that lifts zeros", &limited(0.5), Y.1, 1.0);
    assert!(!fusion.whole, "{fusion:?}");
}
