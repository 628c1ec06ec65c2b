//! Could an app move now, where to, and if not, why.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use phantom_model::{AppId, AppRecord};

use super::apps::SHIM_DEADLINE;
use super::peers::{ASK_DEADLINE, Answer, Ask};
use super::timeline::clean;
use super::{Daemon, Refusal};
use crate::api::types::{CandidateRow, ExplainReply};
use crate::shim::control::{Reply, Request};

/// How often one app is looked at for what prevents a move.
const INSPECT: Duration = Duration::from_secs(2);
/// What another node may say of an app.
const MOST_LINES: usize = 32;
const LONGEST_LINE: usize = 400;

/// Lines from another node, as many and as long as a reader can take.
fn lines(found: Vec<String>) -> Vec<String> {
    found.iter().take(MOST_LINES).map(|line| clean(line, LONGEST_LINE)).collect()
}

impl Daemon {
    /// What prevents a move of an app wherever it is, and what its user should know of one.
    pub async fn obstacles(
        &self,
        record: &AppRecord,
    ) -> anyhow::Result<(Vec<String>, Vec<String>)> {
        if record.host == self.node {
            return match self.apps.shim(record.app)?.ask(&Request::Survey, SHIM_DEADLINE).await? {
                Reply::Survey(survey) => {
                    let mut notes = survey.notes;
                    notes.extend(self.watcher.outlook(record.app));
                    Ok((survey.obstacles, notes))
                }
                _ => bail!("the process that holds the app did not understand"),
            };
        }
        Ok(match self.ask(record.host, &Ask::Obstacles(record.app), ASK_DEADLINE).await {
            Ok(Answer::Obstacles(found, notes)) => (lines(found), lines(notes)),
            Ok(_) => bail!("the node it runs on did not understand"),
            Err(error) => (vec![format!("{error:#}")], Vec::new()),
        })
    }

    /// Keeps known what prevents each app from moving, one app at a time, so that the cost does not
    /// grow with their number.
    pub async fn keep_movable(self: Arc<Self>) {
        let mut tick = tokio::time::interval(INSPECT);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let Some(app) = self.apps.longest_uninspected() else { continue };
            let Ok(record) = self.apps.record(app) else { continue };
            if record.pending.is_none() {
                let found = self.obstacles(&record).await.ok();
                self.inspected(app, found.map(|(obstacles, _)| obstacles));
            }
        }
    }

    fn inspected(&self, app: AppId, found: Option<Vec<String>>) {
        let _ = self.apps.with(app, |app| {
            app.inspected = Some(Instant::now());
            app.obstacle = found.map(|obstacles| obstacles.into_iter().next());
        });
    }

    /// Answers `phantom explain`.
    pub async fn explain(&self, app: AppId) -> Result<ExplainReply, Refusal> {
        let record = self.apps.record(app)?;
        let verdict = self.apps.with(app, |app| app.verdict.clone())?;
        let (mut obstacles, mut notes) = self.obstacles(&record).await?;
        self.inspected(app, Some(obstacles.clone()));
        if record.pending.is_some() {
            obstacles.push("it is moving at this moment".to_owned());
        }
        notes.push(if record.is_away() {
            "it has no network while it is away from home".to_owned()
        } else {
            "its network stays behind when it moves: away from home it has none yet".to_owned()
        });
        let situation = self.situation(&record, verdict.as_ref()).await;
        let (decision, candidates) = self.weigh(&situation).await;
        let best = decision.weighed.iter().find(|weighed| weighed.outcome.is_ok());
        let facts = best.and_then(|best| candidates.iter().find(|it| it.node == best.node));
        if let Some(facts) = facts.and_then(|candidate| candidate.facts.as_ref())
            && !facts.criu_restores_job_control
        {
            notes.push(format!(
                "the CRIU of {} does not give running children their terminal back: ^C and ^Z \
                 in them will not work there",
                facts.name
            ));
        }
        let row = |weighed: &phantom_broker::Weighed| CandidateRow {
            name: weighed.name.clone(),
            idle_centicores: candidates
                .iter()
                .find(|candidate| candidate.node == weighed.node)
                .and_then(|candidate| candidate.facts.as_ref())
                .map_or(0, |facts| facts.idle_centicores),
            rank: weighed.outcome.as_ref().ok().map(|weight| weight.rank),
            weight: weighed.outcome.as_ref().ok().map(phantom_broker::Weight::words),
            refused: weighed.outcome.as_ref().err().cloned(),
        };
        let rows = decision.weighed.iter().map(row).collect();
        Ok(ExplainReply {
            app,
            name: record.spec.name.clone(),
            host: self.members.name(record.host),
            movable: obstacles.is_empty(),
            target: best.map(|best| best.name.clone()),
            obstacles,
            notes,
            candidates: rows,
            verdict: verdict.map(|verdict| verdict.to_string()),
        })
    }
}
