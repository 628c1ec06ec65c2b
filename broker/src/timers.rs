//! The event queue: one timer per slot, the earliest first.

/// Where a slot is not in the heap.
const ABSENT: u32 = u32::MAX;

/// A binary heap of slots by time that knows where each slot is, so that a timer can be set anew.
/// Of equal times the lower slot is first.
#[derive(Debug, Clone)]
pub(crate) struct Timers {
    at: Vec<f64>,
    heap: Vec<u32>,
    place: Vec<u32>,
}

impl Timers {
    /// None of `slots` is set.
    pub fn new(slots: usize) -> Self {
        Self {
            at: vec![f64::INFINITY; slots],
            heap: Vec::with_capacity(slots),
            place: vec![ABSENT; slots],
        }
    }

    /// Sets a slot's timer; not at all when `at` is infinite or no number.
    pub fn set(&mut self, slot: usize, at: f64) {
        if at.is_nan() || at == f64::INFINITY {
            self.clear(slot);
            return;
        }
        self.at[slot] = at;
        let place = match self.place[slot] {
            ABSENT => {
                self.heap.push(slot as u32);
                self.heap.len() - 1
            }
            place => place as usize,
        };
        let place = self.up(place);
        self.down(place);
    }

    /// Stops a slot's timer.
    pub fn clear(&mut self, slot: usize) {
        self.at[slot] = f64::INFINITY;
        let place = self.place[slot];
        if place == ABSENT {
            return;
        }
        self.place[slot] = ABSENT;
        let Some(last) = self.heap.pop() else { return };
        if last as usize != slot {
            self.put(place as usize, last);
            let place = self.up(place as usize);
            self.down(place);
        }
    }

    /// The earliest timer: its slot and when it is due.
    pub fn first(&self) -> Option<(usize, f64)> {
        self.heap.first().map(|slot| (*slot as usize, self.at[*slot as usize]))
    }

    fn earlier(&self, a: u32, b: u32) -> bool {
        (self.at[a as usize], a) < (self.at[b as usize], b)
    }

    fn put(&mut self, place: usize, slot: u32) {
        self.heap[place] = slot;
        self.place[slot as usize] = place as u32;
    }

    fn up(&mut self, mut place: usize) -> usize {
        let slot = self.heap[place];
        while place > 0 {
            let above = (place - 1) / 2;
            if !self.earlier(slot, self.heap[above]) {
                break;
            }
            self.put(place, self.heap[above]);
            place = above;
        }
        self.put(place, slot);
        place
    }

    fn down(&mut self, mut place: usize) {
        let slot = self.heap[place];
        loop {
            let (left, right) = (2 * place + 1, 2 * place + 2);
            if left >= self.heap.len() {
                break;
            }
            let below =
                if right < self.heap.len() && self.earlier(self.heap[right], self.heap[left]) {
                    right
                } else {
                    left
                };
            if !self.earlier(self.heap[below], slot) {
                break;
            }
            self.put(place, self.heap[below]);
            place = below;
        }
        self.put(place, slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_earliest_is_first(
            changes in proptest::collection::vec((0usize..12, 0u8..40), 1..200)
        ) {
            let mut timers = Timers::new(12);
            let mut model = [f64::INFINITY; 12];
            for (slot, at) in changes {
                if at < 8 {
                    timers.clear(slot);
                    model[slot] = f64::INFINITY;
                } else {
                    timers.set(slot, f64::from(at));
                    model[slot] = f64::from(at);
                }
                let expected = (0..12)
                    .filter(|slot| model[*slot].is_finite())
                    .min_by(|a, b| model[*a].total_cmp(&model[*b]).then(a.cmp(b)))
                    .map(|slot| (slot, model[slot]));
                prop_assert_eq!(timers.first(), expected);
            }
        }
    }
}
