//! Whether datagrams work between this node and another: in both directions, as far as either can
//! tell.
//!
//! Each letter says whether its sender hears the receiver: whether a datagram has come lately, or
//! since its last letter. So where one direction is blocked both know it after an exchange.

use std::time::Duration;

use crate::machine::Care;

/// What was heard this recently need not be answered yet.
const LATELY: Duration = Duration::from_millis(1500);
/// To what is sent every moment (raft's heartbeats) an answer comes within this time,
const ANSWER: Duration = Duration::from_millis(500);
/// and of what is sent seldom so many may be unanswered.
const UNANSWERED: u32 = 2;

/// What is known of datagrams to and from one member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Way {
    heard: Option<Duration>,
    /// Datagrams sent since, to which something may be answered.
    sent: u32,
    /// Whether the other has said that it hears this node.
    hears: bool,
    /// Whether a datagram has come since the last letter, and what that one said.
    fresh: bool,
    told: bool,
}

impl Way {
    /// A datagram has come, in which the other says whether it hears this node.
    pub fn handle_heard(&mut self, hears: bool, now: Duration) {
        *self = Self { heard: Some(now), sent: 0, hears, fresh: true, told: self.told };
    }

    /// The other has asked over the connection for what went as a datagram.
    pub fn handle_missed(&mut self) {
        self.hears = false;
    }

    /// A letter is sent, which says whether this node hears the other.
    pub fn handle_sent(&mut self, care: Care, now: Duration) -> bool {
        self.told = self.is_heard(now);
        self.fresh = false;
        self.sent = self.sent.saturating_add(u32::from(care != Care::Little));
        self.told
    }

    /// Whether this node hears the other.
    pub fn is_heard(&self, now: Duration) -> bool {
        self.heard.is_some_and(|heard| self.fresh || now < heard + LATELY)
    }

    /// Whether the other believes that this node does not hear it, though it does.
    pub fn is_misjudged(&self, now: Duration) -> bool {
        !self.told && self.is_heard(now)
    }

    /// Whether what is sent as a datagram need not go over the connection as well.
    pub fn works(&self, care: Care, now: Duration) -> bool {
        let is_answered = |heard| now < heard + ANSWER || self.sent < UNANSWERED;
        match care {
            Care::Little => self.hears,
            Care::Usual => self.hears && self.heard.is_some_and(is_answered),
            Care::Great => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// One that asks `every` so often and one that answers; datagrams from either may be lost, what
    /// goes over the connection is not. Gives when a question was heard.
    fn exchange(every: Duration, rounds: u32, lost: impl Fn(u32, usize) -> bool) -> Vec<Duration> {
        let mut ways = [Way::default(); 2];
        let mut heard = Vec::new();
        for round in 0..rounds {
            let now = every * round;
            let mut arrives = |from: usize| {
                let surely = !ways[from].works(Care::Usual, now);
                let hears = ways[from].handle_sent(Care::Usual, now);
                if !lost(round, from) {
                    ways[1 - from].handle_heard(hears, now);
                }
                surely || !lost(round, from)
            };
            if arrives(0) {
                heard.push(now);
                arrives(1);
            }
        }
        heard
    }

    fn longest(heard: &[Duration]) -> Duration {
        heard.windows(2).map(|two| two[1] - two[0]).max().unwrap()
    }

    #[test]
    fn two_that_hear_each_other_know_it_after_a_round() {
        let mut ways = [Way::default(); 2];
        for (from, works) in [(0, false), (1, false), (0, true)] {
            assert_eq!(ways[from].works(Care::Usual, SECOND), works);
            let hears = ways[from].handle_sent(Care::Usual, SECOND);
            ways[1 - from].handle_heard(hears, SECOND);
        }
        assert!(ways.iter().all(|way| way.works(Care::Little, SECOND)));
        assert!(ways[1].works(Care::Usual, SECOND));
    }

    #[test]
    fn heartbeats_that_stop_to_arrive_come_another_way_before_an_election() {
        for broken in [[true, false], [false, true], [true, true]] {
            let heard = exchange(SECOND / 5, 300, |round, from| round > 50 && broken[from]);
            let gap = longest(&heard);
            assert!(gap < SECOND * 4 / 5, "{broken:?}: {gap:?}");
        }
    }

    #[test]
    fn beats_that_stop_to_arrive_come_another_way_before_the_lease_ends() {
        for broken in [[true, false], [false, true], [true, true]] {
            let heard = exchange(SECOND * 2, 300, |round, from| round > 50 && broken[from]);
            let gap = longest(&heard);
            assert!(gap <= SECOND * 6, "{broken:?}: {gap:?}");
        }
    }

    #[test]
    fn a_lost_datagram_is_one_that_is_missed() {
        let heard = exchange(SECOND * 2, 300, |round, from| (round + from as u32) % 20 == 19);
        assert!(longest(&heard) <= SECOND * 4, "{:?}", longest(&heard));
        assert!(heard.len() >= 270, "{}", heard.len());
    }

    #[test]
    fn signs_of_life_need_no_answer_until_they_are_missed() {
        let mut way = Way::default();
        assert!(!way.works(Care::Little, SECOND));
        way.handle_heard(true, SECOND);
        way.handle_sent(Care::Usual, SECOND);
        for _ in 0..100 {
            way.handle_sent(Care::Little, SECOND);
        }
        assert!(way.works(Care::Usual, SECOND * 400) && !way.works(Care::Great, SECOND));
        way.handle_sent(Care::Great, SECOND);
        assert!(!way.works(Care::Usual, SECOND * 400) && way.works(Care::Little, SECOND * 400));
        way.handle_missed();
        assert!(!way.works(Care::Little, SECOND * 400));
    }

    #[test]
    fn who_was_told_otherwise_is_told_when_it_is_heard_again() {
        let mut way = Way::default();
        way.handle_heard(false, SECOND);
        assert!(way.is_misjudged(SECOND), "nothing was told yet");
        assert!(way.handle_sent(Care::Little, SECOND) && !way.is_misjudged(SECOND));
        assert!(!way.handle_sent(Care::Great, SECOND * 9) && !way.is_misjudged(SECOND * 9));
        way.handle_heard(true, SECOND * 10);
        assert!(way.is_misjudged(SECOND * 10));
    }
}
