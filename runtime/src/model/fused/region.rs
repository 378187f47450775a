//! Which steps become one region, and what is left of the graph for tract.
//!
//! Two regions that touch become one, unless a way leads out of the one, through a node of tract, and into the other:
//! tract could then run neither first.

use super::dynamic::Group;
use super::import;
use super::kinds::{moves, quantized};
use super::recognise::Verdict;
use super::report::{Fate, Fusion, NodeFusion, Reason};
use super::source::{INT8, Source, label};
use sedge_engine::Element;
use sedge_protocol::text::visible;
use std::collections::{BTreeSet, HashSet};
use tract_onnx::pb;

/// Steps that run as one operator.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) struct Region {
    /// The nodes that yield bytes, in order.
    pub(super) steps: Vec<usize>,
    /// Tensors from outside.
    pub(in crate::model) inputs: Vec<(String, Element)>,
    /// Tensors that are used outside.
    pub(in crate::model) outputs: Vec<(String, Element)>,
}

/// A graph divided between regions and tract.
pub(super) struct Division {
    pub(super) regions: Vec<Region>,
    /// Dynamically quantized layers, counted after the regions. tract would run their nodes otherwise.
    dynamic: Vec<Group>,
    /// The region of each node that is part of a step.
    of: Vec<Option<usize>>,
    /// Nodes that tract runs, or needs the constants of.
    kept: BTreeSet<usize>,
}

/// How the bytes of a tensor look outside.
pub(super) fn element(source: &Source, name: &str) -> Element {
    let of_reader = || {
        let node = source.readers(name).iter().map(|at| source.node(*at)).find(|n| n.op_type == "DequantizeLinear")?;
        source.parameters(node, (1, 2)).ok().flatten().map(|parameters| parameters.ty)
    };
    if source.byte_type(name, 0).or_else(of_reader) == Some(INT8) { Element::I8 } else { Element::U8 }
}

/// The tensor that a real tensor stands for: bytes, or what is float from the start.
fn base<'a>(source: &'a Source, verdicts: &[Verdict], name: &'a str) -> &'a str {
    let mut name = name;
    while let Some((at, _)) = source.producer(name) {
        match (verdicts[at] == Verdict::Real, source.node(at).input.first()) {
            (true, Some(before)) => name = before,
            _ => break,
        }
    }
    name
}

/// Groups of nodes that become one.
struct Groups {
    of: Vec<usize>,
    members: Vec<Vec<usize>>,
    after: Vec<Vec<usize>>,
}

impl Groups {
    /// Whether a way leads from one group to another through a third.
    fn detour(&self, from: usize, to: usize) -> bool {
        let next =
            |group: usize| self.members[group].iter().flat_map(|node| &self.after[*node]).map(|node| self.of[*node]);
        let mut seen: HashSet<usize> = next(from).filter(|group| *group != from && *group != to).collect();
        let mut open: Vec<usize> = seen.iter().copied().collect();
        while let Some(group) = open.pop() {
            for group in next(group) {
                if group == to {
                    return true;
                }
                if seen.insert(group) {
                    open.push(group);
                }
            }
        }
        false
    }

    fn merge(&mut self, one: usize, two: usize) {
        let moved = std::mem::take(&mut self.members[two]);
        moved.iter().for_each(|node| self.of[*node] = one);
        self.members[one].extend(moved);
    }
}

