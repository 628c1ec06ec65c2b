//! The pure core: what to send and what to believe, with the time as a parameter.

mod beacon;
pub mod coordinates;
pub mod follow;
pub mod group;
mod mandate;
mod membership;
pub mod query;
pub mod region;
pub mod registry;
mod search;

pub use beacon::Beacon;
pub use mandate::Mandate;
pub use membership::{Care, Command, Membership, Seen};
pub use search::{Found, Search};
