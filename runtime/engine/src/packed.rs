//! Packed weights: made here, or taken from a saved program as they lie there.

use crate::bytes::AlignedBytes;
use std::ops::Range;
use std::sync::Arc;

/// Bytes that somebody else holds, a mapped file for one.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Where packed weights begin in memory.
pub(crate) const ALIGN_BYTES: usize = 64;

/// One layer's packed weights.
#[derive(Clone)]
pub(crate) enum Packed {
    Own(AlignedBytes),
    Shared(SharedBytes, Range<usize>),
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packed({})", self.len())
    }
}

impl Packed {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Own(bytes) => bytes.len(),
            Self::Shared(_, range) => range.len(),
        }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes.as_slice(),
            Self::Shared(bytes, range) => &(**bytes).as_ref()[range.clone()],
        }
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.as_slice().as_ptr()
    }
}

/// Where layers get their packed weights from, one after the other.
pub(crate) enum Source {
    /// From the graph's weights.
    Pack,
    /// From a saved program: the next bytes of it.
    Saved { bytes: SharedBytes, next: usize, missing: bool },
}

impl Source {
    /// So many bytes: as saved, or as `pack` writes them.
    pub(crate) fn take(&mut self, count: usize, pack: impl FnOnce(&mut [u8])) -> Packed {
        match self {
            Self::Pack => {
                let mut bytes = AlignedBytes::zeroed(count);
                pack(bytes.as_mut_slice());
                Packed::Own(bytes)
            }
            Self::Saved { bytes, next, missing } => {
                let length = (**bytes).as_ref().len();
                let Some(end) = next.checked_add(count).filter(|end| *end <= length) else {
                    // Whoever asked for the program gets none.
                    *missing = true;
                    return Packed::Own(AlignedBytes::zeroed(0));
                };
                let range = *next..end;
                *next = end.next_multiple_of(ALIGN_BYTES);
                Packed::Shared(Arc::clone(bytes), range)
            }
        }
    }
}
