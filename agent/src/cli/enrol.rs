//! `sedge-agent enrol`.

use super::{Format, Output, host_name, tell};
use crate::clock::Clock;
use crate::config::Config;
use crate::disk::FileSystem;
use crate::enrol::{self, EnrolError};
use crate::identity::IdentityStore;
use crate::program::{ProgramError, StateLock};
use clap::Args;
use sedge_protocol::enrolment::{EnrolmentToken, TokenError};
use sedge_protocol::id::DeviceId;
use serde_json::json;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;

/// Longest token that is read.
const TOKEN_BYTES_MAX: u64 = 64 * 1024;

/// The token pins the server, its certificate authority and the first keys of both update repositories, and is good for
/// one device. It is read from a file or from standard input: on a command line other users could see it.
#[derive(Args)]
pub(super) struct Arguments {
    /// File with the token; `-` is standard input.
    #[arg(value_name = "TOKEN-FILE")]
    token: PathBuf,
    /// The device's name in its project; the host's name when not given.
    #[arg(long, value_name = "NAME")]
    device: Option<DeviceId>,
    #[command(flatten)]
    output: Output,
}

impl Arguments {
    pub(super) fn output(&self) -> Format {
        self.output.output
    }
}

/// Why the device is not enrolled.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("the token in {} cannot be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("this machine's name is no name for a device; give one with --device")]
    NoName,
    #[error(transparent)]
    State(#[from] ProgramError),
    #[error(transparent)]
    Enrol(#[from] EnrolError),
}

fn read(path: &PathBuf) -> Result<String, Problem> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        io::stdin().lock().take(TOKEN_BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut text))
    };
    read.map(|_| text).map_err(|source| Problem::Read { path: path.clone(), source })
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> Result<(), Problem> {
    let token: EnrolmentToken = read(&arguments.token)?.parse()?;
    let device = arguments.device.clone().or_else(host_name).ok_or(Problem::NoName)?;
    let _lock = StateLock::take(&config.state_dir)?;
    let store = IdentityStore::new(Arc::new(FileSystem), &config.state_dir);
    let identity = enrol::enrol(&store, &token, &device, &Clock::default()).await?;
    let until = identity.validity().map(|(_, to)| to.to_string()).unwrap_or_default();
    let done = json!({
        "device": identity.principal,
        "broker": identity.broker,
        "server": identity.server,
        "certificate_until": until,
    });
    let text = format!("enrolled as {}; its certificate renews itself before {until}", identity.principal);
    tell(arguments.output(), &done, &text);
    Ok(())
}
