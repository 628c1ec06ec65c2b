//! The greatest of many keys that change one at a time.

/// Keys by place; absent ones are minus infinity.
#[derive(Debug, Clone)]
pub(super) struct Tournament {
    /// A complete binary tree: leaves are the keys, each node above the greater of its two.
    keys: Vec<f64>,
    leaves: usize,
}

impl Tournament {
    /// All absent.
    pub fn new(count: usize) -> Self {
        let leaves = count.next_power_of_two();
        Self { keys: vec![f64::NEG_INFINITY; 2 * leaves], leaves }
    }

    /// Sets a key; a NaN counts as absent.
    pub fn set(&mut self, place: usize, key: f64) {
        let mut at = self.leaves + place;
        self.keys[at] = if key.is_nan() { f64::NEG_INFINITY } else { key };
        while at > 1 {
            at /= 2;
            let greater = self.keys[2 * at].max(self.keys[2 * at + 1]);
            if greater == self.keys[at] {
                return;
            }
            self.keys[at] = greater;
        }
    }

    /// The place of the greatest key, of equals the first, and that key.
    pub fn top(&self) -> Option<(usize, f64)> {
        let key = self.keys[1];
        if key == f64::NEG_INFINITY {
            return None;
        }
        let mut at = 1;
        while at < self.leaves {
            at = if self.keys[2 * at] == key { 2 * at } else { 2 * at + 1 };
        }
        Some((at - self.leaves, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_greatest_is_on_top(
            count in 1usize..20,
            changes in proptest::collection::vec((0usize..20, -3i8..4), 1..100)
        ) {
            let mut tournament = Tournament::new(count);
            let mut model = vec![f64::NEG_INFINITY; count];
            for (place, key) in changes {
                let place = place % count;
                model[place] = if key < -2 { f64::NEG_INFINITY } else { f64::from(key) };
                tournament.set(place, model[place]);
                let most = model.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let expected = model.iter().position(|key| *key == most && key.is_finite());
                prop_assert_eq!(tournament.top(), expected.map(|place| (place, most)));
            }
        }
    }
}
