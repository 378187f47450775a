//! What the host does for a guest: the log, marks, and the three interfaces that can be granted.

use super::bindings::pre::sedge::processor::{clock, kv, log, random, sample, trace, types};
use super::limits::{INSTANCES_MAX, MEMORIES_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX};
use sedge_processor_sdk::{Level, Phase};
use sedge_protocol::text::{one_line, visible};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LOG_LINES_PER_SECOND: u32 = 20;
const LOG_LINE_BYTES_MAX: usize = 1024;
const KV_BYTES_MAX: usize = 64 << 10;
const KV_KEYS_MAX: usize = 256;
const RANDOM_BYTES_MAX: u32 = 4096;

/// A line that a processor logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// `preprocessor` or `postprocessor`.
    pub stage: &'static str,
    /// Severity.
    pub level: Level,
    /// Text without control characters.
    pub text: String,
    /// Lines dropped before this one because they came too fast.
    pub dropped: u64,
}

/// Takes log lines; called on the thread that processes samples, so it must not block.
pub type LogSink = Arc<dyn Fn(&LogLine) + Send + Sync>;

/// Lets 20 lines a second through, each at most 1 KiB, and counts the rest.
pub(crate) struct RateLimitedLog {
    sink: LogSink,
    stage: &'static str,
    window: Instant,
    lines: u32,
    dropped: u64,
}

impl RateLimitedLog {
    pub(crate) fn new(stage: &'static str, sink: LogSink) -> Self {
        Self { sink, stage, window: Instant::now(), lines: 0, dropped: 0 }
    }

    /// This log with its count of lines, leaving a silent one.
    pub(crate) fn take(&mut self) -> Self {
        let silent =
            Self { sink: self.sink.clone(), stage: self.stage, window: self.window, lines: u32::MAX, dropped: 0 };
        std::mem::replace(self, silent)
    }

    pub(crate) fn line(&mut self, level: Level, text: &str) {
        if self.lines >= LOG_LINES_PER_SECOND {
            if self.window.elapsed() < Duration::from_secs(1) {
                self.dropped += 1;
                return;
            }
            self.window = Instant::now();
            self.lines = 0;
        }
        self.lines += 1;
        let mut end = text.len().min(LOG_LINE_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = visible(&text[..end], LOG_LINE_BYTES_MAX);
        (self.sink)(&LogLine { stage: self.stage, level, text, dropped: std::mem::take(&mut self.dropped) });
    }
}

/// When a call passed its phases.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Marks {
    pub(crate) entered: Option<Instant>,
    pub(crate) decoded: Option<Instant>,
    pub(crate) leaving: Option<Instant>,
}

impl Marks {
    pub(crate) fn set(&mut self, phase: Phase) {
        let slot = match phase {
            Phase::Entered => &mut self.entered,
            Phase::Decoded => &mut self.decoded,
            Phase::Leaving => &mut self.leaving,
        };
        *slot = Some(Instant::now());
    }
}

/// State of one guest on the host's side.
pub(crate) struct HostState {
    pub(crate) log: RateLimitedLog,
    pub(crate) marks: Marks,
    /// Set when the guest asked for more memory than it may have, so that the trap can say so.
    pub(crate) memory_denied: Option<usize>,
    memory_bytes_max: usize,
    /// Of all memories of the guest.
    memory_bytes: usize,
    started: Instant,
    kv: KeyValues,
}

/// What outlives an instance: a guest that traps does not get a fresh allowance of log lines, nor lose its store.
pub(crate) struct Kept {
    pub(crate) log: RateLimitedLog,
    kv: KeyValues,
}

#[derive(Default)]
struct KeyValues {
    values: HashMap<String, Vec<u8>>,
    bytes: usize,
}

impl Kept {
    pub(crate) fn new(stage: &'static str, sink: LogSink) -> Self {
        Self { log: RateLimitedLog::new(stage, sink), kv: KeyValues::default() }
    }
}

impl HostState {
    pub(crate) fn new(kept: Kept, memory_bytes_max: u64) -> Self {
        Self {
            log: kept.log,
            marks: Marks::default(),
            memory_denied: None,
            memory_bytes_max: usize::try_from(memory_bytes_max).unwrap_or(usize::MAX),
            memory_bytes: 0,
            started: Instant::now(),
            kv: kept.kv,
        }
    }

    pub(crate) fn into_kept(self) -> Kept {
        Kept { log: self.log, kv: self.kv }
    }
}

