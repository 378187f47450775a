//! The device's deployment machine, held against scenarios in plain words, a simulated device that loses power at every
//! point, and the table of its states in `docs/protocol/deployment.md`.

mod auditor;
mod device;
mod lives;
mod power;
mod random;
mod scenario;
mod table;
mod words;
mod world;
