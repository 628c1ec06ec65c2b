//! The kernel-level envelope of an app: namespaces, ids, root, terminal, network, init.
//!
//! A capsule is the unit that is measured, frozen, saved and moved. Its life at home:
//!
//! ```text
//!  AppSpec ─► os::host::read ─► plan ─► os::spawn::start ─► running ─► ended (init has exited)
//!             (what is here)   (pure)   (carries it out)      │  ▲
//!                                                     freeze  ▼  │ thaw
//!                                       terminal::drain ◄─ frozen ─► terminal::refill
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | [`plan`] | decides on everything: mounts, ids, environment, what a checkpoint must name |
//! | [`ids`], [`mountinfo`] | the id range; the kernel's mount table |
//! | [`os`] | system calls: executor, pseudo terminals, staging for a restore, file server |
//! | [`cgroup`] | freeze, thaw, kill, wait |
//! | [`net`] | link, addresses and address translation at home |
//! | [`terminal`] | what waits in a terminal, carried to another |
//! | [`wire`] | messages over streams |
//! | [`relay`] | the terminal of an app that is away, exactly once over streams that break |
//! | [`attach`] | the user's terminals, and the hub between them and the app |
//!
//! Inside, the app runs with its user's own ids, without capabilities, on a read-only view of the
//! home's system; the user's home and working directories are the real ones (served by somebody
//! else where the file system cannot map ids, see [`plan::Shown`]), `/tmp`, `/run` and `/dev` are
//! private. Process 1 is a reaping init of 4 KB, process 2 the app, leader of its
//! session on a terminal whose master the shim holds.
//!
//! Deliberately absent: resource limits (the monitor measures, a move relieves), saving and
//! restoring (`checkpoint` does it from [`Capsule`]), a network away from home, nested capsules,
//! and a sandbox against hostile apps: at home an app may do what its user may.

pub mod attach;
pub mod capsule;
pub mod cgroup;
mod error;
pub mod ids;
pub mod mountinfo;
pub mod net;
pub mod os;
pub mod plan;
pub mod relay;
mod seccomp;
pub mod terminal;
pub mod wire;

pub use capsule::Capsule;
pub use error::Error;
