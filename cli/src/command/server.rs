//! `sedge server`: the fleet server, one process.

use super::project::tell;
use crate::api::ServerArguments;
use crate::output::{Format, OutputArguments, note};
use anyhow::{Context as _, Result};
use clap::{Args, Subcommand, ValueEnum};
use sedge_fleet_server::config::Config;
use sedge_fleet_server::fleet::FleetPart;
use sedge_fleet_server::server::{self, Running};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tracing_subscriber::EnvFilter;

/// Listens on loopback unless the settings say otherwise. The first start makes a certificate authority, a database and
/// the first API token, all below the data directory and readable by its owner alone. Stops on SIGTERM and SIGINT.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
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

#[derive(Subcommand)]
enum Command {
    /// Make a link that opens the console of a running server once, in a browser, for 15 minutes. The API token must be
    /// one of an administrator.
    LoginLink {
        /// What the session may do.
        #[arg(long, value_enum, default_value = "read")]
        scope: LinkScope,
        #[command(flatten)]
        server: ServerArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum LinkScope {
    /// See everything.
    Read,
    /// Act on devices, bundles and rollouts.
    Operate,
    /// Make projects and API tokens.
    Admin,
}

impl LinkScope {
    fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

impl Arguments {
    pub(crate) fn format(&self) -> Format {
        match &self.command {
            Some(Command::LoginLink { output, .. }) => output.output,
            None => Format::Table,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.command {
        Some(Command::LoginLink { scope, server, output }) => login_link(*scope, server, output.output),
        None => serve(arguments),
    }
}

fn serve(arguments: &Arguments) -> Result<ExitCode> {
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
    let data = config.data.clone();
    let on_started = |running: &Running| {
        note(format!("https://{} and MQTT at {}, stop with Ctrl-C", running.http_addr, running.broker));
        note(format!(
            "tools: SEDGE_SERVER=https://{} SEDGE_SERVER_CA={} SEDGE_TOKEN_FILE={}",
            running.http_addr,
            data.join("pki/root.pem").display(),
            data.join(server::ADMIN_TOKEN_FILE).display()
        ));
    };
    runtime.block_on(server::run_until_stopped(config, Arc::new(FleetPart::default()), on_started))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a link that opens the console of a server that runs, here or elsewhere.
fn login_link(scope: LinkScope, server: &ServerArguments, format: Format) -> Result<ExitCode> {
    let made = server.connect()?.post("login-links", &json!({ "scope": scope.word() }))?;
    let url = made["url"].as_str().context("the server sent no link")?;
    let until = made["expires_at"].as_str().context("the server does not say until when the link is good")?;
    if !format.is_json() {
        note(format!("opens the console once, until {until}:"));
    }
    tell(format, &made, &[url.to_owned()])
}
