//! Messages as bytes. Matches are written with the sub-grids they share named once; what does not fit
//! a datagram is left out, attributes first.

use phantom_model::{NodeId, SubgridId};
use serde::{Deserialize, Serialize};

use super::{
    Answer, Errand, Forward, Hop, MAX_ATTRIBUTE, MAX_ATTRIBUTES, MAX_EXPRESSION, MAX_FAN_OUT,
    MAX_HOPS, MAX_MESSAGE, MAX_REGIONS_TRIED, MAX_REMAINING_MS, MAX_TRIED, MAX_VO, MAX_WANTED,
    Match, Message, Outcome, Query, QueryId, Referral, Ticket,
};
use crate::machine::coordinates::Coordinate;

#[derive(Serialize, Deserialize)]
enum Written {
    Ask(Query),
    Refer(Query, Errand),
    Forward(Query, Forward),
    Answer(WrittenAnswer),
    Referral(Referral),
}

#[derive(Serialize, Deserialize)]
struct WrittenAnswer {
    id: QueryId,
    subgrid: SubgridId,
    ticket: Ticket,
    outcome: Outcome,
    /// Sub-grids of matches, other than that of who answers.
    others: Vec<SubgridId>,
    matches: Vec<WrittenMatch>,
    route: Vec<Hop>,
    steps: u8,
    messages: u16,
}

#[derive(Serialize, Deserialize)]
struct WrittenMatch {
    node: NodeId,
    /// 0 for that of who answers, else one of the others.
    subgrid: u8,
    rank: f64,
    attributes: Vec<(String, String)>,
}

impl Message {
    /// As it is sent, at most [`MAX_MESSAGE`] bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let written = match self {
            Message::Ask(query) => Written::Ask(query.clone()),
            Message::Refer(query, errand) => Written::Refer(query.clone(), errand.clone()),
            Message::Forward(query, forward) => Written::Forward(query.clone(), *forward),
            Message::Referral(referral) => Written::Referral(referral.clone()),
            Message::Answer(answer) => return answer_bytes(answer),
        };
        postcard::to_stdvec(&written).unwrap_or_default()
    }

    /// Reads what another node has sent; `None` when it is none of ours, or beyond what is sent.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_MESSAGE {
            return None;
        }
        let (written, rest) = postcard::take_from_bytes::<Written>(bytes).ok()?;
        if !rest.is_empty() {
            return None;
        }
        Some(match written {
            Written::Ask(query) => Message::Ask(checked(query)?),
            Written::Forward(query, forward) => Message::Forward(checked(query)?, forward),
            Written::Refer(query, errand) => {
                let bounded =
                    errand.tried.len() <= MAX_TRIED && errand.regions.len() <= MAX_REGIONS_TRIED;
                let near = errand.near.and_then(Coordinate::checked);
                bounded.then_some(Message::Refer(checked(query)?, Errand { near, ..errand }))?
            }
            Written::Referral(referral) => {
                let bounded =
                    referral.asked.len() <= MAX_FAN_OUT && referral.crossed.len() <= MAX_FAN_OUT;
                bounded.then_some(Message::Referral(referral))?
            }
            Written::Answer(answer) => Message::Answer(read_answer(answer)?),
        })
    }
}

/// A query within its bounds; what is asked for longer than anybody waits is asked for less long.
fn checked(query: Query) -> Option<Query> {
    let text = query.requirements.len() + query.rank.as_ref().map_or(0, String::len);
    let good = text <= MAX_EXPRESSION
        && query.vo.as_ref().is_none_or(|vo| vo.len() <= MAX_VO)
        && (1..=MAX_WANTED).contains(&query.wanted)
        && query.route.len() <= MAX_HOPS;
    let remaining_ms = query.remaining_ms.min(MAX_REMAINING_MS);
    good.then_some(Query { remaining_ms, ..query })
}

fn answer_bytes(answer: &Answer) -> Vec<u8> {
    let mut written = Written::Answer(write_answer(answer));
    loop {
        let bytes = postcard::to_stdvec(&written).unwrap_or_default();
        let Written::Answer(inside) = &mut written else { return bytes };
        if bytes.len() <= MAX_MESSAGE || !shorten(inside) {
            return bytes;
        }
    }
}

fn write_answer(answer: &Answer) -> WrittenAnswer {
    let mut others: Vec<SubgridId> = Vec::new();
    let mut matches = Vec::new();
    for one in answer.matches.iter().take(usize::from(MAX_WANTED)) {
        let known = others.iter().position(|other| *other == one.subgrid);
        let at = match known {
            _ if one.subgrid == answer.subgrid => 0,
            Some(at) => at + 1,
            None => {
                others.push(one.subgrid);
                others.len()
            }
        };
        matches.push(WrittenMatch {
            node: one.node,
            subgrid: u8::try_from(at).unwrap_or(u8::MAX),
            rank: one.rank,
            attributes: one.attributes.iter().take(MAX_ATTRIBUTES).cloned().collect(),
        });
    }
    WrittenAnswer {
        id: answer.id,
        subgrid: answer.subgrid,
        ticket: answer.ticket,
        outcome: answer.outcome,
        others,
        matches,
        route: answer.route.iter().take(MAX_HOPS).copied().collect(),
        steps: answer.steps,
        messages: answer.messages,
    }
}

/// Takes off what matters least; false when nothing is left to take off.
fn shorten(answer: &mut WrittenAnswer) -> bool {
    let longest = answer.matches.iter_mut().rev().max_by_key(|one| one.attributes.len());
    if longest.and_then(|one| one.attributes.pop()).is_some() {
        return true;
    }
    if answer.matches.pop().is_none() {
        return false;
    }
    let used = answer.matches.iter().map(|one| usize::from(one.subgrid)).max();
    answer.others.truncate(used.unwrap_or(0));
    answer.outcome = match answer.outcome {
        Outcome::Met => Outcome::Short,
        other => other,
    };
    true
}

fn read_answer(answer: WrittenAnswer) -> Option<Answer> {
    let bounded = answer.matches.len() <= usize::from(MAX_WANTED)
        && answer.others.len() <= usize::from(MAX_WANTED)
        && answer.route.len() <= MAX_HOPS;
    if !bounded {
        return None;
    }
    let mut matches = Vec::new();
    for read in answer.matches {
        let subgrid = match usize::from(read.subgrid).checked_sub(1) {
            None => answer.subgrid,
            Some(other) => *answer.others.get(other)?,
        };
        let bounded = read.attributes.len() <= MAX_ATTRIBUTES
            && read
                .attributes
                .iter()
                .all(|(name, value)| name.len() <= MAX_ATTRIBUTE && value.len() <= MAX_ATTRIBUTE);
        if !bounded || !read.rank.is_finite() {
            return None;
        }
        let WrittenMatch { node, rank, attributes, .. } = read;
        matches.push(Match { node, subgrid, rank, attributes });
    }
    Some(Answer {
        id: answer.id,
        subgrid: answer.subgrid,
        ticket: answer.ticket,
        outcome: answer.outcome,
        matches,
        route: answer.route,
        steps: answer.steps,
        messages: answer.messages,
    })
}

#[cfg(test)]
mod tests;
