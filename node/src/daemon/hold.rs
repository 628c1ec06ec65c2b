//! A stop at a chosen border of a move, so that a test can act exactly there: `hold_at` in the
//! configuration.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use phantom_model::Step;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as NameError, StrDeserializer};
use tokio::time::Instant;

use super::Daemon;

/// How long a move is held without a word from the test.
const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks for that word.
const LOOK: Duration = Duration::from_millis(10);

/// A node's part in a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// It holds the record.
    Home,
    /// It has the running copy.
    Source,
    /// It shall have it.
    Target,
}

/// Where to hold: `PART:STEP`, just before the node does the step. The borders there are:
///
/// | `hold_at` | what has happened |
/// |---|---|
/// | `target:prepare` | the record names the move, nothing else |
/// | `source:freeze` | the target is ready |
/// | `source:transfer` | the app stands frozen and is dumped; the image is on its way |
/// | `target:transfer` | the image has left the source |
/// | `target:restore` | the image has arrived whole |
/// | `home:commit` | the record names the target durably; nobody has been told |
/// | `target:resume` | the target was told to let the app run |
/// | `target:drop` | the app runs at the target, which has not reported it |
/// | `source:drop` | the source was told to end its copy |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HoldAt(pub Part, pub Step);

impl FromStr for HoldAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |error: NameError| format!("`{text}` is no border of a move: {error}");
        let (part, step) = text.split_once(':').ok_or_else(|| {
            format!("`{text}` is no border of a move; write it like target:restore")
        })?;
        let part: StrDeserializer<'_, NameError> = part.into_deserializer();
        let step: StrDeserializer<'_, NameError> = step.into_deserializer();
        Ok(Self(Part::deserialize(part).map_err(wrong)?, Step::deserialize(step).map_err(wrong)?))
    }
}

impl TryFrom<String> for HoldAt {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for HoldAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self.0 {
            Part::Home => "home",
            Part::Source => "source",
            Part::Target => "target",
        };
        write!(f, "{part}:{}", self.1)
    }
}

impl Daemon {
    /// Where the configuration says so: makes `held` in the run directory and waits for `go`.
    pub async fn hold(&self, part: Part, step: Step) {
        let here = HoldAt(part, step);
        if self.config.hold_at != Some(here) {
            return;
        }
        let (held, go) = (self.config.run_dir.join("held"), self.config.run_dir.join("go"));
        tracing::warn!("a move is held at {here}, as the configuration says");
        if let Err(error) = std::fs::write(&held, here.to_string()) {
            tracing::error!(%error, "cannot say so");
        }
        let end = Instant::now() + DEADLINE;
        while !go.exists() && Instant::now() < end {
            tokio::time::sleep(LOOK).await;
        }
        let _ = std::fs::remove_file(&held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_are_read_and_others_named() {
        assert_eq!("source:freeze".parse(), Ok(HoldAt(Part::Source, Step::Freeze)));
        for wrong in ["freeze", "nobody:freeze", "source:sleep", ""] {
            let error = wrong.parse::<HoldAt>().unwrap_err();
            assert!(error.contains(&format!("`{wrong}`")), "{error}");
        }
    }
}
