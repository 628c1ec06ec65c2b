//! Kernel programs that watch capsules, and their loader.
mod error;
mod monitor;
mod os;
mod wire;

pub use error::MonitorError;
pub use monitor::{Cost, Crossing, MAX_APPS, Monitor, Reading, programs_loaded};
pub use os::now;
