//! Headers of the tar files that carry bundles, read before anybody vouches for them. Device and server read by the same
//! rules, so that neither takes what the other refuses.
//!
//! Plain files and directories with names of at most 100 bytes; links, long names and extended headers are refused.
//! Source: POSIX.1-1988 ustar, which `tar --format=ustar` writes.

use crate::text::visible;

/// Bytes of a header, and what contents are padded to.
pub const BLOCK: usize = 512;

/// What a header announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, without a leading `./`.
    pub name: String,
    /// Length of the contents that follow.
    pub bytes: u64,
    /// A file; else a directory.
    pub is_file: bool,
}

impl Entry {
    /// Reads a header.
    ///
    /// # Errors
    /// What is wrong with the entry, as the rest of a sentence that names it.
    pub fn parse(header: &[u8; BLOCK]) -> Result<Self, String> {
        // Offsets and lengths of the fields: POSIX.1-1988.
        let (name, size, checksum, kind) = (&header[..100], &header[124..136], &header[148..156], header[156]);
        let sum: u64 =
            header.iter().enumerate().map(|(i, &b)| u64::from(if (148..156).contains(&i) { b' ' } else { b })).sum();
        // Programs differ in how they end the number, and in nothing else.
        if checksum != format!("{sum:06o}\0 ").as_bytes() && checksum != format!("{sum:07o}\0").as_bytes() {
            return Err("is no tar header, or was changed".to_owned());
        }
        if header[345..500].iter().any(|&b| b != 0) || !matches!(kind, b'0' | b'5' | 0) {
            return Err("is a link, has a long name or an extended header; pack with `tar --format=ustar`".to_owned());
        }
        let name = name.split(|&b| b == 0).next().unwrap_or_default();
        let name = std::str::from_utf8(name).map_err(|_| "has a name that is not UTF-8".to_owned())?;
        let digits = std::str::from_utf8(size).unwrap_or_default().trim_end_matches(['\0', ' ']);
        let bytes = u64::from_str_radix(digits, 8).map_err(|_| format!("(`{}`) has no size", visible(name, 100)))?;
        Ok(Self { name: name.trim_start_matches("./").to_owned(), bytes, is_file: kind != b'5' })
    }
}
