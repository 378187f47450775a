//! Update metadata against attacks, random histories, single flipped bits, and another implementation.

mod attacks;
mod properties;
mod python;
mod repository;
mod uptane;
mod workflow;
