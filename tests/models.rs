//! Models that must not run: each is refused with one line that names the operator or the tensor at fault.

use sedge_runtime::api::{ElementType, Tensor};
use sedge_runtime::{Model, ModelError, ModelOptions};
use sedge_tests::onnx::{Graph, Node, Weight};
use std::path::Path;

fn digits() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits/v1/model.int8.onnx");
    std::fs::read(path).expect("the example's model")
}

/// One node between `x` and `y`, both 1 × 4.
fn one(op: &'static str) -> Graph {
    Graph {
        nodes: vec![Node { op, name: "the-node", inputs: &["x"], output: "y" }],
        inputs: vec![("x", &[1, 4])],
        outputs: vec![("y", &[1, 4])],
        ..Graph::default()
    }
}

fn adding(dims: &'static [i64], data: Option<Vec<u8>>) -> Graph {
    let nodes = vec![Node { op: "Add", name: "sum", inputs: &["x", "w"], output: "y" }];
    Graph { nodes, weights: vec![Weight { name: "w", dims, data }], ..one("Add") }
}

fn load(onnx: &[u8]) -> Result<Model, ModelError> {
    Model::load(onnx, &ModelOptions::default())
}

fn tensor(name: &str, shape: &[u32], values: &[f32]) -> Tensor {
    let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor { name: name.into(), ty: ElementType::Float32, shape: shape.to_vec(), data }
}

#[test]
fn a_file_that_cannot_run_is_refused_by_what_is_wrong_with_it() {
    let good = digits();
    let floats = |n: usize| Some(vec![0; 4 * n]);
    let mut two_unknown = one("Frobnicate");
    two_unknown.nodes.push(Node { op: "Grind", name: "", inputs: &["y"], output: "z" });
    for (name, onnx, expected) in [
        ("empty", vec![], "not a readable ONNX model: the file holds no graph; export it again"),
        ("text", b"this is no model".to_vec(), "not a readable ONNX model"),
        ("truncated", good[..good.len() / 2].to_vec(), "not a readable ONNX model"),
        (
            "unsupported",
            one("Frobnicate").to_model(),
            "operators that this runtime does not have: Frobnicate (the-node)",
        ),
        ("two unsupported", two_unknown.to_model(), "Frobnicate (the-node), Grind (z)"),
        ("other file", adding(&[1, 4], None).to_model(), "the weights of `w` lie in another file"),
        ("negative size", adding(&[1, -4], floats(4)).to_model(), "`w` has a negative dimension"),
        ("too few weights", adding(&[1, 4], floats(3)).to_model(), "the model does not load"),
        ("no output", Graph { outputs: vec![], ..one("Relu") }.to_model(), "the graph has no output"),
        ("unknown output", Graph { outputs: vec![("q", &[1, 4])], ..one("Relu") }.to_model(), "q"),
    ] {
        let error = load(&onnx).err().unwrap_or_else(|| panic!("{name} loads")).to_string();
        assert!(error.contains(expected), "{name}: expected `{expected}`, got `{error}`");
        assert!(error.len() < 700 && !error.contains('\n'), "{name}: not one short line: {error}");
    }
}

#[test]
fn no_byte_of_a_damaged_model_can_end_the_process() {
    let good = digits();
    // A step that hits headers and weights alike and keeps the test short.
    for at in (0..good.len()).step_by(good.len() / 60) {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        // Weights may be changed into others that are valid; that is what digests are for.
        if let Ok(mut model) = load(&bad) {
            let image = tensor("image", &[1, 1, 16, 16], &[0.5; 256]);
            let _ = model.run(&[image.view()]);
        }
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let mut model = load(&one("Relu").to_model()).expect("it loads");
    let good = tensor("x", &[1, 4], &[1.0, -1.0, 2.0, -2.0]);
    let y = model.run(&[good.view()]).expect("it runs").remove(0);
    assert_eq!(y.view().to_real(None).expect("floats"), [1.0, 0.0, 2.0, 0.0]);
    let other = tensor("z", &[1, 4], &[0.0; 4]);
    let lying = Tensor { shape: vec![1, 4], ..tensor("x", &[1, 3], &[0.0; 3]) };
    let integer = Tensor { ty: ElementType::Int32, ..good.clone() };
    for (given, expected) in [
        (vec![], "inputs are one named x, given are none"),
        (vec![&other], "given are z"),
        (vec![&good, &other], "inputs are x, given are x, z"),
        (vec![&tensor("x", &[1, 5], &[0.0; 5])], "input `x` must be float32 [1, 4], given is float32 [1, 5]"),
        (vec![&lying], "in 12 bytes"),
        (vec![&integer], "given is int32 [1, 4]"),
    ] {
        let views: Vec<_> = given.iter().map(|t| t.view()).collect();
        let error = model.run(&views).expect_err(expected).to_string();
        assert!(error.contains(expected), "expected `{expected}`, got `{error}`");
    }
    assert!(model.run(&[good.view()]).is_ok(), "what was refused left no trace");
}

#[test]
fn shapes_that_do_not_meet_end_in_an_error() {
    let onnx = adding(&[1, 3], Some(vec![0; 12])).to_model();
    let mut model = load(&onnx).expect("it loads");
    let error = model.run(&[tensor("x", &[1, 4], &[0.0; 4]).view()]).expect_err("4 and 3");
    assert!(error.to_string().contains("sum"), "{error}");
}

#[test]
fn an_output_that_is_no_number_is_an_error_and_not_a_result() {
    let mut model = load(&one("Sqrt").to_model()).expect("it loads");
    let error = model.run(&[tensor("x", &[1, 4], &[4.0, 1.0, -1.0, 9.0]).view()]).expect_err("a root of -1");
    assert!(matches!(&error, ModelError::NotANumber { output, index: 2 } if output == "y"), "{error}");
    assert!(model.run(&[tensor("x", &[1, 4], &[1.0; 4]).view()]).is_ok());
}
