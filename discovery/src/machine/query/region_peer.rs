//! The node that answers for a region: it keeps nothing of a query.

use std::collections::VecDeque;
use std::time::Duration;

use phantom_model::{NodeId, SubgridId};

use super::limit::{Handled, Limiter, Verdict};
use super::{
    Command, Errand, Forward, Hop, MAX_FAN_OUT, MAX_HOPS, Message, Query, Referral, Role, Scope,
    Wanted, key,
};
use crate::machine::region::RegionId;
use crate::machine::region::catalogue::{Candidate, Catalogue};

/// Questions from one super-peer or region-peer a second, and at once.
const RATE: f64 = 100.0;
const BURST: f64 = 200.0;
/// Nodes whose questions are counted.
const NODES: usize = 2048;
/// Questions that are remembered, to handle each once.
const REMEMBERED: usize = 8192;
/// When so many times as many as are wanted are likely, nobody else is asked: what a summary says is
/// some seconds old, and likely is not certain.
const TO_SPARE: f64 = 3.0;
/// But two are asked, so that a datagram that is lost costs no time; of other regions two are asked
/// anyway.
const AT_ONCE: usize = 2;

/// The machine of a region-peer.
#[derive(Debug)]
pub struct RegionPeer {
    own: NodeId,
    region: RegionId,
    fan_out: usize,
    limiter: Limiter,
    handled: Handled,
    commands: VecDeque<Command>,
}

impl RegionPeer {
    /// Answers for `region`, and asks at most `fan_out` (1 to 4) sub-grids and two regions at once.
    pub fn new(own: NodeId, region: RegionId, fan_out: usize) -> Self {
        Self {
            own,
            region,
            fan_out: fan_out.clamp(1, MAX_FAN_OUT),
            limiter: Limiter::new(RATE, BURST, NODES),
            handled: Handled::new(REMEMBERED),
            commands: VecDeque::new(),
        }
    }

    /// A node has sent this. Only super-peers of sub-grids in the catalogue, and peers of regions in
    /// it, are listened to.
    pub fn handle_message(
        &mut self,
        from: NodeId,
        message: Message,
        catalogue: &mut Catalogue,
        now: Duration,
    ) {
        let Message::Refer(query, errand) = message else { return };
        let known = match errand.crossed {
            false => catalogue.subgrid_of(from).is_some() && errand.reply_to == from,
            true => catalogue.is_region_peer(from),
        };
        if !known {
            return;
        }
        match self.limiter.check(from, now) {
            Verdict::Pass => {}
            Verdict::Drop => return,
            Verdict::Name(dropped) => {
                return self.commands.push_back(Command::Flooding { node: from, dropped });
            }
        }
        let alive = query.remaining_ms > 1 && query.route.len() < MAX_HOPS;
        if !alive || !self.handled.is_new(query.id, query.attempt) {
            return;
        }
        let Ok(wanted) = Wanted::of(&query) else { return };
        self.pass_on(query, &errand, &wanted, catalogue, now);
    }

    /// What is to be done, one at a time until there is nothing more.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    fn pass_on(
        &mut self,
        mut query: Query,
        errand: &Errand,
        wanted: &Wanted,
        catalogue: &mut Catalogue,
        now: Duration,
    ) {
        query.route.push(Hop::new(self.own, Role::RegionPeer));
        query.remaining_ms -= 1;
        let (picked, more) = self.pick(&query, errand, wanted, catalogue, now);
        for candidate in &picked {
            let Candidate { subgrid, super_peer, .. } = *candidate;
            let forward = Forward {
                ticket: errand.ticket.of(super_peer, Some(subgrid)),
                reply_to: errand.reply_to,
                subgrid,
            };
            self.send(super_peer, Message::Forward(query.clone(), forward));
        }
        let crosses = picked.is_empty() && !more && !errand.crossed && query.scope == Scope::Grid;
        let mut regions = if crosses { catalogue.regions(wanted.need()) } else { Vec::new() };
        regions.retain(|(region, _)| *region != self.region && !errand.regions.contains(region));
        regions.truncate(AT_ONCE);
        for (_, peer) in &regions {
            let errand = Errand { crossed: true, ..errand.clone() };
            self.send(*peer, Message::Refer(query.clone(), errand));
        }
        // What a node sends itself is no message.
        let sent = picked.iter().map(|candidate| candidate.super_peer);
        let sent = sent.chain(regions.iter().map(|(_, peer)| *peer)).chain([errand.reply_to]);
        let referral = Referral {
            id: query.id,
            attempt: query.attempt,
            ticket: errand.ticket.of(self.own, None),
            region: self.region,
            asked: picked.iter().map(|candidate| candidate.subgrid).collect(),
            crossed: regions.iter().map(|(region, _)| *region).collect(),
            more,
            messages: u8::try_from(sent.filter(|to| *to != self.own).count()).unwrap_or(u8::MAX),
        };
        self.send(errand.reply_to, Message::Referral(referral));
    }

    /// Whom to ask in this region, and whether there are others.
    fn pick(
        &self,
        query: &Query,
        errand: &Errand,
        wanted: &Wanted,
        catalogue: &mut Catalogue,
        now: Duration,
    ) -> (Vec<Candidate>, bool) {
        if errand.regions.contains(&self.region) {
            return (Vec::new(), false);
        }
        let state = |subgrid: SubgridId| errand.tried.iter().find(|it| it.subgrid == key(subgrid));
        let late: Vec<SubgridId> = catalogue
            .iter()
            .map(|(subgrid, _)| subgrid)
            .filter(|subgrid| state(*subgrid).is_some_and(|tried| !tried.answered))
            .collect();
        late.into_iter().for_each(|subgrid| catalogue.handle_late(subgrid, now));
        let own = catalogue.subgrid_of(errand.reply_to);
        let mut candidates =
            catalogue.candidates(wanted.need(), query.wanted, errand.near.as_ref(), now);
        candidates.retain(|candidate| {
            Some(candidate.subgrid) != own
                && !state(candidate.subgrid).is_some_and(|it| it.answered)
        });
        let (mut picked, mut likely) = (Vec::new(), 0.0);
        let mut rest = candidates.into_iter().peekable();
        let least = if errand.crossed { 1 } else { AT_ONCE };
        while picked.len() < self.fan_out {
            let enough = likely >= TO_SPARE * f64::from(query.wanted) && picked.len() >= least;
            let Some(candidate) = rest.next_if(|_| !enough) else { break };
            likely += candidate.estimate.likely;
            picked.push(candidate);
        }
        let more = rest.peek().is_some() || catalogue.is_settling(now);
        (picked, more)
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.commands.push_back(Command::Send { to, message: Box::new(message) });
    }
}
