//! How many messages each node of another sub-grid may send, and who is named for sending more.
//! Pure: the time is a parameter.

use std::collections::HashMap;
use std::time::Duration;

use phantom_model::NodeId;
use tokio::time::Instant;

/// Messages a node may send each second for long.
pub(super) const RATE: u32 = 100;
/// Messages a node may send at once.
pub(super) const BURST: u32 = 200;
/// How often a node that sends more is named in the log.
const NAMED: Duration = Duration::from_secs(60);
/// So many are named in that time, whoever they are: keys cost a stranger nothing.
const MOST_NAMED: u32 = 16;
/// So many nodes are remembered.
const MOST: usize = 2048;

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is read.
    Pass,
    /// It is dropped.
    Drop,
    /// It is dropped, and so were the others of this number since the node was last named: say so.
    Name(u64),
}

/// Those of all nodes.
#[derive(Default)]
pub(super) struct Meters {
    known: HashMap<NodeId, Meter>,
    /// How many were named since then.
    named: Option<(Instant, u32)>,
}

struct Meter {
    /// When the messages that have passed would be over, if they came at the rate.
    until: Instant,
    dropped: u64,
    named: Option<Instant>,
}

impl Meter {
    /// Whether it differs from a new one.
    fn counts(&self, now: Instant) -> bool {
        self.until > now || self.named.is_some_and(|named| named + NAMED > now)
    }
}

impl Meters {
    /// Weighs a message of `peer` that comes `now`.
    pub fn weigh(&mut self, peer: NodeId, now: Instant) -> Verdict {
        if self.known.len() >= MOST && !self.known.contains_key(&peer) {
            self.make_room(now);
        }
        let new = Meter { until: now, dropped: 0, named: None };
        let meter = self.known.entry(peer).or_insert(new);
        let each = Duration::from_secs(1) / RATE;
        let until = meter.until.max(now) + each;
        if until <= now + each * BURST {
            meter.until = until;
            return Verdict::Pass;
        }
        meter.dropped += 1;
        if meter.named.is_some_and(|named| named + NAMED > now) {
            return Verdict::Drop;
        }
        let (since, count) = self.named.filter(|(at, _)| *at + NAMED > now).unwrap_or((now, 0));
        if count >= MOST_NAMED {
            return Verdict::Drop;
        }
        self.named = Some((since, count + 1));
        meter.named = Some(now);
        Verdict::Name(std::mem::take(&mut meter.dropped))
    }

    fn make_room(&mut self, now: Instant) {
        self.known.retain(|_, meter| meter.counts(now));
        if self.known.len() >= MOST
            && let Some(quietest) = self.known.iter().min_by_key(|(_, meter)| meter.until)
        {
            let quietest = *quietest.0;
            self.known.remove(&quietest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PEER: NodeId = NodeId([1; 32]);

    fn node(number: u32) -> NodeId {
        let mut id = [7; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        NodeId(id)
    }

    fn passed(meters: &mut Meters, peer: NodeId, count: u32, now: Instant) -> u32 {
        (0..count).filter(|_| meters.weigh(peer, now) == Verdict::Pass).count() as u32
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (mut meters, start) = (Meters::default(), Instant::now());
        assert_eq!(passed(&mut meters, PEER, 1000, start), BURST);
        assert_eq!(passed(&mut meters, node(1), 10, start), 10, "others do not suffer");
        let later = start + Duration::from_secs(1);
        assert_eq!(passed(&mut meters, PEER, 1000, later), RATE);
        assert_eq!(passed(&mut meters, PEER, 1000, later + Duration::from_secs(3600)), BURST);
    }

    #[test]
    fn who_floods_is_named_once_a_minute_with_the_count() {
        let (mut meters, start) = (Meters::default(), Instant::now());
        let mut named = Vec::new();
        for at in 0..90u64 {
            for _ in 0..1000 {
                if let Verdict::Name(count) = meters.weigh(PEER, start + Duration::from_secs(at)) {
                    named.push((at, count));
                }
            }
        }
        assert_eq!(named, [(0, 1), (60, 799 + 59 * 900 + 1)]);
    }

    #[test]
    fn many_that_flood_fill_neither_the_memory_nor_the_log() {
        let (mut meters, start) = (Meters::default(), Instant::now());
        let mut named = 0;
        for number in 0..3 * MOST as u32 {
            for _ in 0..=BURST {
                named += u32::from(matches!(meters.weigh(node(number), start), Verdict::Name(_)));
            }
        }
        assert!(meters.known.len() <= MOST, "{}", meters.known.len());
        assert_eq!(named, MOST_NAMED);
    }

    proptest! {
        /// However messages come, no more pass in any time than the burst and the rate allow.
        #[test]
        fn no_pattern_gets_more_through(gaps in proptest::collection::vec(0u64..40, 1..800)) {
            let (mut meters, start) = (Meters::default(), Instant::now());
            let (mut now, mut passed) = (start, Vec::new());
            for gap in gaps {
                now += Duration::from_millis(gap);
                if meters.weigh(PEER, now) == Verdict::Pass {
                    passed.push(now);
                }
            }
            for (first, from) in passed.iter().enumerate() {
                for (last, to) in passed.iter().enumerate().skip(first) {
                    let most = f64::from(BURST) + (*to - *from).as_secs_f64() * f64::from(RATE);
                    prop_assert!((last - first + 1) as f64 <= most + 1e-6);
                }
            }
        }
    }
}
