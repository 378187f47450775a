//! Functions of one byte, put together: whatever depends on one tensor's byte alone is one table, however many operators
//! it was written with. `x * sigmoid(x)` is one, and costs what `sigmoid` costs. Results are the same to the byte.

use crate::graph::{Graph, Node, Op, ValueId};
use crate::reference;
use std::collections::HashSet;

/// What a tensor is, as a function of another's bytes.
type Function = (ValueId, [u8; 256]);

/// The same graph with fewer operators.
pub(crate) fn simplified(mut graph: Graph) -> Graph {
    let same = |node: &Node| matches!(node.op, Op::Table(_)) || node.inputs.windows(2).any(|pair| pair[0] == pair[1]);
    let outputs = graph.outputs.iter().map(|port| port.value);
    let read: HashSet<ValueId> =
        graph.nodes.iter().flat_map(|node| node.inputs.iter().copied()).chain(outputs).collect();
    if !graph.nodes.iter().any(|node| same(node) || !read.contains(&node.output)) {
        return graph;
    }
    let mut functions: Vec<Option<Function>> = vec![None; graph.values.len()];
    let identity = std::array::from_fn(|byte| byte as u8);
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let of = |id: &ValueId| functions[id.0].unwrap_or((*id, identity));
        let dims = |id: &ValueId| graph.values[id.0].dims;
        let bytewise = match &node.op {
            Op::Table(_) => true,
            Op::Add(_) | Op::Mul(_) | Op::SquaredDifference => {
                node.inputs.iter().all(|id| of(id).0 == of(&node.inputs[0]).0 && dims(id) == dims(&node.output))
            }
            _ => false,
        };
        if !bytewise {
            continue;
        }
        let tables: Vec<[u8; 256]> = node.inputs.iter().map(|id| of(id).1).collect();
        let table = reference::of_each_byte(&graph, node, &tables);
        let (root, output) = (of(&node.inputs[0]).0, node.output);
        functions[output.0] = Some((root, table));
        let node = &mut graph.nodes[index];
        (node.op, node.inputs) = (Op::Table(Box::new(table)), vec![root]);
    }
    let mut read: HashSet<ValueId> = graph.outputs.iter().map(|port| port.value).collect();
    for node in graph.nodes.iter().rev() {
        if read.contains(&node.output) {
            read.extend(&node.inputs);
        }
    }
    graph.nodes.retain(|node| read.contains(&node.output));
    graph
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Dims, Element, Port, Quantization, Range};

    #[test]
    fn a_swish_is_one_table_and_what_nobody_reads_is_gone() {
        let mut graph = Graph::default();
        let of = |zero_point| Quantization { scale: 0.03, zero_point };
        let dims = Dims::new(1, 2, 2, 5);
        let x = graph.value("x", dims, of(100));
        let sigmoid = graph.value("sigmoid", dims, of(0));
        graph.node("a", Op::Table(Box::new(std::array::from_fn(|byte| (byte / 3) as u8))), &[x], sigmoid);
        let swish = graph.value("swish", dims, of(30));
        graph.node("b", Op::Mul(Range::FULL), &[x, sigmoid], swish);
        let more = graph.value("more", dims, of(9));
        graph.node("c", Op::Add(Range { low: 3, high: 200 }), &[swish, x], more);
        let unread = graph.value("unread", dims, of(9));
        graph.node("d", Op::Softmax, &[swish], unread);
        let port = |value| Port { value, element: Element::U8, order: Port::CHANNELS_LAST };
        graph.inputs.push(port(x));
        graph.outputs.push(port(more));
        let small = simplified(graph.clone());
        assert_eq!(small.nodes.len(), 1, "{:?}", small.nodes);
        assert_eq!((small.nodes[0].name.as_str(), small.nodes[0].inputs.as_slice()), ("c", [x].as_slice()));
        for first in (0..=255_u8).step_by(20) {
            let bytes = reference::Data::U8((0..20).map(|i| first.saturating_add(i)).collect());
            let inputs = std::slice::from_ref(&bytes);
            assert_eq!(reference::run(&small, inputs), reference::run(&graph, inputs));
        }
    }
}
