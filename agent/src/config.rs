//! The agent's configuration file: where things are, and what this device may use. What runs is not in it; that is
//! what the server desires and the publisher has signed.
//!
//! Unknown keys are refused, so that a misspelt limit is an error and not a limit that was never set.

use crate::dataplane::config::{ComponentConfig, Config as DataPlaneConfig, HttpConfig};
use crate::worker::Caches;
use sedge_protocol::id::ComponentName;
use sedge_protocol::limits::COMPONENTS_MAX;
use sedge_runtime::model::ModelCache;
use sedge_runtime::sandbox::CodeCache;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Largest file that is read.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Where state is kept unless something else is said.
pub const STATE_DIR: &str = "/var/lib/sedge";

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No file, or not readable.
    #[error("the configuration {} cannot be read", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, or a key that does not exist.
    #[error("the configuration {} is wrong: {problem}", path.display())]
    Parse {
        /// Its path.
        path: PathBuf,
        /// Where, what and what would be right.
        problem: String,
    },
}

/// The configuration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where identity, journals, slots and outbox are kept.
    #[serde(default = "state_dir")]
    pub state_dir: PathBuf,
    /// Where code compiled from WebAssembly is kept; `code` in the state directory when left out. Agents of one user may
    /// share it.
    #[serde(default)]
    pub code_dir: Option<PathBuf>,
    /// Where saved models are kept; `models` in the state directory when left out. Agents of one user may share it.
    #[serde(default)]
    pub models_dir: Option<PathBuf>,
    /// Address of the broker, `host:port`, instead of the one that enrolment gave.
    #[serde(default)]
    pub broker: Option<String>,
    /// What downloads may use.
    #[serde(default)]
    pub download: DownloadLimits,
    /// What waits to be sent may use.
    #[serde(default)]
    pub outbox: OutboxLimits,
    /// Seconds between two heartbeats.
    #[serde(default = "health_interval_s")]
    pub health_interval_s: u32,
    /// Components that process samples here: their sources, sinks and limits. What they run is not said here.
    #[serde(default)]
    pub component: BTreeMap<ComponentName, ComponentConfig>,
    /// The local HTTP endpoint; none when absent.
    #[serde(default)]
    pub http: Option<HttpConfig>,
}

/// What downloads may use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DownloadLimits {
    /// Bytes per second at most.
    #[serde(default)]
    pub bytes_per_s_max: Option<u64>,
    /// Times of day in UTC during which downloads may run; always where there are none.
    #[serde(default)]
    pub windows: Vec<Window>,
}

/// From one time of day to another, in UTC; over midnight where the end comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Window {
    from_s: u32,
    to_s: u32,
}

/// What waits to be sent may use.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutboxLimits {
    /// Bytes of telemetry; the oldest is dropped.
    pub telemetry_bytes_max: u64,
    /// Bytes of events; the oldest is dropped. Reports have no such limit: their number is bounded by what they say.
    pub event_bytes_max: u64,
}

impl Default for OutboxLimits {
    fn default() -> Self {
        Self { telemetry_bytes_max: 8 << 20, event_bytes_max: 2 << 20 }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: state_dir(),
            code_dir: None,
            models_dir: None,
            broker: None,
            download: DownloadLimits::default(),
            outbox: OutboxLimits::default(),
            health_interval_s: health_interval_s(),
            component: BTreeMap::new(),
            http: None,
        }
    }
}

fn state_dir() -> PathBuf {
    STATE_DIR.into()
}

const fn health_interval_s() -> u32 {
    60
}

impl TryFrom<String> for Window {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no window; expected `HH:MM-HH:MM`, in UTC");
        let time = |text: &str| {
            let (h, m) = text.split_once(':')?;
            let digits = |t: &str, below: u32| t.parse().ok().filter(|n: &u32| t.len() == 2 && *n < below);
            Some(digits(h, 24)? * 3600 + digits(m, 60)? * 60)
        };
        let (from, to) = text.split_once('-').ok_or_else(wrong)?;
        match (time(from.trim()), time(to.trim())) {
            (Some(from_s), Some(to_s)) if from_s != to_s => Ok(Self { from_s, to_s }),
            _ => Err(wrong()),
        }
    }
}

