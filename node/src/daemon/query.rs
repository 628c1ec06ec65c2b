//! Queries that find their way through sub-grid, region and grid, as the local API asks them.

use std::time::{Duration, Instant};

use phantom_classad::Value;
use phantom_discovery::QueryError;
use phantom_discovery::envelope::ShortId;
use phantom_discovery::machine::query::{
    AskError, Hop, MAX_REMAINING_MS, MAX_WANTED, Match, Outcome, Request, Scope,
};

use super::subgrid::value;
use super::{Daemon, Refusal};
use crate::api::types::{HopRow, MatchRow, QueryOutcome, QueryReply, QueryRequest, Reach};

/// How long a query waits where nobody says.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait.
pub fn patience(within_ms: Option<u64>) -> Result<Duration, Refusal> {
    let patience = within_ms.map_or(PATIENCE, Duration::from_millis);
    if patience > Duration::from_millis(MAX_REMAINING_MS.into()) {
        let most = MAX_REMAINING_MS / 1000;
        return Err(Refusal::usage(format!("no query takes longer than {most} s: ask for less")));
    }
    Ok(patience)
}

impl Daemon {
    /// Asks which nodes match.
    pub async fn query(&self, asked: QueryRequest) -> Result<QueryReply, Refusal> {
        self.network.standing().map_err(Refusal::failed)?;
        let request = Request {
            requirements: asked.of_which,
            rank: asked.rank,
            wanted: asked.count.unwrap_or(MAX_WANTED),
            scope: match asked.scope {
                Reach::Subgrid => Scope::SubGrid,
                Reach::Region => Scope::Region,
                Reach::Grid => Scope::Grid,
            },
            vo: asked.vo.map(|vo| self.vo_full_name(&vo)).transpose()?,
            patience: patience(asked.within_ms)?,
        };
        let began = Instant::now();
        let answer = self.subgrid.query(request).await.map_err(refusal)?;
        let outcome = match answer.outcome {
            Outcome::Met => QueryOutcome::Met,
            Outcome::Short => QueryOutcome::Short,
            Outcome::Alone => QueryOutcome::Alone,
            Outcome::Late => QueryOutcome::Late,
            Outcome::Busy => return Err(Refusal::failed(Outcome::Busy)),
            Outcome::Refused => return Err(Refusal::usage(Outcome::Refused)),
        };
        Ok(QueryReply {
            outcome,
            rows: answer.matches.into_iter().map(|one| self.match_row(one)).collect(),
            route: answer.route.iter().map(|hop| self.hop_row(hop)).collect(),
            steps: answer.steps.into(),
            messages: answer.messages.into(),
            micros: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
        })
    }

    fn match_row(&self, one: Match) -> MatchRow {
        let said = one.attributes.iter().find(|(name, _)| name == "Name");
        let name = match said.map(|(_, text)| value(text)) {
            Some(Value::Text(name)) => name.to_string(),
            _ => self.members.name(one.node),
        };
        let Match { node, subgrid, rank, attributes } = one;
        MatchRow { node, name, subgrid, rank, attributes: attributes.into_iter().collect() }
    }

    fn hop_row(&self, hop: &Hop) -> HopRow {
        let members = self.network.members();
        let known = members.iter().find(|member| ShortId::from(member.node()) == hop.node());
        let node = match known {
            Some(member) => member.name().to_owned(),
            None => hop.node().to_string(),
        };
        HopRow { node, role: hop.role.to_string() }
    }
}

fn refusal(error: QueryError) -> Refusal {
    match error {
        QueryError::Ask(AskError::Bad(bad)) => Refusal::usage(bad),
        QueryError::NoSuperPeer => Refusal::failed(format!(
            "{error}, and `phantom nodes --where` without `--scope` asks each member"
        )),
        error => Refusal::failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_longer_than_a_query_may_take() {
        assert_eq!(patience(None).unwrap(), PATIENCE);
        assert_eq!(patience(Some(60_000)).unwrap(), Duration::from_secs(60));
        let refused = patience(Some(60_001)).unwrap_err();
        assert!(refused.usage && refused.line.contains("60 s"), "{}", refused.line);
        assert!(patience(Some(u64::MAX)).is_err());
    }
}
