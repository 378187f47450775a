use super::*;
use ndarray::{ArrayD, IxDyn};
use ndarray_npy::write_npy;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;

/// A graph in the making. Tensors are named by single words, nodes by what they yield.
#[derive(Default)]
struct Sketch {
    graph: pb::GraphProto,
}

impl Sketch {
    fn value(name: &str, dims: &[i64]) -> pb::ValueInfoProto {
        use pb::tensor_shape_proto::{Dimension, dimension::Value};
        let dim = |&d: &i64| Dimension { value: Some(Value::DimValue(d)), ..Dimension::default() };
        let shape = pb::TensorShapeProto { dim: dims.iter().map(dim).collect() };
        let tensor = pb::type_proto::Tensor { elem_type: DataType::Float as i32, shape: Some(shape) };
        let ty = pb::TypeProto { value: Some(pb::type_proto::Value::TensorType(tensor)), ..pb::TypeProto::default() };
        pb::ValueInfoProto { name: name.to_owned(), r#type: Some(ty), ..pb::ValueInfoProto::default() }
    }

    fn new(input: &[i64], output: &str, dims: &[i64]) -> Self {
        let mut sketch = Self::default();
        sketch.graph.input.push(Self::value("x", input));
        sketch.graph.output.push(Self::value(output, dims));
        sketch
    }

    fn weights(mut self, name: &str, dims: &[i64], values: &[f32]) -> Self {
        self.graph.initializer.push(proto::float_tensor(name, dims, values));
        self
    }

    fn random(self, name: &str, dims: &[i64]) -> Self {
        let count = dims.iter().product::<i64>() as usize;
        let seed = name.bytes().map(u32::from).sum();
        self.weights(name, dims, &noise(count, seed))
    }

    fn node(mut self, op: &str, inputs: &[&str], output: &str, attributes: &[(&str, &[i64])]) -> Self {
        let mut node = proto::node(op, output.to_owned(), inputs, output);
        for (name, values) in attributes {
            let mut attribute = proto::integer_attribute(name, values[0]);
            // Several values, or one that the operator wants as a list.
            if values.len() > 1 {
                attribute.r#type = AttributeType::Ints as i32;
                attribute.ints = values.to_vec();
            }
            node.attribute.push(attribute);
        }
        self.graph.node.push(node);
        self
    }

    fn onnx(self) -> Vec<u8> {
        let opset = pb::OperatorSetIdProto { version: 13, ..pb::OperatorSetIdProto::default() };
        let opset_import = vec![opset];
        proto::encode(&pb::ModelProto {
            ir_version: 8,
            opset_import,
            graph: Some(self.graph),
            ..pb::ModelProto::default()
        })
    }

    /// Quantizes over four samples; the graph that comes out, and the report.
    fn quantized(self, options: &Options) -> (pb::GraphProto, Report) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut shape: Vec<usize> = vec![4];
        let dims = samples::declared(&self.graph);
        assert_eq!(dims.len(), 1);
        let info = self.graph.input[0].clone();
        let Some(pb::type_proto::Value::TensorType(t)) = info.r#type.and_then(|t| t.value) else { panic!("a tensor") };
        for dim in t.shape.expect("a shape").dim {
            let Some(pb::tensor_shape_proto::dimension::Value::DimValue(d)) = dim.value else { panic!("a size") };
            shape.push(d as usize);
        }
        let values = ArrayD::from_shape_vec(IxDyn(&shape), noise(shape.iter().product(), 99)).expect("samples");
        write_npy(folder.path().join("x.npy"), &values).expect("written");
        let model = FloatModel::parse(&self.onnx()).expect("it is read");
        let samples = model.samples(folder.path()).expect("samples");
        assert_eq!(samples.len(), 4);
        let quantized = model.quantize(&samples, &samples, options, &mut |_, _, _| {}).expect("it is quantized");
        let graph = proto::decode(&quantized.onnx).expect("it is read again").graph.expect("a graph");
        (graph, quantized.report)
    }
}

/// Numbers from -1 to 1 that look random and are the same in every run.
fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// The graph as one line for each node: `Operator(inputs) -> output`.
fn lines(graph: &pb::GraphProto) -> Vec<String> {
    graph.node.iter().map(|n| format!("{}({}) -> {}", n.op_type, n.input.join(", "), n.output.join(", "))).collect()
}

fn operators(graph: &pb::GraphProto) -> Vec<&str> {
    graph.node.iter().map(|n| n.op_type.as_str()).filter(|op| !op.ends_with("Linear")).collect()
}

