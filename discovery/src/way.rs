//! Whether datagrams work between this node and another: in both directions, as far as either can
//! tell.

use std::time::Duration;

use crate::machine::Care;

/// What was heard this recently is news.
const FRESH: Duration = Duration::from_secs(3);
/// To the last few datagrams no answer need have come yet, however long ago that was.
const UNANSWERED: u32 = 3;

/// What is known of datagrams to and from one member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Way {
    heard: Option<Duration>,
    /// Datagrams sent since.
    sent: u32,
    /// Whether the other has said that it hears this node.
    hears: bool,
}

impl Way {
    /// A datagram has come, in which the other says whether it hears this node.
    pub fn handle_heard(&mut self, hears: bool, now: Duration) {
        *self = Self { heard: Some(now), sent: 0, hears };
    }

    /// A datagram is sent to which something may be answered.
    pub fn handle_sent(&mut self, care: Care) {
        self.sent = self.sent.saturating_add(u32::from(care != Care::Little));
    }

    /// Whether this node hears the other.
    pub fn is_heard(&self, now: Duration) -> bool {
        let is_fresh = |heard| now < heard + FRESH || self.sent < UNANSWERED;
        self.heard.is_some_and(is_fresh)
    }

    /// Whether what is sent as a datagram need not go over the connection as well.
    pub fn works(&self, care: Care, now: Duration) -> bool {
        match care {
            Care::Little => self.hears,
            Care::Usual => self.hears && self.is_heard(now),
            Care::Great => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Two that send each other a datagram in turn, of which those `from` either are lost.
    fn talk(rounds: u32, lost: impl Fn(u32, usize) -> bool) -> [Vec<bool>; 2] {
        let mut ways = [Way::default(); 2];
        let mut works = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for from in [0, 1] {
                let now = SECOND * (2 * round + from as u32);
                works[from].push(ways[from].works(Care::Usual, now));
                let hears = ways[from].is_heard(now);
                ways[from].handle_sent(Care::Usual);
                if !lost(round, from) {
                    ways[1 - from].handle_heard(hears, now);
                }
            }
        }
        works
    }

    #[test]
    fn two_that_hear_each_other_know_it_after_a_round() {
        let works = talk(4, |_, _| false);
        assert_eq!(works, [[false, true, true, true], [false, true, true, true]]);
    }

    #[test]
    fn a_lost_datagram_changes_nothing() {
        let works = talk(20, |round, _| round % 5 == 4);
        assert!(works.iter().all(|of| of[2..].iter().all(|works| *works)), "{works:?}");
    }

    #[test]
    fn what_is_lost_in_one_direction_is_known_in_both() {
        let never = talk(10, |_, from| from == 0);
        assert!(never.iter().flatten().all(|works| !works), "{never:?}");
        // From the fifth round on nothing arrives of the second.
        let later = talk(12, |round, from| from == 1 && round >= 5);
        let [first, second] = later;
        assert!(first[1..8].iter().all(|works| *works), "{first:?}");
        assert!(!first[9] && !second[9] && second[6], "{second:?}");
    }

    #[test]
    fn seldom_spoken_to_is_no_reason_to_doubt() {
        let mut way = Way::default();
        assert!(!way.works(Care::Little, SECOND));
        way.handle_heard(true, SECOND);
        way.handle_sent(Care::Usual);
        (0..100).for_each(|_| way.handle_sent(Care::Little));
        assert!(way.works(Care::Usual, SECOND * 400) && !way.works(Care::Great, SECOND));
        way.handle_sent(Care::Usual);
        way.handle_sent(Care::Great);
        assert!(!way.works(Care::Usual, SECOND * 400) && way.works(Care::Usual, SECOND * 2));
        assert!(way.works(Care::Little, SECOND * 400));
    }
}
