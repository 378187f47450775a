//! Taking documents apart into segments, and putting segments together again, in any order and however often each
//! arrives. What is kept is bounded by [`DOCUMENT_BYTES_MAX`]; [`MetadataSegment`] checks its lengths against that.

use super::{Document, MetadataSegment, V1};
use crate::Sha256Digest;
use crate::cbor::Bytes;
use crate::id::RequestId;
use crate::limits::{DOCUMENT_BYTES_MAX, SEGMENT_BYTES_MAX, SEGMENTS_MAX};

/// Why segments do not make a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyError {
    /// A segment is not of the document being put together: the server began again, with another version perhaps.
    #[error("a segment of another document or of another cut")]
    Foreign,
    /// All have arrived, and are not what the digest says.
    #[error("the segments do not make the document that they announce")]
    Damaged,
    /// The document has no bytes, or too many for segments of this size.
    #[error("a document of {length} bytes cannot be sent in segments of {segment_bytes}")]
    Unsendable {
        /// Its length.
        length: usize,
        /// Length of a segment.
        segment_bytes: usize,
    },
}

/// Takes a document apart.
///
/// # Errors
/// [`AssemblyError::Unsendable`] when it is empty, longer than [`DOCUMENT_BYTES_MAX`], or needs more than
/// [`SEGMENTS_MAX`] segments.
pub fn segments(
    request: &RequestId,
    document: &Document,
    bytes: &[u8],
    segment_bytes: usize,
) -> Result<Vec<MetadataSegment>, AssemblyError> {
    let unsendable = AssemblyError::Unsendable { length: bytes.len(), segment_bytes };
    if bytes.is_empty() || bytes.len() as u64 > DOCUMENT_BYTES_MAX || !(1..=SEGMENT_BYTES_MAX).contains(&segment_bytes)
    {
        return Err(unsendable);
    }
    let count = u32::try_from(bytes.len().div_ceil(segment_bytes)).unwrap_or(u32::MAX);
    if count > SEGMENTS_MAX {
        return Err(unsendable);
    }
    let sha256 = Sha256Digest::of(bytes);
    let part = |(index, data): (u32, &[u8])| MetadataSegment {
        v: V1,
        request: request.clone(),
        document: document.clone(),
        index,
        count,
        total_bytes: bytes.len() as u64,
        sha256,
        data: Bytes::from(data),
    };
    Ok((0..).zip(bytes.chunks(segment_bytes)).map(part).collect())
}

/// A document that is arriving.
#[derive(Debug, Clone)]
pub struct Assembly {
    document: Document,
    sha256: Sha256Digest,
    total_bytes: u64,
    parts: Vec<Option<Bytes>>,
    /// Length of every part but the last, once one of them has arrived.
    part_bytes: Option<u64>,
}

impl Assembly {
    /// Begins with any segment; a validated one, as everything read is.
    pub fn new(first: &MetadataSegment) -> Self {
        Self {
            document: first.document.clone(),
            sha256: first.sha256,
            total_bytes: first.total_bytes,
            parts: vec![None; first.count.min(SEGMENTS_MAX) as usize],
            part_bytes: None,
        }
    }

    /// Adds a segment, and yields the document when it was the last one missing.
    ///
    /// # Errors
    /// [`AssemblyError::Foreign`], which changes nothing, and [`AssemblyError::Damaged`], after which the assembly is
    /// to be dropped.
    pub fn add(&mut self, segment: MetadataSegment) -> Result<Option<Vec<u8>>, AssemblyError> {
        let same = segment.document == self.document
            && segment.sha256 == self.sha256
            && segment.total_bytes == self.total_bytes
            && segment.count as usize == self.parts.len();
        let before_last = u64::from(segment.count.saturating_sub(1));
        let is_last = u64::from(segment.index) == before_last;
        let length = segment.data.len() as u64;
        // All parts but the last have one length, and the last one has the rest.
        let part_bytes = if is_last { self.part_bytes } else { Some(self.part_bytes.unwrap_or(length)) };
        let expected = part_bytes
            .and_then(|part| if is_last { self.total_bytes.checked_sub(before_last * part) } else { Some(part) });
        let fits = part_bytes.is_none() || expected == Some(length);
        let Some(part) = self.parts.get_mut(segment.index as usize).filter(|_| same && fits) else {
            return Err(AssemblyError::Foreign);
        };
        self.part_bytes = part_bytes;
        part.get_or_insert(segment.data);
        if self.parts.iter().any(Option::is_none) {
            return Ok(None);
        }
        let bytes: Vec<u8> = self.parts.iter().flatten().flat_map(|part| part.iter().copied()).collect();
        if bytes.len() as u64 == self.total_bytes && Sha256Digest::of(&bytes) == self.sha256 {
            return Ok(Some(bytes));
        }
        Err(AssemblyError::Damaged)
    }

    /// First segment that is missing; what to ask for after a break.
    pub fn first_missing(&self) -> Option<u32> {
        self.parts.iter().position(Option::is_none).and_then(|i| u32::try_from(i).ok())
    }
}
