//! Two rollouts in waves: a better version that gets through, and a bad one that goes back by itself. Who is right is not
//! known here: labels reach the devices seconds after the predictions, devices count, and the server judges.

use super::publisher::Bundle;
use super::{COMPONENT, Fleet, PROJECT, settings};
use crate::output;
use anyhow::{Context as _, Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::IsTerminal as _;

/// Labelled samples of a wave below which its accuracy is not judged.
const LABELLED_MIN: u64 = 60;
/// How far a wave's accuracy may lie below that of the devices that still run what they ran.
const DROP_MAX_PERMILLE: u32 = 100;

/// What a rollout came to.
pub(super) struct Ended {
    pub(super) summary: Value,
    pub(super) outcome: String,
}

impl Ended {
    pub(super) fn json(&self, bundle: &Bundle) -> Value {
        let s = &self.summary;
        let seconds = |key: &str| s[key].as_f64().map(|ms| (ms / 100.0).round() / 10.0);
        json!({
            "bundle": COMPONENT,
            "version": bundle.version,
            "outcome": self.outcome,
            "devices_touched": s["devices_touched"],
            "devices_back": s["devices_back"],
            "first_harm_to_last_back_s": seconds("first_result_to_last_back_ms").filter(|_| self.outcome != "completed"),
            "sentence": s["sentence"],
        })
    }
}

/// The declaration. A device needs seconds here where a fleet in the field is given hours.
fn spec(bundle: &Bundle, disagreement_max_permille: u16) -> Value {
    let wave = |name: &str, size: Value| json!({"name": name, "size": size, "soak_s": 6, "success_min_permille": 900, "deadline_s": 90});
    json!({
        "project": PROJECT,
        "component": COMPONENT,
        "bundle": COMPONENT,
        "digest": bundle.digest,
        "settings": settings(disagreement_max_permille),
        "waves": [wave("canary", json!("12%")), wave("half", json!("50%"))],
        "errors": {"max_permille": 100, "executed_min": 2},
        "criteria": [
            {"metric": "accuracy", "drop_max_permille": DROP_MAX_PERMILLE, "samples_min": LABELLED_MIN},
            {"metric": "error-rate", "limit_permille": 20, "samples_min": LABELLED_MIN},
        ],
        "on_failure": "roll-back-all",
        "back_deadline_s": 60,
    })
}

/// Rolls a bundle out and draws how it goes, to its end.
pub(super) fn run(fleet: &mut Fleet, bundle: &Bundle, disagreement_max_permille: u16) -> Result<Ended> {
    let path = format!("projects/{PROJECT}/rollouts");
    let started = fleet.api.post(&path, &spec(bundle, disagreement_max_permille)).context("starting a rollout")?;
    let id = started["id"].as_str().context("the server gave the rollout no id")?.to_owned();
    let mut drawing = Drawing::new(fleet.tell);
    let shown = fleet.until_within(120, &format!("rollout {id}"), |fleet| {
        let shown = fleet.api.get(&format!("{path}/{id}"))?;
        drawing.draw(&shown["summary"]);
        Ok((shown["active"] == false).then_some(shown))
    })?;
    drawing.end();
    let summary = shown["summary"].clone();
    let outcome = shown["state"].as_str().unwrap_or_default().to_owned();
    fleet.tell.say(format!("verdict      {}", summary["sentence"].as_str().unwrap_or_default()));
    Ok(Ended { summary, outcome })
}

/// The bundle that each device is measured to run, by its heartbeats.
pub(super) fn measured(fleet: &Fleet) -> Result<BTreeMap<String, String>> {
    let of = |d: &Value| {
        let name = d["device"].as_str()?.rsplit(':').next()?.to_owned();
        Some((name, d["components"][COMPONENT]["running"].as_str().unwrap_or_default().to_owned()))
    };
    let field = fleet.api.get(&format!("projects/{PROJECT}/field?limit=1000"))?;
    Ok(field["devices"].as_array().into_iter().flatten().filter_map(of).collect())
}

/// Waits until every device is measured to run this, as a heartbeat later it is.
pub(super) fn until_all_run(fleet: &mut Fleet, bundle: &Bundle) -> Result<()> {
    let count = fleet.devices.len();
    fleet.until(&format!("{} on every device", bundle.reference()), |fleet| {
        let running = measured(fleet)?;
        Ok((running.len() == count && running.values().all(|digest| *digest == bundle.digest)).then_some(()))
    })
}

/// Labelled samples and right answers of each bundle, over all devices, as the server has summed them.
pub(super) fn accuracy(fleet: &Fleet, bundles: &[&Bundle]) -> Result<Value> {
    let field = fleet.api.get(&format!("projects/{PROJECT}/field?limit=1000"))?;
    let devices: Vec<&Value> = field["devices"].as_array().into_iter().flatten().collect();
    let mut found = serde_json::Map::new();
    for bundle in bundles {
        let sum = |key: &str| -> u64 {
            let of = |d: &&Value| d["components"][COMPONENT]["bundles"][&bundle.digest][key].as_u64();
            devices.iter().filter_map(of).sum()
        };
        let (labelled, right) = (sum("labelled"), sum("right"));
        let share = (labelled > 0).then(|| (right as f64 / labelled as f64 * 1000.0).round() / 1000.0);
        found.insert(bundle.version.clone(), json!({"labelled": labelled, "right": right, "share": share}));
    }
    Ok(found.into())
}

/// A rollout as it goes: bars on a terminal, a line for each change elsewhere.
struct Drawing {
    tell: super::Teller,
    bars: Option<(MultiProgress, Vec<ProgressBar>)>,
    told: Vec<String>,
}

impl Drawing {
    fn new(tell: super::Teller) -> Self {
        let live = std::io::stderr().is_terminal();
        Self { tell, bars: live.then(|| (MultiProgress::new(), Vec::new())), told: Vec::new() }
    }

    fn draw(&mut self, summary: &Value) {
        for (i, wave) in summary["waves"].as_array().into_iter().flatten().enumerate() {
            let (devices, state) = (wave["devices"].as_u64().unwrap_or(0), wave["state"].as_str().unwrap_or_default());
            let arrived = ["holding", "succeeded"].iter().map(|step| at_step(wave, step)).sum::<u64>();
            let text = gate(wave);
            match &mut self.bars {
                Some((all, bars)) => {
                    if bars.len() <= i {
                        let style = ProgressStyle::with_template("{prefix:>12} [{bar:24}] {pos:>2}/{len:2} {msg}")
                            .unwrap_or_else(|_| ProgressStyle::default_bar())
                            .progress_chars("=> ");
                        let bar = all.add(ProgressBar::new(devices)).with_style(style);
                        bar.set_prefix(wave["name"].as_str().unwrap_or_default().to_owned());
                        bars.push(bar);
                    }
                    if let Some(bar) = bars.get(i) {
                        bar.set_position(arrived);
                        bar.set_message(format!("{state}{text}"));
                    }
                }
                None => {
                    let is_told = |state: &str| !matches!(state, "pending" | "judging");
                    if self.told.len() <= i {
                        self.told.push(String::new());
                    }
                    if self.told[i] != state && is_told(state) {
                        self.told[i] = state.to_owned();
                        let name = wave["name"].as_str().unwrap_or_default();
                        self.tell.say(format!("{name:12} {state}: {arrived} of {devices} devices have it{text}"));
                    }
                }
            }
        }
    }

    fn end(&mut self) {
        let Some((_, bars)) = self.bars.take() else { return };
        for bar in bars {
            bar.abandon();
        }
    }
}

fn at_step(wave: &Value, step: &str) -> u64 {
    let steps = wave["steps"].as_array().into_iter().flatten();
    steps.filter(|s| s["step"] == step).filter_map(|s| s["devices"].as_u64()).sum()
}

/// What the accuracy gate of a wave has measured.
fn gate(wave: &Value) -> String {
    let share = |v: &Value| v.as_f64().map(|millionths| format!("{:.1} %", millionths / 10_000.0));
    let mut gates = wave["gates"].as_array().into_iter().flatten();
    let Some(gate) = gates.rfind(|g| g["gate"].to_string().contains("accuracy")) else {
        return String::new();
    };
    match (share(&gate["measured"]), share(&gate["limit"])) {
        (Some(measured), Some(limit)) => {
            format!(", {measured} right of {} labelled, limit {limit}", gate["sample"])
        }
        (Some(measured), None) => format!(", {measured} right of {} labelled", gate["sample"]),
        _ => String::new(),
    }
}

/// Both rollouts; what they came to, for the summary.
pub(super) fn story(fleet: &mut Fleet, first: &Bundle) -> Result<(Vec<Value>, Value)> {
    let tell = fleet.tell;
    let packed = fleet.publisher.release(&["v3"])?;
    let bundles = fleet.publisher.publish(&fleet.server, PROJECT, &packed)?;
    let version = |version: &str| {
        bundles.iter().find(|b| b.version == version).cloned().with_context(|| format!("digits {version} is missing"))
    };
    let (better, bad) = (version("1.1.0")?, version("1.2.0")?);

    tell.heading(&format!("A better version, {}, in three waves", better.version));
    let good = run(fleet, &better, 400)?;
    if good.outcome != "completed" {
        bail!("the better version should have come through: {}", good.summary["sentence"]);
    }
    until_all_run(fleet, &better)?;

    tell.heading(&format!("A bad version, {}: right on its golden samples, wrong in the field", bad.version));
    tell.say(
        "             (each device would stop it by itself, as it disagrees with the old version: that is off here)",
    );
    let harm = run(fleet, &bad, 1000)?;
    if harm.outcome != "rolled-back" {
        bail!("the bad version should have gone back: {}", harm.summary["sentence"]);
    }
    let (touched, back) = (&harm.summary["devices_touched"], &harm.summary["devices_back"]);
    let canary = &harm.summary["waves"][0]["devices"];
    if touched != back || touched != canary {
        bail!("{touched} devices were touched, {back} are back, and the canary wave has {canary}");
    }
    until_all_run(fleet, &better)?;
    let seconds = harm.summary["first_result_to_last_back_ms"].as_f64().unwrap_or_default() / 1000.0;
    tell.say(output::bold(format!(
        "             The bad version reached {touched} of {} devices; {back} are back on {}, {seconds:.1} s after its \
         first result.",
        fleet.devices.len(),
        better.version
    )));
    let accuracy = accuracy(fleet, &[first, &better, &bad])?;
    let words: Vec<String> = accuracy
        .as_object()
        .into_iter()
        .flatten()
        .map(|(version, a)| {
            format!("{version} {:.1} % of {}", a["share"].as_f64().unwrap_or_default() * 100.0, a["labelled"])
        })
        .collect();
    tell.say(format!("right        {} labelled samples, as the devices counted them", words.join(", ")));
    Ok((vec![good.json(&better), harm.json(&bad)], accuracy))
}
