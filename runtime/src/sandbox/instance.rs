//! A warm instance of a processor: instantiated and configured once, called for every sample.
//!
//! A trap, an exceeded limit or a missed deadline costs the instance: its store is dropped and a new one is made for
//! the next sample. One that fails again and again is given up ([`CallError::GivenUp`]), so that the caller can go back
//! to another version instead of spending its time on restarts.

mod worlds;

use super::admission::{self, AdmissionError, Stage};
use super::code::{CompileError, CompiledCode};
use super::host::{HostState, Kept, LogSink, Marks, RateLimitedLog};
use super::limits::{Grants, HOSTCALL_BYTES_MAX, INPUT_BYTES_MAX, Limits, MemoryProfile, TIGHT_MEMORY_BYTES_MAX};
use super::outcome::OutcomeError;
use super::{Sandbox, TICK};
use sedge_processor_sdk::{
    Error, HostCalls, Input, Level, Meta, ModelInfo, Outcome, Phase, Prepared, TensorView, with_host,
};
use sedge_protocol::text::one_line;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Store, Trap};
use worlds::{PostWorld, PreWorld, World};

/// Failures within [`RESTART_WINDOW`], with no answer in between, after which a processor is given up. A sample that
/// no processor could survive costs one restart and not the pipeline.
const RESTARTS_MAX: usize = 5;
const RESTART_WINDOW: Duration = Duration::from_secs(60);

/// Where the time of one call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuestTimes {
    /// The whole call.
    pub total: Duration,
    /// Getting arguments in and results out.
    pub crossing: Duration,
    /// Decoding the sample, as far as the processor says.
    pub decode: Duration,
}

impl GuestTimes {
    fn of(began: Instant, ended: Instant, marks: &Marks) -> Self {
        let total = ended - began;
        let way_in = marks.entered.map_or(Duration::ZERO, |t| t.saturating_duration_since(began));
        let way_out = marks.leaving.map_or(Duration::ZERO, |t| ended.saturating_duration_since(t));
        // A guest can set its marks as it likes; it cannot make a part larger than the whole.
        let crossing = (way_in + way_out).min(total);
        let decode = match (marks.entered, marks.decoded) {
            (Some(entered), Some(decoded)) => decoded.saturating_duration_since(entered).min(total - crossing),
            _ => Duration::ZERO,
        };
        Self { total, crossing, decode }
    }
}

/// Why a processor did not answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The processor refused the sample or its settings; it goes on.
    #[error("{stage}: {error}")]
    Refused {
        /// Which processor.
        stage: &'static str,
        /// What it says.
        error: Error,
    },
    /// The call took too long.
    #[error("{stage}: no answer within {limit_ms} ms; it was stopped. Make it faster or raise limits.sandbox_ms")]
    Deadline {
        /// Which processor.
        stage: &'static str,
        /// The limit.
        limit_ms: u128,
    },
    /// It asked for too much memory.
    #[error(
        "{stage}: it asked for {asked_mib} MiB of memory, limits.sandbox_memory_mib is {limit_mib}; it was stopped"
    )]
    Memory {
        /// Which processor.
        stage: &'static str,
        /// What it asked for.
        asked_mib: usize,
        /// The limit.
        limit_mib: u64,
    },
    /// It recursed too deep.
    #[error("{stage}: it used more than 256 KiB of stack (an endless recursion?); it was stopped")]
    StackOverflow {
        /// Which processor.
        stage: &'static str,
    },
    /// It trapped: a panic, an access out of bounds, a broken promise to the host.
    #[error("{stage}: it failed inside: {problem}")]
    Trapped {
        /// Which processor.
        stage: &'static str,
        /// What happened.
        problem: String,
    },
    /// What it returned cannot be used.
    #[error("{stage}: {problem}")]
    BadOutput {
        /// Which processor.
        stage: &'static str,
        /// What is wrong.
        problem: OutcomeError,
    },
    /// The sample is too large to hand over.
    #[error("{stage}: the sample has {bytes} bytes; at most {limit} are handed to a processor")]
    InputTooLarge {
        /// Which processor.
        stage: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// It failed too often.
    #[error("{stage}: given up after {failures} failures within {} s, the last: {last}", RESTART_WINDOW.as_secs())]
    GivenUp {
        /// Which processor.
        stage: &'static str,
        /// Failures in the window.
        failures: usize,
        /// The last one.
        last: String,
    },
    /// It cannot be instantiated.
    #[error("{stage}: it does not start: {problem}")]
    Start {
        /// Which processor.
        stage: &'static str,
        /// What happened.
        problem: String,
    },
    /// It is not let in.
    #[error("{stage}: {error}")]
    Refusal {
        /// Which processor.
        stage: &'static str,
        /// Why.
        error: AdmissionError,
    },
    /// Its code does not load.
    #[error("{stage}: {error}")]
    Code {
        /// Which processor.
        stage: &'static str,
        /// Why.
        error: CompileError,
    },
}