/// Divides a graph. Regions that would only carry bytes back and forth are dissolved in `verdicts`.
pub(super) fn divide(source: &Source, verdicts: &mut [Verdict], dynamic: Vec<Group>) -> Division {
    let count = source.graph.node.len();
    let step = |verdicts: &[Verdict], at: usize| match verdicts[at] {
        Verdict::Step(root) => Some(root),
        _ => None,
    };
    // Every node stands for itself, members of a step for its last one.
    let mut groups = Groups {
        of: (0..count).map(|at| step(verdicts, at).unwrap_or(at)).collect(),
        members: (0..count).map(|at| vec![at]).collect(),
        after: vec![Vec::new(); count],
    };
    let mut edges = Vec::new();
    for at in source.order.iter().copied() {
        if !matches!(verdicts[at], Verdict::Step(_) | Verdict::Left(_)) {
            continue;
        }
        let reader = step(verdicts, at).unwrap_or(at);
        for name in source.reads(at) {
            let Some((before, _)) = source.producer(base(source, verdicts, name)) else { continue };
            let writer = step(verdicts, before).unwrap_or(before);
            if writer != reader && verdicts[before] != Verdict::Constant {
                groups.after[writer].push(reader);
                edges.push((writer, reader));
            }
        }
    }
    let fused = |verdicts: &[Verdict], at: usize| step(verdicts, at).is_some();
    let alone = !verdicts.iter().any(|v| matches!(v, Verdict::Left(_)));
    if alone {
        // Nothing is outside that a way could lead through.
        let mut steps = (0..count).filter(|at| step(verdicts, *at) == Some(*at));
        if let Some(first) = steps.next() {
            steps.for_each(|at| groups.merge(first, at));
        }
    } else {
        for (writer, reader) in edges {
            let (one, two) = (groups.of[writer], groups.of[reader]);
            if one != two && fused(verdicts, writer) && fused(verdicts, reader) && !groups.detour(one, two) {
                groups.merge(one, two);
            }
        }
    }
    let roots = (0..count).filter_map(|at| step(verdicts, at).filter(|_| works(source, verdicts, at)));
    let busy: HashSet<usize> = roots.map(|root| groups.of[root]).collect();
    for at in 0..count {
        if let Some(root) = step(verdicts, at)
            && !busy.contains(&groups.of[root])
        {
            verdicts[at] = Verdict::Left(Reason::Alone);
        }
    }
    let mut of = vec![None; count];
    let mut numbers: Vec<usize> = Vec::new();
    let mut regions: Vec<Region> = Vec::new();
    for at in source.order.iter().copied() {
        let Some(root) = step(verdicts, at) else { continue };
        let group = groups.of[root];
        let number = numbers.iter().position(|n| *n == group).unwrap_or_else(|| {
            numbers.push(group);
            regions.push(Region { steps: vec![], inputs: vec![], outputs: vec![] });
            regions.len() - 1
        });
        of[at] = Some(number);
        if root == at {
            regions[number].steps.push(at);
        }
    }
    let mut division = Division { regions, dynamic, of, kept: BTreeSet::new() };
    division.edges(source, verdicts);
    division.keep(source, verdicts);
    division
}

/// Whether a node of a step computes anything, rather than carrying bytes.
fn works(source: &Source, verdicts: &[Verdict], at: usize) -> bool {
    let pools = |node: &pb::NodeProto| matches!(node.op_type.as_str(), "MaxPool" | "Resize" | "Upsample");
    let node = source.node(at);
    if pools(node) {
        return true;
    }
    if node.op_type == "QuantizeLinear" || moves(node) {
        // What is moved before it belongs to it.
        let mut before = node.input.first().and_then(|name| source.producer(name));
        while let Some((at, _)) = before.filter(|(at, _)| verdicts[*at] == Verdict::Real) {
            if pools(source.node(at)) {
                return true;
            }
            before = source.node(at).input.first().and_then(|name| source.producer(name));
        }
        return false;
    }
    true
}

impl Division {
    /// Everything that becomes one operator, by its number.
    pub(super) fn operators(&self) -> impl Iterator<Item = &Region> {
        self.regions.iter().chain(self.dynamic.iter().map(|group| &group.region))
    }

    /// The dynamically quantized layers behind such a number; none where it is a region's.
    pub(super) fn dynamic(&self, number: usize) -> Option<&Group> {
        self.dynamic.get(number.checked_sub(self.regions.len())?)
    }

    /// The region that yields the bytes behind a tensor.
    fn home(&self, source: &Source, verdicts: &[Verdict], name: &str) -> Option<usize> {
        source.producer(base(source, verdicts, name)).and_then(|(at, _)| self.of[at])
    }

    /// Whether something outside of a region, or of all when none is named, reads a tensor, or one that stands for it.
    fn read_outside(&self, source: &Source, verdicts: &[Verdict], name: &str, region: usize) -> bool {
        source.is_output(name)
            || source.readers(name).iter().any(|at| match &verdicts[*at] {
                Verdict::Left(_) => true,
                Verdict::Step(_) => self.of[*at] != Some(region),
                Verdict::Real => self.read_by_another(source, verdicts, *at, region),
                Verdict::Constant => false,
            })
    }

