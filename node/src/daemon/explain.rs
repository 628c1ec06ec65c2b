//! Could an app move now, where to, and if not, why.

use anyhow::bail;
use phantom_model::{AppId, AppRecord};

use super::apps::SHIM_DEADLINE;
use super::peers::{ASK_DEADLINE, Answer, Ask};
use super::{Daemon, Refusal, choose};
use crate::api::types::{CandidateRow, ExplainReply};
use crate::shim::control::{Reply, Request};

impl Daemon {
    /// What prevents a move of an app wherever it is, and what its user should know of one.
    pub async fn obstacles(
        &self,
        record: &AppRecord,
    ) -> anyhow::Result<(Vec<String>, Vec<String>)> {
        if record.host == self.node {
            return match self.apps.shim(record.app)?.ask(&Request::Survey, SHIM_DEADLINE).await? {
                Reply::Survey(survey) => Ok((survey.obstacles, survey.notes)),
                _ => bail!("the process that holds the app did not understand"),
            };
        }
        Ok(match self.ask(record.host, &Ask::Obstacles(record.app), ASK_DEADLINE).await {
            Ok(Answer::Obstacles(found)) => (found, Vec::new()),
            Ok(_) => bail!("the node it runs on did not understand"),
            Err(error) => (vec![format!("{error:#}")], Vec::new()),
        })
    }

    /// Answers `phantom explain`.
    pub async fn explain(&self, app: AppId) -> Result<ExplainReply, Refusal> {
        let record = self.apps.record(app)?;
        let verdict = self.apps.with(app, |app| app.verdict.clone())?;
        let (mut obstacles, mut notes) = self.obstacles(&record).await?;
        if record.pending.is_some() {
            obstacles.push("it is moving at this moment".to_owned());
        }
        notes.push(if record.is_away() {
            "it has no network while it is away from home".to_owned()
        } else {
            "its network stays behind when it moves: away from home it has none yet".to_owned()
        });
        let needs = self.needs(&record).await;
        let candidates = self.candidates().await;
        let best = choose::best(&needs, &candidates);
        if let Some(facts) = best.and_then(|best| best.facts.as_ref())
            && !facts.criu_restores_job_control
        {
            notes.push(format!(
                "the CRIU of {} does not give running children their terminal back: ^C and ^Z \
                 in them will not work there",
                facts.name
            ));
        }
        let rows = candidates
            .iter()
            .filter(|candidate| candidate.node != record.host)
            .map(|candidate| CandidateRow {
                name: candidate.name.clone(),
                idle_centicores: candidate.facts.as_ref().map_or(0, |f| f.idle_centicores),
                refused: candidate.refusal(&needs),
            })
            .collect();
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
