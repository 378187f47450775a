//! The device's deployment machine, held against scenarios in plain words, a simulated device that loses power at every
//! point, and the table of its states in `docs/protocol/deployment.md`.

mod auditor;
mod random;
mod scenario;
mod simulation;
mod table;
mod world;
