//! The same results to the byte with less work.
//!
//! Functions of one byte are put together: whatever depends on one tensor's byte alone is one table, however many operators
//! it was written with. `x * sigmoid(x)` is one, and costs what `sigmoid` costs.
//!
//! A matrix that is turned byte by byte, to be the second of a product, is left as it lies where the product can take it so.

use crate::graph::{Graph, Node, Op, ValueId};
use crate::reference;
use std::collections::HashSet;

/// What a tensor is, as a function of another's bytes.
type Function = (ValueId, [u8; 256]);

/// The same graph with less to do.
pub(crate) fn simplified(mut graph: Graph) -> Graph {
    let turned: Vec<usize> = (0..graph.nodes.len()).filter(|index| need_not_turn(&graph, *index)).collect();
    let same = |node: &Node| matches!(node.op, Op::Table(_)) || node.inputs.windows(2).any(|pair| pair[0] == pair[1]);
    let outputs = graph.outputs.iter().map(|port| port.value);
    let read: HashSet<ValueId> =
        graph.nodes.iter().flat_map(|node| node.inputs.iter().copied()).chain(outputs).collect();
    if turned.is_empty() && !graph.nodes.iter().any(|node| same(node) || !read.contains(&node.output)) {
        return graph;
    }
    turned.into_iter().for_each(|index| turn_back(&mut graph, index));
    put_together(&mut graph);
    let mut read: HashSet<ValueId> = graph.outputs.iter().map(|port| port.value).collect();
    for node in graph.nodes.iter().rev() {
        if read.contains(&node.output) {
            read.extend(&node.inputs);
        }
    }
    graph.nodes.retain(|node| read.contains(&node.output));
    graph
}

/// Whether a node swaps the two inner axes for products alone, whose second matrix it is.
fn need_not_turn(graph: &Graph, index: usize) -> bool {
    let Node { op: Op::Transpose { axes: [_, _, 3, _] }, output, .. } = &graph.nodes[index] else { return false };
    let product = |node: &Node| {
        let reads = node.inputs.contains(output);
        !reads || (matches!(node.op, Op::MatMul { .. }) && node.inputs[0] != *output)
    };
    graph.nodes.iter().all(product) && graph.outputs.iter().all(|port| port.value != *output)
}

/// Leaves the inner axes as they lie, and has the products read them so.
fn turn_back(graph: &mut Graph, index: usize) {
    let output = graph.nodes[index].output;
    let dims = &mut graph.values[output.0].dims;
    std::mem::swap(&mut dims.w, &mut dims.c);
    if let Op::Transpose { axes } = &mut graph.nodes[index].op {
        axes.swap(2, 3);
        if axes.is_sorted() {
            graph.nodes[index].op = Op::Reshape;
        }
    }
    for node in graph.nodes.iter_mut().filter(|node| node.inputs.contains(&output)) {
        if let Op::MatMul { transposed, .. } = &mut node.op {
            *transposed = !*transposed;
        }
    }
}

fn put_together(graph: &mut Graph) {
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
        let table = reference::of_each_byte(graph, node, &tables);
        let (root, output) = (of(&node.inputs[0]).0, node.output);
        functions[output.0] = Some((root, table));
        let node = &mut graph.nodes[index];
        (node.op, node.inputs) = (Op::Table(Box::new(table)), vec![root]);
    }
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

    #[test]
    fn keys_are_not_turned_for_a_product() {
        let of = |zero_point| Quantization { scale: 0.03, zero_point };
        let mut graph = Graph::default();
        let queries = graph.value("queries", Dims::new(1, 2, 5, 4), of(100));
        let keys = graph.value("keys", Dims::new(1, 3, 2, 4), of(90));
        let turned = graph.value("turned", Dims::new(1, 2, 4, 3), of(90));
        graph.node("turn", Op::Transpose { axes: [0, 2, 3, 1] }, &[keys], turned);
        let scores = graph.value("scores", Dims::new(1, 2, 5, 3), of(128));
        graph.node("product", Op::MatMul { transposed: false, range: Range::FULL }, &[queries, turned], scores);
        let port = |value| Port { value, element: Element::U8, order: Port::CHANNELS_LAST };
        graph.inputs.extend([port(queries), port(keys)]);
        graph.outputs.push(port(scores));
        let small = simplified(graph.clone());
        assert!(matches!(small.nodes[0].op, Op::Transpose { axes: [0, 2, 1, 3] }), "{:?}", small.nodes);
        let bytes = |count: u8| reference::Data::U8((0..count).map(|i| i.wrapping_mul(37)).collect());
        let inputs = [bytes(40), bytes(24)];
        assert_eq!(reference::run(&small, &inputs), reference::run(&graph, &inputs));
        graph.outputs.push(port(turned));
        assert_eq!(simplified(graph.clone()), graph, "somebody else reads it");
    }
}