impl CallError {
    pub(crate) const fn bad_output(stage: &'static str, problem: OutcomeError) -> Self {
        Self::BadOutput { stage, problem }
    }

    /// Whether only this sample failed, and the processor goes on as it was.
    pub const fn is_sample_failure(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::BadOutput { .. } | Self::InputTooLarge { .. })
    }
}

/// A warm preprocessor.
pub struct PreprocessorInstance(Instance<PreWorld>);

/// A warm postprocessor.
pub struct PostprocessorInstance(Instance<PostWorld>);

impl PreprocessorInstance {
    /// Admits, instantiates and configures a preprocessor.
    ///
    /// # Errors
    /// [`CallError`] when it is not let in, or fails in its configuration.
    pub fn start(setup: Setup<'_>) -> Result<Self, CallError> {
        Instance::start(Stage::Pre, setup).map(Self)
    }

    /// Turns one sample into tensors. They are what the guest says; check them.
    ///
    /// # Errors
    /// [`CallError`]; see [`CallError::is_sample_failure`].
    pub fn process(&mut self, meta: &Meta, input: &Input<'_>) -> Result<(Option<Prepared>, GuestTimes), CallError> {
        let stage = Stage::Pre.name();
        if input.len_bytes() > INPUT_BYTES_MAX {
            return Err(CallError::InputTooLarge { stage, bytes: input.len_bytes(), limit: INPUT_BYTES_MAX });
        }
        self.0.call(|world, store| worlds::pre_process(world, store, meta, input))
    }

    /// Makes it forget earlier samples.
    ///
    /// # Errors
    /// [`CallError`] when it fails.
    pub fn reset(&mut self) -> Result<(), CallError> {
        self.0.reset()
    }
}

impl PostprocessorInstance {
    /// Admits, instantiates and configures a postprocessor.
    ///
    /// # Errors
    /// As [`PreprocessorInstance::start`].
    pub fn start(setup: Setup<'_>) -> Result<Self, CallError> {
        Instance::start(Stage::Post, setup).map(Self)
    }

    /// Turns the outputs for one sample into predictions. They are what the guest says; check them.
    ///
    /// # Errors
    /// As [`PreprocessorInstance::process`].
    pub fn process(
        &mut self,
        meta: &Meta,
        tensors: &[TensorView<'_>],
        context: &str,
    ) -> Result<(Outcome, GuestTimes), CallError> {
        let bytes = tensors.iter().map(|t| t.data.len()).sum();
        if bytes > INPUT_BYTES_MAX {
            return Err(CallError::InputTooLarge { stage: Stage::Post.name(), bytes, limit: INPUT_BYTES_MAX });
        }
        self.0.call(|world, store| worlds::post_process(world, store, meta, tensors, context))
    }

    /// Makes it forget earlier samples.
    ///
    /// # Errors
    /// [`CallError`] when it fails.
    pub fn reset(&mut self) -> Result<(), CallError> {
        self.0.reset()
    }
}

/// What a processor is started with.
pub struct Setup<'a> {
    /// The engine.
    pub sandbox: &'static Sandbox,
    /// Its code.
    pub code: &'a CompiledCode,
    /// Its settings, a JSON object.
    pub config: &'a str,
    /// The model it works for.
    pub model: &'a ModelInfo,
    /// Host interfaces it may import.
    pub grants: &'a Grants,
    /// What it may use.
    pub limits: Limits,
    /// Where its log lines go.
    pub log: LogSink,
}

