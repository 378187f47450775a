//! The newest log lines, in bounded memory, for a server that asks for them. Whoever sets up logging pushes lines here.

use sedge_protocol::message::LogLevel;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of lines kept.
const BYTES_MAX: usize = 256 * 1024;
/// Longest line kept.
const LINE_CHARS_MAX: usize = 1024;

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<(u64, LogLevel, String)>,
    bytes: usize,
}

/// A ring of lines; copies share it.
#[derive(Debug, Clone, Default)]
pub struct LogRing(Arc<Mutex<Ring>>);

impl LogRing {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line; the oldest make room.
    pub fn push(&self, ts_ms: u64, level: LogLevel, line: &str) {
        let line = sedge_protocol::text::visible(line, LINE_CHARS_MAX);
        let mut ring = self.ring();
        ring.bytes += line.len();
        ring.lines.push_back((ts_ms, level, line));
        while ring.bytes > BYTES_MAX {
            let Some((_, _, line)) = ring.lines.pop_front() else { break };
            ring.bytes -= line.len();
        }
    }

    /// At most so many lines, the newest, this severe or more and not older than this; oldest first.
    pub fn newest(&self, lines_max: usize, level: LogLevel, since_ts_ms: u64) -> Vec<String> {
        let ring = self.ring();
        let fits = |line: &&(u64, LogLevel, String)| line.0 >= since_ts_ms && line.1 <= level;
        let mut lines: Vec<String> =
            ring.lines.iter().rev().filter(fits).take(lines_max).map(|(_, _, line)| line.clone()).collect();
        lines.reverse();
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept_and_chosen_by_level() {
        let logs = LogRing::default();
        for n in 0..10_000 {
            let level = if n % 10 == 0 { LogLevel::Error } else { LogLevel::Debug };
            logs.push(n, level, &format!("{n} {}\n", "x".repeat(100)));
        }
        let lines = logs.newest(3, LogLevel::Warn, 0);
        assert_eq!(
            lines.iter().map(|l| l.split(' ').next()).collect::<Vec<_>>(),
            [Some("9970"), Some("9980"), Some("9990")]
        );
        assert!(logs.newest(usize::MAX, LogLevel::Debug, 0).iter().map(String::len).sum::<usize>() <= BYTES_MAX);
        assert_eq!(logs.newest(9, LogLevel::Debug, 9_999).len(), 1);
    }
}