impl Window {
    fn holds(self, second_of_day: u32) -> bool {
        let (after, before) = (second_of_day >= self.from_s, second_of_day < self.to_s);
        if self.from_s < self.to_s { after && before } else { after || before }
    }
}

impl DownloadLimits {
    /// Whether a download may run at this time. Without a clock to trust, windows cannot be kept, and a device that
    /// waited for one would never be updated: then it may.
    pub fn open_at(&self, unix_s: Option<u64>) -> bool {
        let Some(second) = unix_s.and_then(|s| u32::try_from(s % 86_400).ok()) else { return true };
        self.windows.is_empty() || self.windows.iter().any(|window| window.holds(second))
    }
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file, the key and what is expected.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read { path: path.to_owned(), source };
        let length = std::fs::metadata(path).map_err(failed)?.len();
        if length > CONFIG_BYTES_MAX {
            let problem = format!("it has {length} bytes, at most {CONFIG_BYTES_MAX} are read");
            return Err(ConfigError::Parse { path: path.to_owned(), problem });
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        Self::parse(&text).map_err(|problem| ConfigError::Parse { path: path.to_owned(), problem })
    }

    /// Reads a configuration.
    ///
    /// # Errors
    /// What is wrong, with its line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        if config.component.len() > COMPONENTS_MAX {
            return Err(format!("{} components; at most {COMPONENTS_MAX}", config.component.len()));
        }
        if !(1..=86_400).contains(&config.health_interval_s) {
            return Err(format!("`health_interval_s` is {}; expected 1 to 86400", config.health_interval_s));
        }
        if config.download.bytes_per_s_max == Some(0) {
            return Err("`download.bytes_per_s_max` is 0; leave it out to set no limit".to_owned());
        }
        Ok(config)
    }

    /// What is kept of what workers make of bundles.
    pub fn caches(&self) -> Caches {
        let place = |given: &Option<PathBuf>, name| given.clone().unwrap_or_else(|| self.state_dir.join(name));
        Caches {
            code: Some(CodeCache::new(place(&self.code_dir, "code"))),
            models: Some(ModelCache::new(place(&self.models_dir, "models"))),
        }
    }

    /// What concerns samples.
    pub fn data_plane(&self) -> DataPlaneConfig {
        DataPlaneConfig { component: self.component.clone(), http: self.http }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_has_a_default() {
        let config = Config::parse(
            "state_dir = '/tmp/x'\nbroker = 'b:8883'\n[download]\nbytes_per_s_max = 1000\nwindows = ['22:00-06:00']\n\
             [component.camera.source.line]\nkind = 'watch'\ndirectory = '/in'\n[http]\nlisten = '127.0.0.1:8380'",
        )
        .expect("fine");
        assert_eq!(config.data_plane().component.values().map(|c| c.source.len()).sum::<usize>(), 1);
        assert!(config.data_plane().http.is_some());
        let at = |h: u64| config.download.open_at(Some(86_400 * 9 + h * 3600));
        assert_eq!([at(21), at(22), at(0), at(5), at(6)], [false, true, true, true, false]);
        assert!(config.download.open_at(None));
        assert_eq!(Config::parse(""), Ok(Config::default()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expected) in [
            ("stat_dir = 'x'", "unknown field `stat_dir`"),
            ("[download]\nwindow = []", "unknown field `window`"),
            ("[download]\nwindows = ['22-06']", "`22-06` is no window"),
            ("[download]\nbytes_per_s_max = 0", "bytes_per_s_max"),
            ("[component.'a b']", "is not a component name"),
            ("[component.a.source.x]\nkind = 'watch'\ndirectroy = '/in'", "unknown field `directroy`"),
            ("health_interval_s = 0", "health_interval_s"),
        ] {
            let e = Config::parse(text).expect_err(expected);
            assert!(e.contains(expected), "{e}");
        }
    }
}
