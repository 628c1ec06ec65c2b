//! A home's files served to where the app is. Later the base of the whole grid file system.
//!
//! ```text
//!   app ─ kernel ─ fuse::Mount ─ client::Client ═══ stream ═══ server::Server ─ kernel ─ files
//!                                     │                              │
//!                               cache::Cache                    pins, manifests
//!        where the app is                                            home
//! ```
//!
//! Home and "where the app is" may be one node: a file system that cannot map ids is shown to a
//! capsule in the same way. The core knows neither FUSE nor the network: the client is given streams by a
//! [`client::Transport`], the server is handed the other ends, and [`fuse`] (a feature, on by
//! default) is one adapter on top of the client.
//!
//! | module | what it does |
//! |---|---|
//! | [`proto`] | requests, answers, frames; names that cannot leave their directory |
//! | [`server`] | carries requests out at home with the app's own rights; pins; its control socket |
//! | [`client`] | inodes, open files, deadlines, resumption, read-ahead, prefetch |
//! | [`cache`] | verified contents of system files on disk, with a cap |
//! | [`manifest`] | the digests that verify them |
//! | [`fuse`] | the mount: owners, listings, its certain end |
//! | [`ids`] | the app's user and group ids on this node |
//!
//! # The contract
//! * **Exactly once.** A session outlives its connections; whatever was asked for and not
//!   answered when one was cut is asked again over the next, and the server answers from memory
//!   what it has done already.
//! * **Never a hang.** Each operation ends within its deadline. A home that is lost means `EIO`,
//!   at once after the first deadline has passed; when it is back, work goes on. A mount can be
//!   removed at any time, whoever uses it.
//! * **Rights.** The server's process has the app's rights and no others, so home's kernel
//!   decides. No request leaves the directory it names, no link is followed, no device, pipe or
//!   socket is opened. Whatever comes from the other side is bounded and checked, on both sides.
//! * **The user's files** are close-to-open and written through: when a write returns, home has
//!   it, and home's other programs see it.
//! * **The system's files** (whatever the app sees on read-only mounts) are verified against
//!   BLAKE3 manifests, when fetched and when read from the cache. Each open asks home whether
//!   the file is still the same.
//! * **Pins.** Between the dump of an app and the end of its move the inodes it has mapped or
//!   open stay reachable under their paths, whatever an upgrade does to the names.
//! * **One epoch.** [`server::Server::fence`] ends every older copy's effects; when it has
//!   returned, none is under way either.
//!
//! # Deliberately absent
//! File locks across machines (see [`fuse`] for why), access control lists and attributes other
//! than `user.`, writing to the home's system, change notification (inotify sees what happens
//! through the mount, not what happens at home), any path to home's devices, pipes and sockets.

pub mod cache;
pub mod client;
#[cfg(feature = "fuse")]
pub mod fuse;
pub mod ids;
pub mod manifest;
mod os;
pub mod proto;
pub mod server;

pub use cache::Cache;
pub use client::{Client, ClientConfig, Transport};
#[cfg(feature = "fuse")]
pub use fuse::{Mount, Owners};
pub use server::{ControlClient, Server, ServerConfig};
