//! Latency samples, their quantiles, and the process's peak memory.

use sedge_runtime::Timings;
use serde::Serialize;
use std::time::Duration;

/// Durations of one kind.
#[derive(Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn push(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest value that at least `q` of all values do not exceed, in milliseconds; 0 where there is none.
    pub(crate) fn quantile_ms(&self, q: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (q * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).map_or(0.0, |&d| ms(d))
    }

    fn total(&self) -> Duration {
        self.0.iter().sum()
    }

    /// Mean in milliseconds.
    pub(crate) fn mean_ms(&self) -> f64 {
        if self.0.is_empty() { 0.0 } else { ms(self.total()) / self.0.len() as f64 }
    }
}

pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// p50, p95 and minimum of some latencies.
#[derive(Serialize, Clone, Copy)]
pub(crate) struct Quantiles {
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) min_ms: f64,
    pub(crate) mean_ms: f64,
}

impl From<&Latencies> for Quantiles {
    fn from(l: &Latencies) -> Self {
        Self {
            p50_ms: l.quantile_ms(0.5),
            p95_ms: l.quantile_ms(0.95),
            min_ms: l.quantile_ms(0.0),
            mean_ms: l.mean_ms(),
        }
    }
}

/// Latencies of a pipeline's stages.
#[derive(Default)]
pub(crate) struct Stages {
    pub(crate) total: Latencies,
    parts: [Latencies; 5],
}

/// Names of the stages, in the order in which a sample passes them; crossing is shared by both sandboxes.
pub(crate) const STAGES: [&str; 5] = ["decode", "pre", "inference", "post", "crossing"];

impl Stages {
    pub(crate) fn push(&mut self, t: &Timings) {
        self.total.push(t.total);
        for (part, value) in self.parts.iter_mut().zip([t.decode, t.pre, t.inference, t.post, t.crossing]) {
            part.push(value);
        }
    }

    /// Name, quantiles and share of the total time of each stage.
    pub(crate) fn summary(&self) -> Vec<(&'static str, Quantiles, f64)> {
        let total = self.total.total().as_secs_f64().max(f64::MIN_POSITIVE);
        let one = |(name, part): (&&'static str, &Latencies)| (*name, part.into(), part.total().as_secs_f64() / total);
        STAGES.iter().zip(&self.parts).map(one).collect()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let entry = |(name, q, share): (&'static str, Quantiles, f64)| {
            let value = serde_json::json!({"p50_ms": q.p50_ms, "p95_ms": q.p95_ms, "min_ms": q.min_ms, "share": share});
            (name.to_owned(), value)
        };
        serde_json::Value::Object(self.summary().into_iter().map(entry).collect())
    }

    pub(crate) fn table(&self) -> String {
        let row = |(name, q, share): (&str, Quantiles, f64)| {
            vec![
                name.to_owned(),
                format!("{:.4}", q.p50_ms),
                format!("{:.4}", q.p95_ms),
                format!("{:.4}", q.min_ms),
                format!("{:.1} %", share * 100.0),
            ]
        };
        let rows = self.summary().into_iter().map(row).chain([row(("total", (&self.total).into(), 1.0))]);
        crate::output::table(&["stage", "p50 ms", "p95 ms", "min ms", "share"], rows)
    }
}

/// Largest resident memory of this process so far; 0 where the system does not tell.
pub(crate) fn peak_rss_bytes() -> u64 {
    // What getrusage tells begins with the memory of the process that started this one.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
    peak.unwrap_or(0_u64) * 1024
}

/// Resident memory of this process now; 0 where the system does not tell.
pub(crate) fn rss_bytes() -> u64 {
    let pages = || std::fs::read_to_string("/proc/self/statm").ok()?.split_whitespace().nth(1)?.parse::<u64>().ok();
    // SAFETY: sysconf reads a setting of the system and nothing else.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages().unwrap_or(0) * u64::try_from(page).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let mut l = Latencies::default();
        assert_eq!(l.quantile_ms(0.5), 0.0);
        for i in (1..=20).rev() {
            l.push(Duration::from_millis(i));
        }
        assert_eq!(
            [l.quantile_ms(0.0), l.quantile_ms(0.5), l.quantile_ms(0.95), l.quantile_ms(1.0)],
            [1.0, 10.0, 19.0, 20.0]
        );
    }
}
