//! What the monitor asks of the system besides BPF.

use std::io;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use crate::MonitorError;

const POSSIBLE_CPUS: &str = "/sys/devices/system/cpu/possible";

/// The monotonic clock that all times of the monitor are of. It stands still while the machine
/// sleeps.
pub fn now() -> Duration {
    // The kernel cannot refuse this clock.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

/// The highest CPU number that may ever come online, plus one.
pub(crate) fn possible_cpus() -> Result<u64, MonitorError> {
    let failed = |source| MonitorError::Cpus { path: POSSIBLE_CPUS, source };
    let text = std::fs::read_to_string(POSSIBLE_CPUS).map_err(failed)?;
    last_cpu(&text)
        .map(|last| last + 1)
        .ok_or_else(|| failed(io::Error::new(io::ErrorKind::InvalidData, text.trim_end())))
}

/// The highest number of a list like `0-3,8-11`.
fn last_cpu(list: &str) -> Option<u64> {
    list.trim_end().rsplit([',', '-']).next()?.parse().ok()
}

pub(crate) fn page_bytes() -> u64 {
    let bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    bytes.and_then(|bytes| bytes.try_into().ok()).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_cpu_of_a_list() {
        for (list, last) in [("0\n", 0), ("0-1\n", 1), ("0-3,8-11\n", 11), ("0,2\n", 2)] {
            assert_eq!(last_cpu(list), Some(last), "{list}");
        }
        assert_eq!(last_cpu(""), None);
    }
}
