//! Where jobs go: policies, all behind one trait.
//!
//! ```text
//!            Event: dispatched, sent, finished ──> told ─┐
//!  Profile of a job ──> choose ──> node                  ├── Policy: what it knows of each node
//!                         └──> it waits ──> release ──> node, or on to another one
//! ```
//!
//! - [`RoundRobin`], [`Flops`] and [`Ncda`] are the paper's (phantomos, section 4.3).
//! - [`reference`] has textbook ones to compare with; [`named`] gives any of them by its name.
//! - [`Adaptive`] is the default. What it needs to know of a job says who hands it in, or what
//!   [`Earlier`] runs took.
//!
//! Pure: the time is a parameter, in seconds since any one origin; randomness comes from a seed.

mod adaptive;
mod classic;
mod earlier;
mod named;
mod random;
pub mod reference;
mod state;

pub use adaptive::Adaptive;
pub use classic::{Flops, Ncda, RoundRobin, Sum};
pub use earlier::{Earlier, MOST_PROGRAMS};
pub use named::{ALL, PAPER, named};
pub use random::Random;
pub use state::State;

use crate::Job;

/// What is known of a job before it has run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Profile {
    /// What it is expected to take.
    pub job: Job,
    /// By which factor that may be off: 1 where it is exact, 2 where it takes between half and
    /// double. Less than 1 counts as 1.
    pub doubt: f64,
    /// A node where its data lies already: there nothing has to be sent.
    pub data_at: Option<u32>,
}

impl Profile {
    /// A job of which everything is known, and whose data is with who asks.
    pub fn exact(job: Job) -> Self {
        Self { job, doubt: 1.0, data_at: None }
    }
}

/// What happened to a job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// It was given to a node.
    Dispatched {
        /// Which job.
        job: u32,
        /// Where.
        node: u32,
        /// Whether it has data that has to be sent.
        data: bool,
    },
    /// Its data is there; comes only where there is any.
    Sent {
        /// Which job.
        job: u32,
        /// Where.
        node: u32,
    },
    /// So much of its data was there when it was looked at.
    Progress {
        /// Which job.
        job: u32,
        /// Where.
        node: u32,
        /// How much.
        bytes: f64,
    },
    /// It is done.
    Finished {
        /// Which job.
        job: u32,
        /// Where.
        node: u32,
    },
    /// It was taken away before it was done.
    Withdrawn {
        /// Which job.
        job: u32,
        /// From where.
        node: u32,
        /// Whether its data was still on the way.
        sending: bool,
    },
}

/// An event, as a broker hears of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct News {
    /// What happened.
    pub event: Event,
    /// When.
    pub at: f64,
    /// Whether this broker itself placed the job.
    pub own: bool,
}

/// What a broker does beside placing the job that just came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// A job that waited goes to a node.
    Give {
        /// Which job.
        job: u32,
        /// Where to.
        node: u32,
    },
    /// How much of a job's data is there is to be told, as [`Event::Progress`]; not at all if it is
    /// all there.
    Look {
        /// Which job.
        job: u32,
    },
    /// A job is taken back from the node it was given to; it is given to another one later. What
    /// was computed is kept, its data has to be sent anew.
    Recall {
        /// Which job.
        job: u32,
    },
}

/// Places jobs on the nodes of one grid.
pub trait Policy {
    /// Something happened, to a job of its own or of another broker.
    fn told(&mut self, news: &News, now: f64);

    /// Where a job that comes now goes; `None` when it waits with the policy, or when no node can
    /// take it. `id` names the job in events.
    fn choose(&mut self, id: u32, profile: &Profile, now: f64) -> Option<u32>;

    /// What is to be done now for jobs that wait or run; asked again until there is nothing.
    /// It is asked when all that happened at `now` was told and chosen for.
    fn release(&mut self, now: f64) -> Option<Command> {
        let _ = now;
        None
    }

    /// When [`Self::release`] is to be asked even if nothing happens before.
    fn wake(&self) -> Option<f64> {
        None
    }
}
