//! A worker as the agent sees it: one process, one open request, a deadline for each.
//!
//! After any [`WorkerError`] but [`WorkerError::Refused`] the process is of no further use, and dropping the [`Worker`]
//! kills it. A worker keeps nothing worth saving, so stopping one is killing it.

use super::frame::{self, FrameError};
use super::message::{Answer, Limits, Load, Loaded, Process, Reply, Request};
use super::spawner;
use super::window::{INLINE_BYTES_MAX, Window};
use super::{code, model};
use crate::source::Sample;
use sedge_runtime::model::ModelCache;
use sedge_runtime::sandbox::CodeCache;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longest line of a worker's log; the rest is cut off.
const LOG_LINE_BYTES_MAX: usize = 1200;
/// Lines of a worker's log in one second; the rest is not kept.
const LOG_LINES_PER_SECOND: u32 = 50;

/// How long the end of a worker's log is awaited.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How a worker is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerProgram {
    /// The program; its own executable, as a rule.
    pub program: PathBuf,
    /// Arguments that make it call [`super::run_worker`].
    pub arguments: Vec<OsString>,
    /// Arguments that make it call [`sedge_runtime::sandbox::compile_child`]; the memory profile's name is added.
    pub compile_arguments: Vec<String>,
}

impl WorkerProgram {
    /// This program.
    ///
    /// # Errors
    /// When the operating system does not tell which program is running.
    pub fn this_program(arguments: &[&str], compile_arguments: &[&str]) -> io::Result<Self> {
        // Linux's own link to the running program holds also after an update has replaced its file.
        let link = PathBuf::from("/proc/self/exe");
        Ok(Self {
            program: if link.exists() { link } else { std::env::current_exe()? },
            arguments: arguments.iter().map(OsString::from).collect(),
            compile_arguments: compile_arguments.iter().map(ToString::to_string).collect(),
        })
    }
}

/// What earlier workers have made of bundles. Without one, every start makes it anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caches {
    /// Compiled code of processors.
    pub code: Option<CodeCache>,
    /// Models in saved form.
    pub models: Option<ModelCache>,
}

/// How long a worker may take, in milliseconds; after that it is taken to hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deadlines {
    /// To start.
    pub hello_ms: u64,
    /// To verify a bundle, to compile one of its processors, to load it.
    pub load_ms: u64,
    /// To run the golden samples.
    pub golden_ms: u64,
    /// To answer a sample.
    pub sample_ms: u64,
    /// To answer a ping.
    pub ping_ms: u64,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { hello_ms: 10_000, load_ms: 300_000, golden_ms: 300_000, sample_ms: 10_000, ping_ms: 5_000 }
    }
}

/// A worker that cannot be used, or not for this.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It could not be started.
    #[error("the worker {} could not be started", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It ended.
    #[error("the worker {0}")]
    Ended(Exit),
    /// It did not answer in time.
    #[error("the worker did not answer `{request}` within {after:?}")]
    Hung {
        /// What it was asked.
        request: &'static str,
        /// For how long it was waited.
        after: Duration,
    },
    /// It does not speak as a worker does.
    #[error("the worker broke the protocol")]
    Frame(#[source] FrameError),
    /// It answered something else than it was asked.
    #[error("the worker answered `{request}` with `{reply}`")]
    Unexpected {
        /// What it was asked.
        request: &'static str,
        /// What it answered.
        reply: &'static str,
    },
    /// It says that it can't: a bad bundle or a golden sample that came out wrong. The worker lives.
    #[error("{0}")]
    Refused(String),
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// What the system says.
    pub status: Option<ExitStatus>,
    /// The last line of its log.
    pub last_words: Option<String>,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            Some(status) => write!(f, "ended with {status}")?,
            None => f.write_str("ended")?,
        }
        match &self.last_words {
            Some(words) => write!(f, ", its last words: {words}"),
            None => Ok(()),
        }
    }
}

/// A worker process.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    /// Ends with the log, and yields its last line.
    log: Option<JoinHandle<Option<String>>>,
    pid: u32,
    socket: UnixStream,
    window: Option<Window>,
    deadlines: Deadlines,
    compile_arguments: Vec<String>,
    name: String,
}