    /// Whether another region computes this real tensor for itself.
    fn read_by_another(&self, source: &Source, verdicts: &[Verdict], at: usize, region: usize) -> bool {
        let readers = source.node(at).output.iter().flat_map(|name| source.readers(name));
        readers.into_iter().any(|reader| match &verdicts[*reader] {
            Verdict::Step(_) => self.of[*reader] != Some(region),
            Verdict::Real => self.read_by_another(source, verdicts, *reader, region),
            _ => false,
        })
    }

    fn edges(&mut self, source: &Source, verdicts: &[Verdict]) {
        let mut found: Vec<Region> = self.regions.clone();
        for at in source.order.iter().copied() {
            let node = source.node(at);
            if let Some(region) = self.of[at] {
                for name in node.input.iter().filter(|name| !name.is_empty() && !source.is_constant(name)) {
                    let from = base(source, verdicts, name);
                    let inside = source.producer(from).is_some_and(|(before, _)| self.of[before] == Some(region));
                    let inputs = &mut found[region].inputs;
                    if inside || inputs.iter().any(|(known, _)| known == from) {
                        continue;
                    }
                    // What is read as it stands, and not by an operator for bytes, is float.
                    let direct = from == name.as_str();
                    let float = direct
                        && !quantized(node)
                        && !matches!(source.byte_type(from, 0), Some(ty) if [INT8, super::source::UINT8].contains(&ty));
                    inputs.push((from.to_owned(), if float { Element::F32 } else { element(source, from) }));
                }
                if verdicts[at] == Verdict::Step(at) {
                    for name in node.output.iter().filter(|name| !name.is_empty()) {
                        if self.read_outside(source, verdicts, name, region) {
                            found[region].outputs.push((name.clone(), element(source, name)));
                        }
                    }
                }
            } else if verdicts[at] == Verdict::Real {
                for name in node.output.iter().filter(|name| !name.is_empty()) {
                    let Some(region) = self.home(source, verdicts, name) else { continue };
                    let left = |at: &usize| matches!(verdicts[*at], Verdict::Left(_));
                    if source.is_output(name) || source.readers(name).iter().any(left) {
                        found[region].outputs.push((name.clone(), Element::F32));
                    }
                }
            }
        }
        self.regions = found;
    }

    fn keep(&mut self, source: &Source, verdicts: &[Verdict]) {
        let mut wanted: Vec<&str> = source.graph.output.iter().map(|o| o.name.as_str()).collect();
        let left = (0..source.graph.node.len()).filter(|at| matches!(verdicts[*at], Verdict::Left(_)));
        let taken: HashSet<usize> = self.dynamic.iter().flat_map(|group| &group.nodes).copied().collect();
        for at in left.filter(|at| !taken.contains(at)) {
            self.kept.insert(at);
            wanted.extend(source.reads(at));
        }
        let operators = || self.regions.iter().chain(self.dynamic.iter().map(|group| &group.region));
        wanted.extend(operators().flat_map(|region| &region.inputs).map(|(name, _)| name.as_str()));
        let yielded: HashSet<&str> =
            operators().flat_map(|region| &region.outputs).map(|(name, _)| name.as_str()).collect();
        while let Some(name) = wanted.pop() {
            if yielded.contains(name) {
                continue;
            }
            if let Some((at, _)) = source.producer(name)
                && self.of[at].is_none()
                && self.kept.insert(at)
            {
                wanted.extend(source.reads(at));
            }
        }
    }

    /// Whether the one region is all there is, between the graph's inputs and outputs.
    pub(super) fn is_whole(&self, source: &Source) -> bool {
        let [region] = self.regions.as_slice() else { return false };
        self.kept.is_empty()
            && self.dynamic.is_empty()
            && source.graph.output.iter().all(|o| region.outputs.iter().any(|(name, _)| *name == o.name))
    }

    /// Whether tract must have this node.
    pub(super) fn keeps(&self, at: usize) -> bool {
        self.kept.contains(&at)
    }

