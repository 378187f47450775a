//! What a device's owner sets about samples, workers and results.
//!
//! ```toml
//! [component.digits]
//! grants = ["clock"]
//!
//! [component.digits.source.conveyor]
//! kind = "replay"
//! directory = "/var/lib/sedge/images"
//! rate_per_s = 5.0
//! label_share_permille = 200
//! label_delay_ms = 5000
//!
//! [component.digits.sink.file]
//! kind = "file"
//! path = "/var/lib/sedge/results.jsonl"
//!
//! [component.digits.sink.server]
//! kind = "mqtt"
//!
//! [http]
//! listen = "127.0.0.1:8380"
//! ```

use crate::worker::{Deadlines, Limits};
use sedge_protocol::id::ComponentName;
use sedge_protocol::manifest::Grant;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that the data plane is told.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Components that process samples, by name.
    pub component: BTreeMap<ComponentName, ComponentConfig>,
    /// The local HTTP endpoint; none when absent.
    pub http: Option<HttpConfig>,
}

/// One component.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ComponentConfig {
    /// Where its samples come from, by name.
    pub source: BTreeMap<String, SourceConfig>,
    /// Where its results go, by name.
    pub sink: BTreeMap<String, SinkConfig>,
    /// Host interfaces that its processors may use where their manifest asks for them.
    pub grants: BTreeSet<Grant>,
    /// Bounds of its workers.
    pub worker: WorkerConfig,
    /// When it is ill.
    pub health: HealthConfig,
}

/// A source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SourceConfig {
    /// A directory of samples, replayed by name; `labels.csv` in it holds the right answers.
    Replay {
        /// The directory.
        directory: PathBuf,
        /// Samples a second; 0 is as fast as they are taken.
        #[serde(default = "one")]
        rate_per_s: f64,
        /// Whether it begins anew after the last.
        #[serde(default = "yes")]
        looped: bool,
        /// Of 1000 samples, those whose right answer is used; which ones depends on their names alone.
        #[serde(default = "all")]
        label_share_permille: u16,
        /// Milliseconds until a right answer becomes known, as where people judge a part of the samples later; at most
        /// an hour, after which predictions are forgotten.
        #[serde(default)]
        label_delay_ms: u64,
    },
    /// A directory in which files appear.
    Watch {
        /// The directory.
        directory: PathBuf,
        /// Milliseconds between two looks.
        #[serde(default = "half_a_second")]
        interval_ms: u64,
        /// Whether files are deleted when they were read.
        #[serde(default)]
        delete: bool,
    },
    /// Paths, one a line, on standard input.
    Stdin {},
    /// A topic of a broker on the site.
    Mqtt(MqttSourceConfig),
}

impl SourceConfig {
    /// How long right answers are held back.
    pub(crate) fn label_delay(&self) -> Duration {
        match self {
            Self::Replay { label_delay_ms, .. } => Duration::from_millis(*label_delay_ms),
            Self::Watch { .. } | Self::Stdin {} | Self::Mqtt(_) => Duration::ZERO,
        }
    }
}

/// A topic of a broker on the site, over a connection of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttSourceConfig {
    /// `mqtt://host:port` on this machine, or `mqtts://host:port`.
    pub url: String,
    /// PEM file of the authority that `mqtts://` trusts.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Who the broker is to take this device for, where it asks.
    #[serde(default)]
    pub login: Option<MqttLogin>,
    /// Topic filter; each message is a sample.
    pub topic: String,
    /// Messages that wait for the worker; what comes beyond is dropped and counted.
    #[serde(default = "a_few")]
    pub samples_max: usize,
}

/// Name and password at a broker of the site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttLogin {
    /// The name.
    pub name: String,
    /// A file that holds the password, and nothing else but a line's end.
    pub password_file: PathBuf,
}

