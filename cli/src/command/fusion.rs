//! What is said of the nodes of a model that run as fused integer operators, and of the others.

use sedge_runtime::model::{Fate, Fusion};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// In one line.
pub(crate) fn summary(fusion: &Fusion) -> String {
    let left = fusion.left().count();
    let all = if fusion.whole { ", which are the whole model" } else { "" };
    let regions = if fusion.regions == 1 { "region" } else { "regions" };
    let fused = format!("{} nodes fused into {} {regions}{all}", fusion.fused(), fusion.regions);
    if left == 0 { fused } else { format!("{fused}; {left} left to tract: {}", reasons(fusion)) }
}

/// The commonest reasons, with how often each occurs.
fn reasons(fusion: &Fusion) -> String {
    const SHOWN: usize = 3;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (node, reason) in fusion.left() {
        *counts.entry(format!("{} ({reason})", node.operator)).or_default() += 1;
    }
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let more = counts.len().saturating_sub(SHOWN);
    let shown = counts.iter().take(SHOWN).map(|(what, count)| format!("{count} {what}"));
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(", and {more} more kinds"));
    }
    text
}

/// As an object; with every node, or with those alone that are left.
pub(crate) fn json(fusion: &Fusion, all: bool) -> Value {
    let left = fusion.left().map(|(node, _)| node);
    let nodes: Vec<_> = if all { fusion.nodes.iter().collect() } else { left.collect() };
    json!({
        "fused": fusion.fused(),
        "left": fusion.left().count(),
        "regions": fusion.regions,
        "whole": fusion.whole,
        "nodes": nodes,
    })
}

/// Name, operator and fate of every node.
pub(crate) fn rows(fusion: &Fusion) -> Vec<Vec<String>> {
    let fate = |fate: &Fate| match fate {
        Fate::Fused { region } => format!("region {region}"),
        Fate::Constant => "constant".to_owned(),
        Fate::Left { reason } => format!("tract: {reason}"),
    };
    fusion.nodes.iter().map(|n| vec![n.name.clone(), n.operator.clone(), fate(&n.fate)]).collect()
}
