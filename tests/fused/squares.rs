//! Squared differences, as layer normalization has them, and constants that have more axes than what they meet.

use crate::compare::{Y, compare, one, two, whole};
use sedge_tests::quantized::{Builder, Setting};

type Square<'a> = &'a dyn Fn(&mut Builder, &str) -> String;

#[test]
fn a_difference_that_is_squared_is_one_operator() {
    let times_itself = |b: &mut Builder, difference: &str| b.node("Mul", &[difference, difference], &[]);
    let to_the_second = |b: &mut Builder, difference: &str| {
        let exponent = b.f32s(&[], &[2.0]);
        b.node("Pow", &[difference, &exponent], &[])
    };
    for (name, square) in [("Mul", &times_itself as Square<'_>), ("Pow", &to_the_second)] {
        for (name, shapes, out) in [
            (format!("{name} of equal sizes"), [[2, 3, 8], [2, 3, 8]], [2, 3, 8]),
            (format!("{name} with one of each row"), [[2, 3, 8], [2, 3, 1]], [2, 3, 8]),
            (format!("{name} with the first spread"), [[2, 1, 1], [2, 3, 8]], [2, 3, 8]),
        ] {
            let graph = two([&shapes[0], &shapes[1]], &out, |b, x, y| {
                let difference = b.node("Sub", &[x, y], &[]);
                square(b, &difference)
            });
            whole(&name, &graph, 1.0);
        }
    }
    // Of one tensor it is a function of its bytes.
    let single = one(&[3, 8], &[3, 8], |b, x| {
        let one = b.f32s(&[], &[1.5]);
        let difference = b.node("Sub", &[x, &one], &[]);
        b.node("Mul", &[&difference, &difference], &[])
    });
    whole("less a constant", &single, 1.0);
}

#[test]
fn a_difference_that_is_read_otherwise_stays_float() {
    let graph = two([&[3, 8], &[3, 8]], &[3, 8], |b, x, y| {
        let difference = b.node("Sub", &[x, y], &[]);
        b.node("Add", &[&difference, &difference], &[])
    });
    let (_, fusion) = compare("twice a difference", &graph, Y.1, 1.0);
    assert!(fusion.left().any(|(node, _)| node.operator == "Sub"), "{fusion:?}");
}

#[test]
fn a_constant_gives_its_axes_to_the_result() {
    for op in ["Mul", "Add"] {
        let graph = one(&[4, 5], &[1, 5], |b, x| {
            let constant = b.f32s(&[1, 1, 1], &[0.5]);
            let more = b.node(op, &[x, &constant], &[]);
            let bytes = b.quantize(&more, Y);
            let real = b.dequantize(&bytes, Y);
            b.node("ReduceMean", &[&real], &[Setting::Ints("axes", &[1]), Setting::Int("keepdims", 0)])
        });
        compare(op, &graph, Y.1, 1.0);
    }
}
