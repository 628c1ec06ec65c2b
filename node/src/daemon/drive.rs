//! One move's task: feeds the coordinator and does what it says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use phantom_checkpoint::machine::{Command, Coordinator, Event};
use phantom_model::handoff::{Addressed, Outcome, Report, Request, Timing};
use phantom_model::{AppId, AppRecord, Bytes, NodeId, Step};
use phantom_net::PeerState;
use tokio::sync::mpsc;

use super::Daemon;
use super::apps::SHIM_DEADLINE;
use super::hold;
use super::moves::Settled;
use super::peers::Ask;
use super::timeline::{ARRIVED, COMMIT};
use crate::shim::control::Request as ShimRequest;

/// How long a repeated request may be on its way.
const SEND_DEADLINE: Duration = Duration::from_secs(5);

/// One move's task.
pub(super) struct Driver {
    pub(super) daemon: Arc<Daemon>,
    pub(super) app: AppId,
    pub(super) machine: Coordinator,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) origin: Instant,
    pub(super) settled: Option<Settled>,
    pub(super) image_bytes: u64,
    pub(super) moved: bool,
}

/// How long an idle coordinator waits for one more word.
const LINGER: Duration = Duration::from_millis(200);

impl Driver {
    /// Runs until the move is over and nobody speaks of it any more.
    pub(super) async fn run(mut self) {
        let mut peers = self.daemon.network.peer_changes();
        let Ok(mut authority) = self.daemon.apps.authority(self.app) else {
            return self.end().await;
        };
        loop {
            self.carry_out().await;
            if self.check_links() {
                continue;
            }
            let now = self.origin.elapsed();
            let until = match self.machine.poll_timeout() {
                Some(at) => at.saturating_sub(now),
                None if self.machine.is_busy() => Duration::from_secs(3600),
                None => LINGER,
            };
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => {
                        self.note_report(&event);
                        self.machine.handle(event, self.origin.elapsed());
                    }
                    None => return,
                },
                changed = authority.changed() => if changed.is_err() {
                    return self.end().await;
                },
                _ = peers.changed() => {}
                () = tokio::time::sleep(until) => {
                    if !self.machine.is_busy() && self.events.is_empty() {
                        self.daemon.moves.remove(self.app);
                        return;
                    }
                    self.take_for_running();
                    self.machine.handle_timeout(self.origin.elapsed());
                }
            }
        }
    }

    /// Tells the machine of nodes that cannot be reached; says whether it has commands now.
    fn check_links(&mut self) -> bool {
        let Some(pending) = self.machine.record().pending.clone() else { return false };
        for node in [pending.source, pending.target] {
            let state = self.daemon.network.peer_state(node);
            if node != self.daemon.node && matches!(state, PeerState::Unreachable { .. }) {
                self.machine.handle(Event::LinkLost(node), self.origin.elapsed());
            }
        }
        self.machine.has_commands()
    }

    /// A copy whose terminal has come home runs, whatever became of its report: what was typed has
    /// gone to it, so the app must not be given back to the source.
    fn take_for_running(&mut self) {
        let record = self.machine.record();
        let (app, epoch, from) = (self.app, record.epoch, record.host);
        let Some(id) = record.pending.as_ref().map(|pending| pending.id) else { return };
        let seen = self.daemon.apps.with(app, |app| app.seen == Some(epoch)).unwrap_or(false);
        if seen && self.machine.step() == Some(Step::Resume) {
            let on = self.daemon.members.name(from);
            self.daemon.apps.note(
                app,
                &Step::Resume.to_string(),
                format!("seen by what {on} sends"),
            );
            let report =
                Addressed { app, id, body: Report::Running { epoch, timings: Vec::new() } };
            self.machine.handle(Event::Report { from, report }, self.origin.elapsed());
        }
    }

    /// The app has ended in the middle of its move: whoever has a copy of it hears so.
    async fn end(mut self) {
        let pending = self.machine.record().pending.clone();
        for node in pending.iter().flat_map(|pending| [pending.source, pending.target]) {
            if node != self.daemon.node {
                self.daemon.tell_ended(node, self.app);
            }
        }
        self.machine.handle(Event::Ended, self.origin.elapsed());
        self.carry_out().await;
        self.daemon.moves.remove(self.app);
    }

    /// Does what the machine has commanded, and what it commands upon that.
    async fn carry_out(&mut self) {
        let mut commands = VecDeque::from(self.machine.take_commands());
        while let Some(command) = commands.pop_front() {
            match command {
                Command::Persist { number, record } => {
                    let event = match self.persist(*record).await {
                        Ok(()) => Event::Persisted(number),
                        Err(error) => Event::PersistFailed(number, format!("{error:#}")),
                    };
                    self.machine.handle(event, self.origin.elapsed());
                    commands.extend(self.machine.take_commands());
                }
                Command::Send { to, request } => self.send(to, request),
                Command::Settled { outcome, .. } => self.settle(outcome).await,
                Command::Closed { .. } => self.close().await,
            }
        }
    }

    /// Writes the record, and makes it hold for streams and the terminal before anybody is told.
    async fn persist(&mut self, record: AppRecord) -> anyhow::Result<()> {
        let before = self.daemon.apps.record(self.app)?;
        let store = self.daemon.store.clone();
        let written = record.clone();
        tokio::task::spawn_blocking(move || store.put_record(&written)).await??;
        let granted = (before.host, before.epoch) != (record.host, record.epoch);
        if granted {
            self.daemon.hold(hold::Part::Home, Step::Commit).await;
        }
        self.daemon.apps.set_record(record.clone())?;
        if granted {
            let step = if record.pending.as_ref().is_some_and(|p| p.source == record.host) {
                "revert"
            } else {
                COMMIT
            };
            let host = self.daemon.members.name(record.host);
            let detail = format!("{host} has epoch {}", record.epoch);
            self.daemon.apps.note(self.app, step, detail);
        }
        if granted && record.host != self.daemon.node {
            let follow = ShimRequest::Follow { epoch: record.epoch };
            self.daemon.apps.shim(self.app)?.tell(&follow, SHIM_DEADLINE).await?;
        }
        Ok(())
    }

    fn send(&self, to: NodeId, request: Addressed<Request>) {
        let daemon = self.daemon.clone();
        tokio::spawn(async move {
            if to == daemon.node {
                daemon.take_part(daemon.node, request).await;
            } else if let Err(error) = daemon.ask(to, &Ask::Move(request), SEND_DEADLINE).await {
                tracing::debug!(error = format!("{error:#}"), "a request of a move was not taken");
            }
        });
    }

    /// Writes what a report says into the app's life.
    fn note_report(&mut self, event: &Event) {
        let Event::Report { from, report } = event else { return };
        let on = self.daemon.members.name(*from);
        let apps = &self.daemon.apps;
        let (timings, extra): (&[Timing], String) = match &report.body {
            Report::Prepared => {
                apps.note(self.app, "prepare", format!("{on} is ready"));
                return;
            }
            Report::Saved(saved) => {
                self.image_bytes = saved.manifest.total_bytes();
                (&saved.timings, format!(", {}", Bytes(self.image_bytes)))
            }
            Report::Held { timings } => (timings, String::new()),
            // Asked for again by a home that was restarted just then.
            Report::Running { .. } if apps.tells_of_arrival(self.app) => return,
            Report::Running { timings, .. } => (timings, String::new()),
            Report::Failed(failure) => {
                apps.note(self.app, "failed", format!("on {on}: {}", in_words(failure)));
                return;
            }
            _ => return,
        };
        for timing in timings {
            let sized = if timing.step == Step::Dump { extra.as_str() } else { "" };
            let detail = format!("{:.1} ms on {on}{sized}", timing.micros as f64 / 1000.0);
            apps.note(self.app, &timing.step.to_string(), detail);
        }
    }

    async fn settle(&mut self, outcome: Outcome) {
        self.daemon.moves.settle(self.app);
        let apps = &self.daemon.apps;
        match &outcome {
            Outcome::Moved { .. } => {
                self.moved = true;
                let host = apps.record(self.app).map(|record| record.host);
                let host =
                    host.map_or_else(|_| String::new(), |host| self.daemon.members.name(host));
                if !apps.tells_of_arrival(self.app) {
                    apps.note(self.app, ARRIVED, format!("on {host}"));
                }
            }
            Outcome::Stayed(failure) | Outcome::Reverted(failure) | Outcome::Lost(failure) => {
                apps.note(self.app, "stays", in_words(failure));
            }
            Outcome::Ended => {}
        }
        match self.settled.take() {
            Some(settled) => drop(settled.send((outcome, self.image_bytes))),
            None => {
                // Nobody waits: the daemon was restarted in between.
                if let Outcome::Stayed(failure) | Outcome::Reverted(failure) = &outcome {
                    let line = format!("the move was given up: {}", in_words(failure));
                    self.daemon.tell_user(self.app, line).await;
                }
            }
        }
    }

    /// Nothing of the move is left: an app that is back home needs its files served no more.
    async fn close(&mut self) {
        let record = self.machine.record();
        let request = if record.host == self.daemon.node {
            Some(ShimRequest::CloseFiles)
        } else {
            self.moved.then_some(ShimRequest::FenceFiles { epoch: record.epoch })
        };
        if let (Some(request), Ok(shim)) = (request, self.daemon.apps.shim(self.app))
            && let Err(error) = shim.tell(&request, SHIM_DEADLINE).await
        {
            tracing::warn!(app = %self.app, error = format!("{error:#}"), "the app's file server");
        }
        if self.moved {
            self.daemon.watch_where_it_is(self.app).await;
        }
    }
}

/// Whether a report says nothing but what the record says as well.
pub(super) fn is_at_rest(record: &AppRecord, from: NodeId, event: &Event) -> bool {
    let Event::Report { report, .. } = event else { return false };
    let running =
        matches!(report.body, Report::Running { epoch, .. } if record.may_act(from, epoch));
    running && record.pending.is_none()
}

/// A failure as the user reads it.
pub(super) fn in_words(failure: &phantom_model::handoff::Failure) -> String {
    format!("{} (at step {})", failure.reason, failure.step)
}
