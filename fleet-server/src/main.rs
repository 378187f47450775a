//! `sedge-server`: the fleet server as a process of its own.

use clap::{Parser, ValueEnum};
use sedge_fleet_server::config::Config;
use sedge_fleet_server::fleet::FleetPart;
use sedge_fleet_server::server;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tracing_subscriber::EnvFilter;

/// Runs the fleet server: broker, certificate authority, database and HTTPS in one process.
#[derive(Parser)]
#[command(name = "sedge-server", version)]
struct Args {
    /// Settings, TOML; everything has a default
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where keys, database and artifacts are
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How the log is written
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(std::io::stderr().is_terminal());
    let log = log.with_writer(std::io::stderr);
    match args.log {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let mut config = args.config.as_deref().map_or(Ok(Config::default()), Config::read)?;
    if let Some(data) = args.data {
        config.data = data;
    }
    server::run_until_stopped(config, Arc::new(FleetPart::default()), |_| {}).await?;
    Ok(())
}
