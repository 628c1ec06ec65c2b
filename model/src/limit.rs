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
    /// CPU time of all threads, living and ended: percent of a core.
    Cpu,
    /// Resident anonymous and shared memory of all processes: bytes.
    Memory,
    /// Time in which threads were ready to run and waited for a CPU, which is what a user feels:
    /// percent, all threads added up.
    Delay,
    /// What went over network interfaces, both ways, the loopback left out: bytes a second.
    Net,
    /// What was read from block devices and written for them: bytes a second.
    Disk,
    /// The machine, not the app, is what is measured: the time in which something on it waited for
    /// a CPU or for memory, or everything for a disk: percent.
    Stutter,
}

impl Resource {
    /// All of them.
    pub const ALL: [Resource; 6] = [
        Resource::Cpu,
        Resource::Memory,
        Resource::Delay,
        Resource::Net,
        Resource::Disk,
        Resource::Stutter,
    ];
    /// Those that are measured of an app; they come first.
    pub const OF_AN_APP: [Resource; 5] =
        [Resource::Cpu, Resource::Memory, Resource::Delay, Resource::Net, Resource::Disk];

    /// Its place in [`Resource::ALL`], and in arrays of one value for each.
    pub fn index(self) -> usize {
        self as usize
    }

    /// As limits call it.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Cpu => "cpu",
            Resource::Memory => "memory",
            Resource::Delay => "delay",
            Resource::Net => "net",
            Resource::Disk => "disk",
            Resource::Stutter => "stutter",
        }
    }

    /// A limit of it, as one may write it.
    pub fn example(self) -> &'static str {
        match self {
            Resource::Cpu => "cpu=150%/10s",
            Resource::Memory => "memory=2GiB",
            Resource::Delay => "delay=50%/10s",
            Resource::Net => "net=10MiB/s/10s",
            Resource::Disk => "disk=50MiB/s/10s",
            Resource::Stutter => "stutter=30%/10s",
        }
    }

    /// The window of a limit that names none: memory does not come and go like the others.
    pub fn default_window(self) -> Window {
        Window(Duration::from_secs(if self == Resource::Memory { 1 } else { 10 }))
    }

    /// An amount of it, as people say it.
    pub fn words(self, amount: u64) -> String {
        match self {
            Resource::Cpu | Resource::Delay | Resource::Stutter => percent(amount).to_string(),
            Resource::Memory => Bytes(amount).to_string(),
            Resource::Net | Resource::Disk => format!("{}/s", Bytes(amount)),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn percent(amount: u64) -> Percent {
    Percent(u32::try_from(amount).unwrap_or(u32::MAX))
}

/// One level, and the window over which it must hold before it counts as exceeded.
///
/// Memory must have been above its level for all of the window; of everything else the mean over
/// the window counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// What it limits.
    pub resource: Resource,
    /// How high it is, in the resource's unit.
    pub level: u64,
    /// The time over which it must be exceeded.
    pub window: Window,
    /// Whether the app is held to it, from when it is exceeded until it has moved or uses less. Only
    /// of CPU (`cpu.max`) and memory (`memory.high`).
    #[serde(default)]
    pub soft: bool,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limit { resource, level, window, soft } = self;
        match resource {
            Resource::Cpu | Resource::Delay | Resource::Stutter => {
                write!(f, "{resource}={}/{window}", percent(*level))
            }
            Resource::Memory => write!(f, "{resource}={:#}/{window}", Bytes(*level)),
            Resource::Net | Resource::Disk => {
                write!(f, "{resource}={:#}/s/{window}", Bytes(*level))
            }
        }?;
        if *soft { f.write_str("/soft") } else { Ok(()) }
    }
}

/// A limit that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LimitError {
    /// No such resource.
    #[error("unknown limit `{0}`; known are {known}", known = known())]
    Unknown(String),
    /// No `=`.
    #[error("`{name}` has no value; write it like `{example}`", name = .0.name(), example = .0.example())]
    NoValue(Resource),
    /// The level or the window is wrong.
    #[error("limit `{limit}`: {source}")]
    Value {
        /// The limit as given.
        limit: String,
        /// What is wrong with it.
        source: UnitError,
    },
    /// What nothing can be held to.
    #[error("`{0}` cannot be soft: only cpu and memory can be held to a limit")]
    NotSoft(Resource),
    /// One resource twice.
    #[error("`{0}` is limited twice; give one limit for each resource")]
    Twice(Resource),
}

fn known() -> String {
    Resource::ALL.map(|resource| format!("`{}`", resource.example())).join(", ")
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
        self.0.iter().copied().find(|limit| limit.resource == resource)
    }
}

