//! Whole grids in virtual time: what discovery costs and how long it takes, next to what asking
//! everybody, or anybody, would.
//!
//! ```text
//!  engine    time, latencies, losses, parted networks, ended and frozen nodes, clocks that jump
//!  grid      10,000 nodes with the query machines     baseline  flooding and random walks
//!  subgrid   a large one, whose members watch each other, elect and register; connection: what
//!            QUIC takes for what goes over it
//!  figures   all of it as numbers
//! ```
//!
//! The machines are those that run in the daemon, and what they send is encoded, counted with all its
//! headers and decoded again. The same seed gives the same numbers.

pub mod baseline;
pub mod connection;
pub mod engine;
mod figures;
pub mod grid;
pub mod subgrid;
pub mod workload;

pub use figures::{BaselineFigures, Extent, Figures, QueryFigures, discovery_figures};
pub use subgrid::{Idle, SubgridFigures, known};

/// The seed of a random test: `PHANTOM_SEED` if it is set, else one that differs from run to run; it
/// is printed, so that a failure can be had again.
#[cfg(test)]
pub(crate) fn seed() -> u64 {
    let given = std::env::var("PHANTOM_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("PHANTOM_SEED={seed}");
    seed
}

#[cfg(test)]
mod tests;
