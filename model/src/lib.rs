//! Phantom's vocabulary: ids, units, limits, app records, node facts and the messages of a
//! hand-off. Everything here is plain data with its checks; there is no I/O and no clock.
//!
//! | module | what it names |
//! |---|---|
//! | [`id`] | nodes, sub-grids, apps, epochs |
//! | [`unit`] | percent of a core, bytes, windows, with their text forms |
//! | [`limit`] | `cpu=150%/10s,memory=2GiB` and what exceeds it |
//! | [`app`] | what a user started, where it runs, who may grant its next epoch |
//! | [`node`] | what a node tells others about itself |
//! | [`policy`] | what the sub-grid's admin has set for all members |
//! | [`vo`] | virtual organisations by name |
//! | [`follow`] | services that run wherever the super-peer is |
//! | [`frame`] | how messages lie on a byte stream |
//! | [`handoff`] | the steps of a move and the messages that drive them |

pub mod app;
pub mod follow;
pub mod frame;
pub mod handoff;
pub mod id;
pub mod limit;
pub mod node;
mod pattern;
pub mod policy;
mod pressure;
pub mod unit;
pub mod vo;

pub use app::{AppRecord, AppSpec, Credentials, TermSize};
pub use follow::Follow;
pub use handoff::{MoveId, Step};
pub use id::{AppId, Epoch, NodeId, SubgridId};
pub use limit::{Limit, Limits, Resource, Verdict};
pub use node::{Capability, NodeFacts};
pub use pattern::fits;
pub use policy::{Policy, Site, Subject};
pub use pressure::Pressure;
pub use unit::{Bytes, Percent, Window};
pub use vo::{VoId, VoMembers};
