//! Who is near, and who has what is needed: finding a sub-grid on the local network, which of its
//! members live, and which nodes of sub-grid, region and grid match a query.
//!
//! ```text
//!  a node that belongs nowhere                     members
//!    Search ── query, multicast or to a peer ──>     Beacon
//!           <── presence, signed, to who asked ──            ── presence, multicast, when they come
//!    found: several sub-grids, one, or none                     or their network has changed
//!
//!  Membership: SWIM among the members, over authenticated datagrams
//!    Alive ── no answer, or no sign of life in the ring ──> Suspect ── no objection ──> Gone
//!      ^                                                      │ objection               │ heard again
//!      └──────────────────────────────────────────────────────┴─────────────────────────┘
//! ```
//!
//! The members elect a super-peer that decides for them: [`machine::group`].
//! What members say of themselves, their super-peer registers: [`machine::registry`].
//! [`machine::coordinates`] says how far nodes are from each other, [`machine::region`] what a
//! region-peer knows of its sub-grids, [`machine::query`] how a query finds its way; `sim` (feature of
//! that name) runs them by the ten thousand in virtual time.
//!
//! What holds:
//! - Who is a member, certificates tell (the network crate's matter, asked through [`Fabric`]).
//!   What this crate learns is only where members are and whether they live.
//! - A presence is signed by the node and carries its certificate. Where it came from is a hint:
//!   whoever is there must prove its key.
//! - Gossip, and what the group repeats anyway, is taken from members only, each datagram once
//!   ([`envelope`]). Unless datagrams work in both directions it goes over the node's connection.
//! - A query is never shorter than its answer, and answers are bounded in number: nobody can have
//!   others flooded.
//! - The machines take the time as a parameter and are tested in virtual time, whole sub-grids of
//!   them; `--no-default-features` leaves only these.
//!
//! Regions are found by name: `grid://campus.example.org` ([`uri`]) has an entry in the DNS that its
//! region-peer keeps ([`dns`]).
//!
//! Deliberately absent: IPv6 multicast (a local network without IPv4 needs `--peer`).

pub mod dns;
pub mod envelope;
pub mod machine;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod uri;
pub mod wire;

#[cfg(feature = "driver")]
mod config;
#[cfg(feature = "driver")]
mod driver;
#[cfg(feature = "driver")]
mod fabric;
#[cfg(feature = "driver")]
mod lanes;
#[cfg(feature = "driver")]
pub mod region;
#[cfg(feature = "driver")]
mod socket;
#[cfg(feature = "driver")]
mod subgrid;
#[cfg(feature = "driver")]
mod way;

#[cfg(feature = "driver")]
pub use config::{Config, DEFAULT_PORT, GROUP};
#[cfg(feature = "driver")]
pub use driver::{Discovery, Posted};
#[cfg(feature = "driver")]
pub use fabric::{Contact, Fabric, Keep, Signed};
pub use machine::{Found, Seen};
#[cfg(feature = "driver")]
pub use subgrid::{AVAILABILITY, Entry, NotDone, QueryError, Status, SubGrid};
