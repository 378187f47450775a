//! A server as a process: from start to the signal that ends it.

use super::{Running, StartError, start};
use crate::config::Config;
use crate::service::FleetService;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Starts everything, calls `on_started`, and stops everything on SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start.
pub async fn run_until_stopped(
    config: Config,
    fleet: Arc<dyn FleetService>,
    on_started: impl FnOnce(&Running),
) -> Result<(), StartError> {
    // Before the start: a signal that comes during it ends the server in order, once it has started.
    let mut terminate = listen("SIGTERM", SignalKind::terminate())?;
    let mut interrupt = listen("SIGINT", SignalKind::interrupt())?;
    let running = start(config, fleet).await?;
    on_started(&running);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    running.shutdown().await;
    Ok(())
}

fn listen(name: &'static str, kind: SignalKind) -> Result<Signal, StartError> {
    signal(kind).map_err(|source| StartError::Signal { name, source })
}