impl Worker {
    /// Starts a process and greets it. `name` is for the log.
    ///
    /// # Errors
    /// [`WorkerError`] when it does not start, or is no worker.
    pub async fn start(
        program: &WorkerProgram,
        limits: Limits,
        deadlines: Deadlines,
        name: String,
    ) -> Result<Self, WorkerError> {
        let failed = |source| WorkerError::Start { program: program.program.clone(), source };
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let window = Window::create().ok();
        let output = match window.as_ref().map(Window::descriptor).transpose().map_err(failed)? {
            Some(fd) => Stdio::from(fd),
            None => Stdio::null(),
        };
        let mut command = Command::new(&program.program);
        command.args(&program.arguments).env_clear().current_dir("/").kill_on_drop(true);
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(output).stderr(Stdio::piped());
        let mut child = spawner::spawn(command).await.map_err(failed)?;
        let pid = child.id().unwrap_or_default();
        let log = child.stderr.take().map(|stderr| tokio::spawn(relay_log(stderr, name.clone(), pid)));
        let socket = UnixStream::from_std(ours).map_err(failed)?;
        let compile_arguments = program.compile_arguments.clone();
        let mut worker = Self { child, log, pid, socket, window, deadlines, compile_arguments, name };
        let hello = Request::Hello { versions: vec![frame::VERSION], limits };
        match worker.ask("hello", &hello, &[], deadlines.hello_ms).await? {
            (Reply::Hello { version: frame::VERSION, shared_bytes }, _) => {
                worker.window = worker.window.filter(|_| shared_bytes == super::window::WINDOW_BYTES);
                Ok(worker)
            }
            (other, _) => Err(WorkerError::Unexpected { request: "hello", reply: other.name() }),
        }
    }

    /// Its process id.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// What it is called in the log.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Has it verify and load a bundle. What `caches` have is not made again.
    ///
    /// # Errors
    /// [`WorkerError::Refused`] when the bundle is at fault, else the worker is.
    pub async fn load(&mut self, mut load: Load, caches: &Caches) -> Result<Loaded, WorkerError> {
        load.compile_arguments.clone_from(&self.compile_arguments);
        let (components, saved) = match self.ask_to_load("open", &Request::Open(load), &[]).await? {
            (Reply::Opened { components, model }, _) => (components, model),
            (other, _) => return Err(unexpected("open", other)),
        };
        if let Some(cache) = &caches.code {
            for component in &components {
                code::supply(self, cache, component).await?;
            }
        }
        if let Some(cache) = &caches.models {
            model::supply(self, cache, &saved).await?;
        }
        match self.ask_to_load("load", &Request::Load {}, &[]).await? {
            (Reply::Ready(loaded), _) => Ok(loaded),
            (other, _) => Err(unexpected("load", other)),
        }
    }

    pub(super) async fn ask_to_load(
        &mut self,
        name: &'static str,
        request: &Request,
        payload: &[u8],
    ) -> Result<(Reply, Vec<u8>), WorkerError> {
        self.ask(name, request, payload, self.deadlines.load_ms).await
    }

    /// Has it run the golden samples; how many there are.
    ///
    /// # Errors
    /// [`WorkerError::Refused`] when one comes out wrong.
    pub async fn golden(&mut self) -> Result<u32, WorkerError> {
        match self.ask("golden", &Request::Golden {}, &[], self.deadlines.golden_ms).await? {
            (Reply::GoldenPassed { samples }, _) => Ok(samples),
            (other, _) => Err(unexpected("golden", other)),
        }
    }

    /// Has it answer a sample.
    ///
    /// # Errors
    /// Never [`WorkerError::Refused`]: a sample that fails is an [`Answer`].
    pub async fn process(&mut self, sample: &Sample, prediction_id: &str) -> Result<Answer, WorkerError> {
        let bytes: &[u8] = &sample.data;
        let shared = match &self.window {
            Some(window) if bytes.len() > INLINE_BYTES_MAX => window.write(bytes).is_ok(),
            _ => false,
        };
        let process = Process {
            seq: sample.seq,
            timestamp_ns: sample.ts_ms.saturating_mul(1_000_000),
            source: sample.source.to_string(),
            name: sample.name.clone(),
            prediction_id: prediction_id.to_owned(),
            shared_bytes: shared.then_some(bytes.len()),
        };
        let inline = if shared { &[] } else { bytes };
        let answered = self.ask("process", &Request::Process(process), inline, self.deadlines.sample_ms).await;
        if shared && let Some(window) = &self.window {
            window.release(bytes.len());
        }
        match answered? {
            (Reply::Outcome(outcome), payload) => {
                let malformed = || WorkerError::Frame(FrameError::Message("payload lengths do not add up".to_owned()));
                outcome.with_payloads(&payload).map(Answer::Outcome).ok_or_else(malformed)
            }
            (Reply::NotYet {}, _) => Ok(Answer::NotYet),
            (Reply::Failed { detail }, _) => Ok(Answer::Failed { detail }),
            (other, _) => Err(unexpected("process", other)),
        }
    }