fn assert_quiet(report: &Report, db: f64) {
    let quiet = |l: &LayerError| l.sqnr_db.is_none_or(|found| found > db);
    assert!(report.layers.iter().all(quiet), "{report:#?}");
    assert!(report.outputs.iter().all(|o| o.sqnr_db.is_none_or(|found| found > db)), "{report:#?}");
}

#[test]
fn a_convolution_is_written_as_quantizers_write_it() {
    let sketch = Sketch::new(&[1, 2, 4, 4], "y", &[1, 3, 2, 2])
        .random("w", &[3, 2, 3, 3])
        .random("b", &[3])
        .node("Conv", &["x", "w", "b"], "c", &[])
        .node("Relu", &["c"], "y", &[]);
    let (graph, report) = sketch.quantized(&Options::default());
    assert_eq!(
        lines(&graph),
        [
            "QuantizeLinear(x, x_scale, x_zero_point) -> x_quantized",
            "DequantizeLinear(x_quantized, x_scale, x_zero_point) -> x_dequantized",
            "DequantizeLinear(w_quantized, w_scale, int8_zeros) -> w_dequantized",
            "DequantizeLinear(b_quantized, b_scale, int32_zeros) -> b_dequantized",
            "Conv(x_dequantized, w_dequantized, b_dequantized) -> c",
            "Relu(c) -> y_float",
            "QuantizeLinear(y_float, y_scale, y_zero_point) -> y_quantized",
            "DequantizeLinear(y_quantized, y_scale, y_zero_point) -> y",
        ]
    );
    let constant = |name: &str| graph.initializer.iter().find(|t| t.name == name).expect(name);
    assert_eq!((constant("w_quantized").data_type, &constant("w_quantized").dims), (3, &vec![3, 2, 3, 3]));
    assert_eq!((constant("b_quantized").data_type, &constant("b_scale").dims), (6, &vec![3]));
    let (x, w, b) = (constant("x_scale"), constant("w_scale"), constant("b_scale"));
    let scales = |t| proto::floats(t).expect("floats");
    assert_eq!(scales(b), scales(w).iter().map(|w| w * scales(x)[0]).collect::<Vec<f32>>());
    assert_eq!(constant("y_zero_point").raw_data, [-128i8 as u8], "behind a Relu nothing is below zero");
    assert_eq!(graph.initializer.len(), 10, "no float weights are left");
    assert_eq!(report.layers[0].operators, ["Conv", "Relu"]);
    assert_quiet(&report, 30.0);
}

#[test]
fn batch_normalization_goes_into_the_convolution() {
    let normalized = |sketch: Sketch| {
        sketch
            .weights("gain", &[3], &[2.0, -0.5, 1.0])
            .weights("shift", &[3], &[0.3, 0.0, -1.0])
            .weights("mean", &[3], &[0.1, -0.2, 0.0])
            .weights("variance", &[3], &[0.25, 4.0, 0.0])
    };
    let (graph, report) = normalized(Sketch::new(&[1, 2, 4, 4], "y", &[1, 3, 2, 2]))
        .random("w", &[3, 2, 3, 3])
        .random("b", &[3])
        .node("Conv", &["x", "w", "b"], "c", &[])
        .node("BatchNormalization", &["c", "gain", "shift", "mean", "variance"], "n", &[])
        .node("Relu", &["n"], "y", &[])
        .quantized(&Options::default());
    assert_eq!(operators(&graph), ["Conv", "Relu"]);
    assert_eq!(report.layers[0].operators, ["Conv", "Relu"]);
    assert_quiet(&report, 30.0);
    // By hand: one weight of 2, a bias of 1, (3 - 0.5) * 4 / sqrt(0.25) + 0.125.
    let sketch = Sketch::new(&[1, 1, 1, 1], "y", &[1, 1, 1, 1])
        .weights("w", &[1, 1, 1, 1], &[2.0])
        .weights("gain", &[1], &[4.0])
        .weights("shift", &[1], &[0.125])
        .weights("mean", &[1], &[0.5])
        .weights("variance", &[1], &[0.25 - 1e-5])
        .node("Conv", &["x", "w"], "c", &[])
        .node("BatchNormalization", &["c", "gain", "shift", "mean", "variance"], "y", &[]);
    let model = FloatModel::parse(&sketch.onnx()).expect("it is read");
    let graph = proto::graph(&model.model);
    assert_eq!(lines(graph), ["Conv(x, w_normalized, w_bias) -> y"]);
    let constant = |name: &str| graph.initializer.iter().find(|t| t.name == name).and_then(proto::floats).expect(name);
    assert!((constant("w_normalized")[0] - 16.0).abs() < 1e-5);
    assert!((constant("w_bias")[0] + 3.875).abs() < 1e-5);
    // Where something else reads the convolution, it stays as it is.
    let (graph, report) = normalized(Sketch::new(&[1, 2, 4, 4], "y", &[1, 3, 2, 2]))
        .random("w", &[3, 2, 3, 3])
        .node("Conv", &["x", "w"], "c", &[])
        .node("BatchNormalization", &["c", "gain", "shift", "mean", "variance"], "n", &[])
        .node("Add", &["c", "n"], "y", &[])
        .quantized(&Options::default());
    assert_eq!(operators(&graph), ["Conv", "BatchNormalization", "Add"]);
    assert_eq!(report.left_in_float.len(), 2, "{report:#?}");
}

