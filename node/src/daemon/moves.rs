//! The home's side of moves: when one begins, where to, and who waits for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use phantom_broker::{Candidate, Needs};
use phantom_checkpoint::machine::{Coordinator, Deadlines, Event, Start};
use phantom_model::handoff::{Addressed, Needs as TargetNeeds, Outcome, Report};
use phantom_model::{AppId, AppRecord, MoveId, NodeId, Step, Verdict};
use tokio::sync::{Notify, mpsc, oneshot};

use super::apps::SHIM_DEADLINE;
use super::drive::{Driver, in_words, is_at_rest};
use super::peers::{ASK_DEADLINE, Answer, Ask};
use super::{Daemon, Refusal};
use crate::api::types::*;
use crate::shim::carry::{self, Briefing};
use crate::shim::control::{Reply, Request as ShimRequest};

/// Events that may wait for one move's task.
const EVENTS: usize = 32;
/// Why an app stays is told again after this long.
const TOLD_AGAIN: Duration = Duration::from_secs(3600);
/// How long a new move waits for the last steps of the one before, and a signal for a move.
const CLOSING_DEADLINE: Duration = Duration::from_secs(10);

/// The moves under way of apps at home here.
#[derive(Default)]
pub struct Moves {
    tasks: Mutex<HashMap<AppId, Task>>,
    /// A task has ended.
    ended: Notify,
    /// A move is over for its user.
    settled: Notify,
}

/// The task of one move.
pub(super) struct Task {
    events: mpsc::Sender<Event>,
    /// The app runs again, here or there; what is left is to drop the other copy.
    pub(super) settled: bool,
}

impl Moves {
    pub(super) fn tasks(&self) -> MutexGuard<'_, HashMap<AppId, Task>> {
        self.tasks.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether a move of the app goes on; one that only clears away does not count.
    pub fn is_moving(&self, record: &AppRecord) -> bool {
        record.pending.is_some() && !self.tasks().get(&record.app).is_some_and(|task| task.settled)
    }

    /// Whether no app stands still for a move, or is about to.
    pub fn is_quiet(&self) -> bool {
        self.tasks().values().all(|task| task.settled)
    }

    /// Waits until that is so.
    pub async fn quiet(&self) {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if self.is_quiet() {
                return;
            }
            settled.await;
        }
    }

    /// The app of a move runs again, here or there.
    pub(super) fn settle(&self, app: AppId) {
        if let Some(task) = self.tasks().get_mut(&app) {
            task.settled = true;
        }
        self.settled.notify_waiters();
    }

    /// Waits while an app's move is over for its user but not yet cleared away.
    async fn closed(&self, app: AppId) {
        self.wait_while(|| self.tasks().get(&app).is_some_and(|task| task.settled)).await;
    }

    /// Waits while an app moves; not for ever, though.
    pub async fn at_rest(&self, app: AppId) {
        self.wait_while(|| self.tasks().contains_key(&app)).await;
    }

    async fn wait_while(&self, goes_on: impl Fn() -> bool) {
        let wait = async {
            loop {
                let ended = self.ended.notified();
                if !goes_on() {
                    return;
                }
                ended.await;
            }
        };
        let _ = tokio::time::timeout(CLOSING_DEADLINE, wait).await;
    }

    pub(super) fn remove(&self, app: AppId) {
        self.tasks().remove(&app);
        self.ended.notify_waiters();
        self.settled.notify_waiters();
    }
}

/// What is told to whoever waits for a move.
pub(super) type Settled = oneshot::Sender<(Outcome, u64)>;

impl Daemon {
    /// Moves an app by hand.
    pub async fn migrate(
        self: Arc<Self>,
        app: AppId,
        request: MigrateRequest,
    ) -> Result<MigrateReply, Refusal> {
        self.moves.closed(app).await;
        let record = self.apps.record(app)?;
        if record.pending.is_some() {
            return Err(Refusal::failed(format!("{} is moving already", record.spec.name)));
        }
        let (needs, target) = match &request.node {
            Some(text) => {
                let (needs, candidates) = (self.needs(&record).await, self.candidates().await);
                (needs, self.find_node(&candidates, text)?.clone())
            }
            None => {
                let situation = self.situation(&record, None).await;
                let (decision, candidates) = self.weigh(&situation).await;
                // Its user wants it away: the best there is, whatever it gains.
                let best = decision.weighed.iter().find(|weighed| weighed.outcome.is_ok());
                let best = best.and_then(|best| candidates.iter().find(|it| it.node == best.node));
                let target = best.cloned().ok_or_else(|| Refusal::failed(&decision.why))?;
                (situation.needs, target)
            }
        };
        if let Some(reason) = target.refusal(&needs) {
            let line = format!("{} cannot move to {}: {reason}", record.spec.name, target.name);
            return Err(Refusal::failed(line));
        }
        Ok(self.move_to(record, &target, needs).await?)
    }

