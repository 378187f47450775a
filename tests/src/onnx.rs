//! ONNX models written by hand, for graphs that no exporter would make.
//!
//! Field numbers are those of onnx.proto; only what the tests need is here.

/// Element type float32 in ONNX.
pub const FLOAT: u64 = 1;

/// A node of a graph.
pub struct Node {
    /// Operator.
    pub op: &'static str,
    /// Name, for messages.
    pub name: &'static str,
    /// Names of what it reads.
    pub inputs: &'static [&'static str],
    /// Name of what it yields.
    pub output: &'static str,
}

/// A graph with float32 tensors.
#[derive(Default)]
pub struct Graph {
    /// Its nodes, in order.
    pub nodes: Vec<Node>,
    /// Names and shapes of inputs.
    pub inputs: Vec<(&'static str, &'static [i64])>,
    /// Names and shapes of outputs.
    pub outputs: Vec<(&'static str, &'static [i64])>,
    /// Weights.
    pub weights: Vec<Weight>,
}

/// A float32 constant.
pub struct Weight {
    /// Its name.
    pub name: &'static str,
    /// Its shape.
    pub dims: &'static [i64],
    /// Its bytes; `None` when they lie in another file.
    pub data: Option<Vec<u8>>,
}

impl Graph {
    /// The bytes of a model file, opset 13.
    pub fn to_model(&self) -> Vec<u8> {
        let mut graph = Message::default();
        for node in &self.nodes {
            let mut m = Message::default();
            node.inputs.iter().for_each(|i| m.bytes(1, i.as_bytes()));
            m.bytes(2, node.output.as_bytes());
            m.bytes(3, node.name.as_bytes());
            m.bytes(4, node.op.as_bytes());
            graph.message(1, &m);
        }
        graph.bytes(2, b"graph");
        for Weight { name, dims, data } in &self.weights {
            let mut m = Message::default();
            dims.iter().for_each(|&d| m.varint(1, d as u64));
            m.varint(2, FLOAT);
            m.bytes(8, name.as_bytes());
            match data {
                Some(data) => m.bytes(9, data),
                None => {
                    let mut entry = Message::default();
                    entry.bytes(1, b"location");
                    entry.bytes(2, b"/etc/passwd");
                    m.message(13, &entry);
                    m.varint(14, 1);
                }
            }
            graph.message(5, &m);
        }
        self.inputs.iter().for_each(|(name, shape)| graph.message(11, &value_info(name, FLOAT, shape)));
        self.outputs.iter().for_each(|(name, shape)| graph.message(12, &value_info(name, FLOAT, shape)));
        let mut opset = Message::default();
        opset.varint(2, 13);
        let mut model = Message::default();
        model.varint(1, 8);
        model.bytes(2, b"sedge-tests");
        model.message(7, &graph);
        model.message(8, &opset);
        model.0
    }
}

pub(crate) fn value_info(name: &str, ty: u64, shape: &[i64]) -> Message {
    let mut dims = Message::default();
    for &d in shape {
        let mut dim = Message::default();
        dim.varint(1, d as u64);
        dims.message(1, &dim);
    }
    let mut tensor = Message::default();
    tensor.varint(1, ty);
    tensor.message(2, &dims);
    let mut ty = Message::default();
    ty.message(1, &tensor);
    let mut info = Message::default();
    info.bytes(1, name.as_bytes());
    info.message(2, &ty);
    info
}

/// A protobuf message in the making.
#[derive(Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    fn number(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    pub(crate) fn varint(&mut self, field: u64, value: u64) {
        self.number(field << 3);
        self.number(value);
    }

    pub(crate) fn fixed32(&mut self, field: u64, value: u32) {
        self.number(field << 3 | 5);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.number(field << 3 | 2);
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }
}
