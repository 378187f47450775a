//! The WebAssembly sandbox that runs preprocessors and postprocessors from outside.
//!
//! What always holds: a guest has no import but those in [`Grants`]; a call ends by its deadline; memory, stack, log
//! and the data it hands over are bounded; after a trap nothing of the instance is used again; nothing it returns is
//! believed before it was checked. Code compiled from WebAssembly is native code: it is loaded only when this process
//! or a child of it compiled it, or when its hash is one that the caller recorded ([`CompiledCode`]); [`CodeCache`]
//! keeps code together with that record.
//!
//! Calls run on the caller's thread, which needs 1 MiB of stack beside the guest's 256 KiB.

mod admission;
mod bindings;
mod cache;
mod code;
mod host;
mod instance;
mod limits;
mod outcome;

pub use admission::AdmissionError;
pub use cache::{CACHED_CODE_BYTES_MAX, CachedCode, CodeCache, CodeKey};
pub use code::{CODE_VERSION, CompileError, CompiledCode, Compiler, compile_child};
pub(crate) use host::RateLimitedLog;
pub use host::{LogLine, LogSink};
pub(crate) use instance::native_call;
pub use instance::{CallError, GuestTimes, PostprocessorInstance, PreprocessorInstance, Setup};
pub(crate) use limits::INPUT_BYTES_MAX;
pub use limits::{Grants, Limits, MemoryProfile};
pub use outcome::OutcomeError;
pub(crate) use outcome::{check_outcome, check_outputs, check_prepared};

use sedge_protocol::Sha256Digest;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;
use wasmtime::{Config, Engine, ModuleVersionStrategy, OptLevel};

/// Stack of a guest; more traps. Native overflow would abort the process, so this stays far below a thread's stack.
const GUEST_STACK_BYTES: usize = 256 << 10;
/// How often running guests are interrupted to look at their deadline.
pub(crate) const TICK: Duration = Duration::from_millis(if cfg!(target_arch = "x86_64") { 5 } else { 10 });
/// Ticks without a running call after which the ticker sleeps, so that an idle device is not woken.
const IDLE_TICKS: u32 = 200;

/// One engine and the thread that interrupts its guests. There is one per process and memory profile.
pub struct Sandbox {
    engine: Engine,
    profile: MemoryProfile,
    ticker: Ticker,
}

/// Wakes every [`TICK`] while a call runs, and for a while after.
#[derive(Default)]
struct Ticker {
    thread: OnceLock<Thread>,
    /// Calls that run now. A guest that spins makes no further calls, so it is calls under way that must be counted.
    running: AtomicUsize,
    parked: AtomicBool,
}

/// Keeps the ticker awake while a guest runs.
pub(crate) struct Running<'a>(&'a Ticker);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The engine could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the WebAssembly engine does not start with the {profile} memory profile")]
pub struct SandboxError {
    profile: MemoryProfile,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Sandbox {
    /// The process's sandbox with this memory profile; started on first use.
    ///
    /// # Errors
    /// [`SandboxError`] when the engine or its thread cannot be started on this machine.
    pub fn shared(profile: MemoryProfile) -> Result<&'static Self, SandboxError> {
        static ROOMY: OnceLock<Sandbox> = OnceLock::new();
        static TIGHT: OnceLock<Sandbox> = OnceLock::new();
        let cell = match profile {
            MemoryProfile::Roomy => &ROOMY,
            MemoryProfile::Tight => &TIGHT,
        };
        // Without its ticker an engine must not be used: no guest would ever see its deadline.
        let ready = || cell.get().filter(|s| s.ticker.thread.get().is_some());
        if let Some(sandbox) = ready() {
            return Ok(sandbox);
        }
        // One ticker per engine, however many threads come first.
        static STARTING: Mutex<()> = Mutex::new(());
        let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| SandboxError { profile, source };
        if cell.get().is_none() {
            let engine = Engine::new(&config(profile).map_err(|e| failed(e.into()))?).map_err(|e| failed(e.into()))?;
            let _ = cell.set(Self { engine, profile, ticker: Ticker::default() });
        }
        if let Some(sandbox) = cell.get() {
            sandbox.start_ticker().map_err(|e| failed(e.into()))?;
        }
        ready().ok_or_else(|| failed("its thread did not start".into()))
    }

    /// Its memory profile.
    pub const fn profile(&self) -> MemoryProfile {
        self.profile
    }

    /// Digest of all that compiled code depends on beside the component: this crate's and the engine's version and
    /// settings, the memory profile, and this machine's architecture and processor features. Code compiled by a sandbox
    /// loads in every other with the same.
    pub fn code_fit(&self) -> Sha256Digest {
        code::fit(&self.engine, self.profile)
    }

    pub(crate) const fn engine(&self) -> &Engine {
        &self.engine
    }

    fn start_ticker(&'static self) -> std::io::Result<()> {
        if self.ticker.thread.get().is_none() {
            let builder = std::thread::Builder::new().name("sedge-epoch".into()).stack_size(64 << 10);
            // Before its first tick the thread says who it is, so that it can always be woken.
            let (say, hear) = std::sync::mpsc::channel();
            builder.spawn(move || {
                let _ = self.ticker.thread.set(std::thread::current());
                drop(say);
                self.tick();
            })?;
            let _: Result<(), _> = hear.recv();
        }
        Ok(())
    }

    fn tick(&self) {
        let mut idle = 0;
        loop {
            std::thread::sleep(TICK);
            self.engine.increment_epoch();
            idle = if self.ticker.running.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
            if idle < IDLE_TICKS {
                continue;
            }
            // Either a call that begins now sees the flag and wakes this thread, or the call is seen here.
            self.ticker.parked.store(true, Ordering::SeqCst);
            while self.ticker.running.load(Ordering::SeqCst) == 0 {
                std::thread::park();
            }
            self.ticker.parked.store(false, Ordering::SeqCst);
            idle = 0;
        }
    }

    /// To be held while a guest runs: without ticks it would never see its deadline.
    pub(crate) fn running(&self) -> Running<'_> {
        self.ticker.running.fetch_add(1, Ordering::SeqCst);
        if self.ticker.parked.load(Ordering::SeqCst)
            && let Some(thread) = self.ticker.thread.get()
        {
            thread.unpark();
        }
        Running(&self.ticker)
    }
}

/// Everything that a processor does not need is off: each feature is attack surface.
fn config(profile: MemoryProfile) -> Result<Config, wasmtime::Error> {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(GUEST_STACK_BYTES)
        .cranelift_opt_level(OptLevel::Speed)
        .wasm_backtrace_max_frames(std::num::NonZero::new(8))
        .concurrency_support(false)
        .wasm_component_model(true)
        .wasm_simd(true)
        .wasm_bulk_memory(true)
        .wasm_multi_value(true)
        .wasm_relaxed_simd(false)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_tail_call(false)
        .wasm_extended_const(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false)
        .memory_init_cow(true)
        .module_version(ModuleVersionStrategy::Custom(code::code_version(profile)))?;
    match profile {
        MemoryProfile::Roomy => {
            config.memory_reservation(4 << 30).memory_guard_size(32 << 20).memory_reservation_for_growth(0)
        }
        MemoryProfile::Tight => config
            .memory_reservation(limits::TIGHT_MEMORY_BYTES_MAX)
            .memory_guard_size(64 << 10)
            .memory_reservation_for_growth(0),
    }
    .memory_may_move(false);
    Ok(config)
}
