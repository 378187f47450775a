//! `sedge bench MODEL.onnx --serve`: measures whenever told to, so that a script can take turns between engines.
//!
//! Once loaded it writes `{"ready":true,…}`. Each line `run SECONDS` is answered by one line with the latencies of runs
//! on made-up inputs, anything else by `{"error":…}`. It ends with its input.

use super::{Arguments, ITERATIONS_MAX, WARM_UP, is_model, measuring_time, random_tensor, saved};
use crate::measure::{Latencies, peak_rss_bytes, rss_bytes};
use crate::output;
use anyhow::{Context as _, Result, bail};
use sedge_runtime::Model;
use sedge_runtime::api::{Tensor, TensorView};
use serde_json::{Value, json};
use std::io::BufRead;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Longer lines are no commands.
const LINE_BYTES_MAX: u64 = 256;

pub(super) fn serve(arguments: &Arguments) -> Result<ExitCode> {
    let path = &arguments.subject;
    if !is_model(path) {
        bail!("--serve measures a model, MODEL.onnx or MODEL.tflite, not a bundle");
    }
    let base = rss_bytes();
    let (mut model, load) = if arguments.from_saved {
        saved::of_another_process(arguments)?
    } else {
        super::load(path, &arguments.model_options())?
    };
    let tensors = model.inputs().iter().map(random_tensor).collect::<Result<Vec<_>>>()?;
    let views: Vec<TensorView<'_>> = tensors.iter().map(Tensor::view).collect();
    let load_ms = crate::measure::ms(load);
    line(&json!({"ready": true, "load_ms": load_ms, "rss_base_bytes": base, "rss_bytes": rss_bytes()}))?;
    let mut input = std::io::stdin().lock();
    let mut text = Vec::new();
    loop {
        text.clear();
        let read = std::io::Read::take(&mut input, LINE_BYTES_MAX).read_until(b'\n', &mut text);
        if read.context("standard input cannot be read")? == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        let answer = command(&text).and_then(|time| measure(&mut model, &views, time));
        line(&answer.unwrap_or_else(|error| json!({"error": output::chain(&error)})))?;
    }
}

/// One line at once: a script waits for it.
fn line(value: &Value) -> Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}").and_then(|()| out.flush()).context("standard output cannot be written")
}

fn command(text: &[u8]) -> Result<Duration> {
    let seconds = std::str::from_utf8(text).ok().and_then(|text| text.trim().strip_prefix("run "));
    let seconds = seconds.context("the only command is `run SECONDS`")?;
    measuring_time(seconds.trim()).map(Duration::from_secs_f64).map_err(anyhow::Error::msg)
}

fn measure(model: &mut Model, views: &[TensorView<'_>], time: Duration) -> Result<Value> {
    let mut outputs = Vec::new();
    for _ in 0..WARM_UP {
        model.run_into(views, &mut outputs)?;
    }
    let mut latencies = Latencies::default();
    let began = Instant::now();
    while latencies.len() < ITERATIONS_MAX && (latencies.len() == 0 || began.elapsed() < time) {
        let began = Instant::now();
        model.run_into(views, &mut outputs)?;
        latencies.push(began.elapsed());
    }
    let us = |q: f64| latencies.quantile_ms(q) * 1e3;
    Ok(json!({
        "median_us": us(0.5),
        "p10_us": us(0.1),
        "p90_us": us(0.9),
        "iterations": latencies.len(),
        "rss_peak_bytes": peak_rss_bytes(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_time_that_can_be_measured_is_a_command() {
        assert_eq!(command(b"run 0.5\n").expect("half a second"), Duration::from_millis(500));
        for bad in [&b"run\n"[..], b"run -1\n", b"run 1e9\n", b"run NaN", b"stop\n", b"\xff\n", b"\n"] {
            assert!(command(bad).is_err(), "{bad:?}");
        }
    }
}
