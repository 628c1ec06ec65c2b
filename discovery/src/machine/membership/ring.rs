//! The members in a ring, by their ids: each gives signs of life to the next one, which asks when
//! they fail to come.
//!
//! ```text
//!  A ── sign, every 1.25 s ──▶ B ── sign ──▶ C ── … ──▶ A
//!                              │ none for so long: asks, three times
//!                              └ no answer: A is suspected, and who stood before A is expected
//! ```
//!
//! SWIM probes members drawn at random, so it may be long until the first probe of a dead one. Here
//! every member has one that listens to it, at the price of one short datagram each way round the
//! ring. Who listens is who stands next in the sender's view; where views differ nobody may, and
//! SWIM's probes are what finds out.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::envelope::ShortId;

/// How often a sign of life is given.
pub const SIGN: Duration = Duration::from_millis(1250);
/// How long after the last sign it is asked for one.
const LATE: Duration = Duration::from_millis(1600);
/// How long an answer is waited for, and how often it is asked.
const ANSWER: Duration = Duration::from_millis(250);
const ASKED: u32 = 3;

/// What the ring wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Give this member a sign of life.
    Sign(ShortId),
    /// Ask this member for one.
    Ask(ShortId),
    /// This member does not answer.
    Suspect(ShortId),
}

/// Whom this node listens to.
#[derive(Debug, Clone, Copy)]
struct Heard {
    from: ShortId,
    asked: u32,
    /// When something is to be done about its silence.
    due: Duration,
}

/// This node's place in the ring.
#[derive(Debug)]
pub struct Ring {
    own: ShortId,
    next_sign: Duration,
    /// The neighbours as of the last sign.
    next: Option<ShortId>,
    previous: Option<ShortId>,
    heard: Option<Heard>,
}

impl Ring {
    /// Alone in it.
    pub fn new(own: ShortId, now: Duration) -> Self {
        Self { own, next_sign: now, next: None, previous: None, heard: None }
    }

    /// A member has sent something, whatever it is.
    pub fn handle_heard(&mut self, from: ShortId, now: Duration) {
        if Some(from) == self.previous
            && let Some(heard) = self.heard.as_mut().filter(|heard| heard.from == from)
        {
            (heard.asked, heard.due) = (0, now + LATE);
        }
    }

    /// A member has given a sign of life: it will give more.
    pub fn handle_sign(&mut self, from: ShortId, now: Duration) {
        if Some(from) == self.previous {
            self.heard = Some(Heard { from, asked: 0, due: now + LATE });
        }
    }

