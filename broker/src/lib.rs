//! Where an app shall go.
//!
//! ```text
//!  Situation: what it uses, its excess ─┐
//!  Needs: CPU, memory, policy ──────────┤
//!  Candidates: facts, as they say ──────┼──> decide ──> go there, because …
//!     Bandwidth: measured ──────────────┤         └──> stay, because …
//!     Standing: work done, past results ┤
//!  Left: where it was too much ─────────┘
//! ```
//!
//! A node is ranked by network and compute (NCDA; phantomos, section 4.3): half by what the app
//! would get there, half by the way to it, each against the best of the candidates. The best ranked
//! whose gain is twice its cost is taken:
//!
//! - *What it would get*: its fair share of as many cores as it uses here, beside what runs there
//!   already, times the speed of one core; what the node says, corrected by what was measured
//!   ([`Standing`]).
//! - *Gain*: core-seconds won over the time it is likely to run on, faster or slower, and, twice,
//!   what its user does not want it to take here.
//! - *Cost*: what it does not compute while it stands still; the image has to be sent.
//!
//! It does not go back to where it exceeded its limits unless it would get a third more there
//! ([`Left`]): two equal nodes do not pass it to and fro.
//!
//! For jobs that have not begun there are policies ([`policy`]: round robin, FLOPS, NCDA and the
//! default, which adapts), and a simulator to try them on ([`sim`], SimGrid's model).
//!
//! Pure: the time is a parameter, spans since any one origin. Absent on purpose: sending probes and
//! work (the node does), and the queue that jobs are handed to.

mod bandwidth;
mod candidate;
mod decide;
mod grid;
mod left;
mod pace;
pub mod policy;
pub mod sim;
mod standing;
mod timers;
mod work;

pub use bandwidth::{Bandwidth, Estimate, PROBE_BYTES, ProbeBudget, SLOW_PROBE};
pub use candidate::{Candidate, Link, Needs, Organisation, Requirement, Rules};
pub use decide::{Decision, Situation, Weighed, Weight, decide};
pub use grid::{Grid, GridNode, Job};
pub use left::Left;
pub use pace::{Crawl, Pace};
pub use standing::Standing;
pub use work::{PIECES, STEPS, mflops, work};
