//! Settings of the server: a TOML file, every key of which has a default. The defaults listen on loopback only.

use crate::http::HttpBounds;
use serde::Deserialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file.
    #[error("cannot read the settings {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Too long to be settings.
    #[error("the settings {} have more than {FILE_BYTES_MAX} bytes", .0.display())]
    TooLong(PathBuf),
    /// Its text.
    #[error("the settings {} are not as expected", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: toml::de::Error,
    },
    /// A value.
    #[error("`{key}` is {value}; {expected}")]
    Value {
        /// Which.
        key: &'static str,
        /// What it is.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// All settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where keys, database and artifacts are; made for the owner alone.
    pub data: PathBuf,
    /// The HTTPS interface.
    pub http: Http,
    /// The broker.
    pub broker: Broker,
    /// The server's certificate.
    pub tls: Tls,
    /// How devices enrol.
    pub enrolment: EnrolmentLimits,
}

/// The HTTPS interface.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What devices and people connect to, `host:port`; the first of `tls.names` and the port when left out.
    pub public: Option<String>,
    /// Connections at once.
    pub connections_max: u32,
    /// Connections at once of one address.
    pub connections_per_address_max: u32,
    /// How long a TLS handshake may take, and again a request's head, seconds.
    pub head_timeout_s: u32,
}

/// The broker: in this process, or another one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Broker {
    /// In this process.
    Embedded(EmbeddedBroker),
    /// Mosquitto or a cluster. It trusts this server's certificate authority and has the access table of
    /// `sedge_protocol::topic::mosquitto_acl` or its like.
    External(ExternalBroker),
}

/// The broker in this process.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddedBroker {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What devices connect to, `host:port`; the first of `tls.names` and the port when left out.
    pub public: Option<String>,
    /// Sessions, connected or kept.
    pub sessions_max: usize,
}

/// A broker elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalBroker {
    /// Its name, as in its certificate; the same for devices and this server.
    pub host: String,
    /// Its port.
    #[serde(default = "mqtts_port")]
    pub port: u16,
    /// PEM, who signs its certificate; this server's own authority when left out. Devices trust only the latter.
    pub ca: Option<PathBuf>,
}

/// The server's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Host names and addresses that clients use. Those of loopback, and addresses that are listened on, come on top.
    pub names: Vec<String>,
}

/// How devices enrol.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnrolmentLimits {
    /// How long a token lasts when nothing else is said, seconds.
    pub token_lifetime_s: u32,
    /// Requests of one address to enrol or renew.
    pub requests_per_minute_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: "sedge-data".into(),
            http: Http::default(),
            broker: Broker::Embedded(EmbeddedBroker::default()),
            tls: Tls::default(),
            enrolment: EnrolmentLimits::default(),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 8443).into(),
            public: None,
            connections_max: 1024,
            connections_per_address_max: 256,
            head_timeout_s: 10,
        }
    }
}

impl Default for EmbeddedBroker {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, mqtts_port()).into(), public: None, sessions_max: 12_000 }
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self { names: vec!["localhost".into(), "127.0.0.1".into(), "::1".into()] }
    }
}

impl Default for EnrolmentLimits {
    fn default() -> Self {
        Self { token_lifetime_s: 900, requests_per_minute_max: 60 }
    }
}

