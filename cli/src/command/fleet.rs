//! `sedge fleet`: all devices of a project together.

use super::project::tell;
use crate::api::{Server, ServerArguments};
use crate::output::{Format, OutputArguments};
use anyhow::Result;
use clap::Subcommand;
use sedge_protocol::id::ProjectId;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Say how many devices there are, how many tell of themselves, and what they run, measured.
    Status {
        /// The project.
        project: ProjectId,
        #[command(flatten)]
        server: ServerArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
}

impl Command {
    pub(crate) fn format(&self) -> Format {
        let Self::Status { output, .. } = self;
        output.output
    }
}

/// All of a list that the server hands out in parts.
fn all(server: &Server, path: &str, key: &str) -> Result<Vec<Value>> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("{path}?limit=1000{after}"))?;
        found.extend(page[key].as_array().cloned().unwrap_or_default());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(found),
        }
    }
}

pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    let Command::Status { project, server, .. } = command;
    let server = server.connect()?;
    let devices = all(&server, &format!("projects/{project}/devices"), "devices")?;
    let field = all(&server, &format!("projects/{project}/field"), "devices")?;
    let bundles = server.get(&format!("projects/{project}/bundles"))?;
    let in_service = devices.iter().filter(|device| device["decommissioned_at"].is_null()).count();
    let mut runs: BTreeMap<(String, String), u64> = BTreeMap::new();
    for device in &field {
        for (component, view) in device["components"].as_object().into_iter().flatten() {
            if let Some(digest) = view["running"].as_str() {
                *runs.entry((component.clone(), digest.to_owned())).or_default() += 1;
            }
        }
    }
    let named = |digest: &str| {
        let known = bundles.as_array().into_iter().flatten().find(|bundle| bundle["digest"] == digest);
        let text = |bundle: &Value| {
            let part = |key: &str| bundle[key].as_str().unwrap_or_default().to_owned();
            format!("{} {}", part("name"), part("version"))
        };
        known.map_or_else(|| digest.to_owned(), text)
    };
    let shares: Vec<Value> = runs
        .iter()
        .map(|((component, digest), devices)| {
            json!({"component": component, "digest": digest, "bundle": named(digest), "devices": devices})
        })
        .collect();
    let active = server.get(&format!("projects/{project}/rollouts?state=active"))?;
    let said = json!({
        "project": project, "devices": in_service, "heard_of": field.len(), "runs": shares,
        "rollouts": active["rollouts"],
    });
    let mut sentence = format!("{project}: {in_service} devices, {} have sent heartbeats", field.len());
    for ((component, digest), devices) in &runs {
        sentence = format!("{sentence}; {devices} run {} as {component}", named(digest));
    }
    let mut lines = vec![sentence];
    for rollout in active["rollouts"].as_array().into_iter().flatten() {
        let (id, state) = (rollout["id"].as_str().unwrap_or_default(), rollout["state"].as_str().unwrap_or_default());
        lines.push(format!("rollout {project}:{id} is {state}"));
    }
    tell(command.format(), &said, &lines)
}
