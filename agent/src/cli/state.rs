//! What the device does, as the running agent tells it or as it last wrote it down; and the end of a device.

use super::{Format, say, tell};
use crate::config::Config;
use crate::control::{ComponentStatus, StatusFile};
use crate::local::{LocalError, Question, ask};
use crate::program::{ProgramError, StateLock};
use sedge_protocol::id::ComponentName;
use sedge_protocol::message::LogLevel;
use sedge_runtime::cache::CacheError;
use sedge_runtime::model::ModelCache;
use sedge_runtime::sandbox::CodeCache;
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};

/// What an agent keeps below its state directory; nothing else is ever removed there.
const KEPT: &[&str] =
    &["identity", "journal", "metadata", "outbox", "slots", "code", "models", "status.json", "agent.sock"];

/// Why there is nothing to show, or nothing is done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error(transparent)]
    Local(#[from] LocalError),
    #[error(transparent)]
    State(#[from] ProgramError),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("this erases the device's identity, its bundles and what it has not reported yet; repeat with --yes")]
    NotConfirmed,
    #[error("{} cannot be removed", path.display())]
    Remove {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

fn last_written(state_dir: &Path) -> Option<StatusFile> {
    serde_json::from_slice(&std::fs::read(state_dir.join("status.json")).ok()?).ok()
}

fn row(name: &ComponentName, c: &ComponentStatus) -> String {
    let runs = match (c.serving, c.active) {
        (Some(serving), _) => format!("runs {serving}"),
        (None, Some(active)) => format!("is to run {active}"),
        (None, None) => "runs nothing".to_owned(),
    };
    let waiting = c.waiting.as_ref().map(|waiting| format!(", waits for {waiting}")).unwrap_or_default();
    let parked = if c.parked { "; its journal cannot be written now" } else { "" };
    format!("  {name}: {}, {runs}{waiting}{parked}", c.phase)
}

pub(super) fn status(state_dir: &Path, format: Format) -> Result<(), Problem> {
    let (status, running) = match ask::<StatusFile>(state_dir, &Question::Status) {
        Ok(status) => (status, true),
        Err(LocalError::NotRunning(dir)) => match last_written(state_dir) {
            Some(status) => (StatusFile { connected: false, ..status }, false),
            None => return Err(LocalError::NotRunning(dir).into()),
        },
        Err(e) => return Err(e.into()),
    };
    let mut value = json!(status);
    value["agent_running"] = running.into();
    let line = match (running, status.connected) {
        (false, _) => "the agent does not run; this is what it last wrote",
        (true, true) => "connected",
        (true, false) => "running, not connected",
    };
    let mut text = vec![format!("{} (agent {}): {line}", status.device, status.agent_version)];
    if let Some(code) = &status.refused {
        text.push(format!("  the last desired state was refused: {code}"));
    }
    text.extend(status.components.iter().map(|(name, component)| row(name, component)));
    text.push(format!("  {} messages wait to be sent, {} were dropped", status.outbox_messages, status.outbox_dropped));
    tell(format, &value, &text.join("\n"));
    Ok(())
}

pub(super) fn roll_back(state_dir: &Path, component: ComponentName, format: Format) -> Result<(), Problem> {
    ask::<()>(state_dir, &Question::RollBack { component: component.clone() })?;
    tell(format, &json!({"component": component}), &format!("{component} goes back"));
    Ok(())
}

pub(super) fn logs(state_dir: &Path, lines: u32, level: LogLevel, format: Format) -> Result<(), Problem> {
    let lines: Vec<String> = ask(state_dir, &Question::Logs { lines_max: lines, level })?;
    match format {
        Format::Json => tell(format, &json!({"lines": lines}), ""),
        Format::Table => lines.iter().for_each(|line| say(line)),
    }
    Ok(())
}

pub(super) fn decommission(config: &Config, confirmed: bool, format: Format) -> Result<(), Problem> {
    let state_dir = &config.state_dir;
    if !confirmed {
        return Err(Problem::NotConfirmed);
    }
    let _lock = StateLock::take(state_dir)?;
    // The key goes first: if power dies after it, nobody can be this device any more.
    for name in KEPT {
        let path = state_dir.join(name);
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(Problem::Remove { path, source }),
            _ => {}
        }
    }
    // They may lie elsewhere.
    let caches = config.caches();
    caches.code.as_ref().map_or(Ok(()), CodeCache::clear)?;
    caches.models.as_ref().map_or(Ok(()), ModelCache::clear)?;
    tell(format, &json!({"erased": state_dir}), "this device has no identity any more; tell the server as well");
    Ok(())
}
