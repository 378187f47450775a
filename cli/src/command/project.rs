//! `sedge project`: what a fleet server keeps of a publisher's work.

use crate::api::ServerArguments;
use crate::output::{self, Format, OutputArguments};
use anyhow::{Context as _, Result};
use clap::Subcommand;
use sedge_protocol::id::ProjectId;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Begin a project with a publisher's first root, which its devices will pin.
    Create {
        /// The project.
        project: ProjectId,
        /// The publisher's repository; see `sedge publisher`.
        #[arg(long, value_name = "DIR")]
        repository: PathBuf,
        #[command(flatten)]
        server: ServerArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Hand in what the publisher has signed, and packed bundles that it names.
    Publish {
        /// The project.
        project: ProjectId,
        /// The publisher's repository.
        #[arg(long, value_name = "DIR")]
        repository: PathBuf,
        /// Packed bundles, .tar files.
        bundles: Vec<PathBuf>,
        #[command(flatten)]
        server: ServerArguments,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// List the bundles that devices of a project can be given.
    Bundles {
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
        match self {
            Self::Create { output, .. } | Self::Publish { output, .. } | Self::Bundles { output, .. } => output.output,
        }
    }
}

pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    let format = command.format();
    match command {
        Command::Create { project, repository, server, .. } => {
            let repository = super::publisher::open(repository)?;
            let root = repository.first_root()?;
            let server = server.connect()?;
            server.post("projects", &json!({"name": project}))?;
            let pinned = server.put_bytes(&format!("projects/{project}/publisher"), root)?;
            let text = format!("{project} begins; its devices pin the publisher's root {}", pinned["publisher_root"]);
            tell(format, &pinned, &[text])
        }
        Command::Publish { project, repository, bundles, server, .. } => {
            let repository = super::publisher::open(repository)?;
            let server = server.connect()?;
            for (name, file) in repository.uploads(1)? {
                let path = format!("projects/{project}/publisher/files/{name}");
                server.post_bytes(&path, file).with_context(|| name.clone())?;
            }
            let progress = output::progress(bundles.len(), "uploading");
            let mut taken = Vec::new();
            for bundle in bundles {
                let answer = server.put_file(&format!("projects/{project}/bundles"), bundle);
                taken.push(answer.with_context(|| bundle.display().to_string())?);
                progress.inc(1);
            }
            progress.finish_and_clear();
            let lines: Vec<String> = taken.iter().map(|a| format!("{} {}", a["name"], a["digest"])).collect();
            tell(format, &json!({"bundles": taken}), &lines)
        }
        Command::Bundles { project, server, .. } => {
            let bundles = server.connect()?.get(&format!("projects/{project}/bundles"))?;
            if format.is_json() {
                output::json(&bundles)?;
            } else {
                let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
                let row = |b: &Value| ["name", "version", "digest", "packed_bytes"].map(|k| text(&b[k])).to_vec();
                let rows = bundles.as_array().into_iter().flatten().map(row);
                output::line(output::table(&["bundle", "version", "digest", "bytes"], rows));
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// One result: a JSON object, or lines for people.
pub(crate) fn tell(format: Format, value: &Value, lines: &[String]) -> Result<ExitCode> {
    if format.is_json() {
        output::json(value)?;
    } else {
        lines.iter().for_each(output::line);
    }
    Ok(ExitCode::SUCCESS)
}
