//! A loaded model on disk, ready to be mapped: opening it parses no ONNX, knows no tract and packs no weights.
//!
//! ```text
//! "sedgemod"  SHA-256 of all from here    format   length of the head  length of the file  start of the weights
//!    8 B      to the weights, 32 B       4 B, LE        4 B, LE             8 B, LE              8 B, LE
//! head  padding  description of the program  packed weights of each layer
//!                  from a multiple of 64 B on, as `sedge_engine::Program::open` wants it
//! ```
//! The head says what the model was made from and for ([`Origin`]): another file, other sizes of inputs, another build of
//! this program or another instruction set make it stale, and it is to be made anew. Head and description are held against
//! their digest. The head has a digest of the packed weights too, but reading them all takes longer than all the rest, so
//! who opens a file says whether to ([`Check`]). Damaged weights make results wrong; they cannot reach memory that is not
//! the model's.
//!
//! Only a model that is one region of the engine has this form: what tract has planned cannot be written down.

mod head;
mod importer;

use super::executable::Executable;
use super::fused::{Built, Edge};
use super::{Fate, Fusion, Model, ModelOptions, NodeFusion, Softmax, guarded};
use head::{Head, Origin, Spec};
use memmap2::Mmap;
use sedge_engine::{DESCRIPTION_BYTES_MAX, Program, SAVED_ALIGN_BYTES, SavedError};
use sedge_protocol::Sha256Digest;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"sedgemod";
/// Changes with what is written.
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 64;
/// Where the digest begins, and where what it is of.
const DIGEST: usize = 8;
const DIGESTED: usize = 40;
/// Written at a time.
const PIECE_BYTES: usize = 256 << 10;
/// Longer heads are refused.
const HEAD_BYTES_MAX: usize = 16 << 20;

