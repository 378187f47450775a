//! The WebAssembly sandbox that runs preprocessors and postprocessors from outside.
//!
//! What always holds: a guest has no import but those in [`Grants`]; a call ends by its deadline; memory, stack, log
//! and the data it hands over are bounded; after a trap nothing of the instance is used again; nothing it returns is
//! believed before it was checked. Code compiled from WebAssembly is native code: it is loaded only when this process
//! or a child of it compiled it, or when its hash is one that the caller recorded ([`CompiledCode`]).
//!
//! Calls run on the caller's thread, which needs 1 MiB of stack beside the guest's 256 KiB.

mod admission;
mod bindings;
mod code;
mod host;
mod instance;
mod limits;
mod outcome;

pub use admission::AdmissionError;
pub use code::{CODE_VERSION, CompileError, CompiledCode, Compiler, compile_child};
pub use host::{LogLine, LogSink};
pub(crate) use instance::native_call;
pub use instance::{CallError, GuestTimes, PostprocessorInstance, PreprocessorInstance, Setup};
pub(crate) use limits::INPUT_BYTES_MAX;
pub use limits::{Grants, Limits, MemoryProfile};
pub use outcome::OutcomeError;
pub(crate) use outcome::{check_outcome, check_prepared};

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::Duration;
use wasmtime::{Config, Engine, ModuleVersionStrategy, OptLevel};

/// Stack of a guest; more traps. Native overflow would abort the process, so this stays far below a thread's stack.
const GUEST_STACK_BYTES: usize = 256 << 10;
/// How often running guests are interrupted to look at their deadline.
pub(crate) const TICK: Duration = Duration::from_millis(if cfg!(target_arch = "x86_64") { 5 } else { 10 });
/// Ticks without a call after which the ticker sleeps, so that an idle device is not woken.
const IDLE_TICKS: u32 = 200;

/// One engine and the thread that interrupts its guests. There is one per process and memory profile.
pub struct Sandbox {
    engine: Engine,
    profile: MemoryProfile,
    ticker: Ticker,
}

/// Wakes every [`TICK`] while calls are made.
#[derive(Default)]
struct Ticker {
    thread: OnceLock<Thread>,
    calls: AtomicU64,
    parked: AtomicBool,
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
        if let Some(sandbox) = cell.get() {
            return Ok(sandbox);
        }
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| SandboxError { profile, source };
        let engine = Engine::new(&config(profile).map_err(|e| failed(e.into()))?).map_err(|e| failed(e.into()))?;
        let sandbox = cell.get_or_init(|| Self { engine, profile, ticker: Ticker::default() });
        sandbox.start_ticker().map_err(|e| failed(e.into()))?;
        Ok(sandbox)
    }

    /// Its memory profile.
    pub const fn profile(&self) -> MemoryProfile {
        self.profile
    }

    pub(crate) const fn engine(&self) -> &Engine {
        &self.engine
    }

    fn start_ticker(&'static self) -> std::io::Result<()> {
        if self.ticker.thread.get().is_some() {
            return Ok(());
        }
        let handle =
            std::thread::Builder::new().name("sedge-epoch".into()).stack_size(64 << 10).spawn(|| self.tick())?;
        // Two racing first callers start two threads; a second ticker only shortens deadlines to half a tick.
        let _ = self.ticker.thread.set(handle.thread().clone());
        Ok(())
    }

    fn tick(&self) {
        let (mut seen, mut idle) = (0, 0);
        loop {
            std::thread::sleep(TICK);
            self.engine.increment_epoch();
            let calls = self.ticker.calls.load(Ordering::Acquire);
            idle = if calls == seen { idle + 1 } else { 0 };
            seen = calls;
            if idle >= IDLE_TICKS {
                self.ticker.parked.store(true, Ordering::SeqCst);
                // A call that began before the flag was seen finds it set or is seen here.
                if self.ticker.calls.load(Ordering::SeqCst) == seen {
                    std::thread::park();
                }
                self.ticker.parked.store(false, Ordering::SeqCst);
                idle = 0;
            }
        }
    }

    /// To be called as a guest call begins and as it ends, so that the ticker runs while it lasts.
    pub(crate) fn keep_ticking(&self) {
        self.ticker.calls.fetch_add(1, Ordering::SeqCst);
        if self.ticker.parked.load(Ordering::SeqCst)
            && let Some(thread) = self.ticker.thread.get()
        {
            thread.unpark();
        }
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
