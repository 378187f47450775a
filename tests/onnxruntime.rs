//! Random quantized graphs against ONNX Runtime: an operator by itself is at most one quantum away, a chain of them at
//! most what one quantum of each can become behind it, on every instruction set that this core has.
//! `onnxruntime/make.py` made the graphs and says what the archive holds.

use ndarray::Array1;
use ndarray_npy::NpzReader;
use sedge_engine::isas;
use sedge_runtime::api::Tensor;
use sedge_runtime::{Model, ModelOptions};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::Path;

/// Parts of a quantum that float outputs may differ by and still stand for the same byte.
const ROUNDING: f32 = 1e-3;
/// Share of a kind's values that may be unequal, by the form that graphs are written in. Of QDQ those on a tie, which is
/// rounded by what float sums make of it. ONNX Runtime's quantized operators add the zero point before they round, which
/// turns a tie around where it is odd, and its quantized softmax works from a table of its own. Graphs of another seed
/// have more or fewer ties.
const UNEQUAL_MAX: [(&str, f64); 3] = [("QDQ", 0.02), ("QOperator", 0.08), ("mixed", 0.02)];
/// What tract runs says nothing about fused operators: of the nodes of each kind of graph this share must be fused, or
/// constant.
const FUSED_MIN: f64 = 0.8;

/// An output of a graph.
struct Output {
    name: String,
    /// What is one quantum in its numbers.
    quantum: f32,
    /// How many quanta it may be away.
    bound: f32,
}

/// What goes in and what comes out, once.
struct Sample {
    inputs: Vec<(String, Vec<u8>)>,
    /// As ONNX says.
    expected: Vec<Vec<u8>>,
    /// What ONNX Runtime yields with its optimizations.
    default: Vec<Vec<u8>>,
}

struct Case {
    name: String,
    kind: String,
    form: String,
    model: Vec<u8>,
    outputs: Vec<Output>,
    samples: Vec<Sample>,
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn count(value: &Value) -> usize {
    usize::try_from(value.as_u64().expect("a number")).expect("a small one")
}

/// Samples of each graph, as `onnxruntime/make.py` has it.
const SAMPLES: usize = 2;

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("onnxruntime/graphs.npz");
    let mut archive = NpzReader::new(File::open(path).expect("the archive")).expect("an archive");
    let index: Array1<u8> = archive.by_name("index").expect("the index");
    let bytes: Array1<u8> = archive.by_name("bytes").expect("the bytes");
    let index: Vec<Value> = serde_json::from_slice(&index.to_vec()).expect("a list");
    let bytes = bytes.to_vec();
    let mut rest = bytes.as_slice();
    let mut take = |count: usize| {
        let (taken, after) = rest.split_at(count);
        rest = after;
        taken.to_vec()
    };
    let mut one = |line: &Value| {
        let sizes: Vec<usize> =
            line["outputs"].as_array().expect("a list").iter().map(|o| count(&o["bytes"])).collect();
        let output = |o: &Value| Output {
            name: text(&o["name"]),
            quantum: o["quantum"].as_f64().expect("a number") as f32,
            bound: o["bound"].as_f64().expect("a number") as f32,
        };
        let inputs: Vec<_> = line["inputs"].as_object().expect("names").iter().collect();
        let model = take(count(&line["model"]));
        let mut sample = |_| {
            let inputs = inputs.iter().map(|(name, bytes)| ((*name).clone(), take(count(bytes)))).collect();
            let expected: Vec<_> = sizes.iter().map(|bytes| take(*bytes)).collect();
            let differs = line["default_differs"] == true;
            let default = if differs { sizes.iter().map(|bytes| take(*bytes)).collect() } else { expected.clone() };
            Sample { inputs, expected, default }
        };
        Case {
            samples: (0..SAMPLES).map(&mut sample).collect(),
            name: text(&line["name"]),
            kind: text(&line["kind"]),
            form: text(&line["form"]),
            outputs: line["outputs"].as_array().expect("a list").iter().map(output).collect(),
            model,
        }
    };
    let cases = index.iter().map(&mut one).collect();
    assert!(rest.is_empty(), "the archive holds more than its index says");
    cases
}

/// Runs all samples; for each, the outputs in the order of the case.
fn run(case: &Case, model: &mut Model) -> Vec<Vec<Tensor>> {
    let specs = model.inputs().to_vec();
    let one = |sample: &Sample| {
        let tensor = |spec: &sedge_runtime::api::TensorSpec| {
            let (_, data) = sample.inputs.iter().find(|(name, _)| *name == spec.name).expect("an input");
            Tensor { data: data.clone(), ..Tensor::empty(spec).expect("concrete sizes") }
        };
        let given: Vec<Tensor> = specs.iter().map(tensor).collect();
        let views: Vec<_> = given.iter().map(Tensor::view).collect();
        let found = model.run(&views).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let of = |output: &Output| found.iter().find(|y| y.name == output.name).expect("an output").clone();
        case.outputs.iter().map(of).collect()
    };
    case.samples.iter().map(one).collect()
}

