//! One pass over the bytes that holds them against every structural rule. No recursion, and no allocation that is not
//! paid for by input: an open array or map costs a frame (their number is limited), a map key an entry.

use super::{DEPTH_MAX, Limits, Rule};
use std::collections::BTreeSet;

type Broken = (usize, Rule);

/// An array or map whose end has not come yet.
struct Open<'a> {
    /// Items, or pairs, that are still to come.
    left: u64,
    /// Of a map: the keys so far.
    keys: Option<BTreeSet<&'a str>>,
    /// Of a map: the next item is a key.
    key_next: bool,
}

/// Header of an item.
struct Header {
    /// Where the item begins.
    offset: usize,
    major: u8,
    /// The low five bits.
    info: u8,
    /// The value, length or count; for 0 to 23 the low bits themselves.
    argument: u64,
}

struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.offset)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.offset.checked_add(length)?;
        let taken = self.bytes.get(self.offset..end)?;
        self.offset = end;
        Some(taken)
    }

    fn header(&mut self) -> Result<Header, Broken> {
        let offset = self.offset;
        let truncated = || (offset, Rule::Truncated);
        let &[first] = self.take(1).ok_or_else(truncated)? else { return Err(truncated()) };
        let (major, info) = (first >> 5, first & 0x1f);
        let argument = match info {
            0..=23 => u64::from(info),
            24..=27 => {
                let bytes = self.take(1 << (info - 24)).ok_or_else(truncated)?;
                bytes.iter().fold(0, |n, &b| n << 8 | u64::from(b))
            }
            // Of the integers and tags, 31 is reserved as well; the rest have indefinite lengths.
            31 if matches!(major, 2..=5 | 7) => return Err((offset, Rule::IndefiniteLength)),
            _ => return Err((offset, Rule::ReservedHeader(first))),
        };
        Ok(Header { offset, major, info, argument })
    }

    /// The bytes of a string.
    fn string(&mut self, header: &Header) -> Result<&'a [u8], Broken> {
        let remaining = self.remaining();
        let taken = usize::try_from(header.argument).ok().and_then(|length| self.take(length));
        taken.ok_or((header.offset, Rule::PastTheEnd { claimed: header.argument, remaining }))
    }

    fn text(&mut self, header: &Header) -> Result<&'a str, Broken> {
        std::str::from_utf8(self.string(header)?).map_err(|_| (header.offset, Rule::NotUtf8))
    }

    /// An array or map that begins; an item takes at least one byte.
    fn open(&self, header: &Header) -> Result<Open<'a>, Broken> {
        let map = header.major == 5;
        let possible = if map { self.remaining() / 2 } else { self.remaining() };
        if header.argument > possible as u64 {
            let rule = Rule::PastTheEnd { claimed: header.argument, remaining: self.remaining() };
            return Err((header.offset, rule));
        }
        Ok(Open { left: header.argument, keys: map.then(BTreeSet::new), key_next: map })
    }
}

/// Holds `bytes` against the rules of [`super`].
pub(super) fn scan(bytes: &[u8], limits: Limits) -> Result<(), Broken> {
    if bytes.len() > limits.bytes_max {
        return Err((limits.bytes_max, Rule::TooLong { length: bytes.len(), bytes_max: limits.bytes_max }));
    }
    let depth_max = limits.depth_max.min(DEPTH_MAX);
    let mut reader = Reader { bytes, offset: 0 };
    let mut open: Vec<Open<'_>> = Vec::new();
    loop {
        let header = reader.header()?;
        if let Some(Open { keys: Some(keys), key_next: key_next @ true, .. }) = open.last_mut() {
            if header.major != 3 {
                return Err((header.offset, Rule::KeyNotText));
            }
            let key = reader.text(&header)?;
            if !keys.insert(key) {
                return Err((header.offset, Rule::DuplicateKey(key.chars().take(64).collect())));
            }
            *key_next = false;
            continue;
        }
        match header.major {
            0 | 1 => {}
            2 => drop(reader.string(&header)?),
            3 => drop(reader.text(&header)?),
            4 | 5 if open.len() >= depth_max => return Err((header.offset, Rule::TooDeep { depth_max })),
            4 | 5 => {
                let begun = reader.open(&header)?;
                if begun.left > 0 {
                    open.push(begun);
                    continue;
                }
            }
            6 => return Err((header.offset, Rule::Tag)),
            // 20 to 22 are false, true and null; 25 to 27 are floats.
            _ if matches!(header.info, 20..=22 | 25..=27) => {}
            _ => return Err((header.offset, Rule::SimpleValue)),
        }
        // An item is complete, and with it perhaps those around it.
        loop {
            let Some(around) = open.last_mut() else {
                let count = reader.remaining();
                return if count == 0 { Ok(()) } else { Err((reader.offset, Rule::TrailingBytes { count })) };
            };
            around.left -= 1;
            around.key_next = around.keys.is_some();
            if around.left > 0 {
                break;
            }
            open.pop();
        }
    }
}
