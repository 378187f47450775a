//! The machine against scenarios in plain words, and against a small model under random events.

mod fleet;
mod model;
mod planned;
mod scale;
mod scenario;
mod words;
