//! Gives a worker the code of its processors: out of the cache, or else the worker compiles it, once for all who wait.
//!
//! The agent alone writes the cache. It takes code only as the answer to a request that it makes before the worker loads,
//! so from a worker that has not run a guest yet; what a worker says later never gets there. A cache that cannot be used
//! is said in the log, and the worker compiles as if there were none. If power dies here, the next start compiles again.

use super::frame::PAYLOAD_BYTES_MAX;
use super::message::{Component, Reply, Request};
use super::process::{Worker, WorkerError, unexpected};
use sedge_runtime::cache::{CacheError, CacheLock};
use sedge_runtime::sandbox::{CACHED_CODE_BYTES_MAX, CachedCode, CodeCache};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long another may take to compile the same. A compilation ends by itself before that, or its process has died.
const ANOTHER_COMPILES: Duration = Duration::from_secs(130);
/// How often the lock is tried: waiting inside the system would hold a thread that nobody can call back.
const TRY_AGAIN: Duration = Duration::from_millis(20);

const _: () = assert!(CACHED_CODE_BYTES_MAX <= PAYLOAD_BYTES_MAX, "code travels in one frame");

/// Sees to the code of one component. When nothing came of it the worker has none, and compiles it when it loads.
pub(super) async fn supply(worker: &mut Worker, cache: &CodeCache, component: &Component) -> Result<(), WorkerError> {
    if settled(worker, cache, component).await? {
        return Ok(());
    }
    let (lock, waited) = match lock(cache, component).await {
        Ok(locked) => locked,
        Err(error) => {
            useless(worker, component, &error);
            return Ok(());
        }
    };
    // Whoever had it may have compiled in the meantime.
    if waited && settled(worker, cache, component).await? {
        return Ok(());
    }
    let (reply, code) = worker.ask_to_load("compile", &Request::Compile { component: component.digest }, &[]).await?;
    if !matches!(reply, Reply::Compiled {}) {
        return Err(unexpected("compile", reply));
    }
    if code.is_empty() {
        tracing::warn!(worker = worker.name(), file = component.file, "its compiled code is too long to be kept");
        return Ok(());
    }
    let key = component.key;
    match blocking(cache, move |cache| cache.put(key, &code)).await {
        Ok(()) => tracing::debug!(worker = worker.name(), file = component.file, "compiled, and its code kept"),
        Err(error) => useless(worker, component, &error),
    }
    drop(lock);
    Ok(())
}

/// Hands over what is in the cache. Whether nothing more is to be done: the worker has it, or the cache is of no use.
async fn settled(worker: &mut Worker, cache: &CodeCache, component: &Component) -> Result<bool, WorkerError> {
    let key = component.key;
    let CachedCode { bytes, digest } = match blocking(cache, move |cache| cache.get(key)).await {
        Ok(Some(code)) => code,
        Ok(None) => return Ok(false),
        Err(error) if error.is_damage() => {
            tracing::warn!(worker = worker.name(), file = component.file, "{error}; it is compiled again");
            return Ok(false);
        }
        Err(error) => {
            useless(worker, component, &error);
            return Ok(true);
        }
    };
    let request = Request::Code { component: component.digest, recorded: digest };
    match worker.ask_to_load("code", &request, &bytes).await? {
        (Reply::Taken {}, _) => Ok(true),
        (Reply::Failed { detail }, _) => {
            tracing::warn!(worker = worker.name(), file = component.file, "{detail}; it is compiled again");
            Ok(false)
        }
        (other, _) => Err(unexpected("code", other)),
    }
}

/// The right to compile, and whether it had to be waited for. After too long it is done without.
async fn lock(cache: &CodeCache, component: &Component) -> Result<(Option<CacheLock>, bool), CacheError> {
    let (began, key) = (Instant::now(), component.key);
    let mut waited = false;
    loop {
        let lock = blocking(cache, move |cache| cache.lock(key)).await?;
        if lock.is_some() || began.elapsed() >= ANOTHER_COMPILES {
            return Ok((lock, waited));
        }
        waited = true;
        sleep(TRY_AGAIN).await;
    }
}

fn useless(worker: &Worker, component: &Component, error: &CacheError) {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let (worker, file) = (worker.name(), &component.file);
    tracing::warn!(worker, file, "{error}{cause}; it is compiled at every start");
}

async fn blocking<T: Send + 'static>(
    cache: &CodeCache,
    work: impl FnOnce(&CodeCache) -> Result<T, CacheError> + Send + 'static,
) -> Result<T, CacheError> {
    let cloned = cache.clone();
    let failed =
        |e| CacheError::File { path: cache.dir().to_owned(), action: "used", source: std::io::Error::other(e) };
    tokio::task::spawn_blocking(move || work(&cloned)).await.map_err(failed)?
}