#[test]
fn factors_of_gemm_go_into_its_constants() {
    let mut sketch = Sketch::new(&[1, 4], "y", &[1, 3]).random("w", &[3, 4]).random("b", &[1, 3]).node(
        "Gemm",
        &["x", "w", "b"],
        "y",
        &[("transB", &[1])],
    );
    let factor = |name: &str, f| pb::AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Float as i32,
        f,
        ..pb::AttributeProto::default()
    };
    sketch.graph.node[0].attribute.extend([factor("alpha", 0.5), factor("beta", 3.0)]);
    let (graph, report) = sketch.quantized(&Options::default());
    let gemm = graph.node.iter().find(|n| n.op_type == "Gemm").expect("it stays");
    assert_eq!(gemm.attribute.len(), 1);
    assert_quiet(&report, 30.0);
}

#[test]
fn a_region_grows_over_what_reads_integers_and_values_that_move_keep_their_scale() {
    let (graph, report) = Sketch::new(&[1, 4, 4, 2], "y", &[1, 6])
        .random("w", &[3, 2, 1, 1])
        .random("v", &[3, 3, 1, 1])
        .random("k", &[1, 3, 1, 1])
        .node("Transpose", &["x"], "i", &[("perm", &[0, 3, 1, 2])])
        .node("Identity", &["i"], "t", &[])
        .node("Conv", &["t", "w"], "a", &[])
        .node("MaxPool", &["a"], "m", &[("kernel_shape", &[2, 2]), ("strides", &[2, 2])])
        .node("Conv", &["m", "v"], "c", &[])
        .node("Sigmoid", &["c"], "s", &[])
        .node("Mul", &["c", "s"], "p", &[])
        .node("Add", &["p", "k"], "q", &[])
        .node("Concat", &["q", "m"], "d", &[("axis", &[1])])
        .node("GlobalAveragePool", &["d"], "g", &[])
        .node("Flatten", &["g"], "f", &[])
        .node("Softmax", &["f"], "y", &[("axis", &[1])])
        .quantized(&Options::default());
    assert!(report.left_in_float.is_empty(), "{report:#?}");
    assert_quiet(&report, 25.0);
    let scale_of = |tensor: &str| {
        let quantizing = |n: &&pb::NodeProto| n.op_type == "QuantizeLinear" && n.input[0] == tensor;
        graph.node.iter().find(quantizing).unwrap_or_else(|| panic!("{tensor} is quantized")).input[1].clone()
    };
    assert_eq!((scale_of("t"), scale_of("m"), scale_of("f")), ("x_scale".into(), "a_scale".into(), "g_scale".into()));
    assert_eq!(scale_of("d"), "d_scale");
    let constant = |name: &str| graph.initializer.iter().find(|t| t.name == name).expect(name);
    assert_eq!(proto::floats(constant("y_scale")), Some(vec![1.0 / 256.0]));
    assert_eq!(constant("y_zero_point").raw_data, [-128i8 as u8]);
    assert_eq!(constant("k_quantized").data_type, DataType::Int8 as i32);
}

#[test]
fn float_islands_are_fed_dequantized_values_and_named() {
    let (graph, report) = Sketch::new(&[1, 4], "y", &[1, 3])
        .random("w", &[4, 4])
        .random("v", &[4, 3])
        .node("MatMul", &["x", "w"], "a", &[])
        .node("Tanh", &["a"], "h", &[])
        .node("Relu", &["h"], "r", &[])
        .node("MatMul", &["r", "v"], "y", &[])
        .quantized(&Options::default());
    let reasons: Vec<(&str, &str)> =
        report.left_in_float.iter().map(|l| (l.node.as_str(), l.reason.as_str())).collect();
    assert_eq!(reasons, [("h", "the operator has no form in 8 bits"), ("r", "what it reads is in float")]);
    let lines = lines(&graph);
    assert!(lines.contains(&"Tanh(a_dequantized) -> h".to_owned()), "{lines:#?}");
    assert!(lines.contains(&"QuantizeLinear(r, r_scale, r_zero_point) -> r_quantized".to_owned()), "{lines:#?}");
    assert_quiet(&report, 25.0);
}