    /// The graph for tract: each region is a node named by `name`.
    pub(super) fn rest(&self, source: &Source, name: impl Fn(usize) -> String) -> pb::GraphProto {
        let graph = &source.graph;
        let mut node: Vec<pb::NodeProto> = self.kept.iter().map(|at| source.node(*at).clone()).collect();
        for (number, region) in self.operators().enumerate() {
            node.push(pb::NodeProto {
                name: name(number),
                op_type: name(number),
                input: region.inputs.iter().map(|(name, _)| name.clone()).collect(),
                output: region.outputs.iter().map(|(name, _)| name.clone()).collect(),
                ..pb::NodeProto::default()
            });
        }
        let mut read: HashSet<&str> = self.kept.iter().flat_map(|at| source.reads(*at)).collect();
        read.extend(graph.output.iter().map(|o| o.name.as_str()));
        let there: HashSet<&str> = node.iter().flat_map(|n| &n.output).map(String::as_str).collect();
        pb::GraphProto {
            initializer: graph.initializer.iter().filter(|t| read.contains(t.name.as_str())).cloned().collect(),
            input: graph
                .input
                .iter()
                .filter(|i| source.stored(&i.name).is_none() || read.contains(i.name.as_str()))
                .cloned()
                .collect(),
            output: graph.output.clone(),
            value_info: graph.value_info.iter().filter(|i| there.contains(i.name.as_str())).cloned().collect(),
            name: graph.name.clone(),
            node,
            ..pb::GraphProto::default()
        }
    }

    pub(super) fn report(&self, source: &Source, verdicts: &[Verdict]) -> Fusion {
        let readers = |at: usize| source.node(at).output.iter().flat_map(|name| source.readers(name)).copied();
        // The first region that computes a real tensor.
        let region = |at: usize| -> Option<usize> {
            let mut open = vec![at];
            let mut seen = HashSet::new();
            while let Some(at) = open.pop() {
                for reader in readers(at).filter(|reader| seen.insert(*reader)) {
                    match verdicts[reader] {
                        Verdict::Step(_) => return self.of[reader],
                        Verdict::Real => open.push(reader),
                        _ => {}
                    }
                }
            }
            None
        };
        let layer = |at: usize| self.dynamic.iter().position(|group| group.nodes.contains(&at));
        let fate = |at: usize| match &verdicts[at] {
            Verdict::Left(_) if layer(at).is_some() => {
                Fate::Fused { region: self.regions.len() + layer(at).unwrap_or(0) }
            }
            Verdict::Constant => Fate::Constant,
            Verdict::Left(reason) => Fate::Left { reason: reason.clone() },
            Verdict::Step(_) => {
                self.of[at].map_or(Fate::Left { reason: Reason::Alone }, |region| Fate::Fused { region })
            }
            Verdict::Real => {
                let home = source.node(at).output.first().and_then(|name| self.home(source, verdicts, name));
                match home.or_else(|| region(at)) {
                    Some(region) => Fate::Fused { region },
                    None => {
                        let reader = readers(at).next().map(|reader| source.node(reader).op_type.clone());
                        Fate::Left { reason: Reason::FloatResult(reader.unwrap_or_else(|| "the caller".to_owned())) }
                    }
                }
            }
        };
        let nodes = source.graph.node.iter().enumerate().map(|(at, node)| NodeFusion {
            name: visible(label(node), 100),
            operator: visible(&node.op_type, 100),
            fate: fate(at),
        });
        Fusion { nodes: nodes.collect(), regions: self.operators().count(), whole: self.is_whole(source) }
    }

    /// Builds a region for inputs of these sizes.
    pub(super) fn build(
        &self,
        source: &Source,
        verdicts: &[Verdict],
        number: usize,
        shapes: &[Vec<usize>],
        options: &sedge_engine::Options,
    ) -> Result<import::Built, import::Fault> {
        let region = &self.regions[number];
        let inputs: Vec<(String, import::Edge)> = region
            .inputs
            .iter()
            .zip(shapes)
            .map(|((name, element), shape)| (name.clone(), import::Edge { element: *element, shape: shape.clone() }))
            .collect();
        let outputs: Vec<String> = region.outputs.iter().map(|(name, _)| name.clone()).collect();
        import::build(source, verdicts, &region.steps, &inputs, &outputs, options)
    }
}
