//! Faults at every step of a move: whatever breaks, the app lives on exactly one node, with its
//! state and its terminal, and the user reads why.

#[path = "faults/home.rs"]
mod home;
#[path = "faults/link.rs"]
mod link;
#[path = "faults/lost.rs"]
mod lost;
#[path = "faults/room.rs"]
mod room;
#[path = "faults/session.rs"]
mod session;
#[path = "faults/stale.rs"]
mod stale;
#[path = "faults/target.rs"]
mod target;
