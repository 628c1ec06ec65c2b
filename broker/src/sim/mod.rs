//! A grid in virtual time, to try policies on: SimGrid's fluid model (CM02 without its TCP terms).
//!
//! ```text
//!  requester ──trunk of the site──┬── link ── node 0: transfers ──> computations
//!            (max-min fair share) └── link ── node 1
//! ```
//!
//! - The requester holds all jobs' data, but for jobs whose data a node has already; its own link
//!   never is the bottleneck. A transfer takes the way's latency once, then flows at its max-min fair
//!   share of link and trunk. Nothing returns.
//! - [`Discipline::Fifo`]: a node receives one job's data and computes one job at a time, both in
//!   order, the next transfer beside the computation. [`Discipline::Shared`]: all its transfers
//!   share its link, all its computations its processor.
//!
//! [`World`] is the grid alone; [`run`] lets one or several brokers place jobs on it, with what they
//! know of grid, jobs and each other as far off or old as wanted. The numbers were checked against
//! SimGrid 3.32 (`tests/data/simgrid`).
//!
//! Pure and deterministic: no clock, no I/O.

mod bound;
mod chance;
mod data;
mod run;
mod share;
mod world;

pub use bound::{fluid_bound, integer_bound};
pub use chance::chance;
pub use data::{MOST_ROWS, Malformed, read_grid, read_jobs};
pub use run::{Doubts, Outcome, Trial, run};
pub use world::World;

use crate::Job;

/// How a node serves several jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discipline {
    /// One after the other, transfers and computations each.
    Fifo,
    /// All at once, by equal parts.
    Shared,
}

/// What happened in a [`World`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// A job's data is there.
    Sent {
        /// Which job.
        job: u32,
        /// Where.
        node: u32,
    },
    /// A job is done.
    Finished {
        /// Which job.
        job: u32,
        /// Where.
        node: u32,
    },
}

/// A job that comes at some time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrival {
    /// Seconds since the beginning.
    pub at: f64,
    /// What it takes.
    pub job: Job,
    /// A node where its data lies already: there it is not sent.
    pub data_at: Option<u32>,
}

impl Arrival {
    /// A job whose data is with the requester.
    pub fn new(at: f64, job: Job) -> Self {
        Self { at, job, data_at: None }
    }
}