impl wasmtime::ResourceLimiter for HostState {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = (self.memory_bytes - current.min(self.memory_bytes)).saturating_add(desired);
        if total <= self.memory_bytes_max {
            self.memory_bytes = total;
            return Ok(true);
        }
        // Trap rather than let the guest see -1: a guest that retries for ever would burn its whole deadline.
        self.memory_denied = Some(total);
        Err(wasmtime::Error::msg("more memory than the limit"))
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired <= TABLE_ELEMENTS_MAX {
            return Ok(true);
        }
        Err(wasmtime::Error::msg(format!("a table of {desired} elements; at most {TABLE_ELEMENTS_MAX}")))
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }
}

impl types::Host for HostState {}
impl sample::Host for HostState {}

impl log::Host for HostState {
    fn log(&mut self, level: log::Level, text: String) -> wasmtime::Result<()> {
        let level = match level {
            log::Level::Trace => Level::Trace,
            log::Level::Debug => Level::Debug,
            log::Level::Info => Level::Info,
            log::Level::Warn => Level::Warn,
            log::Level::Error => Level::Error,
        };
        self.log.line(level, &text);
        Ok(())
    }
}

impl trace::Host for HostState {
    fn mark(&mut self, phase: trace::Phase) -> wasmtime::Result<()> {
        self.marks.set(match phase {
            trace::Phase::Entered => Phase::Entered,
            trace::Phase::Decoded => Phase::Decoded,
            trace::Phase::Leaving => Phase::Leaving,
        });
        Ok(())
    }
}

impl kv::Host for HostState {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<Vec<u8>>> {
        Ok(self.kv.values.get(&key).cloned())
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> wasmtime::Result<Result<(), String>> {
        let KeyValues { values, bytes: held } = &mut self.kv;
        let old = values.get(&key).map_or(0, |v| key.len() + v.len());
        let bytes = *held - old + key.len() + value.len();
        if bytes > KV_BYTES_MAX {
            return Ok(Err(format!("the store would hold {bytes} bytes; at most {KV_BYTES_MAX}")));
        }
        if !values.contains_key(&key) && values.len() >= KV_KEYS_MAX {
            return Ok(Err(format!("the store holds {KV_KEYS_MAX} keys already")));
        }
        values.insert(key, value);
        *held = bytes;
        Ok(Ok(()))
    }
}

impl clock::Host for HostState {
    fn now_monotonic_ns(&mut self) -> wasmtime::Result<u64> {
        // Whole milliseconds: a finer clock would help to measure what other processes do.
        Ok(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_mul(1_000_000))
    }
}

impl random::Host for HostState {
    fn fill(&mut self, n: u32) -> wasmtime::Result<Vec<u8>> {
        if n > RANDOM_BYTES_MAX {
            return Err(wasmtime::Error::msg(format!("{n} random bytes asked for; at most {RANDOM_BYTES_MAX} a call")));
        }
        let mut bytes = vec![0; n as usize];
        getrandom::fill(&mut bytes).map_err(|e| wasmtime::Error::msg(one_line(&e.to_string())))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmtime::ResourceLimiter as _;

    fn state() -> HostState {
        HostState::new(Kept::new("preprocessor", Arc::new(|_| {})), 8 << 20)
    }

    #[test]
    fn the_limit_holds_for_all_memories_of_a_guest_together() {
        let mut state = state();
        assert!(state.memory_growing(0, 5 << 20, None).is_ok_and(|grows| grows));
        assert!(state.memory_growing(0, 2 << 20, None).is_ok_and(|grows| grows));
        assert!(state.memory_growing(2 << 20, 3 << 20, None).is_ok_and(|grows| grows));
        assert!(state.memory_growing(5 << 20, 6 << 20, None).is_err(), "5 and 3 MiB are all there is");
        assert_eq!(state.memory_denied, Some(9 << 20));
    }

    #[test]
    fn the_store_is_bounded_and_outlives_the_instance() {
        let mut state = state();
        assert_eq!(kv::Host::set(&mut state, "k".into(), vec![1; 10]).ok(), Some(Ok(())));
        let full = kv::Host::set(&mut state, "l".into(), vec![0; KV_BYTES_MAX]);
        assert!(full.is_ok_and(|r| r.is_err_and(|e| e.contains("at most 65536"))));
        let mut next = HostState::new(state.into_kept(), 8 << 20);
        assert_eq!(kv::Host::get(&mut next, "k".into()).ok().flatten(), Some(vec![1; 10]));
        for i in 1..KV_KEYS_MAX {
            assert_eq!(kv::Host::set(&mut next, i.to_string(), vec![]).ok(), Some(Ok(())));
        }
        assert!(kv::Host::set(&mut next, "more".into(), vec![]).is_ok_and(|r| r.is_err()));
    }
}
