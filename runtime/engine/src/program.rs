//! A graph that is ready to run: its steps in order, and the arena that they work in.

use crate::bytes::AlignedBytes;
use crate::check::{GraphError, check, check_without_weights};
use crate::edge::{self, Edge};
use crate::graph::{Conv, Dims, Element, Graph, Op, Port};
use crate::isa::{Kernels, NoIsa, pick};
use crate::packed::{Packed, Source};
use crate::place::{Place, Plan};
use crate::simplify::simplified;
use crate::step::Step;
use crate::threads::{Arena, Split};
use std::time::{Duration, Instant};

/// How to compile.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The instruction set to use; the best of this core's when not given.
    pub isa: Option<String>,
    /// Threads that large operators are split over; 0 and 1 run on the caller's thread. Results are the same.
    pub threads: usize,
    /// Operators with fewer products stay on one thread; a measured default when not given.
    pub products_min: Option<u64>,
}

/// Some 2 microseconds on one core, about what it takes until other threads are awake.
pub(crate) const PRODUCTS_MIN: u64 = 300_000;

impl Options {
    /// Takes the instruction set from the environment variable `SEDGE_ISA`.
    pub fn from_environment() -> Self {
        Self { isa: std::env::var("SEDGE_ISA").ok().filter(|isa| !isa.is_empty()), ..Self::default() }
    }
}

/// Why a graph does not compile.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// It is no sound graph.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The instruction set cannot be had.
    #[error(transparent)]
    Isa(#[from] NoIsa),
    /// The system refuses threads.
    #[error("{threads} threads cannot be started")]
    Threads {
        /// How many.
        threads: usize,
        /// Why.
        #[source]
        source: rayon::ThreadPoolBuildError,
    },
}

/// Why a run is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// Other bytes than the port has.
    #[error("{what} {index} has {found} bytes, and {expected} are needed")]
    Bytes {
        /// Input or output.
        what: &'static str,
        /// Its place.
        index: usize,
        /// Bytes given.
        found: usize,
        /// Bytes of the port.
        expected: usize,
    },
    /// Too few or too many tensors.
    #[error("the graph has {expected} {what}s, and {found} are given")]
    Count {
        /// Input or output.
        what: &'static str,
        /// How many are given.
        found: usize,
        /// How many there are.
        expected: usize,
    },
    /// Memory of another program.
    #[error("the session is another program's")]
    Session,
    /// Values that give no scale.
    #[error("a value to quantize is NaN or infinite: the model or its input is not numerically sound")]
    NotFinite,
}

/// A graph compiled for this core. Shared by any number of sessions.
#[derive(Debug)]
pub struct Program {
    kernels: &'static Kernels,
    /// What was compiled, without the weights that are packed.
    outline: Graph,
    inputs: Vec<Edge>,
    outputs: Vec<Edge>,
    steps: Vec<Named>,
    /// What lies in the arena before the first run: values of the outline, and where.
    constants: Vec<(Place, usize)>,
    arena_bytes: usize,
    scratch: usize,
    split: Split,
    pool: Option<rayon::ThreadPool>,
}

#[derive(Debug)]
struct Named {
    name: String,
    kind: &'static str,
    step: Step,
}

/// The memory of one run after the other.
#[derive(Debug)]
pub struct Session {
    arena: AlignedBytes,
    /// What single steps want besides.
    scratch: AlignedBytes,
}

/// What one operator took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// Its name in the model's file.
    pub name: String,
    /// What it does.
    pub kind: &'static str,
    /// The sizes of what it yields; none for what brings tensors in and out.
    pub output: Option<Dims>,
    /// Products that it sums up in one run.
    pub products: u64,
    /// The shortest of the measured times.
    pub time: Duration,
}

impl Program {
    /// Checks a graph and prepares it.
    ///
    /// # Errors
    /// [`CompileError`] naming the node.
    pub fn compile(graph: &Graph, options: &Options) -> Result<Self, CompileError> {
        Self::compile_owned(graph.clone(), options)
    }

