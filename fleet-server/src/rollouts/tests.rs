//! Whole rollouts over a real broker, with devices that answer as agents do. Each waits for what is to happen, and moves
//! the clock where something is to be over.

mod api;
mod kill;
mod way;
mod world;
