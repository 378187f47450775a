//! The messages against their published contract: `docs/protocol/telemetry.cddl`, the committed vectors, the tables of
//! topics and error codes, and the AsyncAPI document.
//!
//! `SEDGE_WRITE_VECTORS=1 cargo test -p sedge-protocol --test messages` writes vectors and tables anew; a change of an
//! existing vector is a change of the protocol.

mod contract;
mod examples;
mod vectors;

use std::path::{Path, PathBuf};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn writes() -> bool {
    std::env::var_os("SEDGE_WRITE_VECTORS").is_some()
}

/// Holds a file against what it should say, or writes it.
fn hold(path: &Path, expected: &str) {
    if writes() {
        std::fs::write(path, expected).expect("writable");
    }
    assert!(read(path) == expected, "{} is not up to date; it should say:\n{expected}", path.display());
}
