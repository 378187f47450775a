//! A graph without what nothing needs.

use sedge_engine::{Graph, Op, ValueId};

/// Takes transpositions of inputs into their ports, which read in any order, and drops what leads to no output.
pub(super) fn tidy(graph: &mut Graph) {
    turn_inputs(graph);
    drop_unused(graph);
}

fn turn_inputs(graph: &mut Graph) {
    for at in 0..graph.inputs.len() {
        let value = graph.inputs[at].value;
        if graph.inputs.iter().filter(|port| port.value == value).count() > 1
            || graph.outputs.iter().any(|port| port.value == value)
        {
            continue;
        }
        let mut readers = graph.nodes.iter().filter(|node| node.inputs.contains(&value));
        let (Some(reader), None) = (readers.next(), readers.next()) else { continue };
        let Op::Transpose { axes } = reader.op else { continue };
        let turned = reader.output;
        let order = graph.inputs[at].order.map(|outside| axes.iter().position(|axis| *axis == outside).unwrap_or(0));
        graph.nodes.retain(|node| node.output != turned);
        graph.inputs[at].value = turned;
        graph.inputs[at].order = order;
    }
}

fn drop_unused(graph: &mut Graph) {
    let mut needed = vec![false; graph.values.len()];
    graph.inputs.iter().chain(&graph.outputs).for_each(|port| needed[port.value.0] = true);
    for node in graph.nodes.iter().rev() {
        if needed[node.output.0] {
            node.inputs.iter().for_each(|input| needed[input.0] = true);
        }
    }
    graph.nodes.retain(|node| needed[node.output.0]);
    let mut places = vec![ValueId(0); graph.values.len()];
    let mut kept = Vec::with_capacity(graph.values.len());
    for (at, value) in std::mem::take(&mut graph.values).into_iter().enumerate() {
        if needed[at] {
            places[at] = ValueId(kept.len());
            kept.push(value);
        }
    }
    graph.values = kept;
    graph.inputs.iter_mut().chain(&mut graph.outputs).for_each(|port| port.value = places[port.value.0]);
    for node in &mut graph.nodes {
        node.output = places[node.output.0];
        node.inputs.iter_mut().for_each(|input| *input = places[input.0]);
    }
}