    /// As [`Program::compile`]; each layer's weights are freed once they are packed.
    ///
    /// # Errors
    /// As of [`Program::compile`].
    pub fn compile_owned(graph: Graph, options: &Options) -> Result<Self, CompileError> {
        check(&graph)?;
        Self::prepare(graph, options, pick(options.isa.as_deref())?, &mut Source::Pack)
    }

    /// As [`Program::compile`], of a graph without its weights.
    pub(crate) fn compile_saved(graph: Graph, options: &Options, source: &mut Source) -> Result<Self, CompileError> {
        check_without_weights(&graph)?;
        Self::prepare(graph, options, pick(options.isa.as_deref())?, source)
    }

    fn prepare(
        graph: Graph,
        options: &Options,
        kernels: &'static Kernels,
        source: &mut Source,
    ) -> Result<Self, CompileError> {
        let mut graph = simplified(graph);
        let plan = Plan::new(&graph)?;
        let mut steps = Vec::with_capacity(graph.nodes.len());
        for index in 0..graph.nodes.len() {
            let node = &graph.nodes[index];
            let step = Step::new(&graph, node, kernels, &plan, source);
            steps.push(Named { name: node.name.clone(), kind: node.op.name(), step });
            if let Op::Conv(conv) = &mut graph.nodes[index].op {
                leave_outline(conv);
            }
        }
        let scratch = steps.iter().map(|named| named.step.scratch_bytes()).max().unwrap_or(0);
        let edge = |port: &Port| Edge::new(port, &graph.values[port.value.0], plan.places[port.value.0]);
        let constant =
            |(value, place): (usize, &Place)| graph.values[value].constant.is_some().then_some((*place, value));
        let threads = options.threads.max(1);
        let pool = match threads {
            1 => None,
            _ => {
                let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
                let pool = builder.thread_name(|index| format!("sedge-engine-{index}")).build();
                Some(pool.map_err(|source| CompileError::Threads { threads, source })?)
            }
        };
        Ok(Self {
            kernels,
            split: Split { threads, products_min: options.products_min.unwrap_or(PRODUCTS_MIN) },
            pool,
            inputs: graph.inputs.iter().map(edge).collect(),
            outputs: graph.outputs.iter().map(edge).collect(),
            steps,
            constants: plan.places.iter().enumerate().filter_map(constant).collect(),
            arena_bytes: plan.bytes,
            scratch,
            outline: graph,
        })
    }

    pub(crate) const fn outline(&self) -> &Graph {
        &self.outline
    }

    pub(crate) fn packed(&self) -> impl Iterator<Item = &Packed> {
        self.steps.iter().filter_map(|named| named.step.packed())
    }

