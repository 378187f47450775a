//! The processes that hold models: what both sides say to each other, what a worker does, and how it is kept.
//!
//! A worker holds a model and a sandbox, and no key, no network and no credential. It is told everything over one socket
//! pair, and ends when the other end is closed. Nothing of it survives it, so if power dies nothing here needs mending.

mod code;
mod confinement;
mod frame;
mod main;
mod memory;
mod message;
mod model;
mod preparation;
mod process;
mod spawner;
mod window;

pub use confinement::{ConfinementError, Stage, confine, restrict};
pub use frame::FrameError;
pub use main::run_worker;
pub use memory::memory_bytes;
pub use message::{Answer, Limits, Load, Loaded, Outcome, Payload, Prediction, Timings};
pub use process::{Caches, Deadlines, Exit, Worker, WorkerError, WorkerProgram};
