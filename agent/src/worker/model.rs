//! Gives a worker its model in saved form: out of the cache, or else the worker loads the model's file, and what it makes
//! of it is kept for the next.
//!
//! The agent alone writes the cache. It takes a saved model only as the answers to requests that it makes before the worker
//! starts its processors, so from a worker that has not run a guest yet. A worker maps the file in the cache itself and
//! holds every byte of it against what is recorded in it: models are too large to travel over the socket, but for the one
//! time that they are saved, in pieces. A cache that cannot be used is said in the log, and the worker loads the file. If
//! power dies here, the next start saves again.

use super::frame::FrameError;
use super::message::{PIECE_BYTES, Reply, Request, SavedModel};
use super::process::{Worker, WorkerError, unexpected};
use sedge_runtime::cache::CacheError;
use sedge_runtime::model::ModelCache;

/// Sees to the model. When nothing came of it the worker loads the file when it loads the rest.
pub(super) async fn supply(worker: &mut Worker, cache: &ModelCache, model: &SavedModel) -> Result<(), WorkerError> {
    let (place, key) = (cache.clone(), model.key);
    let saved = match blocking(cache, move || place.find(key)).await {
        Ok(saved) => saved,
        Err(error) => {
            useless(worker, model, &error);
            return Ok(());
        }
    };
    let reply = worker.ask_to_load("model", &Request::Model { saved }, &[]).await?.0;
    let Reply::Model { problem, bytes } = reply else { return Err(unexpected("model", reply)) };
    if let Some(problem) = problem {
        tracing::warn!(worker = worker.name(), file = model.file, "{problem}");
    }
    match bytes {
        Some(bytes) => keep(worker, cache, model, bytes).await,
        None => Ok(()),
    }
}

/// Fetches what the worker has made, piece by piece, and keeps it.
async fn keep(worker: &mut Worker, cache: &ModelCache, model: &SavedModel, bytes: u64) -> Result<(), WorkerError> {
    let (place, key) = (cache.clone(), model.key);
    // Another that saves the same will do.
    let begun = move || place.lock(key)?.map(|lock| Ok((lock, place.begin(key, bytes)?))).transpose();
    let (lock, mut writing) = match blocking(cache, begun).await {
        Ok(Some(begun)) => begun,
        Ok(None) => return Ok(()),
        Err(error) => {
            useless(worker, model, &error);
            return Ok(());
        }
    };
    let mut offset = 0;
    while offset < bytes {
        let (reply, piece) = worker.ask_to_load("piece", &Request::Piece { offset }, &[]).await?;
        if !matches!(reply, Reply::Piece {}) {
            return Err(unexpected("piece", reply));
        }
        let length = piece.len() as u64;
        if length != (PIECE_BYTES as u64).min(bytes - offset) {
            let what = format!("a piece of {length} bytes, {offset} bytes into a saved model of {bytes}");
            return Err(WorkerError::Frame(FrameError::Message(what)));
        }
        offset += length;
        let written = blocking(cache, move || {
            writing.write(&piece)?;
            Ok(writing)
        });
        writing = match written.await {
            Ok(writing) => writing,
            Err(error) => {
                useless(worker, model, &error);
                return Ok(());
            }
        };
    }
    match blocking(cache, move || writing.keep()).await {
        Ok(()) => tracing::debug!(worker = worker.name(), file = model.file, bytes, "loaded, and its saved form kept"),
        Err(error) => useless(worker, model, &error),
    }
    drop(lock);
    Ok(())
}

fn useless(worker: &Worker, model: &SavedModel, error: &CacheError) {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let (worker, file) = (worker.name(), &model.file);
    tracing::warn!(worker, file, "{error}{cause}; the model is loaded from its file at every start");
}

async fn blocking<T: Send + 'static>(
    cache: &ModelCache,
    work: impl FnOnce() -> Result<T, CacheError> + Send + 'static,
) -> Result<T, CacheError> {
    let failed =
        |e| CacheError::File { path: cache.dir().to_owned(), action: "used", source: std::io::Error::other(e) };
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}
