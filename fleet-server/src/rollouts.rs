//! Carrying rollouts out: the shell around [`crate::rollout`], which decides.
//!
//! One task owns every rollout. What it hears (commands, reports, presence, heartbeats, what others assign, deadlines)
//! becomes events; what an event changes is stored in one transaction; then its effects are performed, in order for each
//! device and for several devices at once. Nothing depends on hearing every message: whoever misses some reads what is
//! stored, and so does a server that comes back.
//!
//! If the server dies between storing and doing: effects are performed again, and each of them may be.

mod actor;
pub mod api;
mod clock;
mod error;
mod executor;
mod inventory;
mod jobs;
mod live;
mod store;
#[cfg(test)]
mod tests;
mod timeline;
mod truth;

pub use clock::Clock;
pub use error::RolloutError;
pub use executor::{Executor, Page, Shown};
pub use store::{Head, TimelineEntry};
