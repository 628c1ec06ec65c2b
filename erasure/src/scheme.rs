use serde::{Deserialize, Serialize};
use thiserror::Error;

/// More shards than this help nobody: the digests of all of them are in every manifest.
pub const MAX_SHARDS: usize = 64;

/// Less likely than this are too many shards lost at once.
const RISK: f64 = 1e-6;

/// How many shards there are, and how many of them suffice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u8, u8)", into = "(u8, u8)")]
pub struct Scheme {
    data: u8,
    parity: u8,
}

/// No such scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "no code has {data} data and {parity} parity shards; at least 1 data shard and at most \
     {MAX_SHARDS} shards are possible"
)]
pub struct SchemeError {
    /// Shards that suffice.
    pub data: usize,
    /// Shards besides.
    pub parity: usize,
}

impl Scheme {
    /// `data` shards suffice, `parity` ones are there besides.
    pub fn new(data: usize, parity: usize) -> Result<Self, SchemeError> {
        let wrong = SchemeError { data, parity };
        if data == 0 || data.saturating_add(parity) > MAX_SHARDS {
            return Err(wrong);
        }
        let small = |count: usize| u8::try_from(count).map_err(|_| wrong);
        Ok(Self { data: small(data)?, parity: small(parity)? })
    }

    /// The one for so many members, of which each is away with this probability until shards are
    /// spread anew: as little parity as keeps the risk of losing the bytes below one in a million.
    /// Where there are too few members for that, each holds all of them.
    ///
    /// One member alone gets one shard; what is not a probability counts as one half.
    pub fn choose(members: usize, away: f64) -> Self {
        let away = if away.is_finite() { away.clamp(0.0, 1.0) } else { 0.5 };
        let total = members.clamp(1, MAX_SHARDS);
        let enough = (0..total).find(|parity| more_lost_than(*parity, total, away) <= RISK);
        let parity = enough.unwrap_or(total - 1) as u8;
        Self { data: total as u8 - parity, parity }
    }

    /// How many shards suffice.
    pub fn data(self) -> usize {
        self.data.into()
    }

    /// How many may be lost.
    pub fn parity(self) -> usize {
        self.parity.into()
    }

    /// How many there are.
    pub fn total(self) -> usize {
        self.data() + self.parity()
    }
}

/// The probability that more than `lost` of `total` are away.
fn more_lost_than(lost: usize, total: usize, away: f64) -> f64 {
    // Binomial terms by their logarithms, as 64! is beyond f64's integers.
    let term = |gone: usize| {
        let choose: f64 = (0..gone).map(|i| ((total - i) as f64 / (i + 1) as f64).ln()).sum();
        let power =
            |base: f64, times: usize| if times == 0 { 0.0 } else { times as f64 * base.ln() };
        (choose + power(away, gone) + power(1.0 - away, total - gone)).exp()
    };
    (lost + 1..=total).map(term).sum()
}

impl TryFrom<(u8, u8)> for Scheme {
    type Error = SchemeError;

    fn try_from((data, parity): (u8, u8)) -> Result<Self, SchemeError> {
        Self::new(data.into(), parity.into())
    }
}

impl From<Scheme> for (u8, u8) {
    fn from(scheme: Scheme) -> Self {
        (scheme.data, scheme.parity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn households_hold_all_and_campuses_a_part() {
        let chosen = |members, away| {
            let scheme = Scheme::choose(members, away);
            (scheme.data(), scheme.parity())
        };
        assert_eq!(chosen(0, 0.1), (1, 0));
        assert_eq!(chosen(1, 0.1), (1, 0));
        assert_eq!(chosen(2, 0.1), (1, 1));
        assert_eq!(chosen(3, 0.3), (1, 2));
        assert_eq!(chosen(7, 0.001), (5, 2));
        assert_eq!(chosen(200, 0.1), (44, 20));
        assert_eq!(chosen(200, 0.0), (64, 0));
        assert_eq!(chosen(5, 1.0), (1, 4));
    }

    #[test]
    fn impossible_schemes_are_refused() {
        assert!(Scheme::new(0, 3).is_err() && Scheme::new(60, 5).is_err());
        let error = Scheme::new(0, 300).unwrap_err().to_string();
        assert!(error.contains("0 data and 300 parity"), "{error}");
        let bytes = postcard::to_stdvec(&(0u8, 9u8)).unwrap();
        assert!(postcard::from_bytes::<Scheme>(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn any_figures_give_a_scheme(members in any::<usize>(), away in any::<f64>()) {
            let scheme = Scheme::choose(members, away);
            prop_assert!(Scheme::new(scheme.data(), scheme.parity()).is_ok());
            prop_assert!(scheme.total() <= members.max(1));
        }

        #[test]
        fn more_absence_never_takes_less_parity(members in 1usize..100, away in 0.0f64..0.9) {
            let (less, more) = (Scheme::choose(members, away), Scheme::choose(members, away + 0.1));
            prop_assert!(less.parity() <= more.parity());
        }
    }
}
