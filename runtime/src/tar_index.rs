//! Where the files of a tar lie, for a tar that nobody vouches for yet.
//!
//! A packed bundle is opened before any signature is checked, so this reads only what it must, in bounded memory: plain
//! files and directories with names of at most 100 bytes. Long names, links and extended headers are refused, and every
//! byte that is neither a header with its checksum nor the contents of a file (which have digests) must be zero. Source:
//! POSIX.1-1988 ustar, which `tar --format=ustar` writes and [`crate::pack`] too.

use sedge_protocol::ustar::{self, Entry};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};

const BLOCK: u64 = ustar::BLOCK as u64;
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
        let entry = Entry::parse(&header).map_err(|problem| wrong(format!("the entry at byte {at} {problem}")))?;
        let contents = at + BLOCK;
        let end = contents.checked_add(entry.bytes).filter(|&end| end <= length);
        let end = end.ok_or_else(|| wrong(format!("the entry at byte {at} is larger than the file")))?;
        zeros(file, end, end.next_multiple_of(BLOCK))?;
        if entry.is_file && files.insert(entry.name, (contents, entry.bytes)).is_some() {
            return Err(wrong(format!("the entry at byte {at} has a name that was there before")));
        }
        at = end.next_multiple_of(BLOCK);
    }
    Err(wrong(format!("it has more than {ENTRIES_MAX} entries")))
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
