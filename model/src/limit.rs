//! The limits a user sets for an app, `cpu=150%/10s,memory=2GiB`, and what a crossing looks like.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::unit::{Bytes, Percent, UnitError, Window};

/// What can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    /// CPU time of all threads, living and ended.
    Cpu,
    /// Resident anonymous and shared memory of all processes.
    Memory,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resource::Cpu => "cpu",
            Resource::Memory => "memory",
        })
    }
}

/// One level, and the window over which it must hold before it counts as exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// The mean over `window` must not exceed `level` of one core.
    Cpu {
        /// Percent of one core.
        level: Percent,
        /// Averaging window.
        window: Window,
    },
    /// Resident memory must not stay above `level` for all of `window`.
    Memory {
        /// Resident bytes.
        level: Bytes,
        /// How long the level must be exceeded without a break.
        window: Window,
    },
}

impl Limit {
    /// A CPU limit without a window means this one.
    pub const DEFAULT_CPU_WINDOW: Duration = Duration::from_secs(10);
    /// A memory limit without a window means this one.
    pub const DEFAULT_MEMORY_WINDOW: Duration = Duration::from_secs(1);

    /// What it limits.
    pub fn resource(&self) -> Resource {
        match self {
            Limit::Cpu { .. } => Resource::Cpu,
            Limit::Memory { .. } => Resource::Memory,
        }
    }

    /// How high it is: percent of a core for CPU, bytes for memory.
    pub fn level(&self) -> u64 {
        match self {
            Limit::Cpu { level, .. } => u64::from(level.0),
            Limit::Memory { level, .. } => level.0,
        }
    }

    /// The time over which it must be exceeded.
    pub fn window(&self) -> Window {
        match self {
            Limit::Cpu { window, .. } | Limit::Memory { window, .. } => *window,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Cpu { level, window } => write!(f, "cpu={level}/{window}"),
            Limit::Memory { level, window } => write!(f, "memory={level:#}/{window}"),
        }
    }
}

/// A limit that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LimitError {
    /// Neither `cpu` nor `memory`.
    #[error("unknown limit `{0}`; known are `cpu=150%/10s` and `memory=2GiB`")]
    Unknown(String),
    /// No `=`.
    #[error("`{0}` has no value; write it like `cpu=150%/10s`")]
    NoValue(String),
    /// The level or the window is wrong.
    #[error("limit `{limit}`: {source}")]
    Value {
        /// The limit as given.
        limit: String,
        /// What is wrong with it.
        source: UnitError,
    },
    /// One resource twice.
    #[error("`{0}` is limited twice; give one limit for each resource")]
    Twice(Resource),
}

/// The limits of an app, at most one for each resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Limits(Vec<Limit>);

impl Limits {
    /// All of them, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = &Limit> {
        self.0.iter()
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The limit of one resource.
    pub fn get(&self, resource: Resource) -> Option<Limit> {
        self.0.iter().copied().find(|limit| limit.resource() == resource)
    }
}

impl FromIterator<Limit> for Limits {
    /// The first limit of each resource.
    fn from_iter<T: IntoIterator<Item = Limit>>(limits: T) -> Self {
        let mut kept = Self::default();
        for limit in limits {
            if kept.get(limit.resource()).is_none() {
                kept.0.push(limit);
            }
        }
        kept
    }
}

impl FromStr for Limits {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let mut limits: Vec<Limit> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let limit = parse_limit(part)?;
            if limits.iter().any(|known| known.resource() == limit.resource()) {
                return Err(LimitError::Twice(limit.resource()));
            }
            limits.push(limit);
        }
        Ok(Self(limits))
    }
}

