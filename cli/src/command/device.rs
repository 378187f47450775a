//! `sedge device`: single devices of a fleet. A device is named `<project>:<device>`, as in its certificate.

use super::project::tell;
use crate::api::ServerArguments;
use crate::output::{self, Format, OutputArguments};
use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use sedge_protocol::BundleDigest;
use sedge_protocol::id::{BundleName, ComponentName, DeviceId, Principal, ProjectId};
use serde_json::{Value, json};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a token that enrols one device, once.
    Token {
        /// The project.
        project: ProjectId,
        /// The only device that may use it.
        #[arg(long)]
        device: Option<DeviceId>,
        /// How long it lasts.
        #[arg(long, value_name = "MINUTES", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=10080))]
        valid_minutes: u16,
        /// Write it to a file that only you can read; printed when not given.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        #[command(flatten)]
        server: ServerArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// List the devices of a project.
    List {
        /// The project.
        project: ProjectId,
        #[command(flatten)]
        server: ServerArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Show what a device is to run and what it says it runs.
    Show {
        /// The device.
        device: Principal,
        #[command(flatten)]
        server: ServerArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Give a device a bundle to run.
    Run {
        /// The device.
        device: Principal,
        /// The component that runs it.
        component: ComponentName,
        /// `<bundle>@sha256:<digest>`, as `sedge project bundles` lists them.
        bundle: String,
        /// Settings of the component as a JSON object.
        #[arg(long, value_name = "JSON", default_value = "{}")]
        settings: String,
        #[command(flatten)]
        server: ServerArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Give a device back what it was given before.
    RollBack {
        /// The device.
        device: Principal,
        /// The component.
        component: ComponentName,
        #[command(flatten)]
        server: ServerArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Withdraw a device's certificate, for good.
    Decommission {
        /// The device.
        device: Principal,
        #[command(flatten)]
        server: ServerArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
}

impl Command {
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Token { output, .. }
            | Self::List { output, .. }
            | Self::Show { output, .. }
            | Self::Run { output, .. }
            | Self::RollBack { output, .. }
            | Self::Decommission { output, .. } => output.output,
        }
    }
}

fn place(device: &Principal) -> String {
    format!("projects/{}/devices/{}", device.project, device.device)
}

pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    let format = command.format();
    match command {
        Command::Token { project, device, valid_minutes, to, server, .. } => {
            let body = json!({"device": device, "lifetime_s": i64::from(*valid_minutes) * 60});
            let granted = server.connect()?.post(&format!("projects/{project}/enrolment-tokens"), &body)?;
            match to {
                Some(path) => {
                    write_secret(path, granted["token"].as_str().context("the server sent no token")?)?;
                    let done = json!({"token_file": path, "expires_at": granted["expires_at"]});
                    let text = format!("{} enrols one device until {}", path.display(), text(&granted["expires_at"]));
                    tell(format, &done, &[text])
                }
                None => tell(format, &granted, &[text(&granted["token"])]),
            }
        }
        Command::List { project, server, .. } => list(project, server, format),
        Command::Show { device, server, .. } => {
            let server = server.connect()?;
            let mut view = server.get(&place(device))?;
            view["state"] = server.get(&format!("{}/state", place(device)))?;
            let pretty = serde_json::to_string_pretty(&view)?;
            tell(format, &view, &[pretty])
        }
        Command::Run { device, component, bundle, settings, server, .. } => {
            let Some((name, digest)) = bundle.split_once('@') else {
                bail!("`{bundle}` is not <bundle>@sha256:<digest>; `sedge project bundles` lists them");
            };
            let (name, digest): (BundleName, BundleDigest) = (name.parse()?, BundleDigest(digest.parse()?));
            let settings: Value = serde_json::from_str(settings).context("--settings is not JSON")?;
            let body = json!({"bundle": name, "digest": digest, "settings": settings});
            let changed = server.connect()?.put(&format!("{}/desired/{component}", place(device)), &body)?;
            let text = format!("{device} is to run {name} as {component}, generation {}", changed["generation"]);
            tell(format, &changed, &[text])
        }
        Command::RollBack { device, component, server, .. } => {
            let path = format!("{}/desired/{component}/rollback", place(device));
            let changed = server.connect()?.post(&path, &json!({}))?;
            let text = format!("{device} is to go back, generation {}", changed["generation"]);
            tell(format, &changed, &[text])
        }
        Command::Decommission { device, server, .. } => {
            let view = server.connect()?.post(&format!("{}/decommission", place(device)), &json!({}))?;
            tell(format, &view, &[format!("{device} is no longer let in")])
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// All of them: the server hands them out in parts.
fn list(project: &ProjectId, server: &ServerArguments, format: Format) -> Result<ExitCode> {
    let server = server.connect()?;
    let mut devices = Vec::new();
    let mut after = String::new();
    loop {
        let page = server.get(&format!("projects/{project}/devices?limit=1000{after}"))?;
        devices.extend(page["devices"].as_array().cloned().unwrap_or_default());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    if format.is_json() {
        output::json(&json!({"devices": devices}))?;
        return Ok(ExitCode::SUCCESS);
    }
    let row = |d: &Value| {
        let until = text(&d["certificate"]["not_after"]);
        let state = if d["decommissioned_at"].is_null() { "enrolled" } else { "decommissioned" };
        vec![text(&d["id"]), state.to_owned(), text(&d["enrolled_at"]), until]
    };
    output::line(output::table(&["device", "state", "since", "certificate until"], devices.iter().map(row)));
    Ok(ExitCode::SUCCESS)
}

/// For its owner alone, and never over a file that is there.
fn write_secret(path: &Path, secret: &str) -> Result<()> {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("{} cannot be created", path.display()))?;
    writeln!(file, "{secret}").and_then(|()| file.sync_all()).with_context(|| path.display().to_string())
}