/// A sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SinkConfig {
    /// JSON lines in a file.
    File {
        /// The file; older ones are named with `.1`, `.2`, … after it.
        path: PathBuf,
        /// Size at which the next file begins.
        #[serde(default = "eight_mib")]
        bytes_max: u64,
        /// Files kept, the current one included.
        #[serde(default = "four")]
        files_max: u32,
    },
    /// Predictions to the server, as telemetry.
    Mqtt {},
}

/// Bounds of a component's workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// What a worker may use.
    pub limits: Limits,
    /// How long it may take.
    pub deadlines: Deadlines,
    /// Milliseconds between two pings of an idle worker.
    pub ping_interval_ms: u64,
    /// Milliseconds that a sample may still take at the old worker when another takes over; then it is given to that.
    pub drain_ms: u64,
    /// Milliseconds before a serving worker that died is started again; doubles from death to death.
    pub restart_ms: u64,
    /// Most milliseconds before it is started again.
    pub restart_ms_max: u64,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            deadlines: Deadlines::default(),
            ping_interval_ms: 2_000,
            drain_ms: 50,
            restart_ms: 100,
            restart_ms_max: 30_000,
        }
    }
}

/// When a serving worker is ill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthConfig {
    /// Milliseconds without an answer though a sample waits.
    pub stall_ms: u64,
    /// Seconds over which failed samples are counted, at most 300.
    pub window_s: u16,
    /// Most samples of 1000 that may fail.
    pub errors_max_permille: u16,
    /// Fewer samples than this in the window prove nothing.
    pub samples_min: u32,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self { stall_ms: 5_000, window_s: 30, errors_max_permille: 200, samples_min: 10 }
    }
}

/// The local HTTP endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Listen also where others than this machine can reach it. It has no authentication.
    #[serde(default)]
    pub allow_remote: bool,
    /// Take right answers to predictions, on loopback only: whoever can reach it can make a model look good or bad.
    #[serde(default)]
    pub labels: bool,
}

const fn yes() -> bool {
    true
}
const fn all() -> u16 {
    1000
}
const fn one() -> f64 {
    1.0
}
const fn half_a_second() -> u64 {
    500
}
const fn a_few() -> usize {
    16
}
const fn eight_mib() -> u64 {
    8 << 20
}
const fn four() -> u32 {
    4
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"
        [component.digits]
        grants = ["clock"]
        [component.digits.source.conveyor]
        kind = "replay"
        directory = "/images"
        label_share_permille = 200
        [component.digits.source.site]
        kind = "mqtt"
        url = "mqtt://localhost:1883"
        topic = "cameras/1"
        [component.digits.sink.file]
        kind = "file"
        path = "/results.jsonl"
        [component.digits.sink.server]
        kind = "mqtt"
        [component.digits.worker]
        drain_ms = 20
        deadlines = { sample_ms = 500 }
        [http]
        listen = "127.0.0.1:8380"
    "#;

    #[test]
    fn the_example_is_read_with_defaults() {
        let config: Config = toml::from_str(EXAMPLE).expect("valid");
        let digits = config.component.values().next().expect("one");
        assert_eq!((digits.source.len(), digits.sink.len()), (2, 2));
        assert_eq!((digits.worker.drain_ms, digits.worker.deadlines.sample_ms), (20, 500));
        assert_eq!(digits.worker.deadlines.ping_ms, Deadlines::default().ping_ms);
        assert!(matches!(
            digits.source["conveyor"],
            SourceConfig::Replay { looped: true, label_share_permille: 200, .. }
        ));
        assert_eq!(digits.source["conveyor"].label_delay(), Duration::ZERO);
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (from, to) in [
            ("directory", "directroy"),
            ("drain_ms", "drain_s"),
            ("listen", "lisen"),
            ("label_share_permille", "label_share"),
            ("\"replay\"", "\"repaly\""),
            ("sample_ms", "sample_s"),
            ("[\"clock\"]", "[\"network\"]"),
        ] {
            let error = toml::from_str::<Config>(&EXAMPLE.replacen(from, to, 1)).expect_err(to).to_string();
            assert!(error.contains(to.trim_matches(['"', '[', ']'])), "{error}");
        }
    }
}
