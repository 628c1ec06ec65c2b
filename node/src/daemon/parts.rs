//! This node's part in moves, as source or target, for its own apps and for those of others.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use phantom_checkpoint::machine::{SourceAction, SourceRole, TargetAction, TargetRole};
use phantom_model::handoff::{Addressed, Failure, Report, Request, Saved, Timing};
use phantom_model::{AppId, Epoch, MoveId, NodeId, Step};
use phantom_net::PeerState;

use super::Daemon;
use super::hold;
use super::images::Receiving;
use super::peers::Ask;
use crate::shim::control::{Reply, Request as ShimRequest, ShimClient};

/// How long the slow steps may take in a shim.
pub(super) const STEP_DEADLINE: Duration = Duration::from_secs(600);
/// How often parts are looked through for what nobody asks for any more.
const EXPIRY_TICK: Duration = Duration::from_secs(5);
/// How long a report may be on its way.
const REPORT_DEADLINE: Duration = Duration::from_secs(5);

/// The parts of one app here.
#[derive(Default)]
pub(super) struct Part {
    pub(super) home: Option<NodeId>,
    pub(super) source: Option<SourceRole>,
    pub(super) target: Option<TargetRole>,
    pub(super) receiving: Option<Arc<Receiving>>,
    pub(super) sending: Option<tokio::task::AbortHandle>,
}

/// All parts this node has.
pub struct Parts {
    table: Mutex<HashMap<AppId, Part>>,
    origin: Instant,
}

impl Default for Parts {
    fn default() -> Self {
        Self { table: Mutex::default(), origin: Instant::now() }
    }
}

pub(super) enum Action {
    Source(SourceAction),
    Target(MoveId, TargetAction),
}

impl Parts {
    pub(super) fn table(&self) -> MutexGuard<'_, HashMap<AppId, Part>> {
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Forgets an app that has ended here.
    pub fn forget(&self, app: AppId) {
        self.table().remove(&app);
    }

    /// A copy found after a restart of the daemon.
    pub fn adopt(&self, app: AppId, home: NodeId, found: Found) {
        let mut table = self.table();
        let part = table.entry(app).or_default();
        part.home = Some(home);
        match found {
            Found::Running { epoch, arrived } => {
                part.source = Some(SourceRole::new(app, epoch));
                part.target = arrived.map(|id| TargetRole::found_running(app, id, epoch));
            }
            Found::Frozen { epoch, id } => part.source = Some(SourceRole::frozen(app, epoch, id)),
        }
    }

    /// What to tell a home without being asked, or all homes.
    pub(super) fn standing(&self, only: Option<NodeId>) -> Vec<(NodeId, Addressed<Report>)> {
        let table = self.table();
        let of = |part: &Part| {
            let home = part.home.filter(|home| only.is_none_or(|only| only == *home))?;
            let source = part.source.as_ref().and_then(SourceRole::standing);
            let target = part.target.as_ref().filter(|target| !target.is_over());
            let report = source.or_else(|| target.and_then(TargetRole::standing))?;
            Some((home, report))
        };
        table.values().filter_map(of).collect()
    }

    /// Removes what nobody has asked for in a long time.
    pub(super) fn expire(&self) -> Vec<(AppId, MoveId, Vec<TargetAction>)> {
        let now = self.now();
        let mut table = self.table();
        table.retain(|_, part| part.source.is_some() || part.target.is_some());
        let over = |(app, part): (&AppId, &mut Part)| {
            let target = part.target.as_mut()?;
            Some((*app, target.id(), target.handle_timeout(now)))
        };
        table.iter_mut().filter_map(over).filter(|(_, _, actions)| !actions.is_empty()).collect()
    }

    /// From the target to the source: with which ticket the image may come.
    pub fn ticket(
        &self,
        app: AppId,
        id: MoveId,
        peer: NodeId,
    ) -> anyhow::Result<phantom_net::BulkTicket> {
        let table = self.table();
        let receiving = table.get(&app).and_then(|part| part.receiving.as_ref());
        let receiving = receiving.filter(|r| r.id == id && r.source == peer);
        Ok(receiving.context("no image of yours is expected")?.ticket)
    }

    /// From the target to the source: why the image could not be stored, if that is so.
    pub fn arrival(&self, app: AppId, id: MoveId, peer: NodeId) -> Option<String> {
        let table = self.table();
        let receiving = table.get(&app)?.receiving.as_ref()?;
        receiving.failed().filter(|_| receiving.id == id && receiving.source == peer)
    }
}

