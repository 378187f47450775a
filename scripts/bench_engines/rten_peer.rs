//! rten behind the line protocol of `sedge bench --serve`: `rten-peer MODEL.onnx`. It is built outside the workspace by
//! `peers.py`, so that the workspace does not depend on a rival.

use std::error::Error;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use rten::{DataType, Dimension, Model, ModelOptions, RunOptions, ThreadPool, Value, ValueType};

/// A field of `/proc/self/status`, in bytes; zero where there is none.
fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The next of a fixed sequence of random bytes.
fn random(state: &mut u32) -> u8 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    (*state >> 24) as u8
}

/// Values over the whole range of an integer, or between -2 and 2.
fn input(model: &Model) -> Result<Value, Box<dyn Error>> {
    let id = *model.input_ids().first().ok_or("the model has no input")?;
    let info = model.node_info(id).ok_or("the input is not described")?;
    let shape: Vec<usize> = info
        .shape()
        .ok_or("the input has no shape")?
        .iter()
        .map(|d| match d {
            Dimension::Fixed(n) => (*n).max(1),
            Dimension::Symbolic(_) => 1,
        })
        .collect();
    let (mut state, count) = (1, shape.iter().product::<usize>());
    let bytes = std::iter::repeat_with(|| random(&mut state)).take(count);
    Ok(match info.dtype() {
        Some(ValueType::Tensor(DataType::Int8)) => {
            Value::from_shape(&shape, bytes.map(|b| b as i8).collect::<Vec<_>>())?
        }
        Some(ValueType::Tensor(DataType::UInt8)) => Value::from_shape(&shape, bytes.collect::<Vec<_>>())?,
        Some(ValueType::Tensor(DataType::Float)) => {
            let values = bytes.map(|b| f32::from(b) / 64.0 - 2.0).collect::<Vec<_>>();
            Value::from_shape(&shape, values)?
        }
        other => return Err(format!("inputs of type {other:?} are not supported").into()),
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: rten-peer MODEL.onnx")?;
    let base = status("VmRSS:");
    let start = Instant::now();
    let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(&path)?;
    let load = start.elapsed();
    let value = input(&model)?;
    let (source, outputs) = (model.input_ids()[0], model.output_ids().to_vec());
    let pool = std::sync::Arc::new(ThreadPool::with_num_threads(1));
    let run = || {
        let options = RunOptions::default().with_thread_pool(Some(pool.clone()));
        model.run(vec![(source, (&value).into())], &outputs, Some(options))
    };
    pool.run(run)?;
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{{\"ready\":true,\"load_ms\":{},\"rss_base_bytes\":{base},\"rss_bytes\":{},\"rss_peak_bytes\":{}}}",
        load.as_secs_f64() * 1e3,
        status("VmRSS:"),
        status("VmHWM:")
    )?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let seconds = line.strip_prefix("run ").ok_or("a line is `run SECONDS`")?.trim().parse::<f64>()?;
        // Inside the pool of one thread, so that an inference does not begin with a change of threads.
        let mut times = pool.run(|| {
            run()?;
            let end = Instant::now() + Duration::from_secs_f64(seconds);
            let mut times = Vec::new();
            while times.is_empty() || Instant::now() < end {
                let start = Instant::now();
                std::hint::black_box(run()?);
                times.push(start.elapsed().as_nanos() as f64 / 1e3);
            }
            Ok::<_, rten::RunError>(times)
        })?;
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        writeln!(
            out,
            "{{\"median_us\":{},\"p10_us\":{},\"p90_us\":{},\"iterations\":{},\"rss_peak_bytes\":{}}}",
            at(0.5),
            at(0.1),
            at(0.9),
            times.len(),
            status("VmHWM:")
        )?;
    }
    Ok(())
}
