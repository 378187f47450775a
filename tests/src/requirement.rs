//! What a test needs beyond a Rust toolchain. Where it is missing the test skips and says why; where
//! `SEDGE_REQUIRE_ALL` is set, as in CI, it fails instead.

use std::path::{Path, PathBuf};

/// Says that `what` is missing, and fails where nothing may be.
///
/// # Panics
/// When `SEDGE_REQUIRE_ALL` is set.
#[allow(clippy::print_stderr)]
pub fn missing(what: &str) {
    assert!(std::env::var_os("SEDGE_REQUIRE_ALL").is_none(), "SEDGE_REQUIRE_ALL is set, and {what} is missing");
    eprintln!("skipped: {what} is missing");
}

/// A folder of the reference models, which lie beside the repository and not in it.
pub fn reference_models(name: &str) -> Option<PathBuf> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models").join(name);
    if place.is_dir() {
        return Some(place);
    }
    missing(&format!("the folder of reference models {}", place.display()));
    None
}
