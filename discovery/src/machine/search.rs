//! A node that belongs nowhere looks for a sub-grid.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use phantom_model::{NodeId, SubgridId};

use crate::wire::{Presence, Query};

/// When queries go out, after the beginning: a datagram may be lost.
const QUERIES: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(200), Duration::from_millis(500)];
/// With no answer until then, nobody is there.
const PATIENCE: Duration = Duration::from_millis(1200);
/// How long further answers are waited for after the first.
const OTHERS: Duration = Duration::from_millis(300);
/// How long a node that looks as well, and goes before this one, is given to found its sub-grid, and
/// when it is asked again meanwhile.
const AFTER_YOU: Duration = Duration::from_millis(2500);
const AGAIN: [Duration; 2] = [Duration::from_millis(1300), Duration::from_millis(1900)];
/// So many members are kept, of all sub-grids together.
const MAX_FOUND: usize = 64;

/// A member that has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its sub-grid.
    pub subgrid: SubgridId,
    /// The node.
    pub node: NodeId,
    /// What it is called.
    pub name: String,
    /// Where it answers from.
    pub ip: IpAddr,
    /// What it says.
    pub presence: Presence,
    /// The least time from a query to its answer.
    pub rtt: Duration,
}

/// One search.
#[derive(Debug)]
pub struct Search {
    query: Query,
    /// When queries went out: each has a nonce of its own, counted on from the first one's.
    sent: Vec<Duration>,
    /// When queries are due, in order.
    due: VecDeque<Duration>,
    ends: Duration,
    /// Whether it has let another node go first.
    has_yielded: bool,
    found: BTreeMap<NodeId, Found>,
}

impl Search {
    /// Begins at `now`. `nonce` is random; `founding` tells whether a sub-grid will be founded if
    /// nobody answers.
    pub fn new(node: NodeId, nonce: u64, founding: bool, now: Duration) -> Self {
        let query = Query { node, nonce, founding };
        let due = QUERIES.iter().map(|after| now + *after).collect();
        let found = BTreeMap::new();
        let ends = now + PATIENCE;
        Self { query, sent: Vec::new(), due, ends, has_yielded: false, found }
    }

    /// The query to send now, if one is due.
    pub fn poll_query(&mut self, now: Duration) -> Option<Query> {
        self.due.front().filter(|due| **due <= now)?;
        self.due.pop_front();
        let nonce = self.query.nonce.wrapping_add(self.sent.len() as u64);
        self.sent.push(now);
        Some(Query { nonce, ..self.query })
    }

    /// When there is something to do.
    pub fn poll_timeout(&self) -> Duration {
        self.due.front().map_or(self.ends, |due| self.ends.min(*due))
    }

    /// Whether the search is over.
    pub fn is_over(&self, now: Duration) -> bool {
        now >= self.ends
    }

    /// A member has told where it is; what does not answer this search is passed over.
    pub fn handle_presence(&mut self, mut found: Found, now: Duration) {
        let number = found.presence.echo.wrapping_sub(self.query.nonce);
        let Some(sent) = usize::try_from(number).ok().and_then(|it| self.sent.get(it)) else {
            return;
        };
        found.rtt = now.saturating_sub(*sent);
        if let Some(known) = self.found.get(&found.node) {
            found.rtt = found.rtt.min(known.rtt);
        } else if self.found.len() >= MAX_FOUND {
            return;
        }
        if self.found.is_empty() {
            self.ends = now + OTHERS;
        }
        self.found.insert(found.node, found);
    }

    /// Somebody else looks as well. Of two that would found a sub-grid the lower id does, and the
    /// other waits to find it.
    pub fn handle_query(&mut self, heard: Query, now: Duration) {
        let goes_first = heard.founding && heard.node < self.query.node;
        if goes_first && self.found.is_empty() && !self.has_yielded {
            self.has_yielded = true;
            self.ends = self.ends.max(now + AFTER_YOU);
            self.due.extend(AGAIN.iter().map(|after| now + *after));
        }
    }