    fn find_node<'a>(
        &self,
        candidates: &'a [Candidate],
        text: &str,
    ) -> Result<&'a Candidate, Refusal> {
        let named = candidates.iter().find(|candidate| candidate.name == text);
        let begins = || {
            let found: Vec<_> = candidates
                .iter()
                .filter(|candidate| text.len() >= 4 && candidate.node.to_string().starts_with(text))
                .collect();
            (found.len() == 1).then(|| found[0])
        };
        named.or_else(begins).ok_or_else(|| {
            Refusal::usage(format!("no node `{text}` is in the sub-grid; see `phantom nodes`"))
        })
    }

    pub(super) async fn survey(&self, app: AppId) -> anyhow::Result<crate::shim::control::Survey> {
        match self.apps.shim(app)?.ask(&ShimRequest::Survey, SHIM_DEADLINE).await? {
            Reply::Survey(survey) => Ok(survey),
            _ => bail!("the shim did not understand"),
        }
    }

    /// Acts on a verdict: looks for a better place and moves the app there.
    pub fn act_on(self: Arc<Self>, app: AppId, verdict: Verdict) {
        let _ = self.apps.with(app, |app| app.verdict = Some(verdict.clone()));
        tokio::spawn(async move {
            if let Err(error) = self.follow_verdict(app, &verdict).await {
                self.tell_once(app, format!("{error:#}")).await;
                self.let_ask_again(app).await;
            }
        });
    }

    /// Nothing came of the app's verdict: where it runs, another may fall after a pause.
    async fn let_ask_again(&self, app: AppId) {
        let Ok(record) = self.apps.record(app) else { return };
        if record.host == self.node {
            self.watcher.rearm(app);
        } else if let Err(error) = self.ask(record.host, &Ask::Stays(app), ASK_DEADLINE).await {
            tracing::warn!(%app, error = format!("{error:#}"), "the host does not hear that it stays");
        }
    }

    /// Tells the user why an app stays, but not the same again and again.
    pub(super) async fn tell_once(&self, app: AppId, line: String) {
        // Figures differ each time.
        let gist: String = line.chars().filter(|c| !c.is_ascii_digit()).collect();
        let is_news = self.apps.with(app, |app| {
            let told = app.told.as_ref();
            let known = told.is_some_and(|(told, at)| *told == gist && at.elapsed() < TOLD_AGAIN);
            if !known {
                app.told = Some((gist, Instant::now()));
            }
            !known
        });
        if is_news.unwrap_or(false) {
            self.apps.note(app, "stays", line.clone());
            self.tell_user(app, line).await;
        }
    }

    async fn follow_verdict(self: &Arc<Self>, app: AppId, verdict: &Verdict) -> anyhow::Result<()> {
        let record = self.apps.record(app)?;
        if record.pending.is_some() {
            // That move may yet fail.
            self.let_ask_again(app).await;
            return Ok(());
        }
        let situation = self.situation(&record, Some(verdict)).await;
        let (decision, candidates) = self.weigh(&situation).await;
        let chosen = |node: NodeId| candidates.iter().find(|candidate| candidate.node == node);
        let Some(target) = decision.go.and_then(chosen) else {
            bail!("{} {verdict}, but {}", record.spec.name, decision.why);
        };
        self.apps.note(app, "choice", decision.why);
        let reply = self.clone().move_to(record, target, situation.needs.clone()).await?;
        self.note_left(app, &situation);
        let _ = self.apps.with(app, |app| app.told = None);
        let line = format!("{} moved to {}: it {verdict}", reply.name, reply.to);
        self.tell_user(app, line).await;
        Ok(())
    }

    /// Moves an app and waits until it runs there or goes on where it was.
    async fn move_to(
        self: &Arc<Self>,
        record: AppRecord,
        target: &Candidate,
        needs: Needs,
    ) -> anyhow::Result<MigrateReply> {
        let app = record.app;
        let name = record.spec.name.clone();
        let from = self.members.name(record.host);
        let (obstacles, _) = self.obstacles(&record).await?;
        if let Some(first) = obstacles.first() {
            bail!("{name} cannot move now: {first}; `phantom explain {name}` tells more");
        }
        let capsule = self.briefing(&record).await?;
        let start = Start {
            id: MoveId(rand::random()),
            target: target.node,
            needs: TargetNeeds {
                arch: needs.started_on.arch.clone(),
                cpu_flags: needs.started_on.cpu_flags.clone(),
                memory: needs.resident,
            },
            capsule,
        };
        let (settled, outcome) = oneshot::channel();
        self.start_driver(record, Some(start), Some(settled))?;
        let (outcome, image_bytes) = outcome.await.context("the move was broken off")?;
        if let Some(went_well) = verdict_on_target(&outcome) {
            self.market.moved(target.node, went_well);
        }
        // The app runs again. What its user is now told is on disk before.
        self.save_timelines_if_quiet().await;
        match outcome {
            Outcome::Moved { timings } => {
                let total: u64 = timings
                    .iter()
                    .filter(|timing| !matches!(timing.step, Step::Prepare | Step::Drop))
                    .map(|timing| timing.micros)
                    .sum();
                let to = target.name.clone();
                let frozen_ms = total as f64 / 1000.0;
                Ok(MigrateReply { app, name, from, to, frozen_ms, image_bytes })
            }
            Outcome::Stayed(failure) | Outcome::Reverted(failure) => {
                Err(anyhow!("{name} stays on {from}: {}", in_words(&failure)))
            }
            Outcome::Ended => Err(anyhow!("{name} has ended before its move was over")),
            Outcome::Lost(failure) => Err(anyhow!(
                "{name} was handed to {}, which does not answer, and could not be taken back: {}",
                target.name,
                in_words(&failure)
            )),
        }
    }

    /// What the target is told of the capsule before anything stops.
    async fn briefing(&self, record: &AppRecord) -> anyhow::Result<Vec<u8>> {
        let shim = self.apps.shim(record.app)?;
        let Reply::Opened(blueprint) = shim.ask(&ShimRequest::OpenFiles, SHIM_DEADLINE).await?
        else {
            bail!("the shim did not understand");
        };
        let files = if record.host == self.node {
            match shim.ask(&ShimRequest::MappedFiles, SHIM_DEADLINE).await? {
                Reply::Files(files) => files,
                _ => bail!("the shim did not understand"),
            }
        } else {
            match self.ask(record.host, &Ask::MappedFiles(record.app), ASK_DEADLINE).await? {
                Answer::Files(files) => files,
                _ => bail!("the host did not understand"),
            }
        };
        carry::pack(&Briefing { blueprint, files, started_on: self.facts.now() })
    }

    /// Settles moves that were under way when the daemon stopped.
    pub fn settle_moves(self: &Arc<Self>) {
        for record in self.apps.records() {
            if record.pending.is_some()
                && let Err(error) = self.start_driver(record, None, None)
            {
                tracing::error!(error = format!("{error:#}"), "a move cannot be settled");
            }
        }
    }

    /// A node reports on a move of an app at home here.
    pub async fn take_report(self: &Arc<Self>, from: NodeId, report: Addressed<Report>) {
        let app = report.app;
        let sender = self.moves.tasks().get(&app).map(|task| task.events.clone());
        let event = Event::Report { from, report };
        let sender = match sender {
            Some(sender) => Some(sender),
            // A late word; a coordinator at rest knows what to answer.
            None => match self.apps.record(app) {
                // As it should be.
                Ok(record) if is_at_rest(&record, from, &event) => None,
                Ok(record) => self.start_driver(record, None, None).ok(),
                Err(_) => return self.tell_ended(from, app),
            },
        };
        if let Some(sender) = sender {
            let _ = sender.send(event).await;
        }
    }

    fn start_driver(
        self: &Arc<Self>,
        record: AppRecord,
        start: Option<Start>,
        settled: Option<Settled>,
    ) -> anyhow::Result<mpsc::Sender<Event>> {
        let app = record.app;
        let mut tasks = self.moves.tasks();
        if tasks.contains_key(&app) && start.is_some() {
            bail!("{} is moving already", record.spec.name);
        }
        let origin = Instant::now();
        let mut machine = Coordinator::new(record, Deadlines::default(), origin.elapsed());
        if let Some(start) = start {
            machine.start(start, origin.elapsed())?;
        }
        let (sender, events) = mpsc::channel(EVENTS);
        let settled_before = !machine.is_busy();
        tasks.insert(app, Task { events: sender.clone(), settled: settled_before });
        let driver = Driver {
            daemon: self.clone(),
            app,
            machine,
            events,
            origin,
            settled,
            image_bytes: 0,
            moved: false,
        };
        tokio::spawn(driver.run());
        Ok(sender)
    }
}

/// What the end of a move says of its target: nothing where it was not the target's doing.
fn verdict_on_target(outcome: &Outcome) -> Option<bool> {
    match outcome {
        Outcome::Moved { .. } => Some(true),
        Outcome::Stayed(failure) | Outcome::Reverted(failure) | Outcome::Lost(failure) => {
            let its_part =
                matches!(failure.step, Step::Prepare | Step::Check | Step::Restore | Step::Resume);
            its_part.then_some(false)
        }
        Outcome::Ended => None,
    }
}