/// A component, ready to be instantiated again and again, and at most one live instance of it.
struct Instance<W: World> {
    sandbox: &'static Sandbox,
    stage: &'static str,
    prepared: W::Prepared,
    config: String,
    model: ModelInfo,
    limits: Limits,
    live: Option<(W, Store<HostState>)>,
    /// Present while no instance is live.
    kept: Option<Kept>,
    /// Since the last answer.
    failures: VecDeque<Instant>,
    last_failure: String,
}

impl<W: World> Instance<W> {
    fn start(stage: Stage, setup: Setup<'_>) -> Result<Self, CallError> {
        let name = stage.name();
        let component = setup.code.load(setup.sandbox).map_err(|error| CallError::Code { stage: name, error })?;
        admission::check_type(&component, stage, setup.grants)
            .map_err(|error| CallError::Refusal { stage: name, error })?;
        let start = |problem: String| CallError::Start { stage: name, problem };
        if setup.sandbox.profile() == MemoryProfile::Tight && setup.limits.memory_bytes > TIGHT_MEMORY_BYTES_MAX {
            return Err(start(format!(
                "it is allowed {} MiB of memory; the tight memory profile of this device ends at {}",
                setup.limits.memory_bytes >> 20,
                TIGHT_MEMORY_BYTES_MAX >> 20
            )));
        }
        let mut linker = Linker::new(setup.sandbox.engine());
        worlds::link(&mut linker, setup.grants).map_err(|e| start(text(&e)))?;
        let instance = linker.instantiate_pre(&component).map_err(|e| start(text(&e)))?;
        let mut this = Self {
            sandbox: setup.sandbox,
            stage: name,
            prepared: W::prepare(instance).map_err(|e| start(text(&e)))?,
            config: setup.config.to_owned(),
            model: setup.model.clone(),
            limits: setup.limits,
            live: None,
            kept: Some(Kept::new(name, setup.log)),
            failures: VecDeque::new(),
            last_failure: String::new(),
        };
        this.live = Some(this.instantiate()?);
        Ok(this)
    }

    /// Instantiates and configures, within the time for configuration.
    fn instantiate(&mut self) -> Result<(W, Store<HostState>), CallError> {
        let kept = self.kept.take().ok_or(CallError::Start { stage: self.stage, problem: "it runs already".into() })?;
        let state = HostState::new(kept, self.limits.memory_bytes);
        let mut store = Store::new(self.sandbox.engine(), state);
        store.limiter(|state| state);
        store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
        store.epoch_deadline_trap();
        store.set_epoch_deadline(ticks(self.limits.configure));
        let running = self.sandbox.running();
        let configured = W::instantiate(&self.prepared, &mut store)
            .and_then(|world| Ok((world.configure(&mut store, &self.config, &self.model)?, world)));
        drop(running);
        let error = match configured {
            Ok((Ok(()), world)) => return Ok((world, store)),
            Ok((Err(error), _)) => CallError::Refused { stage: self.stage, error },
            Err(e) => self.classify(&e, store.data(), self.limits.configure),
        };
        self.failed(store, &error);
        Err(error)
    }

    /// The store may be poisoned: it is dropped, and only what is kept outside the guest goes on.
    fn failed(&mut self, store: Store<HostState>, error: &CallError) {
        self.kept = Some(store.into_data().into_kept());
        self.failures.push_back(Instant::now());
        self.last_failure = error.to_string();
    }

