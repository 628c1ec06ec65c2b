//! Bytes spread over members as shards, any `k` of which give them back.
//!
//! ```text
//!  bytes ──split──▶ manifest (small, kept where it cannot be forged or lost)
//!               └─▶ k + m shards, one for each member ──┐
//!                                                       ▼ some are gone, old, damaged or invented
//!  bytes ◀──bytes── Assembly ◀──offer── shards, checked one by one against the manifest
//! ```
//!
//! A Reed-Solomon code over GF(2^8) (reed-solomon-erasure): the first `k` shards are the bytes
//! themselves, `m` are parity. The [`Manifest`] has the version, the length, and a digest of every
//! shard and of the whole (BLAKE3); whoever has it knows of each shard whether it is the one, so a
//! corrupt, stale or foreign shard is named and never used, and recovery is never tried with it.
//!
//! How many of either is a matter of how many members there are and how likely each is away
//! ([`Scheme::choose`]).
//!
//! Cost: splitting and recovering run over slices of [`SLICE`] bytes, which stay in the caches; a
//! digest of every shard is about as much again. `bench erasure` has the figures. The code's own
//! SIMD (`simd-accel`) is C that is built for one kind of processor and ends on any older one with
//! an illegal instruction; it would save a quarter at 7 shards and two thirds at 64.
//!
//! Absent on purpose: who holds which shard and when they are spread anew (discovery), and where the
//! manifest is kept (the elected group).

mod assembly;
mod code;
mod scheme;

pub use assembly::{Assembly, Refusal};
pub use code::{Digest, Manifest, Shard, Version, split};
pub use scheme::{MAX_SHARDS, Scheme, SchemeError};

/// Shards are worked on in slices of so many bytes.
pub const SLICE: usize = 128 << 10;
