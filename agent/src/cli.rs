//! The commands of `sedge-agent`. A program that carries an agent within it (`sedge`) offers the same ones.

mod enrol;
mod state;

use crate::config::{Config, ConfigError};
use crate::error::chain_once;
use crate::worker::WorkerProgram;
use crate::{logging, program};
use clap::{Args, Parser, Subcommand, ValueEnum};
use sedge_protocol::id::{ComponentName, DeviceId};
use sedge_protocol::message::LogLevel;
use serde::Serialize;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Where the configuration is looked for unless `--config` says otherwise.
const CONFIG: &str = "/etc/sedge/agent.toml";
/// Threads of the agent's own runtime; models run in workers.
const THREADS: usize = 2;

/// Runs signed models on this device, and keeps them current from a fleet server.
///
/// Enrol once with a token of the server (`sedge device token`), then let the agent run.
#[derive(Parser)]
#[command(name = "sedge-agent", version, propagate_version = true, arg_required_else_help = true)]
struct Arguments {
    /// The configuration; without it /etc/sedge/agent.toml where there is one, else defaults.
    #[arg(long, global = true, value_name = "FILE", env = "SEDGE_AGENT_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Give this device its identity: a key that never leaves it, and a certificate for it.
    Enrol(enrol::Arguments),
    /// Run, in the foreground, until SIGTERM or SIGINT.
    Run {
        /// Write the log as JSON.
        #[arg(long)]
        log_json: bool,
    },
    /// Show what runs here and what the device waits for.
    Status(Output),
    /// Go back to the bundle from before, at once.
    Rollback {
        /// The component.
        component: ComponentName,
        #[command(flatten)]
        output: Output,
    },
    /// Show the newest log lines of the running agent.
    Logs {
        /// How many.
        #[arg(long, short = 'n', value_name = "N", default_value_t = 100)]
        lines: u32,
        /// This severe or more.
        #[arg(long, value_enum, default_value = "info")]
        level: Level,
        #[command(flatten)]
        output: Output,
    },
    /// Erase this device's identity and everything it was given. The server is to be told by `sedge device decommission`.
    Decommission {
        /// Do it.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::Error,
            Level::Warn => Self::Warn,
            Level::Info => Self::Info,
            Level::Debug => Self::Debug,
        }
    }
}

#[derive(Args)]
struct Output {
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For programs: one JSON object.
    Json,
}

/// Why a command fails.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Enrol(#[from] enrol::Problem),
    #[error(transparent)]
    State(#[from] state::Problem),
    #[error(transparent)]
    Program(#[from] program::ProgramError),
    #[error("the agent's threads cannot be started")]
    Runtime(#[source] io::Error),
    #[error("signals cannot be waited for")]
    Signals(#[source] io::Error),
}

/// Carries out a command line. `worker` says how this program starts itself as a worker.
pub fn main(arguments: impl IntoIterator<Item = OsString>, worker: &WorkerProgram) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(e) => {
            // A reader that has gone away is no reason to panic.
            let _ = e.print();
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    let format = match &arguments.command {
        Command::Enrol(a) => a.output(),
        Command::Run { .. } => Format::Table,
        Command::Status(output)
        | Command::Rollback { output, .. }
        | Command::Logs { output, .. }
        | Command::Decommission { output, .. } => output.output,
    };
    match carry_out(arguments, worker) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let message = chain_once(&e);
            match format {
                Format::Json => {
                    say(&serde_json::json!({"result": "error", "code": "failed", "message": message}).to_string());
                }
                Format::Table => {
                    let _ = writeln!(io::stderr(), "error: {message}");
                }
            }
            ExitCode::FAILURE
        }
    }
}

fn carry_out(arguments: Arguments, worker: &WorkerProgram) -> Result<(), CommandError> {
    let config = load(arguments.config.as_deref())?;
    match arguments.command {
        Command::Enrol(a) => Ok(runtime()?.block_on(enrol::run(&config, &a))?),
        Command::Run { log_json } => run(config, worker, log_json),
        Command::Status(Output { output }) => Ok(state::status(&config.state_dir, output)?),
        Command::Rollback { component, output } => Ok(state::roll_back(&config.state_dir, component, output.output)?),
        Command::Logs { lines, level, output } => {
            Ok(state::logs(&config.state_dir, lines, level.into(), output.output)?)
        }
        Command::Decommission { yes, output } => Ok(state::decommission(&config, yes, output.output)?),
    }
}

fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
    match path {
        Some(path) => Config::load(path),
        None if Path::new(CONFIG).exists() => Config::load(Path::new(CONFIG)),
        None => Ok(Config::default()),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(THREADS).max_blocking_threads(8).enable_all().build().map_err(CommandError::Runtime)
}

fn run(config: Config, worker: &WorkerProgram, log_json: bool) -> Result<(), CommandError> {
    let logs = logging::start(log_json);
    runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(CommandError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(CommandError::Signals)?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        Ok(program::run(config, worker.clone(), logs, stop).await?)
    })
}

/// One line on standard output.
fn say(text: &str) {
    // A reader that has gone away is no reason to panic.
    let _ = writeln!(io::stdout(), "{text}");
}

fn tell(format: Format, value: &impl Serialize, text: &str) {
    match format {
        Format::Table => say(text),
        // What is told here is made of plain values.
        Format::Json => say(&serde_json::to_string(value).unwrap_or_default()),
    }
}

/// The device's name unless another is given: the machine's, where that may be one.
fn host_name() -> Option<DeviceId> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    name.trim().to_ascii_lowercase().parse().ok()
}
