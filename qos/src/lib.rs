//! Who exceeds which limit, by how much, since when, and whether it is getting worse.
//!
//! The kernel monitor reports when an app begins and ceases to exceed a limit ([`Crossing`]) and
//! tells on request what it uses ([`Sample`]). [`Machine`] makes of this exactly one
//! [`Verdict`](phantom_model::Verdict) for each excursion, however often the crossing is reported:
//!
//! ```text
//!            begins: verdict                    rearm
//!   Below ───────────────────> Over ──────────────────────────> Waiting
//!     ^                         │ ^                                │  │
//!     │          ends           │ │     pause over: verdict        │  │
//!     ├─────────────────────────┘ └────────────────────────────────┘  │
//!     │          ends (the pause goes on; a new excursion waits)      │
//!     └───────────────────────────────────────────────────────────────┘
//! ```
//!
//! A verdict is acted upon once. When nothing came of it (no node would take the app, the move
//! failed), the node calls [`Machine::rearm`]: if the excursion lasts, or another one begins, a new
//! verdict falls when the pause is over, so that a refused app does not ask every second.
//!
//! An excursion ends when the app has fallen a tenth below its level; hovering around the level is
//! one excursion, not many.
//!
//! A limit on `stutter` is of the machine, not of the app: nobody crosses it, the machine does
//! ([`Pressure`](phantom_model::Pressure)). All apps that have the limit are candidates then, and one verdict falls at a
//! time: for a foreign app before an own one, then for the app that uses most of what there is too
//! little of. The next one falls when the pause is over, or at once if nothing came of the first.
//!
//! [`Programs`] does the same, more coarsely, for programs that Phantom did not start: they cannot
//! be moved, but their owner can be told.
//!
//! After the monitor was told to watch an app anew (other limits, `phantom qos on`), tell the
//! machine too: both begin afresh, and an excursion that lasts is reported again.
//!
//! Pure: no clock, no I/O. Times are spans since any one origin, the same for all calls; the
//! monotonic clock serves.
//!
//! Absent on purpose: where an app could go (the broker's matter), and measuring (the monitor's).

mod command;
mod config;
mod machine;
mod pressure;
mod programs;
mod trend;

pub use command::{Command, Crossing, Sample, Use};
pub use config::Config;
pub use machine::Machine;
pub use programs::{Process, Programs, Report, Rule, Totals};
pub use trend::{Course, Quantity, Trend};