/// A copy found after a restart.
pub enum Found {
    /// It runs.
    Running {
        /// With this epoch.
        epoch: Epoch,
        /// The move that brought it.
        arrived: Option<MoveId>,
    },
    /// It stands frozen.
    Frozen {
        /// Its epoch.
        epoch: Epoch,
        /// The move that froze it.
        id: MoveId,
    },
}

impl Daemon {
    /// Tells homes, or one home, of the copies here: a frozen one waits for its word, and one that
    /// is not the app any more must end.
    pub fn report_standing(self: &Arc<Self>, only: Option<NodeId>) {
        for (home, report) in self.parts.standing(only) {
            self.report(home, report);
        }
    }

    /// Speaks up whenever a home can be reached again, and removes what nobody asks for any more.
    pub async fn tend_parts(self: Arc<Self>) {
        let mut changes = self.network.peer_changes();
        let mut tick = tokio::time::interval(EXPIRY_TICK);
        let mut connected = HashSet::new();
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                _ = tick.tick() => {}
            }
            let peers = self.network.peers().into_iter();
            let now: HashSet<NodeId> = peers
                .filter(|peer| peer.state == PeerState::Connected)
                .map(|peer| peer.node)
                .collect();
            for home in now.difference(&connected) {
                self.report_standing(Some(*home));
            }
            connected = now;
            for (app, id, actions) in self.parts.expire() {
                tracing::warn!(%app, move_id = %id, "its home has not asked for it any more");
                let actions = actions.into_iter().map(|action| Action::Target(id, action));
                self.perform(app, actions.collect());
            }
        }
    }

    /// A home asks for a step of a move.
    pub async fn take_part(self: &Arc<Self>, home: NodeId, request: Addressed<Request>) {
        let Addressed { app, id, body } = request;
        let actions = match &body {
            Request::Save { .. } | Request::Thaw { .. } | Request::Drop => {
                self.source_request(home, app, id, &body)
            }
            _ => self.target_request(home, app, id, body),
        };
        self.perform(app, actions);
    }

    fn source_request(
        &self,
        home: NodeId,
        app: AppId,
        id: MoveId,
        request: &Request,
    ) -> Vec<Action> {
        let mut table = self.parts.table();
        let part = table.entry(app).or_default();
        part.home = Some(home);
        if part.source.is_none() {
            let epoch = match self.apps.record(app) {
                Ok(record) => (record.host == self.node).then_some(record.epoch),
                Err(_) => self.guests.get(app).ok().filter(|g| g.running).map(|g| g.epoch),
            };
            part.source = epoch.map(|epoch| SourceRole::new(app, epoch));
        }
        let Some(source) = &mut part.source else {
            let report = TargetRole::unknown(app, id);
            return vec![Action::Source(SourceAction::Reply(report))];
        };
        source.handle(id, request).into_iter().map(Action::Source).collect()
    }

    fn target_request(
        &self,
        home: NodeId,
        app: AppId,
        id: MoveId,
        request: Request,
    ) -> Vec<Action> {
        let now = self.parts.now();
        let mut table = self.parts.table();
        let part = table.entry(app).or_default();
        part.home = Some(home);
        let known = part.target.as_mut().filter(|target| target.id() == id);
        let actions = match (known, request) {
            (Some(target), request) => target.handle(&request, now),
            (None, Request::Prepare(prepare)) => {
                let (target, actions) = TargetRole::new(app, id, prepare, now);
                part.target = Some(target);
                actions
            }
            (None, Request::Discard) => {
                let report = Addressed { app, id, body: Report::Discarded };
                // The shim may know more of it than a daemon that was restarted.
                vec![TargetAction::Discard, TargetAction::Reply(report)]
            }
            (None, _) => vec![TargetAction::Reply(TargetRole::unknown(app, id))],
        };
        actions.into_iter().map(|action| Action::Target(id, action)).collect()
    }

    pub(super) fn perform(self: &Arc<Self>, app: AppId, actions: Vec<Action>) {
        if actions.is_empty() {
            return;
        }
        let daemon = self.clone();
        tokio::spawn(async move {
            for action in actions {
                match action {
                    Action::Source(action) => daemon.perform_source(app, action).await,
                    Action::Target(id, action) => daemon.perform_target(app, id, action).await,
                }
            }
        });
    }

    /// Tells the home; what is lost is asked for again.
    pub(super) fn report(self: &Arc<Self>, home: NodeId, report: Addressed<Report>) {
        let daemon = self.clone();
        tokio::spawn(async move {
            if home == daemon.node {
                daemon.take_report(home, report).await;
            } else if let Err(error) = daemon.ask(home, &Ask::Report(report), REPORT_DEADLINE).await
            {
                tracing::debug!(error = format!("{error:#}"), "a report was not taken");
            }
        });
    }

    pub(super) fn home_of(&self, app: AppId) -> Option<NodeId> {
        self.parts.table().get(&app)?.home
    }

    pub(super) fn shim_of(&self, app: AppId) -> anyhow::Result<ShimClient> {
        self.apps.shim(app).or_else(|_| Ok(self.guests.get(app)?.shim))
    }

    async fn perform_source(self: &Arc<Self>, app: AppId, action: SourceAction) {
        match action {
            SourceAction::Save { id, target } => {
                let daemon = self.clone();
                let task = tokio::spawn(async move { daemon.save(app, id, target).await });
                if let Some(part) = self.parts.table().get_mut(&app) {
                    part.sending = Some(task.abort_handle());
                }
                let result = match task.await {
                    Ok(result) => result,
                    Err(_) => return,
                };
                let actions = match self.parts.table().get_mut(&app).and_then(|p| p.source.as_mut())
                {
                    Some(source) => source.saved(id, result),
                    None => Vec::new(),
                };
                self.perform(app, actions.into_iter().map(Action::Source).collect());
            }
            SourceAction::Thaw { epoch } => {
                let sending = self.parts.table().get_mut(&app).and_then(|part| part.sending.take());
                if let Some(sending) = sending {
                    sending.abort();
                }
                if let Err(error) = self.tell_shim(app, &ShimRequest::Thaw { epoch }).await {
                    tracing::error!(%app, error = format!("{error:#}"), "the app could not be thawed");
                }
                let _ = self.guests.with(app, |guest| guest.epoch = epoch);
            }
            SourceAction::Kill => {
                self.hold(hold::Part::Source, Step::Drop).await;
                if let Err(error) = self.tell_shim(app, &ShimRequest::Release).await {
                    tracing::error!(%app, error = format!("{error:#}"), "the old copy could not be dropped");
                }
                self.watcher.unwatch(app);
                if self.guests.remove(app).is_some() {
                    tracing::info!(%app, "the guest has left");
                }
            }
            SourceAction::Reply(report) => {
                if let Some(home) = self.home_of(app) {
                    self.report(home, report);
                }
            }
        }
        // A copy that is gone plays no part any more, but it must go on answering.
        if let Some(part) = self.parts.table().get_mut(&app)
            && part.source.as_ref().is_some_and(|source| !source.runs())
            && part.target.as_ref().is_some_and(|target| target.running().is_some())
        {
            part.target = None;
        }
    }

    async fn tell_shim(&self, app: AppId, request: &ShimRequest) -> anyhow::Result<()> {
        self.shim_of(app)?.tell(request, STEP_DEADLINE).await
    }

    /// Freezes, dumps and streams.
    async fn save(
        self: &Arc<Self>,
        app: AppId,
        id: MoveId,
        target: NodeId,
    ) -> Result<Saved, Failure> {
        let shim = self.shim_of(app).map_err(failure(Step::Freeze))?;
        self.hold(hold::Part::Source, Step::Freeze).await;
        let image = self.config.app_dir(app).image(id);
        let saved = self.send_image(app, id, target, &image, || async {
            match shim.ask(&ShimRequest::Save { id }, STEP_DEADLINE).await? {
                Reply::Saved(saved) => {
                    self.hold(hold::Part::Source, Step::Transfer).await;
                    Ok(*saved)
                }
                _ => bail!("the shim did not understand"),
            }
        });
        let (saved, manifest, transfer) = saved.await.inspect_err(|_| {
            let _ = std::fs::remove_dir_all(&image);
        })?;
        let timing = |step, took: Duration| Timing { step, micros: took.as_micros() as u64 };
        Ok(Saved {
            manifest,
            terminal: saved.luggage,
            timings: vec![
                timing(Step::Freeze, saved.freeze),
                timing(Step::Dump, saved.dump),
                timing(Step::Transfer, transfer),
            ],
        })
    }
}

/// An error of a step, as it is reported.
pub fn failure<E: Into<anyhow::Error>>(step: Step) -> impl FnOnce(E) -> Failure {
    move |error| Failure { step, reason: format!("{:#}", error.into()) }
}
