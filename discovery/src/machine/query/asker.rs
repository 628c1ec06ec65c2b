//! The node that asks.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use phantom_model::{NodeId, SubgridId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use thiserror::Error;

use super::{
    Answer, BadQuery, Command, Hop, MAX_REMAINING_MS, Message, Outcome, Query, QueryId, Role,
    Scope, Ticket, Wanted,
};

/// When the question is repeated at first; each time after twice as long, up to [`SELDOM`].
const RETRY: Duration = Duration::from_millis(200);
const SELDOM: Duration = Duration::from_secs(1);
/// A super-peer that is busy is asked again after so long.
const BUSY: Duration = Duration::from_secs(1);
/// Queries of one node in flight.
const MAX_IN_FLIGHT: usize = 8;
/// Super-peers that one query is sent to while they change.
const MAX_ASKED: usize = 4;

/// What is to be found.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// A ClassAd expression that must be true of a node.
    pub requirements: String,
    /// A ClassAd expression by which nodes are ranked.
    pub rank: Option<String>,
    /// How many nodes.
    pub wanted: u8,
    /// How far to ask.
    pub scope: Scope,
    /// Only nodes of this virtual organisation.
    pub vo: Option<String>,
    /// How long to wait; at most a minute.
    pub patience: Duration,
}

/// Why nothing is asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AskError {
    /// The query makes no sense.
    #[error(transparent)]
    Bad(#[from] BadQuery),
    /// Too many are under way.
    #[error("{MAX_IN_FLIGHT} queries of this node are under way: wait until one has ended")]
    TooMany,
}

#[derive(Debug)]
struct Flight {
    query: Query,
    deadline: Duration,
    next: Duration,
    pause: Duration,
    asked: Vec<NodeId>,
    /// The super-peer has said that it has too much to do.
    busy: bool,
}

/// The machine of the node that asks.
#[derive(Debug)]
pub struct Asker {
    own: NodeId,
    subgrid: SubgridId,
    super_peer: Option<NodeId>,
    rng: StdRng,
    flights: BTreeMap<QueryId, Flight>,
    commands: VecDeque<Command>,
}

impl Asker {
    /// A member of `subgrid`; `seed` is random.
    pub fn new(own: NodeId, subgrid: SubgridId, seed: [u8; 32]) -> Self {
        let rng = StdRng::from_seed(seed);
        let (flights, commands) = (BTreeMap::new(), VecDeque::new());
        Self { own, subgrid, super_peer: None, rng, flights, commands }
    }

    /// Who answers for the sub-grid now, if that is known. A new one is asked at once.
    pub fn handle_super_peer(&mut self, super_peer: Option<NodeId>, now: Duration) {
        if super_peer == self.super_peer {
            return;
        }
        self.super_peer = super_peer;
        self.flights.values_mut().for_each(|flight| flight.busy = false);
        let ids: Vec<_> = self.flights.keys().copied().collect();
        ids.into_iter().for_each(|id| self.send(id, now));
    }

    /// Begins to ask.
    pub fn handle_request(&mut self, request: Request, now: Duration) -> Result<QueryId, AskError> {
        let id = QueryId(self.rng.random());
        let patience = request.patience.min(Duration::from_millis(MAX_REMAINING_MS.into()));
        let query = Query {
            id,
            origin: self.own,
            requirements: request.requirements,
            rank: request.rank,
            wanted: request.wanted,
            scope: request.scope,
            vo: request.vo,
            remaining_ms: 0,
            attempt: 0,
            route: vec![Hop::new(self.own, Role::Asker)],
        };
        Wanted::of(&query)?;
        if self.flights.len() >= MAX_IN_FLIGHT {
            return Err(AskError::TooMany);
        }
        let deadline = now + patience;
        let (pause, asked, busy) = (RETRY, Vec::new(), false);
        let flight = Flight { query, deadline, next: now, pause, asked, busy };
        self.flights.insert(id, flight);
        self.send(id, now);
        Ok(id)
    }

    /// A node has sent this. What answers no question that was put to it is passed over.
    pub fn handle_message(&mut self, from: NodeId, message: Message, now: Duration) {
        let Message::Answer(mut answer) = message else { return };
        let Some(flight) = self.flights.get_mut(&answer.id) else { return };
        if !flight.asked.contains(&from) {
            return;
        }
        if answer.outcome == Outcome::Busy {
            flight.next = now + BUSY;
            flight.busy = true;
            return;
        }
        answer.matches.truncate(flight.query.wanted.into());
        self.flights.remove(&answer.id);
        self.commands.push_back(Command::Done(Box::new(answer)));
    }

    /// When there is something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.flights.values().map(|flight| flight.next.min(flight.deadline)).min()
    }

    /// Does what is due: repeats questions, ends those for which it is too late. One that nobody
    /// could be asked ends with no step and no message.
    pub fn handle_timeout(&mut self, now: Duration) {
        let ids: Vec<_> = self.flights.keys().copied().collect();
        for id in ids {
            let Some(flight) = self.flights.get(&id) else { continue };
            if flight.deadline <= now {
                let answer = Answer {
                    id,
                    subgrid: self.subgrid,
                    ticket: Ticket([0; 16]),
                    outcome: if flight.busy { Outcome::Busy } else { Outcome::Late },
                    matches: Vec::new(),
                    route: flight.query.route.clone(),
                    steps: 0,
                    messages: flight.query.attempt,
                };
                self.flights.remove(&id);
                self.commands.push_back(Command::Done(Box::new(answer)));
            } else if flight.next <= now {
                self.send(id, now);
            }
        }
    }

    /// What is to be done, one at a time until there is nothing more.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    fn send(&mut self, id: QueryId, now: Duration) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        flight.next = now + flight.pause;
        let Some(to) = self.super_peer else { return };
        flight.pause = (flight.pause * 2).min(SELDOM);
        if !flight.asked.contains(&to) {
            if flight.asked.len() >= MAX_ASKED {
                flight.asked.remove(0);
            }
            flight.asked.push(to);
        }
        flight.query.attempt = flight.query.attempt.saturating_add(1);
        let remaining_ms = flight.deadline.saturating_sub(now).as_millis();
        let remaining_ms = u32::try_from(remaining_ms).unwrap_or(MAX_REMAINING_MS);
        let query = Query { remaining_ms, ..flight.query.clone() };
        self.commands.push_back(Command::Send { to, message: Box::new(Message::Ask(query)) });
    }
}
