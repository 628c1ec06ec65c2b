//! Could an app move now, where to, and if not, why.

use phantom_model::AppId;

use super::apps::SHIM_DEADLINE;
use super::peers::{ASK_DEADLINE, Answer, Ask};
use super::{Daemon, Refusal, choose};
use crate::api::types::{CandidateRow, ExplainReply};
use crate::shim::control::{Reply, Request};

impl Daemon {
    /// Answers `phantom explain`.
    pub async fn explain(&self, app: AppId) -> Result<ExplainReply, Refusal> {
        let record = self.apps.record(app)?;
        let verdict = self.apps.with(app, |app| app.verdict.clone())?;
        let mut obstacles = Vec::new();
        let mut notes = Vec::new();
        if record.host == self.node {
            match self.apps.shim(app)?.ask(&Request::Survey, SHIM_DEADLINE).await? {
                Reply::Survey(survey) => {
                    obstacles = survey.obstacles;
                    notes = survey.notes;
                }
                _ => obstacles.push("its shim gives no answer".to_owned()),
            }
        } else {
            match self.ask(record.host, &Ask::Obstacles(app), ASK_DEADLINE).await {
                Ok(Answer::Obstacles(found)) => obstacles = found,
                Ok(_) => obstacles.push("the node it runs on gives no answer".to_owned()),
                Err(error) => obstacles.push(format!("{error:#}")),
            }
        }
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
