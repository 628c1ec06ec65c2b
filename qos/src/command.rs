use std::time::Duration;

use phantom_model::{AppId, Resource, Verdict};

/// The monitor's word that an app begins or ceases to exceed a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crossing {
    /// Which app.
    pub app: AppId,
    /// Which of its limits.
    pub resource: Resource,
    /// True if the excursion begins, false if it ends.
    pub over: bool,
    /// In the unit of the limit.
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
    /// What it uses of each resource of an app ([`Resource::index`]).
    pub uses: [Use; Resource::OF_AN_APP.len()],
}

/// What an app uses of a resource, in the unit of its limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    /// Mean over the window of its limit; memory: now.
    pub now: u64,
    /// The highest so far.
    pub peak: u64,
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
