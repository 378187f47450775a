//! Reading just enough of a packed bundle, which nobody vouches for yet: its digest, and that it is whole.
//!
//! A packed bundle is a ustar tar of an OCI image layout. It is read once from front to end in bounded memory: plain
//! files and directories with names of at most 100 bytes. Links, long names and extended headers are refused, every blob
//! must have the digest that names it, and every byte that is neither a header with its checksum nor the contents of a
//! file must be zero. Source: POSIX.1-1988 ustar.

use sedge_protocol::id::BundleName;
use sedge_protocol::oci::{self, Descriptor, ImageManifest, Index};
use sedge_protocol::text::visible;
use sedge_protocol::ustar::{BLOCK, Entry};
use sedge_protocol::{BundleDigest, Sha256Digest};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek as _, SeekFrom};

/// Stops an archive of endless empty entries.
const ENTRIES_MAX: usize = 10_000;
/// Zeros behind the last entry; tar programs fill up to some 10 KiB.
const TRAILER_BLOCKS_MAX: usize = 2048;

/// The upload is no packed bundle.
#[derive(Debug, thiserror::Error)]
#[error("the upload is no packed bundle: {problem}; `sedge bundle pack` makes one")]
pub struct LayoutError {
    problem: String,
}

fn wrong(problem: impl Into<String>) -> LayoutError {
    LayoutError { problem: problem.into() }
}

/// What a packed bundle is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) digest: BundleDigest,
    pub(super) manifest_bytes: u64,
    pub(super) name: BundleName,
    pub(super) packed_sha256: Sha256Digest,
    pub(super) packed_bytes: u64,
}

/// Where a file's contents lie.
#[derive(Clone, Copy)]
struct Place {
    at: u64,
    bytes: u64,
}

impl Layout {
    /// Reads a packed bundle from its first byte to its last.
    pub(super) fn read(file: &mut File) -> Result<Self, LayoutError> {
        file.rewind().map_err(|e| wrong(e.to_string()))?;
        let mut tar = Tar { from: BufReader::with_capacity(1 << 16, &mut *file), hash: Sha256::new(), at: 0 };
        let files = tar.files()?;
        let (packed_bytes, packed_sha256) = (tar.at, Sha256Digest::from(<[u8; 32]>::from(tar.hash.finalize())));
        if !oci::is_layout(&document(file, &files, "oci-layout")?) {
            return Err(wrong("its `oci-layout` is not of version 1.0.0"));
        }
        let index: Index = json("index.json", &document(file, &files, "index.json")?)?;
        index.validate().map_err(|problem| wrong(format!("`index.json`: {problem}")))?;
        let bundle = index.bundle().ok_or_else(|| wrong("`index.json` lists no bundle, or several"))?;
        has(&files, bundle)?;
        let image = document(file, &files, &blob(bundle))?;
        let image: ImageManifest = json("the image manifest", &image)?;
        if image.artifact_type != oci::BUNDLE_TYPE || image.media_type != oci::MANIFEST_TYPE {
            return Err(wrong(format!("its image manifest is not of type {}", oci::BUNDLE_TYPE)));
        }
        std::iter::once(&image.config).chain(&image.layers).try_for_each(|part| has(&files, part))?;
        let name = image.annotations.get(oci::TITLE).ok_or_else(|| wrong("its image manifest has no title"))?;
        Ok(Self {
            digest: BundleDigest(bundle.digest),
            manifest_bytes: bundle.size,
            name: name.parse().map_err(|e| wrong(format!("its title {e}")))?,
            packed_sha256,
            packed_bytes,
        })
    }
}

fn blob(part: &Descriptor) -> String {
    format!("blobs/sha256/{}", part.digest.hex())
}

fn has(files: &HashMap<String, Place>, part: &Descriptor) -> Result<(), LayoutError> {
    match files.get(&blob(part)) {
        Some(place) if place.bytes == part.size => Ok(()),
        Some(place) => {
            Err(wrong(format!("blob {} has {} bytes and not {}", part.digest.short(), place.bytes, part.size)))
        }
        None => Err(wrong(format!("blob {} is missing", part.digest.short()))),
    }
}