    /// Whom the search has found.
    pub fn found(self) -> Vec<Found> {
        self.found.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: SubgridId = SubgridId([8; 32]);

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    fn answer(number: u8, echo: u64) -> Found {
        Found {
            subgrid: GRID,
            node: node(number),
            name: format!("n{number}"),
            ip: [192, 0, 2, number].into(),
            presence: Presence { port: 1, datagram_port: 2, may_accept: true, echo, at_ms: 1 },
            rtt: Duration::ZERO,
        }
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Runs a search against what comes at which time, until it is over.
    fn run(mut search: Search, events: Vec<(u64, Found)>) -> (Duration, usize, Vec<Found>) {
        let mut events = events.into_iter().peekable();
        let (mut now, mut queries) = (Duration::ZERO, 0);
        while !search.is_over(now) {
            queries += usize::from(search.poll_query(now).is_some());
            while let Some((_, found)) = events.next_if(|(at, _)| ms(*at) <= now) {
                search.handle_presence(found, now);
            }
            let next = events.peek().map_or(search.poll_timeout(), |(at, _)| ms(*at));
            now = search.poll_timeout().min(next).max(now);
        }
        (now, queries, search.found())
    }

    #[test]
    fn silence_ends_it_soon_and_an_answer_sooner() {
        let (took, queries, found) = run(Search::new(node(1), 7, true, ms(0)), vec![]);
        assert_eq!((took, queries, found.len()), (PATIENCE, 3, 0));
        let events = vec![(20, answer(2, 7)), (100, answer(3, 7)), (900, answer(4, 7))];
        let (took, _, found) = run(Search::new(node(1), 7, true, ms(0)), events);
        assert_eq!((took, found.len()), (ms(320), 2));
    }

    #[test]
    fn what_answers_another_search_is_no_answer() {
        let (took, _, found) = run(Search::new(node(1), 7, true, ms(0)), vec![(20, answer(2, 8))]);
        assert_eq!((took, found.len()), (PATIENCE, 0));
    }

    #[test]
    fn the_way_to_who_answers_is_measured_by_the_query_that_is_answered() {
        let mut search = Search::new(node(1), u64::MAX, true, ms(0));
        let nonces: Vec<u64> = [0, 200].map(|at| search.poll_query(ms(at)).unwrap().nonce).to_vec();
        assert_eq!(nonces, [u64::MAX, 0]);
        search.handle_presence(answer(2, nonces[0]), ms(260));
        search.handle_presence(answer(2, nonces[1]), ms(263));
        search.handle_presence(answer(3, nonces[1]), ms(201));
        search.handle_presence(answer(4, 1), ms(202));
        let rtts: Vec<_> = search.found().iter().map(|one| (one.node, one.rtt)).collect();
        assert_eq!(rtts, [(node(2), ms(63)), (node(3), ms(1))]);
    }

    #[test]
    fn a_flood_of_answers_is_bounded() {
        let mut search = Search::new(node(1), 7, true, ms(0));
        search.poll_query(ms(0));
        for number in 0..=255 {
            search.handle_presence(answer(number, 7), ms(5));
        }
        assert_eq!(search.found().len(), MAX_FOUND);
    }

    #[test]
    fn of_two_that_look_at_once_one_founds() {
        // Both begin together; the one with the lower id founds when its search is over.
        let (mut low, mut high) =
            (Search::new(node(1), 1, true, ms(0)), Search::new(node(2), 2, true, ms(0)));
        let mut now = ms(0);
        let founded = loop {
            if let Some(query) = low.poll_query(now) {
                high.handle_query(query, now);
            }
            if let Some(query) = high.poll_query(now) {
                low.handle_query(query, now);
            }
            if low.is_over(now) {
                break now;
            }
            now += ms(10);
        };
        assert!(!high.is_over(founded), "the other still waits");
        // What it asks next is answered.
        let asked = loop {
            if let Some(query) = high.poll_query(now) {
                break (now, query.nonce);
            }
            now += ms(10);
            assert!(!high.is_over(now), "it never asked again");
        };
        high.handle_presence(answer(1, asked.1), asked.0);
        assert_eq!(high.found().len(), 1);
        // Nobody can be kept waiting for ever.
        let mut kept = Search::new(node(9), 1, true, ms(0));
        let heard = Query { node: node(1), nonce: 3, founding: true };
        let mut now = ms(0);
        while !kept.is_over(now) {
            kept.handle_query(heard, now);
            now += ms(100);
        }
        assert!(now <= AFTER_YOU + ms(100));
    }
}
