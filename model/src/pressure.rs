use std::time::Duration;

use crate::Resource;

/// For how long programs on this machine have been held up, all added up since some time long ago:
/// the `total` of the lines in `/proc/pressure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pressure {
    /// When it was read.
    pub at: Duration,
    /// Something was ready to run and waited for a CPU.
    pub cpu: Duration,
    /// Something waited for memory.
    pub memory: Duration,
    /// All that was not idle waited for a disk.
    pub disk: Duration,
}

impl Pressure {
    /// Each kind with the resource of an app that weighs on it.
    pub fn kinds(&self) -> [(Resource, Duration); 3] {
        [(Resource::Cpu, self.cpu), (Resource::Memory, self.memory), (Resource::Disk, self.disk)]
    }
}
