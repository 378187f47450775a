//! The agent's log: lines on standard error, and the newest of them in a ring for a server that asks.

use crate::logs::LogRing;
use sedge_protocol::message::LogLevel;
use std::io::{self, IsTerminal as _, Write};
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

/// What is logged unless `SEDGE_LOG` says otherwise. rumqttc tells at `info` what the agent tells better.
const FILTER: &str = "info,rumqttc=warn";

/// Begins to log, once per process, and gives the ring.
pub fn start(json: bool) -> LogRing {
    let ring = LogRing::default();
    let filter = EnvFilter::try_from_env("SEDGE_LOG").unwrap_or_else(|_| EnvFilter::new(FILTER));
    let kept = fmt::layer().with_ansi(false).with_writer(RingWriter(ring.clone()));
    let shown = fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(io::stderr);
    let registry = tracing_subscriber::registry().with(filter).with(kept);
    // Another log of this process was there first in tests only.
    let _ = if json { registry.with(shown.json()).try_init() } else { registry.with(shown).try_init() };
    ring
}

struct RingWriter(LogRing);

impl RingWriter {
    fn entry(&self, level: LogLevel) -> Entry {
        Entry { ring: self.0.clone(), level, text: Vec::new() }
    }
}

/// One event on its way into the ring.
pub(crate) struct Entry {
    ring: LogRing,
    level: LogLevel,
    text: Vec<u8>,
}

impl<'a> MakeWriter<'a> for RingWriter {
    type Writer = Entry;

    fn make_writer(&'a self) -> Entry {
        self.entry(LogLevel::Info)
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Entry {
        let level = match *metadata.level() {
            tracing::Level::ERROR => LogLevel::Error,
            tracing::Level::WARN => LogLevel::Warn,
            tracing::Level::INFO => LogLevel::Info,
            tracing::Level::DEBUG | tracing::Level::TRACE => LogLevel::Debug,
        };
        self.entry(level)
    }
}

impl Write for Entry {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ts_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self.ring.push(ts_ms, self.level, String::from_utf8_lossy(&self.text).trim_end());
    }
}
