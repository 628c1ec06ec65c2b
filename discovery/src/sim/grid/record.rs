//! What became of queries, next to what could.

use std::time::Duration;

use phantom_model::NodeId;

use super::Grid;
use crate::machine::query::{Answer, Outcome, Query, QueryId, Request, Scope, Wanted};
use crate::sim::engine::Traffic;
use crate::sim::workload::{node_id, number_of, subgrid_id};

/// What became of one query.
#[derive(Debug, Clone)]
pub struct Record {
    /// How far it was to go.
    pub scope: Scope,
    /// How many nodes were wanted.
    pub wanted: usize,
    /// How many matched when it was asked: in the sub-grid, in the region, in the grid.
    pub there: [usize; 3],
    /// When it was asked.
    pub began: Duration,
    /// What was answered, and how long that took.
    pub ended: Option<(Duration, Answer)>,
    /// What it has cost, up to now.
    pub traffic: Traffic,
    /// Whether it has left its sub-grid.
    pub left: bool,
    pub(super) text: String,
    pub(super) first_wrong: Option<NodeId>,
}

impl Record {
    /// How many could be found, up to how many were wanted.
    pub fn possible(&self) -> usize {
        let there = match self.scope {
            Scope::SubGrid => self.there[0],
            Scope::Region => self.there[1],
            Scope::Grid => self.there[2],
        };
        there.min(self.wanted)
    }

    /// Whether the sub-grid alone could meet it.
    pub fn is_inside(&self) -> bool {
        self.there[0] >= self.wanted
    }

    /// How many were found.
    pub fn found(&self) -> usize {
        self.ended.as_ref().map_or(0, |(_, answer)| answer.matches.len())
    }

    /// Whether it was met.
    pub fn is_met(&self) -> bool {
        self.ended.as_ref().is_some_and(|(_, answer)| answer.outcome == Outcome::Met)
    }

    /// What was asked.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A node that was named as a match and is none.
    pub fn wrong(&self) -> Option<NodeId> {
        self.first_wrong
    }
}

impl Grid {
    pub(super) fn record(&self, node: usize, request: &Request, now: Duration) -> Record {
        let own = node / self.shape.members;
        let mut there = [0; 3];
        let wanted = usize::from(request.wanted);
        // As a super-peer would match it, without a rank, as only the number counts.
        let query = Query {
            id: QueryId([0; 16]),
            origin: node_id(node),
            requirements: request.requirements.clone(),
            rank: None,
            wanted: request.wanted,
            scope: request.scope,
            vo: request.vo.clone(),
            remaining_ms: 0,
            attempt: 0,
            route: Vec::new(),
        };
        if let Ok(parsed) = Wanted::of(&query) {
            let region = self.subgrids[own].region;
            let near = |number: usize| match &self.subgrids[number] {
                _ if number == own => 0,
                subgrid if subgrid.region == region => 1,
                _ => 2,
            };
            let mut order: Vec<usize> = (0..self.subgrids.len()).collect();
            order.sort_by_key(|number| near(*number));
            for number in order {
                let registry = &self.subgrids[number].registry;
                // Whether there are more than are wanted does not matter.
                if there[near(number)..].iter().any(|count| *count < wanted) {
                    let vo = request.vo.as_deref();
                    let count = parsed.find(vo, registry, subgrid_id(number)).len();
                    there.iter_mut().skip(near(number)).for_each(|sum| *sum += count);
                }
            }
        }
        Record {
            scope: request.scope,
            wanted,
            there,
            began: now,
            ended: None,
            traffic: Traffic::default(),
            left: false,
            text: request.requirements.clone(),
            first_wrong: None,
        }
    }

    /// Whether a node matches what was asked, as it is now.
    pub(super) fn is_right(&self, record: usize, node: NodeId) -> bool {
        let Some(number) = number_of(node) else { return false };
        let registry = &self.subgrids[number / self.shape.members].registry;
        let ad = registry.ads.iter().find(|(id, _)| *id == node);
        let text = self.records.get(record).map(|record| record.text.as_str());
        text.zip(ad).is_some_and(|(text, (_, ad))| {
            let expr = phantom_classad::Expr::parse(text);
            let scope = phantom_classad::Scope::default().with_target(ad);
            expr.is_ok_and(|expr| scope.eval(&expr).is_true())
        })
    }
}