/// Why a model cannot be saved, or a saved model not be used.
#[derive(Debug, thiserror::Error)]
pub enum SavedModelError {
    /// Part of it runs in tract.
    #[error("the model has no saved form: {why}; only one that runs in the integer engine from end to end has one")]
    NotWhole {
        /// What keeps it from being one region.
        why: String,
    },
    /// Made from or for something else.
    #[error("the saved model is of {what} {found}, and {expected} is wanted; it is to be made anew from the model")]
    Stale {
        /// What differs.
        what: &'static str,
        /// Of the saved model.
        found: String,
        /// Here.
        expected: String,
    },
    /// Not what was written.
    #[error("the saved model is damaged: {0}; it is to be made anew from the model")]
    Damaged(&'static str),
    /// The engine cannot write or open its part.
    #[error("the engine's part of a saved model")]
    Engine(#[source] SavedError),
    /// The system says no.
    #[error("a saved model cannot be {action}")]
    File {
        /// What was to be done with it.
        action: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl SavedModelError {
    /// Whether the model can be saved and opened, made anew from its file.
    pub const fn is_mended_by_saving(&self) -> bool {
        matches!(self, Self::Stale { .. } | Self::Damaged(_) | Self::Engine(_))
    }
}

impl From<SavedError> for SavedModelError {
    fn from(error: SavedError) -> Self {
        match error {
            SavedError::Other { found, expected } => Self::Stale { what: "engine", found, expected },
            SavedError::Damaged(problem) => Self::Damaged(problem),
            other => Self::Engine(other),
        }
    }
}

/// How much of a saved model is held against its digests before it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Every byte: of a file that has lain on a disk.
    Whole,
    /// All but the weights: of a file that was written a moment ago.
    Head,
}

/// A model's saved form, on its way to where it is kept. The weights are still the model's.
pub struct SavedForm {
    /// All before the weights.
    head: Vec<u8>,
    bytes: usize,
}

impl SavedForm {
    /// How long it is.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies a piece of it, from `offset` on: as much as `into` has room for, less at the end. `model` is the one that it
    /// is the form of.
    pub fn read_at(&self, model: &Model, offset: usize, into: &mut [u8]) -> usize {
        let count = into.len().min(self.bytes.saturating_sub(offset));
        let into = &mut into[..count];
        // Between weights lie zeros.
        into.fill(0);
        let mut copy = |at: usize, bytes: &[u8]| {
            let (from, to) = (at.max(offset), (at + bytes.len()).min(offset + count));
            if from < to {
                into[from - offset..to - offset].copy_from_slice(&bytes[from - at..to - at]);
            }
        };
        copy(0, &self.head);
        let mut at = self.head.len();
        for weights in model.packed_weights() {
            at = at.next_multiple_of(SAVED_ALIGN_BYTES);
            copy(at, weights);
            at += weights.len();
        }
        count
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// What the system says.
    pub fn write_to(&self, model: &Model, to: &mut impl Write) -> io::Result<()> {
        let (mut offset, mut piece) = (0, vec![0; PIECE_BYTES]);
        while offset < self.bytes {
            let count = self.read_at(model, offset, &mut piece);
            to.write_all(&piece[..count])?;
            offset += count;
        }
        Ok(())
    }
}

/// Of the digests of each layer's weights.
fn digest<'a>(weights: impl Iterator<Item = &'a [u8]>) -> Sha256Digest {
    let each: Vec<u8> = weights.flat_map(|weights| *Sha256Digest::of(weights).as_bytes()).collect();
    Sha256Digest::of(&each)
}

fn end_of_weights(start: usize, lengths: impl Iterator<Item = usize>) -> usize {
    lengths.fold(start, |at, length| at.next_multiple_of(SAVED_ALIGN_BYTES) + length)
}

/// The part of a mapped file that the engine reads.
struct Part {
    file: Mmap,
    from: usize,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.file[self.from..]
    }
}

impl Model {
    /// Digest of all that decides whether a saved model is of use: the name for it in a place where several are kept.
    pub fn saved_key(model: Sha256Digest, options: &ModelOptions) -> Sha256Digest {
        let Origin { model, shapes, runtime, engine, isa } = Origin::wanted(model, options);
        Sha256Digest::of(format!("{model:02x?} {shapes:?} {runtime:?} {engine:?} {isa:?}").as_bytes())
    }

    /// The form in which the model is opened without being loaded. `of` is the digest of the file that it was loaded from.
    ///
    /// # Errors
    /// [`SavedModelError::NotWhole`] where tract runs a part of it.
    pub fn saved(&self, of: Sha256Digest) -> Result<SavedForm, SavedModelError> {
        let Executable::Whole { built, feeds, yields, .. } = &self.executable else {
            return Err(SavedModelError::NotWhole { why: why(&self.fusion) });
        };
        let constant = |node: &NodeFusion| matches!(node.fate, Fate::Constant);
        let node = |node: &NodeFusion| (node.name.clone(), node.operator.clone(), constant(node));
        let head = Head {
            origin: Origin::of(of, &self.shapes, built.program.isa().to_owned()),
            weights: *digest(built.program.weights()).as_bytes(),
            inputs: self.inputs.iter().map(Spec::of).collect(),
            outputs: self.outputs.iter().map(Spec::of).collect(),
            softmax: self.softmax.iter().map(|softmax| softmax.map(|s| s.input_scale)).collect(),
            summary: self.summary.clone(),
            nodes: self.fusion.nodes.iter().map(node).collect(),
            feeds: feeds.clone(),
            yields: yields.clone(),
            ports: built.feeds.clone(),
            floats: built.floats.clone(),
            edges: built.outputs.iter().map(|edge| (edge.element, edge.shape.clone())).collect(),
        };
        let written = |e| SavedModelError::Engine(SavedError::Write(e));
        let head = postcard::to_allocvec(&head).map_err(written)?;
        let description = built.program.description()?;
        // What cannot be opened is not written.
        if head.len() > HEAD_BYTES_MAX || description.len() as u64 > DESCRIPTION_BYTES_MAX {
            return Err(SavedModelError::NotWhole { why: "its constants are too large".to_owned() });
        }
        let program = (HEADER_BYTES + head.len()).next_multiple_of(SAVED_ALIGN_BYTES);
        let start = program + description.len();
        let end = end_of_weights(start, built.program.weights().map(<[u8]>::len));
        let mut all = Vec::with_capacity(start);
        all.extend(MAGIC);
        all.extend([0; DIGESTED - DIGEST]);
        all.extend(FORMAT.to_le_bytes());
        all.extend(u32::try_from(head.len()).unwrap_or(u32::MAX).to_le_bytes());
        all.extend((end as u64).to_le_bytes());
        all.extend((start as u64).to_le_bytes());
        all.extend(head);
        all.resize(program, 0);
        all.extend(description);
        let digest = Sha256Digest::of(&all[DIGESTED..]);
        all[DIGEST..DIGESTED].copy_from_slice(digest.as_bytes());
        Ok(SavedForm { head: all, bytes: end })
    }

    fn packed_weights(&self) -> impl Iterator<Item = &[u8]> {
        let program = match &self.executable {
            Executable::Whole { built, .. } => Some(&built.program),
            Executable::Tract { .. } => None,
        };
        program.into_iter().flat_map(Program::weights)
    }

    /// A model that was saved, from the file's mapped bytes. `model` is the digest of the file that it must have been made
    /// from, `options` are what that would be loaded with.
    ///
    /// # Errors
    /// [`SavedModelError`]; whatever it is, the model can be loaded from its own file.
    ///
    /// # Safety
    /// Until the model is dropped nobody writes to the file or cuts it off: the program reads its weights where they lie.
    /// Removing it, or renaming another into its place, is allowed. A sector that cannot be read ends the process where it is
    /// mapped: of a disk that may fail, read the file first.
    pub unsafe fn open_saved(
        file: &File,
        model: Sha256Digest,
        options: &ModelOptions,
        check: Check,
    ) -> Result<Self, SavedModelError> {
        // SAFETY: nobody changes the file, says the caller.
        let file = unsafe { Mmap::map(file) };
        let file = file.map_err(|source| SavedModelError::File { action: "mapped", source })?;
        let inside = SavedModelError::Damaged("the engine fails on it");
        guarded(|| Ok(Self::open_mapped(file, model, options, check))).unwrap_or(Err(inside))
    }

    fn open_mapped(
        file: Mmap,
        model: Sha256Digest,
        options: &ModelOptions,
        check: Check,
    ) -> Result<Self, SavedModelError> {
        let (head, from) = read(&file)?;
        head.origin.holds(&Origin::wanted(model, options))?;
        let program = Program::open(Arc::new(Part { file, from }), &options.of_engine())?;
        if !head.fits(&program) {
            return Err(SavedModelError::Damaged("its parts do not fit each other"));
        }
        if check == Check::Whole && digest(program.weights()).as_bytes() != &head.weights {
            return Err(SavedModelError::Damaged("its weights have another digest"));
        }
        let Head { origin, weights: _, inputs, outputs, softmax, summary, nodes, feeds, yields, ports, floats, edges } =
            head;
        let edge = |(element, shape)| Edge { element, shape };
        let built = Built { program, feeds: ports, floats, outputs: edges.into_iter().map(edge).collect() };
        let fate = |constant| if constant { Fate::Constant } else { Fate::Fused { region: 0 } };
        let node = |(name, operator, constant)| NodeFusion { name, operator, fate: fate(constant) };
        Ok(Self {
            executable: Executable::Whole { session: built.program.session(), built, feeds, yields },
            inputs: inputs.into_iter().map(Spec::spec).collect(),
            outputs: outputs.into_iter().map(Spec::spec).collect(),
            softmax: softmax.into_iter().map(|s| s.map(|input_scale| Softmax { input_scale })).collect(),
            summary,
            fusion: Fusion { nodes: nodes.into_iter().map(node).collect(), regions: 1, whole: true },
            shapes: origin.shapes,
        })
    }
}

/// The head, and where the program begins.
fn read(file: &[u8]) -> Result<(Head, usize), SavedModelError> {
    let damaged = SavedModelError::Damaged;
    let header = file.get(..HEADER_BYTES).filter(|header| header.starts_with(MAGIC)).ok_or(damaged("no header"))?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let long = |at: usize| usize::try_from(u64::from(word(at)) | u64::from(word(at + 4)) << 32).unwrap_or(usize::MAX);
    let (format, head, end, start) = (word(40), word(44) as usize, long(48), long(56));
    if format != FORMAT {
        let of = |format: u32| format.to_string();
        return Err(SavedModelError::Stale { what: "format", found: of(format), expected: of(FORMAT) });
    }
    if end != file.len() {
        return Err(damaged("it does not have the length that it says"));
    }
    let digested = file.get(DIGESTED..start).ok_or(damaged("its weights begin nowhere"))?;
    if Sha256Digest::of(digested).as_bytes() != &header[DIGEST..DIGESTED] {
        return Err(damaged("its digest is another"));
    }
    let head =
        Some(head).filter(|bytes| *bytes <= HEAD_BYTES_MAX).and_then(|bytes| file.get(HEADER_BYTES..)?.get(..bytes));
    let head = head.ok_or(damaged("its head is cut off"))?;
    let program = (HEADER_BYTES + head.len()).next_multiple_of(SAVED_ALIGN_BYTES);
    if program > start {
        return Err(damaged("its program begins nowhere"));
    }
    Ok((postcard::from_bytes(head).map_err(|_| damaged("its head is none"))?, program))
}

/// What keeps a model from being one region.
fn why(fusion: &Fusion) -> String {
    let mut left = fusion.left();
    match left.next() {
        Some((node, reason)) => {
            let (count, all) = (left.count() + 1, fusion.nodes.len());
            format!(
                "tract runs {count} of its {all} nodes, the first of them {} ({}): {reason}",
                node.name, node.operator
            )
        }
        None => "tract feeds its inputs or outputs".to_owned(),
    }
}
