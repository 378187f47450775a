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

use crate::graph::{Dims, Graph, Node, Op, ValueId};
use crate::packed::{ALIGN_BYTES, Packed, Source};
use crate::program::{CompileError, Options, Program};
use serde::{Deserialize, Serialize};

pub use crate::packed::SharedBytes;

const MAGIC: &[u8; 8] = b"sedgeprg";
/// Changes with the layout above.
const FORMAT: u32 = 2;
/// Changes with everything that may change how weights are packed: all that is written for other kernels is refused, also
/// between two builds of one version.
const PACKING: u64 = fingerprint(&[
    include_bytes!("conv.rs"),
    include_bytes!("conv/strips.rs"),
    include_bytes!("conv/sums.rs"),
    include_bytes!("depthwise.rs"),
    include_bytes!("graph.rs"),
    include_bytes!("isa.rs"),
    include_bytes!("isa/armv7.rs"),
    include_bytes!("isa/avx2.rs"),
    include_bytes!("isa/avx512.rs"),
    include_bytes!("isa/avx512/depthwise.rs"),
    include_bytes!("isa/avxvnni.rs"),
    include_bytes!("isa/neon.rs"),
    include_bytes!("isa/portable.rs"),
    include_bytes!("isa/ymm.rs"),
    include_bytes!("packed.rs"),
    include_bytes!("reference.rs"),
    include_bytes!("requantize.rs"),
    include_bytes!("saved.rs"),
    include_bytes!("simplify.rs"),
    include_bytes!("step.rs"),
]);
const HEADER_BYTES: usize = 20;
/// Where packed weights begin, and what memory that holds a saved program begins at a multiple of.
pub const SAVED_ALIGN_BYTES: usize = ALIGN_BYTES;
/// Longer descriptions are refused.
pub const DESCRIPTION_BYTES_MAX: u64 = 64 << 20;

#[derive(Deserialize)]
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

/// A number that changes with any of these bytes: FNV-1a, of eight bytes at a time. It tells builds apart, and protects
/// from nothing.
#[allow(long_running_const_eval, reason = "sources have some hundred thousand bytes")]
pub const fn fingerprint(sources: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut source = 0;
    while source < sources.len() {
        let mut rest = sources[source];
        while let Some((word, after)) = rest.split_first_chunk::<8>() {
            hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x0100_0000_01b3);
            rest = after;
        }
        while let Some((byte, after)) = rest.split_first() {
            hash = (hash ^ *byte as u64).wrapping_mul(0x0100_0000_01b3);
            rest = after;
        }
        hash = (hash ^ sources[source].len() as u64).wrapping_mul(0x0100_0000_01b3);
        source += 1;
    }
    hash
}

/// Names this build of the engine. What one build has saved another opens only if both have the same name.
pub fn build() -> String {
    format!("{} {} {PACKING:016x}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH)
}

impl Program {
    /// All of the program but its packed weights: what [`Program::open`] wants before them, up to where they begin.
    ///
    /// # Errors
    /// [`SavedError::Write`].
    pub fn description(&self) -> Result<Vec<u8>, SavedError> {
        #[derive(Serialize)]
        struct Description<'a> {
            engine: String,
            isa: &'a str,
            graph: &'a Graph,
        }
        let description = Description { engine: build(), isa: self.isa(), graph: self.outline() };
        let description = postcard::to_allocvec(&description).map_err(SavedError::Write)?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + description.len() + ALIGN_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(FORMAT.to_le_bytes());
        bytes.extend((description.len() as u64).to_le_bytes());
        bytes.extend(description);
        bytes.resize(bytes.len().next_multiple_of(ALIGN_BYTES), 0);
        Ok(bytes)
    }

    /// The packed weights of each layer. In a saved program they follow the description in this order, each from a
    /// multiple of [`SAVED_ALIGN_BYTES`] on.
    pub fn weights(&self) -> impl Iterator<Item = &[u8]> {
        self.packed().map(Packed::as_slice)
    }

    /// The program as bytes, for [`Program::open`].
    ///
    /// # Errors
    /// As of [`Program::description`].
    pub fn save(&self) -> Result<Vec<u8>, SavedError> {
        let mut bytes = self.description()?;
        for weights in self.weights() {
            bytes.resize(bytes.len().next_multiple_of(ALIGN_BYTES), 0);
            bytes.extend(weights);
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
        if (description.engine != build()) || isa != wanted {
            let (found, expected) = (description.engine, build());
            let expected = format!("{expected} for {}", wanted.unwrap_or_default());
            return Err(SavedError::Other { found: format!("{found} for {}", description.isa), expected });
        }
        if !all.as_ptr().addr().is_multiple_of(ALIGN_BYTES) {
            return Err(damaged("it does not begin at a multiple of 64 in memory"));
        }
        let graph = description.graph;
        // Before anything is computed from sizes that no weights stand behind.
        if graph.nodes.iter().any(|node| packs_more(&graph, node, all.len())) {
            return Err(damaged("its weights are cut off"));
        }
        let mut source =
            Source::Saved { bytes: bytes.clone(), next: end.next_multiple_of(ALIGN_BYTES), missing: false };
        let program = Self::compile_saved(graph, options, &mut source)?;
        match source {
            Source::Saved { missing: true, .. } => Err(damaged("its weights are cut off")),
            _ => Ok(program),
        }
    }
}

/// Whether a node has more weights than so many bytes.
fn packs_more(graph: &Graph, node: &Node, bytes: usize) -> bool {
    let Op::Conv(conv) = &node.op else { return false };
    let dims = |value: Option<&ValueId>| value.and_then(|id| graph.values.get(id.0)).map(|v| v.dims);
    let (Some(Dims { c: from, .. }), Some(Dims { c: to, .. })) = (dims(node.inputs.first()), dims(Some(&node.output)))
    else {
        return false;
    };
    let [rows, columns] = conv.window.kernel;
    let per_channel = rows.checked_mul(columns).and_then(|taps| taps.checked_mul(from / conv.groups.max(1)));
    let weights = per_channel.and_then(|count| count.checked_mul(to));
    weights.is_none_or(|weights| weights > bytes)
}