#[test]
fn weights_that_are_dequantized_in_a_float_model_are_weights() {
    let mut sketch = Sketch::new(&[1, 4], "y", &[1, 2]).weights("scale", &[], &[0.02]);
    sketch.graph.initializer.push(proto::int8_tensor("w", &[4, 2], &[1, -2, 3, 50, -60, 7, 127, -128]));
    let sketch = sketch.node("DequantizeLinear", &["w", "scale"], "d", &[]).node("MatMul", &["x", "d"], "y", &[]);
    let (graph, report) = sketch.quantized(&Options::default());
    assert_eq!(operators(&graph), ["MatMul"]);
    assert_quiet(&report, 30.0);
}

#[test]
fn layers_and_names_that_collide_stay_apart() {
    let (graph, report) = Sketch::new(&[1, 4], "x_quantized", &[1, 4])
        .random("w", &[4, 4])
        .node("MatMul", &["x", "w"], "x_scale", &[])
        .node("Relu", &["x_scale"], "w_dequantized", &[])
        .node("MatMul", &["w_dequantized", "w"], "x_quantized", &[])
        .quantized(&Options::default());
    let mut names: Vec<&String> = graph.node.iter().flat_map(|n| &n.output).collect();
    names.extend(graph.initializer.iter().map(|t| &t.name));
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count, "{names:#?}");
    assert_quiet(&report, 25.0);
}

#[test]
fn an_array_is_cut_into_samples_by_the_declared_shape() {
    let split = |declared: &[i64], array: &[usize]| {
        let graph = Sketch::new(declared, "y", &[1]).graph;
        samples::declared(&graph)[0].split(array)
    };
    assert_eq!(split(&[1, 3, 5], &[1, 3, 5]), Some((1, vec![1, 3, 5])));
    assert_eq!(split(&[1, 3, 5], &[3, 5]), Some((1, vec![1, 3, 5])));
    assert_eq!(split(&[1, 3, 5], &[7, 3, 5]), Some((7, vec![1, 3, 5])));
    assert_eq!(split(&[1, 3, 5], &[7, 1, 3, 5]), Some((7, vec![1, 3, 5])));
    assert_eq!(split(&[0, 3, 5], &[7, 2, 3, 5]), Some((7, vec![2, 3, 5])), "a batch in each is as it was given");
    assert_eq!(split(&[4, 3], &[4, 3]), Some((1, vec![4, 3])));
    assert_eq!(split(&[4, 3], &[6, 4, 3]), Some((6, vec![4, 3])));
    for wrong in [&[3usize, 4][..], &[5, 3], &[3], &[1, 1, 4, 3], &[]] {
        assert_eq!(split(&[4, 3], wrong), None, "{wrong:?}");
    }
}

#[test]
fn no_byte_of_a_damaged_model_can_end_the_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let values = ArrayD::from_shape_vec(IxDyn(&[1, 2, 4, 4]), noise(32, 5)).expect("a sample");
    write_npy(folder.path().join("x.npy"), &values).expect("written");
    let good = Sketch::new(&[1, 2, 4, 4], "y", &[1, 2])
        .random("w", &[3, 2, 3, 3])
        .random("n", &[3])
        .weights("v", &[3], &[1.0, 2.0, 3.0])
        .random("m", &[12, 2])
        .random("b", &[2])
        .node("Conv", &["x", "w"], "c", &[])
        .node("BatchNormalization", &["c", "n", "n", "n", "v"], "d", &[])
        .node("Flatten", &["d"], "f", &[])
        .node("Gemm", &["f", "m", "b"], "y", &[("transB", &[0])])
        .onnx();
    let quantize = |onnx: &[u8]| {
        let model = FloatModel::parse(onnx)?;
        let samples = model.samples(folder.path())?;
        model.quantize(&samples, &samples, &Options::default(), &mut |_, _, _| {})
    };
    assert!(quantize(&good).is_ok());
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        // Many a change gives another valid model; what matters is that each call comes back.
        if let Err(error) = quantize(&bad) {
            assert!(!error.to_string().is_empty(), "byte {at}");
        }
    }
}
