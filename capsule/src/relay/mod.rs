//! The terminal of an app that runs away from home: bytes carried exactly once between the home's
//! shim and the shim that holds the app, over a stream that may break and be made again at any
//! time, and across moves from one host to the next.
//!
//! ```text
//!   home shim (user side)                          away shim (app side)
//!   hub ── push ──▶ Relay ══ frames over a stream ══ Relay ── bytes ──▶ pty master
//!       ◀─ bytes ──       ◀═══════════════════════         ◀─ push ──
//! ```
//!
//! Each direction numbers its bytes from 0. A side keeps what the other has not yet taken for
//! good, and each new stream begins with both sides saying how far they have got. [`Relay`] is
//! pure; [`endpoint`] drives the app side, [`crate::attach::hub`] the user side.

pub mod endpoint;
pub mod link;
mod machine;

pub use machine::{Broken, Event, Frame, Relay, RelayState, WINDOW_BYTES};
