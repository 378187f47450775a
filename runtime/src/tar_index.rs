//! Where the files of a tar lie, for a tar that nobody vouches for yet.
//!
//! A packed bundle is opened before any signature is checked, so this reads only what it must, in bounded memory: plain
//! files and directories with names of at most 100 bytes. Long names, links and extended headers are refused, and every
//! byte that is neither a header with its checksum nor the contents of a file (which have digests) must be zero. Source:
//! POSIX.1-1988 ustar, which `tar --format=ustar` writes and [`crate::pack`] too.

use sedge_protocol::text::visible;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};

const BLOCK: u64 = 512;
/// Stops an archive of endless empty entries.
const ENTRIES_MAX: usize = 10_000;
/// Zeros behind the last entry; tar programs fill up to some 10 KiB.
const TRAILER_BYTES_MAX: u64 = 1 << 20;

/// Offset and size of each file.
///
/// # Errors
/// What is wrong and at which byte.
pub(crate) fn read(file: &mut File) -> io::Result<HashMap<String, (u64, u64)>> {
    let length = file.metadata()?.len();
    let mut files = HashMap::new();
    let mut at = 0;
    for _ in 0..=ENTRIES_MAX {
        let mut header = [0; BLOCK as usize];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut header).map_err(|_| wrong(format!("it is cut off at byte {at}")))?;
        if header == [0; BLOCK as usize] {
            return check_trailer(file, at, length).map(|()| files);
        }
        let entry = parse(&header).map_err(|problem| wrong(format!("the entry at byte {at} {problem}")))?;
        let contents = at + BLOCK;
        let end = contents.checked_add(entry.size).filter(|&end| end <= length);
        let end = end.ok_or_else(|| wrong(format!("the entry at byte {at} is larger than the file")))?;
        zeros(file, end, end.next_multiple_of(BLOCK))?;
        if entry.is_file && files.insert(entry.name, (contents, entry.size)).is_some() {
            return Err(wrong(format!("the entry at byte {at} has a name that was there before")));
        }
        at = end.next_multiple_of(BLOCK);
    }
    Err(wrong(format!("it has more than {ENTRIES_MAX} entries")))
}

struct Entry {
    name: String,
    size: u64,
    is_file: bool,
}

fn parse(header: &[u8; BLOCK as usize]) -> Result<Entry, String> {
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
    let size = u64::from_str_radix(digits, 8).map_err(|_| format!("(`{}`) has no size", visible(name, 100)))?;
    Ok(Entry { name: name.trim_start_matches("./").to_owned(), size, is_file: kind != b'5' })
}

fn check_trailer(file: &mut File, at: u64, length: u64) -> io::Result<()> {
    let whole = length.is_multiple_of(BLOCK) && (at + 2 * BLOCK..=at + TRAILER_BYTES_MAX).contains(&length);
    if !whole {
        return Err(wrong(format!("it is cut off or goes on after its end at byte {at}")));
    }
    zeros(file, at, length)
}

fn zeros(file: &mut File, from: u64, to: u64) -> io::Result<()> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.take(to - from).read_to_end(&mut bytes)?;
    match bytes.iter().position(|&b| b != 0) {
        Some(i) => Err(wrong(format!("byte {} lies in no file and is not zero: it was changed", from + i as u64))),
        None => Ok(()),
    }
}

fn wrong(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}