impl FromIterator<Limit> for Limits {
    /// The first limit of each resource.
    fn from_iter<T: IntoIterator<Item = Limit>>(limits: T) -> Self {
        let mut kept = Self::default();
        for limit in limits {
            if kept.get(limit.resource).is_none() {
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
            if limits.iter().any(|known| known.resource == limit.resource) {
                return Err(LimitError::Twice(limit.resource));
            }
            limits.push(limit);
        }
        Ok(Self(limits))
    }
}

fn parse_limit(part: &str) -> Result<Limit, LimitError> {
    let (name, value) = part.split_once('=').unwrap_or((part, ""));
    let named = Resource::ALL.into_iter().find(|resource| resource.name() == name);
    let resource = named.ok_or_else(|| match value {
        "" => LimitError::Unknown(part.to_owned()),
        _ => LimitError::Unknown(name.to_owned()),
    })?;
    if value.is_empty() {
        return Err(LimitError::NoValue(resource));
    }
    let wrong = |source| LimitError::Value { limit: part.to_owned(), source };
    let hard = value.strip_suffix("/soft");
    let (value, soft) = (hard.unwrap_or(value), hard.is_some());
    if soft && !matches!(resource, Resource::Cpu | Resource::Memory) {
        return Err(LimitError::NotSoft(resource));
    }
    let (level, window) = match value.rsplit_once('/') {
        // The slash of a rate.
        None | Some((_, "s")) => (value, resource.default_window()),
        Some((level, window)) => (level, window.parse().map_err(wrong)?),
    };
    let bytes = |text: &str| text.parse::<Bytes>().map(|bytes| bytes.0);
    let level = match resource {
        Resource::Cpu | Resource::Delay => level.parse::<Percent>().map(|it| u64::from(it.0)),
        Resource::Stutter => {
            let all = |percent: &Percent| percent.0 < 100;
            level.parse::<Percent>().ok().filter(all).map(|it| u64::from(it.0)).ok_or_else(|| {
                UnitError { text: level.into(), wanted: "a share of the time", example: "30%" }
            })
        }
        Resource::Memory => bytes(level),
        Resource::Net | Resource::Disk => {
            let rate = level.strip_suffix("/s").map(bytes).and_then(Result::ok);
            rate.filter(|rate| *rate > 0).ok_or_else(|| UnitError {
                text: level.to_owned(),
                wanted: "a size a second",
                example: "10MiB/s",
            })
        }
    };
    Ok(Limit { resource, level: level.map_err(wrong)?, window, soft })
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
    /// What was measured, in the unit of the limit.
    pub measured: u64,
    /// How long the level had been exceeded when the verdict fell.
    pub held: Duration,
    /// From the moment the window was full to the verdict.
    pub delay: Duration,
}

impl fmt::Display for Verdict {
    /// Without the subject, which is the app.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limit { resource, level, window, .. } = self.limit;
        let measured = resource.words(self.measured);
        match resource {
            Resource::Cpu => write!(f, "uses {measured} of a core over {window}"),
            Resource::Memory => write!(f, "holds {measured} of memory"),
            Resource::Delay => write!(f, "waited {measured} of the time for a CPU over {window}"),
            Resource::Net => write!(f, "sends and receives {measured} over {window}"),
            Resource::Disk => write!(f, "reads and writes {measured} on disk over {window}"),
            Resource::Stutter => write!(
                f,
                "burdens this machine most while it stutters: programs waited {measured} of the \
                 time over {window}"
            ),
        }?;
        let (more, level) =
            (resource.words(self.measured.saturating_sub(level)), resource.words(level));
        let held = self.held.as_secs_f64();
        write!(f, ", {more} more than its limit of {level}, since {held:.1} s")
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
        let all = Resource::ALL.map(Resource::example).join(",");
        let limits: Limits = all.parse().unwrap();
        assert_eq!(limits.to_string(), all.replace("2GiB", "2GiB/1s"));
        let soft = "cpu=150%/10s/soft,memory=1GiB/1s/soft";
        assert_eq!(soft.parse::<Limits>().unwrap().to_string(), soft);
        assert_eq!("net=1MiB/s".parse::<Limits>().unwrap().to_string(), "net=1MiB/s/10s");
    }

    #[test]
    fn limits_survive_postcard_and_json() {
        let limits: Limits = "cpu=150%/10s,memory=2GiB,disk=1MiB/s".parse().unwrap();
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
            (
                "fan=3",
                "unknown limit `fan`; known are `cpu=150%/10s`, `memory=2GiB`, `delay=50%/10s`, \
                 `net=10MiB/s/10s`, `disk=50MiB/s/10s`, `stutter=30%/10s`",
            ),
            (
                "net=10MiB/5s",
                "limit `net=10MiB/5s`: `10MiB` is not a size a second; write it like `10MiB/s`",
            ),
            (
                "stutter=100%",
                "limit `stutter=100%`: `100%` is not a share of the time; write it like `30%`",
            ),
            ("cpu", "`cpu` has no value; write it like `cpu=150%/10s`"),
            (
                "disk=1MiB/s/soft",
                "`disk` cannot be soft: only cpu and memory can be held to a limit",
            ),
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

    #[test]
    fn each_kind_of_verdict_reads_well() {
        let told = |limit: &str, measured| {
            let limits: Limits = limit.parse().unwrap();
            let limit = *limits.iter().next().unwrap();
            let held = Duration::from_secs(12);
            Verdict { limit, measured, held, delay: Duration::ZERO }.to_string()
        };
        assert_eq!(
            told("disk=1MiB/s", 3 << 20),
            "reads and writes 3 MiB/s on disk over 10s, 2 MiB/s more than its limit of 1 MiB/s, \
             since 12.0 s"
        );
        assert_eq!(
            told("stutter=30%/5s", 55),
            "burdens this machine most while it stutters: programs waited 55% of the time over \
             5s, 25% more than its limit of 30%, since 12.0 s"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[a-z=%/,0-9GiBM ]{0,40}|(net|disk|stutter|delay)=[0-9a-zB%/]{0,9}") {
            if let Ok(limits) = text.parse::<Limits>() {
                prop_assert!(limits.iter().count() <= Resource::ALL.len());
            }
        }
    }
}
