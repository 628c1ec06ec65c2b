//! Test desktops: whole machines with a stock Debian kernel, their own disk, clock and network,
//! for what namespaces cannot show.
//!
//! ```no_run
//! # use phantom_tests::desktops::{Lan, Release};
//! # fn main() -> anyhow::Result<()> {
//! let lan = Lan::new()?.delay_ms(20).loss_percent(0.5);
//! let alice = lan.desktop("alice").release(Release::Debian12).person("ada", 1000).start()?;
//! let mut bob = lan.desktop("bob").cpus(2).start()?;
//! alice.run("ping -c 1 10.78.0.2")?;
//! bob.kill_power()?;
//! # Ok(())
//! # }
//! ```
//!
//! A desktop is a clone: one of its [`Shape`] is booted once, saved ([`golden`]), and goes on from
//! there in about a second. An [`agent`] in it does what the scenario says, over a virtio port.
//! QEMU processes end with the thread that started them, networks with the process; nothing stays
//! but the caches.

pub mod agent;
mod control;
mod delivery;
mod desktop;
pub mod golden;
mod host;
mod initrd;
mod lan;
mod line;
mod link;
mod machine;
mod os;
mod shape;
pub mod visit;
pub mod wire;

use std::time::Duration;

pub use desktop::{Desktop, DesktopPlan};
pub use host::Host;
pub use lan::{Lan, Link};
pub use shape::{Accel, Init, Release, Shape};

/// How long anything small may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);
