//! Quantities with their text forms. Names carry the unit last.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A quantity that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is not {wanted}; write it like `{example}`")]
pub struct UnitError {
    /// What was given.
    pub text: String,
    /// What was expected, with its article.
    pub wanted: &'static str,
    /// A text that would have been accepted.
    pub example: &'static str,
}

/// Percent of one core: `150%` is one and a half cores busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Percent(pub u32);

impl Percent {
    const MAX: u32 = 100 * 65_536;
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl FromStr for Percent {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        text.strip_suffix('%')
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .filter(|percent| (1..=Self::MAX).contains(percent))
            .map(Self)
            .ok_or_else(|| UnitError {
                text: text.to_owned(),
                wanted: "a share of a core in percent",
                example: "150%",
            })
    }
}

/// A size in bytes. Binary units (`KiB MiB GiB TiB`) and decimal ones (`kB MB GB TB`) are read;
/// binary ones are written.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Bytes(pub u64);

const BINARY: [(&str, u64); 4] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const DECIMAL: [(&str, u64); 5] =
    [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000), ("B", 1)];

impl fmt::Display for Bytes {
    /// Rounded for people; the alternate form (`{:#}`) is exact and reads back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            let exact =
                BINARY.iter().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
            let (name, factor) = exact.unwrap_or(&("B", 1));
            return write!(f, "{}{name}", self.0 / factor);
        }
        for (name, factor) in BINARY {
            if self.0 >= factor {
                let whole = self.0 / factor;
                return if self.0.is_multiple_of(factor) || whole >= 100 {
                    write!(f, "{whole} {name}")
                } else {
                    write!(f, "{:.1} {name}", self.0 as f64 / factor as f64)
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

impl FromStr for Bytes {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong =
            || UnitError { text: text.to_owned(), wanted: "a size with its unit", example: "2GiB" };
        let (digits, factor) = BINARY
            .iter()
            .chain(&DECIMAL)
            .find_map(|(name, factor)| Some((text.strip_suffix(name)?.trim_end(), *factor)))
            .ok_or_else(wrong)?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let count: u64 = digits.parse().map_err(|_| wrong())?;
        count.checked_mul(factor).map(Self).ok_or_else(wrong)
    }
}

/// The time over which a level must hold: `500ms`, `10s`, `2m`, `1h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Duration", into = "Duration")]
pub struct Window(pub Duration);

impl Window {
    /// Shorter than this a level says more about the scheduler than about the app.
    pub const MIN: Duration = Duration::from_millis(100);
    /// Longer than this a limit is a budget, which this is not.
    pub const MAX: Duration = Duration::from_secs(24 * 3600);

    fn wrong(text: String) -> UnitError {
        UnitError { text, wanted: "a window between 100ms and 24h", example: "10s" }
    }
}

impl TryFrom<Duration> for Window {
    type Error = UnitError;

    fn try_from(time: Duration) -> Result<Self, UnitError> {
        if (Self::MIN..=Self::MAX).contains(&time) {
            return Ok(Self(time));
        }
        Err(Self::wrong(format!("{time:?}")))
    }
}

impl From<Window> for Duration {
    fn from(window: Window) -> Self {
        window.0
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        match millis {
            _ if millis.is_multiple_of(3_600_000) => write!(f, "{}h", millis / 3_600_000),
            _ if millis.is_multiple_of(60_000) => write!(f, "{}m", millis / 60_000),
            _ if millis.is_multiple_of(1_000) => write!(f, "{}s", millis / 1_000),
            _ => write!(f, "{millis}ms"),
        }
    }
}

impl FromStr for Window {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || Self::wrong(text.to_owned());
        let (digits, millis) = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)]
            .iter()
            .find_map(|(name, millis)| Some((text.strip_suffix(name)?, *millis)))
            .ok_or_else(wrong)?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let count: u64 = digits.parse().map_err(|_| wrong())?;
        let window = Duration::from_millis(count.checked_mul(millis).ok_or_else(wrong)?);
        window.try_into().map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_read_and_write() {
        for (text, bytes, shown) in [
            ("2GiB", 2 << 30, "2 GiB"),
            ("1536 MiB", 1536 << 20, "1.5 GiB"),
            ("5MB", 5_000_000, "4.8 MiB"),
            ("17B", 17, "17 B"),
        ] {
            let size: Bytes = text.parse().unwrap();
            assert_eq!(size, Bytes(bytes));
            assert_eq!(size.to_string(), shown);
        }
    }

    #[test]
    fn a_wrong_unit_is_named_with_an_example() {
        let error = "15x".parse::<Percent>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`15x` is not a share of a core in percent; write it like `150%`"
        );
        for text in ["", "%", "0%", "-1%", "1.5%", "99999999%", "+5%"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
        for text in ["", "GiB", "2", "-2GiB", "99999999999999999999B", "18446744073709551615KiB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        for text in ["", "s", "10", "0s", "99ms", "25h", "10 parsecs"] {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn windows_survive_their_text_form(millis in 100u64..86_400_000) {
            let window = Window(Duration::from_millis(millis));
            prop_assert_eq!(window.to_string().parse::<Window>().unwrap(), window);
        }

        #[test]
        fn sizes_survive_their_exact_form(bytes: u64) {
            prop_assert_eq!(format!("{:#}", Bytes(bytes)).parse::<Bytes>().unwrap(), Bytes(bytes));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,24}") {
            let _ = text.parse::<Percent>();
            let _ = text.parse::<Bytes>();
            let _ = text.parse::<Window>();
        }
    }
}
