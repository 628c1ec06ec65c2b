//! Makes a clone a machine of its own: its name, its ids, its time, its random numbers.

use anyhow::{Context, ensure};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

use super::os;
use crate::desktops::wire::Identity;

/// Takes on an identity. The network belongs to it too, and is the host's to set up: its settings
/// are the scenario's.
pub fn assume(identity: &Identity) -> anyhow::Result<()> {
    let Identity { hostname, machine_id, seed, unix_ns } = identity;
    ensure!(seed.len() >= 32, "a seed of only {} bytes", seed.len());
    os::reseed(seed).context("seeding the random number generator")?;
    clock_settime(
        ClockId::CLOCK_REALTIME,
        TimeSpec::new(unix_ns / 1_000_000_000, unix_ns % 1_000_000_000),
    )
    .context("setting the clock")?;
    nix::unistd::sethostname(hostname).context("setting the host name")?;
    for (file, text) in [
        ("/etc/hostname", hostname.clone()),
        ("/etc/hosts", format!("127.0.0.1 localhost\n127.0.1.1 {hostname}")),
        ("/etc/machine-id", machine_id.clone()),
    ] {
        std::fs::write(file, text + "\n").with_context(|| format!("writing {file}"))?;
    }
    Ok(())
}
