//! Quantized ONNX models written by hand, node by node.

use crate::onnx::Message;

/// Element types by their codes in ONNX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Type {
    F32 = 1,
    U8 = 2,
    I8 = 3,
    I32 = 6,
    I64 = 7,
}

/// A setting of a node.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Setting<'a> {
    Int(&'a str, i64),
    Ints(&'a str, &'a [i64]),
    Real(&'a str, f32),
    Text(&'a str, &'a str),
}

/// A graph in the making. Names of tensors that nobody chose are made up.
#[derive(Default)]
pub struct Builder {
    graph: Message,
    made_up: usize,
}

impl Builder {
    fn fresh(&mut self) -> String {
        self.made_up += 1;
        format!("t{}", self.made_up)
    }

    /// An input of the graph.
    pub fn input(&mut self, name: &str, ty: Type, shape: &[i64]) -> String {
        self.graph.message(11, &crate::onnx::value_info(name, ty as u64, shape));
        name.to_owned()
    }

    /// An output of the graph, which a node must yield under this name.
    pub fn output(&mut self, name: &str, ty: Type, shape: &[i64]) {
        self.graph.message(12, &crate::onnx::value_info(name, ty as u64, shape));
    }

    /// A constant from its bytes.
    pub fn raw(&mut self, ty: Type, dims: &[i64], data: &[u8]) -> String {
        let name = self.fresh();
        let mut m = Message::default();
        dims.iter().for_each(|d| m.varint(1, *d as u64));
        m.varint(2, ty as u64);
        m.bytes(8, name.as_bytes());
        m.bytes(9, data);
        self.graph.message(5, &m);
        name
    }

    /// Float values; a scalar where there are no sizes.
    pub fn f32s(&mut self, dims: &[i64], values: &[f32]) -> String {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.raw(Type::F32, dims, &bytes)
    }

    /// Axes, sizes, repetitions.
    pub fn i64s(&mut self, values: &[i64]) -> String {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.raw(Type::I64, &[values.len() as i64], &bytes)
    }

    /// 32-bit integers.
    pub fn i32s(&mut self, dims: &[i64], values: &[i32]) -> String {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.raw(Type::I32, dims, &bytes)
    }

    /// A scalar of 8 bits.
    pub fn byte(&mut self, ty: Type, value: i32) -> String {
        self.raw(ty, &[], &[value as u8])
    }

    /// A node with one output.
    pub fn node(&mut self, op: &str, inputs: &[&str], settings: &[Setting<'_>]) -> String {
        let output = self.fresh();
        self.named(op, inputs, &[&output], settings);
        output
    }

    /// A node whose outputs have names; the first is that of the node too.
    pub fn named(&mut self, op: &str, inputs: &[&str], outputs: &[&str], settings: &[Setting<'_>]) {
        let mut m = Message::default();
        inputs.iter().for_each(|i| m.bytes(1, i.as_bytes()));
        outputs.iter().for_each(|o| m.bytes(2, o.as_bytes()));
        m.bytes(3, outputs[0].as_bytes());
        m.bytes(4, op.as_bytes());
        for setting in settings {
            let mut a = Message::default();
            match setting {
                Setting::Int(name, value) => {
                    a.bytes(1, name.as_bytes());
                    a.varint(3, *value as u64);
                    a.varint(20, 2);
                }
                Setting::Ints(name, values) => {
                    a.bytes(1, name.as_bytes());
                    values.iter().for_each(|v| a.varint(8, *v as u64));
                    a.varint(20, 7);
                }
                Setting::Real(name, value) => {
                    a.bytes(1, name.as_bytes());
                    a.fixed32(2, value.to_bits());
                    a.varint(20, 1);
                }
                Setting::Text(name, value) => {
                    a.bytes(1, name.as_bytes());
                    a.bytes(4, value.as_bytes());
                    a.varint(20, 3);
                }
            }
            m.message(5, &a);
        }
        self.graph.message(1, &m);
    }

    /// QuantizeLinear.
    pub fn quantize(&mut self, x: &str, to: (Type, f32, i32)) -> String {
        let (scale, zero_point) = self.parameters(to);
        self.node("QuantizeLinear", &[x, &scale, &zero_point], &[])
    }

    /// QuantizeLinear as an output of the graph.
    pub fn quantize_as(&mut self, x: &str, to: (Type, f32, i32), name: &str) {
        let (scale, zero_point) = self.parameters(to);
        self.named("QuantizeLinear", &[x, &scale, &zero_point], &[name], &[]);
    }

    /// DequantizeLinear.
    pub fn dequantize(&mut self, x: &str, from: (Type, f32, i32)) -> String {
        let (scale, zero_point) = self.parameters(from);
        self.node("DequantizeLinear", &[x, &scale, &zero_point], &[])
    }

    /// Scale and zero point.
    pub fn parameters(&mut self, (ty, scale, zero_point): (Type, f32, i32)) -> (String, String) {
        (self.f32s(&[], &[scale]), self.byte(ty, zero_point))
    }

    /// The bytes of a model file.
    pub fn model(self, opset: u64) -> Vec<u8> {
        let mut graph = self.graph;
        graph.bytes(2, b"graph");
        let mut own = Message::default();
        own.varint(2, opset);
        let mut microsoft = Message::default();
        microsoft.bytes(1, b"com.microsoft");
        microsoft.varint(2, 1);
        let mut model = Message::default();
        model.varint(1, 8);
        model.bytes(2, b"sedge-tests");
        model.message(7, &graph);
        model.message(8, &own);
        model.message(8, &microsoft);
        model.into_bytes()
    }
}
