//! One dial at a time per node, with a growing pause after failures.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use phantom_model::NodeId;
use tokio::time::Instant;

use crate::config::Timing;

/// Somebody who waits for a node is not made to wait longer than this between attempts.
pub(crate) const IMPATIENT: Duration = Duration::from_secs(1);
/// When so many are known, those that ask for no pause are forgotten.
const MANY: usize = 2048;

/// The pauses of all nodes.
#[derive(Default)]
pub(crate) struct Pauses(Mutex<HashMap<NodeId, Pause>>);

/// Locked while a dial is under way.
pub(crate) type Pause = Arc<tokio::sync::Mutex<PauseState>>;

/// How dialling a node went last.
#[derive(Default)]
pub(crate) struct PauseState {
    failures: u32,
    failed_at: Option<Instant>,
}

impl PauseState {
    /// When the next dial is due.
    pub fn next(&self, timing: &Timing) -> Option<Instant> {
        let wait = pause_after(self.failures, timing.backoff_min, timing.backoff_max);
        self.failed_at.map(|at| at + wait)
    }

    /// When the next dial is due for somebody who waits no longer than `patience`.
    pub fn due(&self, timing: &Timing, patience: Duration) -> Option<Instant> {
        self.next(timing).map(|next| next.min(Instant::now() + patience))
    }

    /// Notes that a dial has failed.
    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.failed_at = Some(Instant::now());
    }

    /// Forgets all failures.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

impl Pauses {
    /// That of `peer`.
    pub fn of(&self, peer: NodeId, timing: &Timing) -> Pause {
        let mut pauses = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if pauses.len() >= MANY && !pauses.contains_key(&peer) {
            let now = Instant::now();
            pauses.retain(|_, pause| {
                let Ok(state) = pause.try_lock() else { return true };
                Arc::strong_count(pause) > 1 || state.next(timing).is_some_and(|next| next > now)
            });
        }
        pauses.entry(peer).or_default().clone()
    }

    /// Forgets all failures: the network has changed.
    pub fn reset(&self) {
        let pauses = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for pause in pauses.values() {
            // Where a dial is under way it goes on.
            if let Ok(mut state) = pause.try_lock() {
                state.forget();
            }
        }
    }
}

/// The pause after `failures` failed dials in a row.
fn pause_after(failures: u32, min: Duration, max: Duration) -> Duration {
    min.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let (min, max) = (Duration::from_millis(200), Duration::from_secs(10));
        assert_eq!(pause_after(1, min, max), min);
        assert_eq!(pause_after(3, min, max), min * 4);
        assert_eq!(pause_after(40, min, max), max);
        assert_eq!(pause_after(0, min, max), min);
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_that_ask_for_no_pause_are_forgotten_when_there_are_many() {
        let (pauses, timing) = (Pauses::default(), Timing::default());
        let node = |number: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            NodeId(id)
        };
        let failed = pauses.of(node(0), &timing);
        failed.lock().await.failed();
        drop(failed);
        let held = pauses.of(node(1), &timing).lock_owned().await;
        for number in 2..3 * MANY {
            pauses.of(node(number), &timing);
        }
        assert!(pauses.0.lock().unwrap().len() <= MANY);
        assert!(pauses.of(node(0), &timing).lock().await.next(&timing).is_some());
        assert!(pauses.of(node(1), &timing).try_lock().is_err(), "a dial is under way");
        drop(held);
    }
}
