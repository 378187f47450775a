//! Bytes in another order, under other sizes, or with another meaning.

use super::super::constant::places;
use super::super::operand::Operand;
use super::super::source::label;
use super::Building;
use sedge_engine::{Dims, Op, Quantization, ValueId};

impl super::Builder<'_> {
    /// The same bytes with another meaning, as when a file dequantizes with other numbers than it quantized with.
    pub(super) fn reinterpreted(&mut self, x: &Operand, quantization: Quantization, name: &str) -> Operand {
        if self.quantization(x) == quantization {
            return x.clone();
        }
        let dims = self.graph.values[x.value.0].dims;
        let value = self.graph.value(name, dims, quantization);
        let same = Box::new(std::array::from_fn(|byte| byte as u8));
        self.graph.node(name, Op::Table(same), &[x.value], value);
        Operand { value, ..x.clone() }
    }

    /// The bytes of a tensor in an order of its axes and under sizes that fit that order.
    pub(super) fn arrange(&mut self, at: usize, x: &Operand, order: &[usize], dims: Dims) -> Building<ValueId> {
        if x.lies_in(order) {
            return Ok(self.under(x.value, dims, label(self.source.node(at))));
        }
        let mut from: Vec<usize> = x.order.clone();
        let mut to: Vec<usize> = order.to_vec();
        if from.len() > 4 {
            from.retain(|axis| x.shape[*axis] != 1);
            to.retain(|axis| x.shape[*axis] != 1);
        }
        // Runs of axes that stay together, as (first axis, size).
        let mut runs: Vec<(usize, usize)> = from.iter().map(|axis| (*axis, x.shape[*axis])).collect();
        while runs.len() > 4 {
            let together = |i: &usize| {
                let here = to.iter().position(|axis| *axis == runs[*i].0);
                here.is_some_and(|here| to.get(here + 1) == Some(&runs[*i + 1].0))
            };
            let Some(i) = (0..runs.len() - 1).find(together) else {
                return self.sizes(at, format!("{:?} in another order", x.shape));
            };
            let gone = runs.remove(i + 1);
            runs[i].1 *= gone.1;
            to.retain(|axis| *axis != gone.0);
        }
        let missing = 4 - runs.len();
        let mut sizes = [1; 4];
        runs.iter().enumerate().for_each(|(i, (_, size))| sizes[missing + i] = *size);
        let mut axes = [0, 1, 2, 3];
        for (i, axis) in to.iter().enumerate() {
            axes[missing + i] = missing + runs.iter().position(|(first, _)| first == axis).unwrap_or(0);
        }
        let [n, h, w, c] = sizes;
        let name = label(self.source.node(at)).to_owned();
        let from = self.under(x.value, Dims::new(n, h, w, c), &name);
        let [n, h, w, c] = axes.map(|axis| sizes[axis]);
        let turned = self.turned(from, axes, Dims::new(n, h, w, c), &name);
        Ok(self.under(turned, dims, &name))
    }

    pub(super) fn turned(&mut self, x: ValueId, axes: [usize; 4], dims: Dims, name: &str) -> ValueId {
        let key = (x, axes, dims.array());
        if let Some(known) = self.arranged.get(&key) {
            return *known;
        }
        let from = &self.graph.values[x.0];
        let (quantization, sizes) = (from.quantization, from.dims.array());
        let constant =
            from.constant.as_ref().map(|bytes| places(&sizes, &axes).map(|place| bytes[place]).collect::<Vec<u8>>());
        let value = self.graph.value(name, dims, quantization);
        if constant.is_some() {
            self.graph.values[value.0].constant = constant;
        } else {
            self.graph.node(name, Op::Transpose { axes }, &[x], value);
        }
        self.arranged.insert(key, value);
        value
    }

    /// The same bytes under other sizes.
    pub(super) fn under(&mut self, x: ValueId, dims: Dims, name: &str) -> ValueId {
        let from = &self.graph.values[x.0];
        if from.dims == dims {
            return x;
        }
        let key = (x, [0, 1, 2, 3], dims.array());
        if let Some(known) = self.arranged.get(&key) {
            return *known;
        }
        let (quantization, constant) = (from.quantization, from.constant.clone());
        let value = self.graph.value(name, dims, quantization);
        if constant.is_some() {
            self.graph.values[value.0].constant = constant;
        } else {
            self.graph.node(name, Op::Reshape, &[x], value);
        }
        self.arranged.insert(key, value);
        value
    }
}
