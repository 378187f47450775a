//! A program on disk: packed weights as the kernels read them, so that a device maps a file instead of packing anew.
//!
//! ```text
//! "sedgeprg"  format  length of the description  description  padding  packed weights of each layer
//!    8 B       4 B LE        8 B LE                                     each from a multiple of 64 B on
//! ```
//! The description names the instruction set and holds the graph without weights. Packed weights fit one build of the
//! engine and one instruction set: what another wrote is refused, and is to be made again from the model.
//!
//! Bytes of a saved program are trusted to be what was saved, so whoever loads one compares its digest first. What was
//! damaged since can make results wrong; it cannot reach memory that is not the program's.

use crate::graph::{Graph, Op};
use crate::packed::{ALIGN_BYTES, Source};
use crate::program::{CompileError, Options, Program};
use serde::{Deserialize, Serialize};

pub use crate::packed::SharedBytes;

const MAGIC: &[u8; 8] = b"sedgeprg";
/// Changes with everything that changes how weights are packed.
const FORMAT: u32 = 2;
const HEADER_BYTES: usize = 20;
/// Longer descriptions are refused.
const DESCRIPTION_BYTES_MAX: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Description {
    engine: String,
    isa: String,
    graph: Graph,
}

/// Why a saved program is of no use.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// Not a saved program, or cut off.
    #[error("not a saved program, or damaged: {0}")]
    Damaged(&'static str),
    /// Made for other kernels.
    #[error("it was saved by {found} and this is {expected}; it is to be made anew from the model")]
    Other {
        /// What saved it.
        found: String,
        /// What this is.
        expected: String,
    },
    /// It does not compile.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// It cannot be written.
    #[error("a graph cannot be written")]
    Write(#[source] postcard::Error),
}

fn engine() -> String {
    format!("{} {}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH)
}

impl Program {
    /// The program as bytes, for [`Program::open`]. `graph` is what it was compiled from.
    ///
    /// # Errors
    /// [`SavedError::Write`].
    pub fn save(&self, graph: &Graph) -> Result<Vec<u8>, SavedError> {
        let mut graph = graph.clone();
        for node in &mut graph.nodes {
            if let Op::Conv(conv) = &mut node.op {
                // Some kernels are only for weights without -128: that much is kept of them.
                conv.weights.retain(|weight| *weight == i8::MIN);
                conv.weights.truncate(1);
                conv.bias.clear();
            }
        }
        let description = Description { engine: engine(), isa: self.isa().to_owned(), graph };
        let description = postcard::to_allocvec(&description).map_err(SavedError::Write)?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + description.len() + self.memory_bytes().0);
        bytes.extend(MAGIC);
        bytes.extend(FORMAT.to_le_bytes());
        bytes.extend((description.len() as u64).to_le_bytes());
        bytes.extend(description);
        for packed in self.packed() {
            bytes.resize(bytes.len().next_multiple_of(ALIGN_BYTES), 0);
            bytes.extend(packed.as_slice());
        }
        Ok(bytes)
    }

    /// A saved program. Its weights stay where they are: `bytes` may be a mapped file, and must begin at a multiple of 64
    /// in memory, as mapped files do.
    ///
    /// # Errors
    /// [`SavedError`]; whatever it is, the program can be made anew from the model.
    pub fn open(bytes: SharedBytes, options: &Options) -> Result<Self, SavedError> {
        let all = (*bytes).as_ref();
        let damaged = SavedError::Damaged;
        let header = all.get(..HEADER_BYTES).filter(|header| header.starts_with(MAGIC)).ok_or(damaged("no header"))?;
        let format = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        if format != FORMAT {
            let of = |format: u32| format!("format {format}");
            return Err(SavedError::Other { found: of(format), expected: of(FORMAT) });
        }
        let length = header[12..].try_into().map(u64::from_le_bytes).unwrap_or(u64::MAX);
        let end = usize::try_from(length).ok().filter(|_| length <= DESCRIPTION_BYTES_MAX);
        let end = end.and_then(|length| length.checked_add(HEADER_BYTES)).ok_or(damaged("its length"))?;
        let description = all.get(HEADER_BYTES..end).ok_or(damaged("its description is cut off"))?;
        let description: Description =
            postcard::from_bytes(description).map_err(|_| damaged("its description is none"))?;
        let isa = Some(description.isa.clone());
        let wanted = options.isa.clone().or_else(|| crate::isas().first().map(|isa| (*isa).to_owned()));
        if (description.engine != engine()) || isa != wanted {
            let (found, expected) = (description.engine, engine());
            let expected = format!("{expected} for {}", wanted.unwrap_or_default());
            return Err(SavedError::Other { found: format!("{found} for {}", description.isa), expected });
        }
        if !all.as_ptr().addr().is_multiple_of(ALIGN_BYTES) {
            return Err(damaged("it does not begin at a multiple of 64 in memory"));
        }
        let mut source =
            Source::Saved { bytes: bytes.clone(), next: end.next_multiple_of(ALIGN_BYTES), missing: false };
        let program = Self::compile_saved(&description.graph, options, &mut source)?;
        match source {
            Source::Saved { missing: true, .. } => Err(damaged("its weights are cut off")),
            _ => Ok(program),
        }
    }
}
