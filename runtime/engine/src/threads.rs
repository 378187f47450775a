//! One operator over several threads. Each computes other bytes of the output, so that it is the same for any number.

use crate::program::CompileError;
use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Parts for each thread: one that is held up leaves some of its parts to the others.
const PARTS_PER_THREAD: usize = 4;

/// Where a step works: memory that all threads share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arena(pub(crate) *mut u8);

// SAFETY: threads write to parts of one output that do not overlap, and read inputs that nobody writes.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

/// How operators are split.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Split {
    pub(crate) threads: usize,
    /// Operators with fewer products stay on one thread: waking others would take longer.
    pub(crate) products_min: u64,
}

impl Split {
    /// Does all units, those of a large operator on all threads of the pool that this runs in.
    pub(crate) fn over(&self, units: usize, products: u64, each: impl Fn(Range<usize>) + Sync) {
        let parts = (self.threads * PARTS_PER_THREAD).min(units);
        if self.threads <= 1 || parts <= 1 || products < self.products_min {
            return each(0..units);
        }
        (0..parts).into_par_iter().for_each(|part| each(units * part / parts..units * (part + 1) / parts));
    }
}

/// A pool of so many threads, none for one. Whoever asks for as many at the same time shares it.
pub(crate) fn shared_pool(threads: usize) -> Result<Option<Arc<rayon::ThreadPool>>, CompileError> {
    static POOLS: Mutex<Vec<Weak<rayon::ThreadPool>>> = Mutex::new(Vec::new());
    if threads <= 1 {
        return Ok(None);
    }
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    pools.retain(|pool| pool.strong_count() > 0);
    let fits = |pool: &Arc<rayon::ThreadPool>| pool.current_num_threads() == threads;
    if let Some(pool) = pools.iter().filter_map(Weak::upgrade).find(fits) {
        return Ok(Some(pool));
    }
    let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
    let pool = builder.thread_name(|index| format!("sedge-engine-{index}")).build();
    let pool = Arc::new(pool.map_err(|source| CompileError::Threads { threads, source })?);
    pools.push(Arc::downgrade(&pool));
    Ok(Some(pool))
}
