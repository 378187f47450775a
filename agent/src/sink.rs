//! Where results go: a file, the server, and the board that the HTTP endpoint shows.
//!
//! A sink never holds up a worker: what it can't take at once it drops, and counts.

mod board;
mod file;
mod record;

pub use board::{Board, ComponentView};
pub use file::{FileSink, FileSinkError};
pub use record::{Record, RecordPayload, Verdict};
