//! Samples as they come from files.

use sedge_processor_sdk::{ImageFrame, Input, PixelFormat};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Larger files are not read.
pub const SAMPLE_BYTES_MAX: u64 = crate::sandbox::INPUT_BYTES_MAX as u64;

/// One sample, in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    kind: Kind,
    data: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Image(PixelFormat),
    Raw,
}

/// Why a file is no sample.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// It cannot be read.
    #[error("the file cannot be read")]
    Read(#[source] std::io::Error),
    /// Larger than [`SAMPLE_BYTES_MAX`].
    #[error("the file has {bytes} bytes; samples have at most {SAMPLE_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// Nothing in it.
    #[error("the file is empty")]
    Empty,
}

impl Sample {
    /// Reads a file: an image when its name or its first bytes say so, else raw bytes.
    ///
    /// # Errors
    /// [`SampleError`] when the file cannot be read, is empty or too large.
    pub fn read(path: &Path) -> Result<Self, SampleError> {
        let mut data = Vec::new();
        let file = File::open(path).map_err(SampleError::Read)?;
        let bytes = file.metadata().map_err(SampleError::Read)?.len();
        file.take(SAMPLE_BYTES_MAX + 1).read_to_end(&mut data).map_err(SampleError::Read)?;
        if data.len() as u64 > SAMPLE_BYTES_MAX {
            return Err(SampleError::TooLarge { bytes: bytes.max(data.len() as u64) });
        }
        if data.is_empty() {
            return Err(SampleError::Empty);
        }
        Ok(Self::new(path.file_name().map(|n| n.to_string_lossy()).as_deref().unwrap_or(""), data))
    }

    /// A sample of this name from these bytes.
    pub fn new(name: &str, data: Vec<u8>) -> Self {
        let extension = Path::new(name).extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        // What the bytes say goes before what the name says: cameras do write JPEG into .png files.
        let kind = match (data.as_slice(), extension.as_deref()) {
            ([0x89, b'P', b'N', b'G', ..], _) => Kind::Image(PixelFormat::Png),
            ([0xff, 0xd8, 0xff, ..], _) => Kind::Image(PixelFormat::Jpeg),
            (_, Some("png")) => Kind::Image(PixelFormat::Png),
            (_, Some("jpg" | "jpeg")) => Kind::Image(PixelFormat::Jpeg),
            _ => Kind::Raw,
        };
        Self { kind, data }
    }

    /// The sample for a preprocessor.
    pub fn input(&self) -> Input<'_> {
        match self.kind {
            Kind::Image(format) => {
                Input::Image(ImageFrame { width: 0, height: 0, stride: 0, format, data: &self.data })
            }
            Kind::Raw => Input::Raw(&self.data),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_before_names() {
        let kind = |name: &str, data: &[u8]| Sample::new(name, data.to_vec()).kind;
        assert_eq!(kind("a.png", b"\xff\xd8\xff\xe0"), Kind::Image(PixelFormat::Jpeg));
        assert_eq!(kind("a", b"\x89PNG\r\n"), Kind::Image(PixelFormat::Png));
        assert_eq!(kind("a.JPG", b"hello"), Kind::Image(PixelFormat::Jpeg));
        assert_eq!(kind("a.bin", b"hello"), Kind::Raw);
    }
}
