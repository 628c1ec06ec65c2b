//! A region in the DNS: finding its region-peer by `grid://NAME`, and keeping the entry (section
//! 4.4.3 of the paper: "the current region-peer will always have a specific URI").
//!
//! ```text
//!  grid://NAME ─Finder─▶ entries ──RegionCache::settle──▶ Current: fresh, or cached and how old
//!                        of _phantom._udp.NAME                │ the node there proves the key
//!                          ▲                                  ▼
//!  new region-peer ─Updater┘ RFC 2136, TSIG,               RegionCache::confirm: pinned, kept
//!                            compare and swap
//! ```
//!
//! What holds:
//! - The DNS is not trusted. A region is its public key; once known it is pinned, and an answer with
//!   another key is refused unless the pinned key has signed for it ([`Verify`]). Nothing that an
//!   answer says is kept before a node has proven the key ([`RegionCache::confirm`]).
//! - An entry that is older by its mandate than the known one is refused.
//! - Of writers one wins: an update names exactly the records its writer has seen, and who has a
//!   lower mandate than the entry that is there gives up.
//! - Every look-up and update has a deadline, and says in one line what went wrong.
//!
//! Without the feature `driver` what decides and parses is left: entries, trust, key files.

pub mod entry;
mod found;
mod key;
mod trust;

#[cfg(feature = "driver")]
mod exchange;
#[cfg(feature = "driver")]
mod finder;
#[cfg(feature = "driver")]
mod updater;

pub use entry::{Entry, EntryError, Host, Published};
#[cfg(feature = "driver")]
pub use finder::{Finder, Servers};
pub use found::{FindError, Form, Found};
pub use key::{Algorithm, KeyError, TsigKey};
pub use trust::{
    CacheError, Current, How, Known, MAX_REGIONS, Refusal, RegionCache, RegionError, Source, Trust,
    Verify,
};
#[cfg(feature = "driver")]
pub use updater::{DNS_PORT, Primary, Seen, UpdateError, Updater};
