//! `sedge keys`: Ed25519 keys in the PEM forms that openssl reads.

use crate::output::{self, Format, OutputArguments};
use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use sedge_protocol::signature::SecretKey;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a key pair: NAME.key, which signs and stays with you, and NAME.pub, which verifies.
    New {
        /// Path without extension.
        name: PathBuf,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Show which key a NAME.pub is.
    Show {
        /// The public key.
        file: PathBuf,
        #[command(flatten)]
        output: OutputArguments,
    },
}

impl Command {
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::New { output, .. } | Self::Show { output, .. } => output.output,
        }
    }
}

pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::New { name, output } => new(name, output.output),
        Command::Show { file, output } => {
            let id = super::public_key(file)?.id();
            if output.output.is_json() {
                output::json(&serde_json::json!({"key_id": id}))?;
            } else {
                output::line(id);
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A new key from the system's random source.
pub(crate) fn generate() -> Result<SecretKey> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| anyhow::anyhow!("the system's random source fails: {e}"))?;
    Ok(SecretKey::from_seed(seed))
}

fn new(name: &Path, format: Format) -> Result<ExitCode> {
    let (secret, public) = (name.with_added_extension("key"), name.with_added_extension("pub"));
    if let Some(there) = [&secret, &public].into_iter().find(|p| p.exists()) {
        bail!("{} exists already; keys are never overwritten", there.display());
    }
    let key = generate()?;
    write(&secret, 0o600, &key.to_pem()?)?;
    write(&public, 0o644, &key.public().to_pem()?)?;
    let id = key.public().id();
    if format.is_json() {
        output::json(&serde_json::json!({"key_id": id, "secret": secret, "public": public}))?;
    } else {
        output::line(format!("{} signs; keep it offline and to yourself", secret.display()));
        output::line(format!("{} verifies; give it to whoever runs your bundles", public.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Never over a key that is there.
fn write(path: &Path, mode: u32, pem: &str) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = file.with_context(|| format!("{} cannot be created", path.display()))?;
    file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()).with_context(|| path.display().to_string())
}
