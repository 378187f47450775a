//! Errors with their causes, in one line.

use std::error::Error;

/// The error and all of its causes.
pub(crate) fn chain(e: &dyn Error) -> String {
    e.source().map_or_else(|| e.to_string(), |source| format!("{e}: {}", chain(source)))
}

/// The same; a cause that the text before it already tells is not repeated.
pub(crate) fn chain_once(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let told = cause.to_string();
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        next = cause.source();
    }
    text
}