/// How far values are from others.
#[derive(Debug, Default, Clone, Copy)]
struct Distance {
    values: usize,
    unequal: usize,
    largest: f32,
}

impl Distance {
    fn of(found: &Tensor, expected: &[u8], quantum: f32) -> Self {
        let expected = Tensor { data: expected.to_vec(), ..found.clone() };
        let reals = |tensor: &Tensor| tensor.view().to_real(None).expect("numbers");
        let (one, two) = (reals(found), reals(&expected));
        assert_eq!(one.len(), two.len());
        let apart: Vec<f32> = one.iter().zip(&two).map(|(a, b)| ((a - b) / quantum).abs()).collect();
        Self {
            values: apart.len(),
            unequal: apart.iter().filter(|quanta| **quanta > ROUNDING).count(),
            largest: apart.into_iter().fold(0.0, f32::max),
        }
    }

    fn join(&mut self, other: Self) {
        self.values += other.values;
        self.unequal += other.unequal;
        self.largest = self.largest.max(other.largest);
    }
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.values, self.unequal) {
            (0, _) => write!(f, "-"),
            (_, 0) => write!(f, "none of {}", self.values),
            (all, some) => {
                write!(f, "{:.2} % of {all}, by {:.0} at most", 100.0 * some as f64 / all as f64, self.largest)
            }
        }
    }
}

/// All graphs of a kind.
#[derive(Debug, Default)]
struct Row {
    graphs: usize,
    whole: usize,
    nodes: usize,
    fused: usize,
    /// By the form that graphs are written in.
    from_onnx: BTreeMap<String, Distance>,
    from_default: Distance,
}

impl Row {
    /// Runs a case on every instruction set, and tells of each output that is too far away.
    #[allow(clippy::print_stdout)]
    fn add(&mut self, case: &Case) -> Vec<String> {
        let results = isas().into_iter().map(|isa| {
            let options = ModelOptions { isa: Some(isa.to_owned()), ..ModelOptions::default() };
            let mut model = Model::load(&case.model, &options).unwrap_or_else(|e| panic!("{}: {e}", case.name));
            (isa, run(case, &mut model), model)
        });
        let results: Vec<_> = results.collect();
        let (first, found, model) = &results[0];
        for (isa, other, _) in &results[1..] {
            assert_eq!(found, other, "{} on {first} and on {isa}", case.name);
        }
        let fusion = model.fusion();
        let left: Vec<_> = fusion.left().map(|(node, why)| format!("{}: {why}", node.operator)).collect();
        if !left.is_empty() {
            println!("{} runs in part in tract; {}", case.name, left.join("; "));
        }
        self.graphs += 1;
        self.whole += usize::from(fusion.whole);
        self.nodes += fusion.nodes.len();
        self.fused += fusion.nodes.len() - left.len();
        let mut wrong = Vec::new();
        for (sample, found) in case.samples.iter().zip(found) {
            for (at, Output { name, quantum, bound }) in case.outputs.iter().enumerate() {
                let distance = Distance::of(&found[at], &sample.expected[at], *quantum);
                if distance.largest > bound + ROUNDING {
                    wrong.push(format!("{}, output {name}: {distance}; accepted is {bound}", case.name));
                }
                self.from_onnx.entry(case.form.clone()).or_default().join(distance);
                self.from_default.join(Distance::of(&found[at], &sample.default[at], *quantum));
            }
        }
        wrong
    }
}

#[test]
#[allow(clippy::print_stdout)]
fn every_operator_is_within_a_quantum_of_onnx_runtime() {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in cases() {
        wrong.extend(rows.entry(case.kind.clone()).or_default().add(&case));
    }
    println!("| operator | graphs | unequal in QDQ | in QOperator | in both by turns | to ONNX Runtime's default |");
    println!("|---|---|---|---|---|---|");
    for (kind, row) in &rows {
        let of = |form: &str| row.from_onnx.get(form).copied().unwrap_or_default();
        let [qdq, quantized, mixed] = ["QDQ", "QOperator", "mixed"].map(of);
        println!("| {kind} | {} | {qdq} | {quantized} | {mixed} | {} |", row.graphs, row.from_default);
    }
    let sum = |of: fn(&Row) -> usize| rows.values().map(of).sum::<usize>();
    let (graphs, whole, nodes, fused) = (sum(|r| r.graphs), sum(|r| r.whole), sum(|r| r.nodes), sum(|r| r.fused));
    println!("{whole} of {graphs} graphs and {fused} of {nodes} nodes are fused, on {}", isas().join(", "));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (kind, row) in &rows {
        for (form, most) in UNEQUAL_MAX {
            let distance = row.from_onnx.get(form).copied().unwrap_or_default();
            assert!(distance.unequal as f64 <= most * distance.values as f64, "{kind} in {form}: {distance}");
        }
        let share = row.fused as f64 / row.nodes as f64;
        assert!(share >= FUSED_MIN, "of {kind} no more than {} of {} nodes are fused", row.fused, row.nodes);
    }
}