    /// Asks whether it is there.
    ///
    /// # Errors
    /// [`WorkerError`] when it is not.
    pub async fn ping(&mut self) -> Result<(), WorkerError> {
        match self.ask("ping", &Request::Ping {}, &[], self.deadlines.ping_ms).await? {
            (Reply::Pong {}, _) => Ok(()),
            (other, _) => Err(unexpected("ping", other)),
        }
    }

    /// Waits for its end. May be dropped and called again.
    pub async fn ended(&mut self) -> Exit {
        let status = self.child.wait().await.ok();
        // The compiling child may hold the log open a little longer.
        let last_words = match &mut self.log {
            Some(log) => timeout(LAST_WORDS, log).await.ok().and_then(Result::ok).flatten(),
            None => None,
        };
        self.log = None;
        Exit { status, last_words }
    }

    /// Kills it and waits until it is gone, so that its memory is free.
    pub async fn kill(mut self) {
        // It may have ended by itself.
        let _ = self.child.kill().await;
    }

    async fn ask(
        &mut self,
        name: &'static str,
        request: &Request,
        payload: &[u8],
        deadline_ms: u64,
    ) -> Result<(Reply, Vec<u8>), WorkerError> {
        let after = Duration::from_millis(deadline_ms);
        let exchange = async {
            frame::send(&mut self.socket, request, payload).await?;
            frame::receive(&mut self.socket).await
        };
        match timeout(after, exchange).await {
            Err(_) => Err(WorkerError::Hung { request: name, after }),
            Ok(Ok(answer)) => Ok(answer),
            // A sample that fits no frame harms nobody: nothing has been written yet.
            Ok(Err(FrameError::TooLong { length, bytes_max, .. })) if payload.len() == length => Ok((
                Reply::Failed { detail: format!("the sample has {length} bytes; at most {bytes_max}") },
                Vec::new(),
            )),
            Ok(Err(FrameError::Closed | FrameError::Socket(_))) => {
                let exit = timeout(Duration::from_secs(2), self.ended()).await;
                Err(WorkerError::Ended(exit.unwrap_or(Exit { status: None, last_words: None })))
            }
            Ok(Err(error)) => Err(WorkerError::Frame(error)),
        }
    }
}

pub(super) fn unexpected(request: &'static str, reply: Reply) -> WorkerError {
    match reply {
        Reply::Failed { detail } => WorkerError::Refused(detail),
        other => WorkerError::Unexpected { request, reply: other.name() },
    }
}

/// Passes a worker's log on, line by line, within bounds. The last line that says something, in the end.
async fn relay_log(mut from: impl AsyncRead + Unpin, worker: String, pid: u32) -> Option<String> {
    let mut last = None;
    let (mut line, mut buffer) = (Vec::new(), [0; 1024]);
    let (mut second, mut lines, mut dropped) = (tokio::time::Instant::now(), 0, 0u64);
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        for &byte in &buffer[..read] {
            if byte != b'\n' {
                if line.len() < LOG_LINE_BYTES_MAX {
                    line.push(byte);
                }
                continue;
            }
            if second.elapsed() >= Duration::from_secs(1) {
                (second, lines) = (tokio::time::Instant::now(), 0);
            }
            lines += 1;
            if lines > LOG_LINES_PER_SECOND {
                dropped += 1;
            } else {
                let text = sedge_protocol::text::visible(&String::from_utf8_lossy(&line), LOG_LINE_BYTES_MAX);
                tracing::info!(worker, pid, dropped, "{text}");
                dropped = 0;
                // A panic's hint how to get a backtrace says nothing.
                if !text.starts_with("note:") && !text.trim().is_empty() {
                    last = Some(text);
                }
            }
            line.clear();
        }
        if read == 0 {
            return last;
        }
    }
}
