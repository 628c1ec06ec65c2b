use std::time::Duration;

/// How verdicts are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// After a verdict that led to nothing, the next one for the same limit falls no sooner.
    pub pause: Duration,
    /// When so long nobody has said what came of a verdict, nothing did.
    pub patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { pause: Duration::from_secs(30), patience: Duration::from_secs(600) }
    }
}
