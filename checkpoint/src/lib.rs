//! Saves a capsule, checks a saved one, restores it, and decides how it is handed over between two
//! nodes.
//!
//! ```text
//!        source                                              target
//!   frozen capsule ──dump──> image ──stream──> image ──check──> rewrite ids ──restore──> held
//!        │                  (tmpfs)            (tmpfs)                                    │
//!      thaw  <── failure before the commit ──────────────── removed            resume <───┘
//! ```
//!
//! | module | what it does | I/O |
//! |---|---|---|
//! | [`machine`] | decides a move: home, source and target as pure state machines | none |
//! | [`plan`] | what a dump and a restore are told | none |
//! | [`dump`](mod@dump), [`restore`](mod@restore) | carry a plan out with CRIU | yes |
//! | [`stream`] | an image on its way, while it is still being written | yes |
//! | [`image`] | an image from another node held against the app record; its ids moved | yes |
//! | [`inspect`](mod@inspect) | what stands in the way of a move; which files are in use | yes |
//! | [`canary`](mod@canary) | what this machine's CRIU can do, by doing it | yes |
//!
//! What callers rely on:
//! - After [`dump::dump`] the capsule is as frozen as before, whether the dump succeeded, failed,
//!   was cancelled or CRIU was killed; it never ran in between, unless CRIU was killed.
//! - [`restore::restore`] gives a tree that is complete and has executed nothing;
//!   [`restore::Held::resume`] lets it go, dropping it removes it all.
//! - Every wait has a deadline; operations that block take a [`Cancel`]. They are synchronous: call
//!   them from a blocking thread. The restored root becomes a child of the calling process.
//! - CRIU is a separate program, spoken to by its RPC protocol. The few messages used are declared
//!   here: the published client lacks fields this needs (page options, network locks, leaving the
//!   tree stopped) and starts CRIU in a way that cannot pass descriptors on.
//!
//! Deliberately absent: the network (whoever calls carries [`stream::Extent`]s and
//! [`phantom_model::handoff`] messages), the terminal's waiting bytes, the files, the record's
//! storage. Pre-copy and post-copy are not here yet.

pub mod canary;
mod cancel;
pub mod dump;
mod error;
pub mod image;
pub mod inspect;
mod log;
pub mod machine;
mod os;
pub mod plan;
pub mod restore;
pub mod stream;

pub use cancel::Cancel;
pub use error::{Error, Task};
pub use os::criu::{Criu, Version};
