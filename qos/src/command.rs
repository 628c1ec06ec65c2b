use std::time::Duration;

use phantom_model::{AppId, Bytes, Percent, Resource, Verdict};

/// The monitor's word that an app begins or ceases to exceed a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crossing {
    /// Which app.
    pub app: AppId,
    /// Which of its limits.
    pub resource: Resource,
    /// True if the excursion begins, false if it ends.
    pub over: bool,
    /// Percent of a core over the window, or resident bytes.
    pub measured: u64,
    /// When the window was full and the level exceeded.
    pub crossed: Duration,
    /// Since when the level has been exceeded.
    pub since: Duration,
}

/// What an app uses at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Which app.
    pub app: AppId,
    /// When.
    pub at: Duration,
    /// Mean CPU use over the window of its CPU limit.
    pub cpu: Percent,
    /// Highest such mean so far.
    pub cpu_peak: Percent,
    /// Resident memory.
    pub memory: Bytes,
    /// Highest resident memory so far.
    pub memory_peak: Bytes,
}

/// What the machine wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// An app exceeds a limit: find it a better place.
    Verdict {
        /// Which app.
        app: AppId,
        /// Which limit, by how much, since when.
        verdict: Verdict,
    },
}
