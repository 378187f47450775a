//! One module per command, and what they share.

pub(crate) mod bench;
pub(crate) mod bundle;
pub(crate) mod demo;
pub(crate) mod device;
pub(crate) mod fleet;
mod fusion;
pub(crate) mod keys;
pub(crate) mod processor;
pub(crate) mod project;
pub(crate) mod publisher;
pub(crate) mod rollout;
pub(crate) mod run;
pub(crate) mod server;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use sedge_agent::worker::WorkerProgram;
use sedge_protocol::manifest::Grant;
use sedge_protocol::signature::{PublicKey, SecretKey, TrustPolicy};
use sedge_runtime::api::Level;
use sedge_runtime::bundle::Trust;
use sedge_runtime::pipeline::PipelineOptions;
use sedge_runtime::sandbox::{Compiler, LogLine, MemoryProfile, compile_child};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Whose bundles are run.
#[derive(Args)]
pub(crate) struct TrustArguments {
    /// Public key whose signature is trusted; may be given several times.
    #[arg(long = "trusted-key", value_name = "FILE", env = "SEDGE_TRUSTED_KEYS", value_delimiter = ':')]
    trusted_keys: Vec<PathBuf>,
    /// How many different trusted keys must have signed.
    #[arg(long, value_name = "N", default_value_t = 1)]
    threshold: usize,
    /// Run a bundle that nobody vouches for, whatever keys are named. For development.
    #[arg(long)]
    allow_unsigned: bool,
}

impl TrustArguments {
    /// An empty variable names no key.
    fn names_keys(&self) -> bool {
        self.trusted_keys.iter().any(|path| !path.as_os_str().is_empty())
    }

    /// For looking and measuring: signatures are checked where keys are named, and then they must be right.
    pub(crate) fn trust_if_named(&self) -> Result<Trust> {
        if self.names_keys() { self.trust() } else { Ok(Trust::Unsigned) }
    }

    pub(crate) fn trust(&self) -> Result<Trust> {
        if self.allow_unsigned {
            return Ok(Trust::Unsigned);
        }
        if !self.names_keys() {
            bail!(
                "no key is trusted; name one with --trusted-key FILE or SEDGE_TRUSTED_KEYS, \
                 or give --allow-unsigned while you develop"
            );
        }
        let named = self.trusted_keys.iter().filter(|path| !path.as_os_str().is_empty());
        let keys = named.map(|path| public_key(path)).collect::<Result<_>>()?;
        Ok(Trust::Signed(TrustPolicy::new(keys, self.threshold)?))
    }
}

/// How processors are run.
#[derive(Args)]
pub(crate) struct SandboxArguments {
    /// Let processors use an interface that their manifest asks for.
    #[arg(long = "grant", value_name = "INTERFACE", value_parser = ["clock", "random", "kv"])]
    grants: Vec<String>,
    /// Memory layout of the sandbox: roomy (fast) or tight (little address space). Probed when not given.
    #[arg(long, value_parser = ["roomy", "tight"])]
    sandbox_memory: Option<String>,
    /// Threads for the model.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
}

impl SandboxArguments {
    pub(crate) fn threads(&self) -> usize {
        self.threads.into()
    }

    pub(crate) fn options(&self) -> Result<PipelineOptions> {
        let grant = |name: &String| match name.as_str() {
            "clock" => Grant::Clock,
            "random" => Grant::Random,
            _ => Grant::Kv,
        };
        Ok(PipelineOptions {
            threads: self.threads(),
            profile: self.sandbox_memory.as_deref().map_or_else(MemoryProfile::probe, profile),
            grants_allowed: self.grants.iter().map(grant).collect(),
            ..pipeline_options()?
        })
    }
}

/// Compile in a child, show log lines.
pub(crate) fn pipeline_options() -> Result<PipelineOptions> {
    let compiler = Compiler::this_program(&["internal", "compile-processor"]).context("looking up this program")?;
    Ok(PipelineOptions { compiler, log: Arc::new(show_log), ..PipelineOptions::default() })
}

fn show_log(line: &LogLine) {
    let level = match line.level {
        Level::Trace | Level::Debug => return,
        Level::Info => "info",
        Level::Warn => "warning",
        Level::Error => "error",
    };
    let dropped =
        if line.dropped > 0 { format!(" ({} lines before this were dropped)", line.dropped) } else { String::new() };
    crate::output::note(format!("{} {level}: {}{dropped}", line.stage, line.text));
}

pub(crate) fn public_key(path: &Path) -> Result<PublicKey> {
    let pem = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    PublicKey::from_pem(&pem).with_context(|| path.display().to_string())
}

pub(crate) fn secret_key(path: &Path) -> Result<SecretKey> {
    let pem = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    SecretKey::from_pem(&pem).with_context(|| path.display().to_string())
}

fn profile(name: &str) -> MemoryProfile {
    if name == "tight" { MemoryProfile::Tight } else { MemoryProfile::Roomy }
}

/// The word after `internal` that makes this program a worker of the agent.
pub(crate) const WORKER: &str = "agent-worker";

/// What sedge starts itself for.
#[derive(Subcommand)]
pub(crate) enum Internal {
    /// A component from standard input to native code on standard output, within bounds.
    CompileProcessor {
        /// Memory layout.
        #[arg(value_parser = ["roomy", "tight"])]
        profile: String,
    },
    /// The agent, as `sedge-agent` has it.
    #[command(disable_help_flag = true)]
    Agent {
        /// What `sedge-agent` takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

pub(crate) fn internal(command: &Internal) -> Result<ExitCode> {
    match command {
        Internal::CompileProcessor { profile: name } => {
            compile_child(profile(name))?;
            Ok(ExitCode::SUCCESS)
        }
        Internal::Agent { arguments } => {
            let worker = WorkerProgram::this_program(&["internal", WORKER], &["internal", "compile-processor"])
                .context("looking up this program")?;
            let name = OsString::from("sedge-agent");
            Ok(sedge_agent::cli::main(std::iter::once(&name).chain(arguments).cloned(), &worker))
        }
    }
}
