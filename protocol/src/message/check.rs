//! Checks that several messages share.

use super::Invalid;
use std::fmt::Display;
use std::ops::RangeInclusive;

/// Longest free text: a detail for people.
pub(super) const DETAIL_BYTES_MAX: usize = 512;
/// Longest name that is not an identifier of ours: a label, a source, a unit.
pub(super) const LABEL_BYTES_MAX: usize = 128;

pub(super) fn invalid(field: impl Display, problem: impl Display) -> Invalid {
    Invalid { field: field.to_string(), problem: problem.to_string() }
}

/// A text of at most `bytes_max` bytes without control characters, but for line breaks and tabs.
pub(super) fn text(field: impl Display, text: &str, bytes_max: usize) -> Result<(), Invalid> {
    if text.len() > bytes_max {
        return Err(invalid(field, format_args!("{} bytes; at most {bytes_max}", text.len())));
    }
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err(invalid(field, "holds control characters"));
    }
    Ok(())
}

/// A text that is not empty.
pub(super) fn name(field: impl Display, name: &str) -> Result<(), Invalid> {
    if name.is_empty() {
        return Err(invalid(field, "is empty"));
    }
    text(field, name, LABEL_BYTES_MAX)
}

pub(super) fn count(field: impl Display, count: usize, allowed: RangeInclusive<usize>) -> Result<(), Invalid> {
    if allowed.contains(&count) {
        return Ok(());
    }
    Err(invalid(field, format_args!("{count} of them; expected {} to {}", allowed.start(), allowed.end())))
}

pub(super) fn bytes(field: impl Display, length: usize, allowed: RangeInclusive<usize>) -> Result<(), Invalid> {
    if allowed.contains(&length) {
        return Ok(());
    }
    Err(invalid(field, format_args!("{length} bytes; expected {} to {}", allowed.start(), allowed.end())))
}

pub(super) fn finite(field: impl Display, value: f64) -> Result<(), Invalid> {
    if value.is_finite() { Ok(()) } else { Err(invalid(field, format_args!("{value} is no number"))) }
}

/// A share or probability.
pub(super) fn fraction(field: impl Display, value: f32) -> Result<(), Invalid> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(invalid(field, format_args!("{value}; expected 0 to 1")))
}
