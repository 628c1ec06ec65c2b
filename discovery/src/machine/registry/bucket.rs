//! How much is heard of one member, and when it is named.

use std::time::Duration;

use super::Offence;

/// So many messages of a member are heard in a row, and so many each second after that. A member
/// that keeps its pace sends one.
pub(super) const BURST: f64 = 20.0;
pub(super) const EACH_SECOND: f64 = 4.0;
/// What a lie costs, in messages; nobody owes more than that.
const FINE: f64 = 20.0;
/// A member that was named for something is not named for it again before it has been quiet about
/// it for so long.
const QUIET: Duration = Duration::from_secs(600);

/// When each kind of offence was last seen of a member.
#[derive(Debug, Clone, Default)]
pub(super) struct Named([Option<Duration>; Offence::KINDS]);

impl Named {
    /// The member has done this: whether to name it, which is once until it has been quiet.
    pub(super) fn offend(&mut self, offence: &Offence, now: Duration) -> bool {
        let Some(named) = self.0.get_mut(offence.kind()) else { return false };
        named.replace(now).is_none_or(|last| now.saturating_sub(last) >= QUIET)
    }
}

/// A token bucket (ITU-T I.371), and what its member was named for.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    tokens: f64,
    filled: Duration,
    named: Named,
}

impl Bucket {
    pub(super) fn new(now: Duration) -> Self {
        Self { tokens: BURST, filled: now, named: Named::default() }
    }

    /// Whether one more message is heard.
    pub(super) fn take(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        self.tokens = (self.tokens + passed * EACH_SECOND).min(BURST);
        let heard = self.tokens >= 1.0;
        if heard {
            self.tokens -= 1.0;
        }
        heard
    }

    /// The member has done this: whether to name it. All but flooding, which has emptied the bucket
    /// already, costs it.
    pub(super) fn offend(&mut self, offence: &Offence, now: Duration) -> bool {
        if !matches!(offence, Offence::Flooding) {
            self.tokens = (self.tokens - FINE).max(-FINE);
        }
        self.named.offend(offence, now)
    }
}
