//! `sedge server`: the fleet server, one process.

use crate::output::note;
use anyhow::{Context as _, Result};
use clap::Args;
use sedge_fleet_server::config::Config;
use sedge_fleet_server::fleet::FleetPart;
use sedge_fleet_server::server;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Listens on loopback unless the settings say otherwise. The first start makes a certificate authority, a database and
/// the first API token, all below the data directory and readable by its owner alone. Stops on SIGTERM and SIGINT.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Settings, TOML; everything has a default.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where keys, database and artifacts are.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Write the log as JSON.
    #[arg(long)]
    log_json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if arguments.log_json {
        log.json().init()
    } else {
        log.init()
    }
    let mut config = arguments.config.as_deref().map_or_else(|| Ok(Config::default()), Config::read)?;
    if let Some(data) = &arguments.data {
        config.data.clone_from(data);
    }
    let runtime = tokio::runtime::Runtime::new().context("starting the server's threads")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
        let data = config.data.clone();
        let running = server::start(config, Arc::new(FleetPart::default())).await?;
        note(format!("https://{} and MQTT at {}, stop with Ctrl-C", running.http_addr, running.broker));
        note(format!(
            "tools: SEDGE_SERVER=https://{} SEDGE_SERVER_CA={} SEDGE_TOKEN_FILE={}",
            running.http_addr,
            data.join("pki/root.pem").display(),
            data.join(server::ADMIN_TOKEN_FILE).display()
        ));
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        running.shutdown().await;
        Ok(ExitCode::SUCCESS)
    })
}
