//! `sedge bench MODEL --layers`: what each operator takes, and how far it is from what the core could do.

use super::{Arguments, is_model, random_tensor};
use crate::chart::shortened;
use crate::measure::ms;
use crate::output;
use anyhow::{Context as _, Result, bail};
use sedge_runtime::Model;
use sedge_runtime::api::{Tensor, TensorView};
use sedge_runtime::model::{Layer, Layers, Peaks};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

/// Characters of the longest bar.
const BAR: usize = 20;
/// Characters of a name.
const NAME: usize = 36;

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let path = &arguments.subject;
    if !is_model(path) {
        bail!("--layers measures a model, MODEL.onnx or MODEL.tflite, not a bundle");
    }
    if arguments.sandbox.threads() > 1 {
        bail!("--layers measures on one thread; leave --threads away");
    }
    let bytes = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let mut model = Model::load(&bytes, &arguments.model_options()).with_context(|| path.display().to_string())?;
    drop(bytes);
    let tensors = model.inputs().iter().map(random_tensor).collect::<Result<Vec<_>>>()?;
    let views: Vec<TensorView<'_>> = tensors.iter().map(Tensor::view).collect();
    let layers = model.layers(&views, Duration::from_secs_f64(arguments.seconds))?;
    let report = Report { peaks: layers.peaks(), layers };
    if arguments.output.output.is_json() {
        output::json(&report.json(arguments))?;
    } else {
        output::line(format!("{} on one thread, the shortest time of each operator", path.display()));
        output::line(report.table(arguments.by_time));
        report.notes().iter().for_each(output::line);
    }
    Ok(ExitCode::SUCCESS)
}

struct Report {
    layers: Layers,
    peaks: Peaks,
}

impl Report {
    fn whole_s(&self) -> f64 {
        self.layers.whole.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Part of the whole run's time.
    fn share(&self, time: Duration) -> f64 {
        time.as_secs_f64() / self.whole_s()
    }

    /// Products per second, and the part of what the core's multipliers could do.
    fn rate(&self, layer: &Layer) -> Option<(f64, Option<f64>)> {
        let rate = layer.products as f64 / layer.time.as_secs_f64().max(1e-9);
        let peak = if layer.region.is_some() { self.peaks.bytes } else { self.peaks.floats };
        (layer.products > 0).then(|| (rate, peak.map(|peak| rate / peak)))
    }

    /// What the operators leave of the whole run.
    fn rest(&self) -> Duration {
        let operators = self.layers.layers.iter().map(|layer| layer.time).sum();
        self.layers.whole.saturating_sub(operators)
    }

    fn json(&self, arguments: &Arguments) -> Value {
        let layer = |layer: &Layer| {
            let rate = self.rate(layer);
            json!({
                "name": layer.name,
                "operator": layer.operator,
                "region": layer.region,
                "shape": layer.shape,
                "products": layer.products,
                "time_us": us(layer.time),
                "share": self.share(layer.time),
                "products_per_s": rate.map(|(rate, _)| rate),
                "peak_share": rate.and_then(|(_, share)| share),
            })
        };
        json!({
            "subject": arguments.subject,
            "threads": 1,
            "engine": arguments.engine.engine(),
            "isa": self.layers.isa,
            "peak_products_per_s": self.peaks.bytes,
            "peak_f32_products_per_s": self.peaks.floats,
            "whole_us": us(self.layers.whole),
            "between_us": us(self.rest()),
            "products": self.products(),
            "layers": self.layers.layers.iter().map(layer).collect::<Vec<_>>(),
        })
    }

    fn products(&self) -> u64 {
        self.layers.layers.iter().map(|layer| layer.products).sum()
    }

    fn table(&self, by_time: bool) -> String {
        let mut sorted: Vec<&Layer> = self.layers.layers.iter().collect();
        if by_time {
            sorted.sort_by_key(|layer| std::cmp::Reverse(layer.time));
        }
        let longest = sorted.iter().map(|layer| self.share(layer.time)).fold(0.0, f64::max);
        let row = |layer: &&Layer| {
            let rate = self.rate(layer);
            let share = self.share(layer.time);
            vec![
                shortened(&layer.name, NAME),
                place(layer),
                layer.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("×"),
                if layer.products > 0 { format!("{:.3}", layer.products as f64 / 1e6) } else { String::new() },
                format!("{:.2}", us(layer.time)),
                format!("{:.1} %", share * 100.0),
                bar(share / longest.max(f64::MIN_POSITIVE)),
                rate.map_or(String::new(), |(rate, _)| format!("{:.1}", rate / 1e9)),
                rate.map_or(String::new(), |(rate, _)| format!("{:.1}", rate / 5e8)),
                rate.and_then(|(_, share)| share).map_or(String::new(), |share| format!("{:.0} %", share * 100.0)),
            ]
        };
        let rates = |products: u64, time: f64| {
            let rate = products as f64 / time;
            (format!("{:.1}", rate / 1e9), format!("{:.1}", rate / 5e8))
        };
        let rest = vec![
            "between operators".to_owned(),
            String::new(),
            String::new(),
            String::new(),
            format!("{:.2}", us(self.rest())),
            format!("{:.1} %", self.share(self.rest()) * 100.0),
        ];
        let (macs, ops) = rates(self.products(), self.whole_s());
        let total = vec![
            "whole run".to_owned(),
            String::new(),
            String::new(),
            format!("{:.3}", self.products() as f64 / 1e6),
            format!("{:.2}", us(self.layers.whole)),
            "100.0 %".to_owned(),
            String::new(),
            macs,
            ops,
        ];
        let header = ["operator", "kind", "output", "MMAC", "µs", "time", "", "GMAC/s", "GOP/s", "of peak"];
        output::table(&header, sorted.iter().map(row).chain([rest, total]))
    }

    /// What the figures are held against, and what tract's part is.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let gmac = |peak: f64| format!("{:.1} GMAC/s, {:.1} GOP/s", peak / 1e9, peak / 5e8);
        if let Some(isa) = self.layers.isa {
            notes.push(match self.peaks.bytes {
                Some(peak) => format!("peak of this core in {isa}, measured now: {}", gmac(peak)),
                None => format!("{isa} has no multiplications of its own, so there is no peak to hold it against"),
            });
        }
        let tract: Vec<&Layer> = self.layers.layers.iter().filter(|layer| layer.region.is_none()).collect();
        if tract.is_empty() {
            return notes;
        }
        if let Some(peak) = self.peaks.floats {
            notes.push(format!("peak of this core in 32-bit float, measured now: {}", gmac(peak)));
        }
        let time: Duration = tract.iter().map(|layer| layer.time).sum();
        notes.push(format!(
            "tract runs {} of {} operators, in {:.3} ms or {:.1} % of the run",
            tract.len(),
            self.layers.layers.len(),
            ms(time),
            self.share(time) * 100.0
        ));
        notes
    }
}

/// What it does, and where.
fn place(layer: &Layer) -> String {
    match layer.region {
        Some(_) => layer.operator.clone(),
        None => format!("tract {}", shortened(&layer.operator, 16)),
    }
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A bar in eighths of a character.
fn bar(part: f64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (part.clamp(0.0, 1.0) * (BAR * 8) as f64).round() as usize;
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_part() {
        assert_eq!([bar(0.0), bar(1.0)], [String::new(), "█".repeat(BAR)]);
        assert_eq!(bar(0.5 + 1.0 / (BAR * 8) as f64), format!("{}▏", "█".repeat(BAR / 2)));
        assert_eq!(bar(f64::NAN), "");
    }
}