    /// Name of the instruction set it was compiled for.
    pub fn isa(&self) -> &'static str {
        self.kernels.name
    }

    /// Memory for one run at a time.
    pub fn session(&self) -> Session {
        let mut arena = AlignedBytes::zeroed(self.arena_bytes);
        for (place, value) in &self.constants {
            let bytes = self.outline.values[*value].constant.iter().flatten();
            let flipped: Vec<u8> = bytes.map(|byte| byte ^ self.kernels.flip).collect();
            edge::fill(arena.as_mut_slice(), place, &flipped);
        }
        Session { arena, scratch: AlignedBytes::zeroed(self.scratch) }
    }

    /// Bytes of each input outside.
    pub fn input_bytes(&self) -> impl Iterator<Item = usize> + '_ {
        self.inputs.iter().map(Edge::bytes)
    }

    /// Bytes of each output outside.
    pub fn output_bytes(&self) -> impl Iterator<Item = usize> + '_ {
        self.outputs.iter().map(Edge::bytes)
    }

    /// Bytes of the packed weights, and of a session's arena.
    pub fn memory_bytes(&self) -> (usize, usize) {
        (self.steps.iter().map(|named| named.step.packed().map_or(0, Packed::len)).sum(), self.arena_bytes)
    }

    /// Runs once. Tensors are in native byte order and in the order of their ports.
    ///
    /// # Errors
    /// [`RunError`] for tensors that do not fit; nothing is computed then.
    pub fn run(&self, session: &mut Session, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), RunError> {
        self.fits(session, inputs, outputs)?;
        self.enter(session, inputs);
        let mut all = || self.steps.iter().for_each(|named| self.step(session, &named.step, self.split));
        match &self.pool {
            Some(pool) => pool.install(all),
            None => all(),
        }
        self.leave(session, outputs);
        Ok(())
    }

    /// Runs several times on one thread, and tells what each operator took.
    ///
    /// # Errors
    /// As of [`Program::run`].
    pub fn profile(&self, session: &mut Session, inputs: &[&[u8]], runs: usize) -> Result<Vec<Timing>, RunError> {
        let mut outputs: Vec<Vec<u8>> = self.output_bytes().map(|bytes| vec![0; bytes]).collect();
        let mut outputs: Vec<&mut [u8]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
        self.fits(session, inputs, &outputs)?;
        let timing = |name: &str, kind, output, products| Timing {
            name: name.to_owned(),
            kind,
            output,
            products,
            time: Duration::MAX,
        };
        let of_step =
            |named: &Named| timing(&named.name, named.kind, Some(named.step.output.dims), named.step.products);
        let mut all: Vec<Timing> = Vec::with_capacity(self.steps.len() + 2);
        all.push(timing("inputs", "Enter", None, 0));
        all.extend(self.steps.iter().map(of_step));
        all.push(timing("outputs", "Leave", None, 0));
        for _ in 0..runs {
            let mut at = Instant::now();
            let mut lap = |timing: &mut Timing| {
                let now = Instant::now();
                timing.time = timing.time.min(now - at);
                at = now;
            };
            self.enter(session, inputs);
            lap(&mut all[0]);
            for (named, timing) in self.steps.iter().zip(&mut all[1..]) {
                self.step(session, &named.step, Split { threads: 1, ..self.split });
                lap(timing);
            }
            self.leave(session, &mut outputs);
            if let Some(last) = all.last_mut() {
                lap(last);
            }
        }
        Ok(all)
    }

    fn fits(&self, session: &Session, inputs: &[&[u8]], outputs: &[&mut [u8]]) -> Result<(), RunError> {
        if session.arena.len() != self.arena_bytes || session.scratch.len() != self.scratch {
            return Err(RunError::Session);
        }
        let count = |what, found, expected| {
            if found == expected { Ok(()) } else { Err(RunError::Count { what, found, expected }) }
        };
        count("input", inputs.len(), self.inputs.len())?;
        count("output", outputs.len(), self.outputs.len())?;
        let bytes = |what, index, found, expected| {
            if found == expected { Ok(()) } else { Err(RunError::Bytes { what, index, found, expected }) }
        };
        for (index, (edge, given)) in self.inputs.iter().zip(inputs).enumerate() {
            bytes("input", index, given.len(), edge.bytes())?;
        }
        for (index, (edge, given)) in self.outputs.iter().zip(outputs).enumerate() {
            bytes("output", index, given.len(), edge.bytes())?;
        }
        Ok(())
    }

    fn enter(&self, session: &mut Session, inputs: &[&[u8]]) {
        for (edge, bytes) in self.inputs.iter().zip(inputs) {
            edge.enter(session.arena.as_mut_slice(), bytes, self.kernels);
        }
    }

    fn step(&self, session: &mut Session, step: &Step, split: Split) {
        // SAFETY: the arena is this program's, and has a place for each tensor of each step.
        unsafe { step.run(Arena(session.arena.as_mut_ptr()), &mut session.scratch, self.kernels, split) };
    }

    fn leave(&self, session: &mut Session, outputs: &mut [&mut [u8]]) {
        for (edge, bytes) in self.outputs.iter().zip(outputs) {
            edge.leave(session.arena.as_mut_slice(), bytes, self.kernels);
        }
    }
}

/// Frees what is packed. Some kernels are only for weights without -128: that much is kept of them.
fn leave_outline(conv: &mut Conv) {
    conv.weights = conv.weights.iter().copied().filter(|weight| *weight == i8::MIN).take(1).collect();
    conv.bias = Vec::new();
}

impl Port {
    /// Bytes of one element outside.
    pub(crate) const fn element_bytes(&self) -> usize {
        match self.element {
            Element::U8 | Element::I8 => 1,
            Element::F32 => 4,
        }
    }
}