fn parse_limit(part: &str) -> Result<Limit, LimitError> {
    let (name, value) = part.split_once('=').ok_or_else(|| match part {
        "cpu" | "memory" => LimitError::NoValue(part.to_owned()),
        _ => LimitError::Unknown(part.to_owned()),
    })?;
    let wrong = |source| LimitError::Value { limit: part.to_owned(), source };
    let (level, window) = match value.split_once('/') {
        Some((level, window)) => (level, Some(window.parse::<Window>().map_err(wrong)?)),
        None => (value, None),
    };
    match name {
        "cpu" => Ok(Limit::Cpu {
            level: level.parse().map_err(wrong)?,
            window: window.unwrap_or(Window(Limit::DEFAULT_CPU_WINDOW)),
        }),
        "memory" => Ok(Limit::Memory {
            level: level.parse().map_err(wrong)?,
            window: window.unwrap_or(Window(Limit::DEFAULT_MEMORY_WINDOW)),
        }),
        _ => Err(LimitError::Unknown(name.to_owned())),
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, limit) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            limit.fmt(f)?;
        }
        Ok(())
    }
}

/// The finding that an app exceeds one of its limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The limit that is exceeded.
    pub limit: Limit,
    /// What was measured: percent of a core for CPU, resident bytes for memory.
    pub measured: u64,
    /// How long the level had been exceeded when the verdict fell.
    pub held: Duration,
    /// From the moment the window was full to the verdict.
    pub delay: Duration,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held.as_secs_f64();
        match self.limit {
            Limit::Cpu { level, window } => write!(
                f,
                "uses {} of a core over {window}, {} more than its limit of {level}, since {held:.1} s",
                Percent(self.measured as u32),
                Percent((self.measured as u32).saturating_sub(level.0)),
            ),
            Limit::Memory { level, .. } => write!(
                f,
                "holds {} of memory, {} more than its limit of {level}, since {held:.1} s",
                Bytes(self.measured),
                Bytes(self.measured.saturating_sub(level.0)),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits_read_and_write() {
        let limits: Limits = "cpu=150%/10s,memory=2GiB".parse().unwrap();
        assert_eq!(limits.to_string(), "cpu=150%/10s,memory=2GiB/1s");
        assert_eq!(limits.to_string().parse::<Limits>().unwrap(), limits);
        assert!("".parse::<Limits>().unwrap().is_empty());
    }

    #[test]
    fn limits_survive_postcard_and_json() {
        let limits: Limits = "cpu=150%/10s,memory=2GiB".parse().unwrap();
        let binary = postcard::to_stdvec(&limits).unwrap();
        assert_eq!(postcard::from_bytes::<Limits>(&binary).unwrap(), limits);
        let json = serde_json::to_string(&limits).unwrap();
        assert_eq!(serde_json::from_str::<Limits>(&json).unwrap(), limits);
    }

    #[test]
    fn a_wrong_limit_gets_one_clear_line() {
        for (text, line) in [
            (
                "cpu=15x",
                "limit `cpu=15x`: `15x` is not a share of a core in percent; write it like `150%`",
            ),
            ("disk=3", "unknown limit `disk`; known are `cpu=150%/10s` and `memory=2GiB`"),
            ("cpu", "`cpu` has no value; write it like `cpu=150%/10s`"),
            ("cpu=1%,cpu=2%", "`cpu` is limited twice; give one limit for each resource"),
            (
                "cpu=1%/1d",
                "limit `cpu=1%/1d`: `1d` is not a window between 100ms and 24h; write it like `10s`",
            ),
        ] {
            assert_eq!(text.parse::<Limits>().unwrap_err().to_string(), line);
        }
    }

    #[test]
    fn a_verdict_says_which_by_how_much_since_when() {
        let limits: Limits = "cpu=150%/10s".parse().unwrap();
        let verdict = Verdict {
            limit: limits.get(Resource::Cpu).unwrap(),
            measured: 190,
            held: Duration::from_secs(10),
            delay: Duration::from_millis(12),
        };
        assert_eq!(
            verdict.to_string(),
            "uses 190% of a core over 10s, 40% more than its limit of 150%, since 10.0 s"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[a-z=%/,0-9GiB ]{0,40}") {
            if let Ok(limits) = text.parse::<Limits>() {
                prop_assert!(limits.iter().count() <= 2);
            }
        }
    }
}
