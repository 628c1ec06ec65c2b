//! What ads have that do not meet a comparison.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{Comparison, Value};

/// How many different values are kept.
const MAX_VALUES: usize = 1024;

/// Values of ads by how far they are from what is asked for, the nearest first.
pub(super) struct Tally {
    comparison: Comparison,
    wanted: Wanted,
    /// By distance and then by text: the value, on how many ads it is, and on how many of them
    /// nothing else fails.
    values: BTreeMap<(u64, String), Counted>,
}

enum Wanted {
    Number(f64),
    Text(Arc<str>),
}

struct Counted {
    value: Value,
    all: usize,
    alone: usize,
}

/// The value that helps, and how many ads it would help.
pub(super) struct Nearest {
    pub(super) value: Value,
    /// Ads on which the comparison would be true that is not true now.
    pub(super) all: usize,
    /// Those of them that would match.
    pub(super) alone: usize,
}

impl Tally {
    /// For comparisons with a number, and for a text that something should be equal to.
    pub(super) fn new(comparison: Comparison, wanted: &Value) -> Option<Self> {
        let wanted = match wanted {
            Value::Int(_) | Value::Real(_) => {
                Wanted::Number(wanted.number().filter(|it| it.is_finite())?)
            }
            Value::Text(text) if comparison == Comparison::Equal => Wanted::Text(Arc::clone(text)),
            _ => return None,
        };
        Some(Self { comparison, wanted, values: BTreeMap::new() })
    }

    pub(super) fn add(&mut self, value: &Value, alone: bool) {
        let Some(key) = self.key(value) else { return };
        let counted = self.values.entry(key);
        let counted = counted.or_insert_with(|| Counted { value: value.clone(), all: 0, alone: 0 });
        counted.all += 1;
        counted.alone += usize::from(alone);
        if self.values.len() > MAX_VALUES {
            // The farthest makes room, but not for one that is farther still and stands alone.
            self.values.pop_last();
        }
    }

    /// `None` for what cannot help.
    fn key(&self, value: &Value) -> Option<(u64, String)> {
        let is_equal = self.comparison == Comparison::Equal;
        match (&self.wanted, value) {
            (Wanted::Number(wanted), value) => {
                let more = value.number().filter(|it| it.is_finite())? - wanted;
                // What is equal and does not help is of another kind.
                if is_equal && more == 0.0 {
                    return None;
                }
                let side = if is_equal && more < 0.0 { "below" } else { "" };
                // Among numbers that are not negative, the order of the bits is that of the numbers.
                Some((more.abs().to_bits(), side.to_owned()))
            }
            (Wanted::Text(wanted), Value::Text(text)) => {
                let is_other = !text.eq_ignore_ascii_case(wanted);
                is_other.then(|| (0, text.to_ascii_lowercase()))
            }
            _ => None,
        }
    }

    /// The nearest value of an ad that would then match, or else of any.
    pub(super) fn nearest(self) -> Option<Nearest> {
        if matches!(self.wanted, Wanted::Text(_)) {
            let most = self.values.into_values().max_by_key(|it| (it.alone, it.all))?;
            return Some(Nearest { value: most.value, all: most.all, alone: most.alone });
        }
        let any_alone = self.values.values().any(|it| it.alone > 0);
        let (mut all, mut alone) = (0, 0);
        for counted in self.values.into_values() {
            all += counted.all;
            alone += counted.alone;
            if !any_alone || counted.alone > 0 {
                if self.comparison == Comparison::Equal {
                    (all, alone) = (counted.all, counted.alone);
                }
                return Some(Nearest { value: counted.value, all, alone });
            }
        }
        None
    }
}
