//! A super-peer that is asked by its region-peer for another sub-grid.

use std::time::Duration;

use phantom_model::{NodeId, SubgridId};

use super::limit::{Handled, Limiter, Verdict};
use super::{
    Answer, Command, Directory, Forward, Hop, MAX_HOPS, Message, Outcome, Query, Role, Wanted,
};

/// Questions from one region-peer a second, and at once.
const RATE: f64 = 200.0;
const BURST: f64 = 400.0;
/// Questions that are remembered, to handle each once.
const REMEMBERED: usize = 4096;

#[derive(Debug)]
pub(super) struct Answerer {
    limiter: Limiter,
    handled: Handled,
}

impl Answerer {
    pub(super) fn new() -> Self {
        Self { limiter: Limiter::new(RATE, BURST, 16), handled: Handled::new(REMEMBERED) }
    }

    /// The region-peer `from` asks. The answer goes to who waits for it.
    pub(super) fn handle_forward(
        &mut self,
        own: (NodeId, SubgridId),
        from: NodeId,
        asked: (&Query, Forward),
        directory: &dyn Directory,
        now: Duration,
    ) -> Option<Command> {
        let ((own, subgrid), (query, forward)) = (own, asked);
        match self.limiter.check(from, now) {
            Verdict::Pass => {}
            Verdict::Drop => return None,
            Verdict::Name(dropped) => return Some(Command::Flooding { node: from, dropped }),
        }
        let alive = query.remaining_ms > 0 && query.route.len() < MAX_HOPS;
        if !alive || forward.subgrid != subgrid || !self.handled.is_new(query.id, query.attempt) {
            return None;
        }
        let wanted = Wanted::of(query).ok()?;
        let matches = wanted.find(query.vo.as_deref(), directory, subgrid);
        if !wanted.is_settled(&matches, directory) {
            // Who waits has the region-peer ask again.
            return None;
        }
        let met = matches.len() >= usize::from(query.wanted);
        let mut route = query.route.clone();
        route.push(Hop::new(own, Role::Answerer));
        let answer = Answer {
            id: query.id,
            subgrid,
            ticket: forward.ticket,
            outcome: if met { Outcome::Met } else { Outcome::Short },
            matches,
            steps: u8::try_from(route.len()).unwrap_or(u8::MAX),
            route,
            messages: 1,
        };
        Some(Command::Send { to: forward.reply_to, message: Box::new(Message::Answer(answer)) })
    }
}