    /// When [`Ring::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Duration {
        self.heard.map_or(self.next_sign, |heard| heard.due.min(self.next_sign))
    }

    /// Does what is due; `alive` are the other members that live, as far as is known.
    pub fn handle_timeout(&mut self, alive: &BTreeSet<ShortId>, now: Duration) -> Vec<Wish> {
        let mut wishes = Vec::new();
        if now >= self.next_sign {
            self.next_sign = now + SIGN;
            self.next = alive.range(self.own..).next().or(alive.first()).copied();
            let previous = alive.range(..self.own).next_back().or(alive.last()).copied();
            let before = std::mem::replace(&mut self.previous, previous);
            if let Some(from) = previous
                && before.is_some_and(|before| !alive.contains(&before))
            {
                // It will learn whom it is to give signs now, or it is gone as well.
                self.heard = Some(Heard { from, asked: 0, due: now + LATE });
            }
            wishes.extend(self.next.map(Wish::Sign));
        }
        let Some(mut heard) = self.heard.take() else { return wishes };
        if Some(heard.from) != self.previous || !alive.contains(&heard.from) {
            // Another stands between them now, or it is gone.
            return wishes;
        }
        if heard.due > now {
            self.heard = Some(heard);
        } else if heard.asked < ASKED {
            (heard.asked, heard.due) = (heard.asked + 1, now + ANSWER);
            self.heard = Some(heard);
            wishes.push(Wish::Ask(heard.from));
        } else {
            wishes.push(Wish::Suspect(heard.from));
        }
        wishes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> ShortId {
        ShortId([number; 8])
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn alive(numbers: &[u8]) -> BTreeSet<ShortId> {
        numbers.iter().copied().map(id).collect()
    }

    #[test]
    fn signs_go_to_the_next_and_round_the_end() {
        let mut ring = Ring::new(id(5), ms(0));
        assert_eq!(ring.handle_timeout(&alive(&[]), ms(0)), []);
        assert_eq!(ring.poll_timeout(), SIGN);
        assert_eq!(ring.handle_timeout(&alive(&[2, 3, 7, 9]), SIGN), [Wish::Sign(id(7))]);
        assert_eq!(ring.handle_timeout(&alive(&[2, 3]), SIGN * 2), [Wish::Sign(id(2))]);
    }

    #[test]
    fn who_is_silent_is_asked_and_then_suspected_once() {
        let mut ring = Ring::new(id(5), ms(0));
        let alive = alive(&[2, 7]);
        ring.handle_timeout(&alive, ms(0));
        ring.handle_sign(id(2), ms(10));
        ring.handle_sign(id(7), ms(10));
        let mut wishes = Vec::new();
        let mut now = ms(10);
        while now < ms(10_000) {
            now = ring.poll_timeout();
            let wished = ring.handle_timeout(&alive, now).into_iter();
            wishes.extend(wished.filter(|it| *it != Wish::Sign(id(7))).map(|it| (now, it)));
        }
        let ask = |at: u64| (ms(10) + LATE + ms(at), Wish::Ask(id(2)));
        let suspect = (ms(10) + LATE + ms(750), Wish::Suspect(id(2)));
        assert_eq!(wishes, [ask(0), ask(250), ask(500), suspect]);
    }

    #[test]
    fn an_answer_of_any_kind_ends_the_asking() {
        let mut ring = Ring::new(id(5), ms(0));
        let alive = alive(&[2]);
        ring.handle_timeout(&alive, ms(0));
        ring.handle_sign(id(2), ms(0));
        assert!(ring.handle_timeout(&alive, LATE).contains(&Wish::Ask(id(2))));
        ring.handle_heard(id(2), LATE + ms(5));
        assert_eq!(ring.handle_timeout(&alive, LATE + ms(10)), []);
        assert_eq!(ring.handle_timeout(&alive, LATE * 2), [Wish::Sign(id(2))]);
        assert!(ring.handle_timeout(&alive, LATE * 2 + ms(5)).contains(&Wish::Ask(id(2))));
    }

    #[test]
    fn who_stood_before_one_that_is_gone_is_expected() {
        let mut ring = Ring::new(id(5), ms(0));
        ring.handle_timeout(&alive(&[2, 3, 7]), ms(0));
        ring.handle_sign(id(3), ms(1));
        let left = alive(&[2, 7]);
        assert_eq!(ring.handle_timeout(&left, SIGN), [Wish::Sign(id(7))]);
        assert_eq!(ring.handle_timeout(&left, SIGN + LATE), [Wish::Sign(id(7)), Wish::Ask(id(2))]);
        ring.handle_heard(id(2), SIGN + LATE);
        assert_eq!(ring.poll_timeout(), SIGN + LATE + SIGN);
    }

    #[test]
    fn who_never_gave_a_sign_or_stands_elsewhere_is_not_asked() {
        let mut ring = Ring::new(id(5), ms(0));
        ring.handle_timeout(&alive(&[2, 3]), ms(0));
        ring.handle_heard(id(3), ms(1));
        ring.handle_sign(id(2), ms(1));
        assert_eq!(ring.poll_timeout(), SIGN);
        ring.handle_sign(id(3), ms(2));
        // A new one stands between the two.
        ring.handle_timeout(&alive(&[2, 3, 4]), SIGN);
        assert_eq!(ring.handle_timeout(&alive(&[2, 3, 4]), SIGN * 2), [Wish::Sign(id(2))]);
        assert_eq!(ring.poll_timeout(), SIGN * 3);
    }
}