fn document(file: &mut File, files: &HashMap<String, Place>, name: &str) -> Result<Vec<u8>, LayoutError> {
    let place = files.get(name).ok_or_else(|| wrong(format!("`{name}` is missing")))?;
    if place.bytes > oci::DOCUMENT_BYTES_MAX {
        return Err(wrong(format!("`{name}` has {} bytes; at most {} are read", place.bytes, oci::DOCUMENT_BYTES_MAX)));
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(place.at))
        .and_then(|_| file.take(place.bytes).read_to_end(&mut bytes))
        .map_err(|e| wrong(e.to_string()))?;
    Ok(bytes)
}

fn json<T: serde::de::DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, LayoutError> {
    serde_json::from_slice(bytes).map_err(|e| wrong(format!("{name} cannot be read: {e}")))
}

struct Tar<R> {
    from: R,
    /// Of everything read so far.
    hash: Sha256,
    at: u64,
}

impl<R: Read> Tar<R> {
    fn exact(&mut self, bytes: &mut [u8]) -> Result<(), LayoutError> {
        self.from.read_exact(bytes).map_err(|_| wrong(format!("it is cut off behind byte {}", self.at)))?;
        self.hash.update(&*bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn files(&mut self) -> Result<HashMap<String, Place>, LayoutError> {
        let mut files = HashMap::new();
        for _ in 0..=ENTRIES_MAX {
            let (at, mut header) = (self.at, [0; BLOCK]);
            self.exact(&mut header)?;
            if header == [0; BLOCK] {
                return self.trailer().map(|()| files);
            }
            let entry = Entry::parse(&header).map_err(|problem| wrong(format!("the entry at byte {at} {problem}")))?;
            let place = Place { at: self.at, bytes: entry.bytes };
            self.contents(&entry)?;
            if entry.is_file && files.insert(entry.name, place).is_some() {
                return Err(wrong(format!("the entry at byte {at} has a name that was there before")));
            }
        }
        Err(wrong(format!("it has more than {ENTRIES_MAX} entries")))
    }

    fn contents(&mut self, entry: &Entry) -> Result<(), LayoutError> {
        let (mut left, mut hash, mut buffer) = (entry.bytes, Sha256::new(), vec![0; 1 << 16]);
        while left > 0 {
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let part = &mut buffer[..step];
            self.exact(part)?;
            hash.update(&*part);
            left -= step as u64;
        }
        if let Some(hex) = entry.name.strip_prefix("blobs/sha256/").filter(|_| entry.is_file) {
            let found = Sha256Digest::from(<[u8; 32]>::from(hash.finalize()));
            if found.hex() != hex {
                return Err(wrong(format!("blob `{}` has another digest: it was changed", visible(hex, 80))));
            }
        } else if entry.is_file && !["index.json", "oci-layout"].contains(&entry.name.as_str()) {
            return Err(wrong(format!("it holds `{}`, which no bundle has", visible(&entry.name, 80))));
        }
        let padding = usize::try_from(self.at.next_multiple_of(BLOCK as u64) - self.at).unwrap_or(0);
        self.zeros(padding)
    }

    fn zeros(&mut self, count: usize) -> Result<(), LayoutError> {
        let (at, mut bytes) = (self.at, [0; BLOCK]);
        let bytes = &mut bytes[..count];
        self.exact(bytes)?;
        match bytes.iter().position(|&b| b != 0) {
            Some(i) => Err(wrong(format!("byte {} lies in no file and is not zero: it was changed", at + i as u64))),
            None => Ok(()),
        }
    }

    /// At least one more block of zeros, and nothing but zeros to the end.
    fn trailer(&mut self) -> Result<(), LayoutError> {
        self.zeros(BLOCK)?;
        for _ in 0..=TRAILER_BLOCKS_MAX {
            let mut first = [0];
            match self.from.read(&mut first).map_err(|e| wrong(e.to_string()))? {
                0 => return Ok(()),
                _ if first != [0] => return Err(wrong(format!("it goes on after its end at byte {}", self.at))),
                _ => {
                    self.hash.update(first);
                    self.at += 1;
                    self.zeros(BLOCK - 1)?;
                }
            }
        }
        Err(wrong(format!("it goes on after its end at byte {}", self.at)))
    }
}