    fn call<R>(
        &mut self,
        call: impl FnOnce(&W, &mut Store<HostState>) -> wasmtime::Result<Result<R, Error>>,
    ) -> Result<(R, GuestTimes), CallError> {
        let (world, mut store) = match self.live.take() {
            Some(live) => live,
            None => self.restart()?,
        };
        store.data_mut().marks = Marks::default();
        store.set_epoch_deadline(ticks(self.limits.process));
        let running = self.sandbox.running();
        let began = Instant::now();
        let result = call(&world, &mut store);
        let ended = Instant::now();
        drop(running);
        match result {
            Ok(answer) => {
                let times = GuestTimes::of(began, ended, &store.data().marks);
                self.live = Some((world, store));
                self.failures.clear();
                answer.map(|a| (a, times)).map_err(|error| CallError::Refused { stage: self.stage, error })
            }
            Err(e) => {
                let error = self.classify(&e, store.data(), self.limits.process);
                self.failed(store, &error);
                Err(error)
            }
        }
    }

    fn restart(&mut self) -> Result<(W, Store<HostState>), CallError> {
        let now = Instant::now();
        self.failures.retain(|&at| now.duration_since(at) < RESTART_WINDOW);
        if self.failures.len() >= RESTARTS_MAX {
            return Err(CallError::GivenUp {
                stage: self.stage,
                failures: self.failures.len(),
                last: self.last_failure.clone(),
            });
        }
        self.instantiate()
    }

    fn reset(&mut self) -> Result<(), CallError> {
        if self.live.is_none() {
            return Ok(()); // The next call starts afresh.
        }
        self.call(|world, store| world.reset(store).map(Ok)).map(|((), _)| ())
    }

    fn classify(&self, e: &wasmtime::Error, state: &HostState, limit: Duration) -> CallError {
        let stage = self.stage;
        if let Some(asked) = state.memory_denied {
            return CallError::Memory {
                stage,
                asked_mib: asked.div_ceil(1 << 20),
                limit_mib: self.limits.memory_bytes >> 20,
            };
        }
        match e.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => CallError::Deadline { stage, limit_ms: limit.as_millis() },
            Some(Trap::StackOverflow) => CallError::StackOverflow { stage },
            Some(trap) => CallError::Trapped { stage, problem: trap.to_string() },
            None => CallError::Trapped { stage, problem: text(e) },
        }
    }
}

/// At least `limit`, and less than two ticks more.
fn ticks(limit: Duration) -> u64 {
    u64::try_from(limit.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u64::MAX).saturating_add(1)
}

/// The causes in one line, without wasmtime's backtrace: processors are shipped without names.
fn text(e: &wasmtime::Error) -> String {
    let causes: Vec<String> = e.chain().map(ToString::to_string).filter(|c| !c.contains("wasm backtrace")).collect();
    one_line(&causes.join(": "))
}

/// Receives the calls of a built-in.
struct NativeHost {
    marks: Cell<Marks>,
    log: RefCell<RateLimitedLog>,
}

impl HostCalls for NativeHost {
    fn log(&self, level: Level, message: &str) {
        self.log.borrow_mut().line(level, message);
    }

    fn mark(&self, phase: Phase) {
        let mut marks = self.marks.get();
        marks.set(phase);
        self.marks.set(marks);
    }
}

/// Calls a built-in with the same log, marks and times as a sandboxed processor. A panic is its failure, not the end of
/// the process.
pub(crate) fn native_call<R>(
    stage: &'static str,
    log: &mut RateLimitedLog,
    call: impl FnOnce() -> Result<R, Error>,
) -> Result<(R, GuestTimes), CallError> {
    let host = Rc::new(NativeHost { marks: Cell::default(), log: RefCell::new(log.take()) });
    let began = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| with_host(host.clone(), call)));
    let ended = Instant::now();
    let mut marks = host.marks.get();
    marks.entered = Some(began);
    marks.leaving = Some(ended);
    *log = host.log.borrow_mut().take();
    match result {
        Ok(Ok(answer)) => Ok((answer, GuestTimes::of(began, ended, &marks))),
        Ok(Err(error)) => Err(CallError::Refused { stage, error }),
        Err(_) => Err(CallError::Trapped { stage, problem: "it panicked; this is a defect of the built-in".into() }),
    }
}

/// Every host interface works on the guest's whole [`HostState`].
pub(super) type Data = HasSelf<HostState>;