fn mqtts_port() -> u16 {
    8883
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, has a key that is none, or a value out of its bounds.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(read)?.len() > FILE_BYTES_MAX {
            return Err(ConfigError::TooLong(path.to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        let config: Self =
            toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
        config.check()?;
        Ok(config)
    }

    /// Whether every value is within its bounds.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), ConfigError> {
        let bounded = |key, value: u32, max: u32, expected| {
            if (1..=max).contains(&value) {
                return Ok(());
            }
            Err(ConfigError::Value { key, value: value.to_string(), expected })
        };
        bounded("http.connections_max", self.http.connections_max, 100_000, "give 1 to 100000")?;
        bounded(
            "http.connections_per_address_max",
            self.http.connections_per_address_max,
            100_000,
            "give 1 to 100000",
        )?;
        bounded("http.head_timeout_s", self.http.head_timeout_s, 300, "give 1 to 300")?;
        bounded("enrolment.token_lifetime_s", self.enrolment.token_lifetime_s, 604_800, "give 1 to 604800 (a week)")?;
        let per_minute = self.enrolment.requests_per_minute_max;
        bounded("enrolment.requests_per_minute_max", per_minute, 60_000, "give 1 to 60000")?;
        let public = match &self.broker {
            Broker::Embedded(broker) => {
                let sessions = u32::try_from(broker.sessions_max).unwrap_or(u32::MAX);
                bounded("broker.embedded.sessions_max", sessions, 1_000_000, "give 1 to 1000000")?;
                broker.public.as_ref()
            }
            Broker::External(_) => None,
        };
        for (key, address) in [("http.public", self.http.public.as_ref()), ("broker.embedded.public", public)] {
            let is_address = |text: &String| {
                let (host, port) = text.rsplit_once(':').unwrap_or_default();
                !host.is_empty() && host.len() <= 255 && port.parse::<u16>().is_ok_and(|port| port > 0)
            };
            if let Some(address) = address.filter(|address| !is_address(address)) {
                return Err(ConfigError::Value { key, value: format!("{address:?}"), expected: "give `host:port`" });
            }
        }
        Ok(())
    }

    pub(crate) fn http_bounds(&self) -> HttpBounds {
        let timeout = Duration::from_secs(self.http.head_timeout_s.into());
        HttpBounds {
            connections: self.http.connections_max,
            connections_per_address: self.http.connections_per_address_max,
            handshake_timeout: timeout,
            head_timeout: timeout,
        }
    }

    /// The names of the certificate: those that were given, loopback, and addresses that are listened on.
    pub(crate) fn server_names(&self) -> Vec<String> {
        let mut names = self.tls.names.clone();
        names.extend(Tls::default().names);
        let mut listen = vec![self.http.listen];
        if let Broker::Embedded(broker) = &self.broker {
            listen.push(broker.listen);
        }
        names.extend(listen.iter().filter(|addr| !addr.ip().is_unspecified()).map(|addr| addr.ip().to_string()));
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }

    /// What others connect to: as it was set, or the first name and the port.
    pub(crate) fn public_address(&self, public: Option<&String>, listen: SocketAddr) -> String {
        let host = self.tls.names.first().map_or("localhost", String::as_str);
        public.cloned().unwrap_or_else(|| address(host, listen.port()))
    }
}

/// `host:port`, with brackets where an IPv6 address needs them.
pub(crate) fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("server.toml");
        std::fs::write(&path, text).expect("written");
        Config::read(&path)
    }

    #[test]
    fn nothing_is_needed_and_nothing_leaves_loopback() {
        let config = read("").expect("valid");
        assert_eq!(config, Config::default());
        let Broker::Embedded(broker) = &config.broker else { panic!("embedded") };
        assert!(config.http.listen.ip().is_loopback() && broker.listen.ip().is_loopback());
        assert_eq!(config.public_address(None, broker.listen), "localhost:8883");
    }

    #[test]
    fn all_can_be_set() {
        let config = read(
            "data = '/var/lib/sedge'\n[http]\nlisten = '0.0.0.0:443'\npublic = 'fleet.example:443'\n\
             [tls]\nnames = ['fleet.example']\n[broker.external]\nhost = 'mqtt.example'\nca = '/etc/ca.pem'\n\
             [enrolment]\ntoken_lifetime_s = 60\n",
        )
        .expect("valid");
        let Broker::External(broker) = &config.broker else { panic!("external") };
        assert_eq!((broker.host.as_str(), broker.port), ("mqtt.example", 8883));
        assert_eq!(config.server_names(), ["fleet.example", "localhost", "127.0.0.1", "::1"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expected) in [
            ("dat = 'x'", "unknown field `dat`"),
            ("[http]\nlisten = 'here'", "listen"),
            ("[http]\nport = 1", "unknown field `port`"),
            ("[broker.other]\n", "other"),
            ("[broker.external]\nport = 1", "missing field `host`"),
            ("[broker.external]\nhost = 'a'\nhots = 'b'", "unknown field `hots`"),
            ("[http]\npublic = 'fleet'", "`http.public` is \"fleet\"; give `host:port`"),
            ("[http]\nconnections_max = 0", "`http.connections_max` is 0; give 1 to 100000"),
            ("[enrolment]\ntoken_lifetime_s = 999999999", "a week"),
        ] {
            let e = anyhow::Error::from(read(text).expect_err(text));
            assert!(format!("{e:#}").contains(expected), "{text}: {e:#}");
        }
    }
}
