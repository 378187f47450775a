//! The whole conversation over a real broker, with a device driven by hand, and the same over HTTP.

mod api;
pub(crate) mod broker;
mod end_to_end;
mod records;
pub(crate) mod simulated;
