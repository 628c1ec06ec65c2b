//! The home's part of a move.

mod phase;
mod reports;

use std::time::Duration;

use phantom_model::app::PendingMove;
use phantom_model::handoff::{Addressed, Failure, Needs, Outcome, Prepare, Report, Request};
use phantom_model::{AppRecord, Epoch, MoveId, NodeId, Step};
use thiserror::Error;

use self::phase::{Abort, Moving, Phase, State};
use super::{Command, Deadlines};

/// A move to start.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// A fresh random number.
    pub id: MoveId,
    /// Where to.
    pub target: NodeId,
    /// What the target must have.
    pub needs: Needs,
    /// The capsule's plan, for the target.
    pub capsule: Vec<u8>,
}

/// What happens to a coordinator.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The write with this number is durable.
    Persisted(u64),
    /// The write with this number failed and the store is as before.
    PersistFailed(u64, String),
    /// A node reports.
    Report {
        /// Which node; proven by its connection.
        from: NodeId,
        /// What it says.
        report: Addressed<Report>,
    },
    /// There is no connection to a node, as far as its own node knows; may be told again and again.
    LinkLost(NodeId),
    /// The user wants the move ended.
    Cancel,
    /// The app has ended. Nothing is left to decide; who has a copy of it hears so by other means.
    Ended,
}

/// Why a move cannot start.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// One at a time.
    #[error("the app is being moved already; wait for it or cancel it")]
    Busy,
    /// Nothing to do.
    #[error("the app is there already")]
    AlreadyThere,
}

/// The home's machine for one app. It holds the record, the one place that grants epochs.
#[derive(Debug)]
pub struct Coordinator {
    record: AppRecord,
    deadlines: Deadlines,
    state: State,
    writes: u64,
    commands: Vec<Command>,
}

impl Coordinator {
    /// For an app with this record. A move that was under way when the home stopped is settled:
    /// one not committed is undone, a committed one is carried on.
    pub fn new(record: AppRecord, deadlines: Deadlines, now: Duration) -> Self {
        let pending = record.pending.clone();
        let mut machine =
            Self { record, deadlines, state: State::Idle, writes: 0, commands: Vec::new() };
        let Some(pending) = pending else { return machine };
        let failure = |text: &str| Failure { step: Step::Commit, reason: text.to_owned() };
        let committed = machine.record.epoch > pending.source_epoch;
        let phase = if committed && machine.record.host == pending.target {
            Phase::Resuming
        } else {
            Phase::Aborting(Abort {
                failure: failure("the home was restarted in the middle of the move"),
                reverted: committed,
                thawed: false,
                discarded: false,
            })
        };
        let start = None;
        let (deadline, timings) = (None, Vec::new());
        let moving =
            Moving { pending, phase: Phase::Saving, deadline, repeat_at: now, timings, start };
        machine.state = State::Moving(Box::new(moving));
        machine.enter(phase, now);
        machine
    }

    /// The record as it is now: durable once the writes commanded so far are.
    pub fn record(&self) -> &AppRecord {
        &self.record
    }

    /// The step under way, if the app is being moved.
    pub fn step(&self) -> Option<Step> {
        let State::Moving(moving) = &self.state else { return None };
        Some(moving.phase.step())
    }

    /// Whether a move is under way.
    pub fn is_busy(&self) -> bool {
        matches!(self.state, State::Moving(_))
    }

    /// Whether a copy that `node` runs with `epoch` is not the app any more and must be ended. Its
    /// effects are refused anyway; nodes ask when they connect.
    pub fn is_stale(&self, node: NodeId, epoch: Epoch) -> bool {
        let is_source = self.moving().is_some_and(|moving| {
            moving.pending.source == node && moving.pending.source_epoch == epoch
        });
        !self.record.may_act(node, epoch) && !is_source
    }

    /// Whether [`Coordinator::take_commands`] has something to give.
    pub fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }

    /// The commands since the last call, in order.
    pub fn take_commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }

    /// When [`Coordinator::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let State::Moving(moving) = &self.state else { return None };
        let repeat = moving.phase.repeats().then_some(moving.repeat_at);
        [repeat, moving.deadline].into_iter().flatten().min()
    }

    /// Begins to move the app.
    pub fn start(&mut self, start: Start, now: Duration) -> Result<(), Refusal> {
        if self.is_busy() {
            return Err(Refusal::Busy);
        }
        if start.target == self.record.host {
            return Err(Refusal::AlreadyThere);
        }
        let pending = PendingMove {
            id: start.id,
            source: self.record.host,
            target: start.target,
            source_epoch: self.record.epoch,
        };
        self.record.pending = Some(pending.clone());
        let number = self.persist();
        self.state = State::Moving(Box::new(Moving {
            pending,
            phase: Phase::Recording(number),
            deadline: None,
            repeat_at: now,
            timings: Vec::new(),
            start: Some(start),
        }));
        Ok(())
    }

    /// Takes in what has happened.
    pub fn handle(&mut self, event: Event, now: Duration) {
        match event {
            Event::Persisted(number) => self.persisted(number, now),
            Event::PersistFailed(number, reason) => self.persist_failed(number, reason, now),
            Event::Report { from, report } => self.report(from, report, now),
            Event::LinkLost(node) => self.link_lost(node, now),
            Event::Cancel => self.fail("cancelled by the user", now),
            Event::Ended => self.ended(),
        }
    }

    /// Repeats what is not answered, gives up what takes too long.
    pub fn handle_timeout(&mut self, now: Duration) {
        let Some(moving) = self.moving() else { return };
        if moving.deadline.is_some_and(|deadline| deadline <= now) {
            self.give_up(now);
        } else if moving.phase.repeats() && moving.repeat_at <= now {
            self.send_current(now);
        }
    }

    fn moving(&self) -> Option<&Moving> {
        match &self.state {
            State::Moving(moving) => Some(moving),
            State::Idle => None,
        }
    }

    fn moving_mut(&mut self) -> Option<&mut Moving> {
        match &mut self.state {
            State::Moving(moving) => Some(moving),
            State::Idle => None,
        }
    }

    fn persist(&mut self) -> u64 {
        self.writes += 1;
        let record = Box::new(self.record.clone());
        self.commands.push(Command::Persist { number: self.writes, record });
        self.writes
    }

    fn send(&mut self, to: NodeId, id: MoveId, body: Request) {
        let request = Addressed { app: self.record.app, id, body };
        self.commands.push(Command::Send { to, request });
    }

    fn enter(&mut self, phase: Phase, now: Duration) {
        let limits = self.deadlines;
        let Some(moving) = self.moving_mut() else { return };
        moving.deadline = match &phase {
            Phase::Preparing => Some(limits.prepare),
            Phase::Saving => Some(limits.save),
            Phase::Restoring(_) => Some(limits.restore),
            Phase::Resuming => Some(limits.resume),
            Phase::Dropping => Some(limits.clean_up),
            Phase::Aborting(abort) if !abort.discarded => Some(limits.clean_up),
            _ => None,
        }
        .map(|limit| now + limit);
        moving.phase = phase;
        if moving.phase.repeats() {
            self.send_current(now);
        }
    }

    /// Sends what the present phase waits for an answer to.
    fn send_current(&mut self, now: Duration) {
        let repeat = self.deadlines.repeat;
        let epoch = self.record.epoch;
        let prepare = self.prepare_request();
        let Some(moving) = self.moving_mut() else { return };
        moving.repeat_at = now + repeat;
        let PendingMove { id, source, target, .. } = moving.pending;
        let requests: Vec<(NodeId, Request)> = match &moving.phase {
            Phase::Preparing => prepare.map(|request| (target, request)).into_iter().collect(),
            Phase::Saving => vec![(source, Request::Save { target, epoch })],
            Phase::Restoring(saved) => vec![(target, Request::Restore(saved.clone()))],
            Phase::Resuming => vec![(target, Request::Resume { epoch })],
            Phase::Dropping => vec![(source, Request::Drop)],
            Phase::Aborting(abort) => {
                let thaw = (!abort.thawed).then_some((source, Request::Thaw { epoch }));
                let discard = (!abort.discarded).then_some((target, Request::Discard));
                thaw.into_iter().chain(discard).collect()
            }
            _ => Vec::new(),
        };
        for (to, request) in requests {
            self.send(to, id, request);
        }
    }

    fn prepare_request(&self) -> Option<Request> {
        let moving = self.moving()?;
        let start = moving.start.as_ref()?;
        Some(Request::Prepare(Box::new(Prepare {
            record: self.record.clone(),
            source: moving.pending.source,
            needs: start.needs.clone(),
            capsule: start.capsule.clone(),
        })))
    }

    fn persisted(&mut self, number: u64, now: Duration) {
        let Some(moving) = self.moving() else { return };
        match moving.phase.clone() {
            Phase::Recording(wanted) if wanted == number => self.enter(Phase::Preparing, now),
            Phase::Committing(wanted) if wanted == number => self.enter(Phase::Resuming, now),
            Phase::Reverting(wanted, failure) if wanted == number => {
                self.abort(failure, true, now);
            }
            Phase::Closing(wanted) if wanted == number => {
                let id = moving.pending.id;
                self.state = State::Idle;
                self.commands.push(Command::Closed { id });
            }
            _ => {}
        }
    }

    fn persist_failed(&mut self, number: u64, reason: String, now: Duration) {
        let Some(moving) = self.moving() else { return };
        let pending = moving.pending.clone();
        let failure = Failure { step: Step::Commit, reason };
        match moving.phase.clone() {
            Phase::Recording(wanted) if wanted == number => {
                // Nobody has been asked for anything yet.
                self.record.pending = None;
                self.state = State::Idle;
                let outcome = Outcome::Stayed(failure);
                self.commands.push(Command::Settled { id: pending.id, outcome });
                self.commands.push(Command::Closed { id: pending.id });
            }
            Phase::Committing(wanted) if wanted == number => {
                self.record.host = pending.source;
                self.record.epoch = pending.source_epoch;
                self.abort(failure, false, now);
            }
            // These must succeed before anything else may happen: they are tried again until the
            // store comes back, or the home is restarted and settles it then.
            Phase::Reverting(wanted, _) | Phase::Closing(wanted) if wanted == number => {
                let again = now + self.deadlines.repeat;
                if let Some(moving) = self.moving_mut() {
                    moving.deadline = Some(again);
                }
            }
            _ => {}
        }
    }

    fn commit(&mut self, now: Duration) {
        let Some(pending) = self.moving().map(|moving| moving.pending.clone()) else { return };
        self.record.host = pending.target;
        self.record.epoch = pending.source_epoch.next();
        let number = self.persist();
        self.enter(Phase::Committing(number), now);
    }

    /// Gives the app back to the source after a commit: nothing of the target is accepted any
    /// more.
    fn revert(&mut self, failure: Failure) {
        let Some(pending) = self.moving().map(|moving| moving.pending.clone()) else { return };
        self.record.host = pending.source;
        self.record.epoch = Epoch(self.record.epoch.0 + 1);
        let number = self.persist();
        if let Some(moving) = self.moving_mut() {
            moving.phase = Phase::Reverting(number, failure);
            moving.deadline = None;
        }
    }

    fn abort(&mut self, failure: Failure, reverted: bool, now: Duration) {
        let abort = Abort { failure, reverted, thawed: false, discarded: false };
        self.enter(Phase::Aborting(abort), now);
    }

    /// Ends the move for a reason of the home's own, as long as it is not committed.
    fn fail(&mut self, reason: &str, now: Duration) {
        let Some(moving) = self.moving() else { return };
        if matches!(moving.phase, Phase::Preparing | Phase::Saving | Phase::Restoring(_)) {
            let failure = Failure { step: moving.phase.step(), reason: reason.to_owned() };
            self.abort(failure, false, now);
        }
    }

    /// A node that cannot be reached holds nobody up; it hears what became of the move when it
    /// speaks up again.
    fn link_lost(&mut self, node: NodeId, now: Duration) {
        let Some(moving) = self.moving_mut() else { return };
        let PendingMove { source, target, .. } = moving.pending;
        match &mut moving.phase {
            Phase::Aborting(abort) if node == target => {
                abort.discarded = true;
                moving.deadline = None;
                self.close_if_done();
            }
            Phase::Dropping if node == source => self.close(),
            _ if node == target => self.fail("the connection to the target is gone", now),
            _ => {}
        }
    }

    fn give_up(&mut self, now: Duration) {
        let Some(moving) = self.moving_mut() else { return };
        moving.deadline = None;
        match &mut moving.phase {
            Phase::Preparing => self.fail("the target did not answer in time", now),
            Phase::Saving => self.fail("the source did not save the app in time", now),
            Phase::Restoring(_) => self.fail("the target did not restore the app in time", now),
            Phase::Resuming => self.revert(Failure {
                step: Step::Resume,
                reason: "the target did not report the app running in time".into(),
            }),
            Phase::Dropping => self.close(),
            Phase::Aborting(abort) => {
                abort.discarded = true;
                self.close_if_done();
            }
            Phase::Reverting(_, failure) => {
                let failure = failure.clone();
                let number = self.persist();
                self.enter(Phase::Reverting(number, failure), now);
            }
            Phase::Closing(_) => {
                let number = self.persist();
                self.enter(Phase::Closing(number), now);
            }
            _ => {}
        }
    }

    fn ended(&mut self) {
        let State::Moving(moving) = std::mem::replace(&mut self.state, State::Idle) else { return };
        self.commands.clear();
        self.record.pending = None;
        if !moving.phase.is_settled() {
            let outcome = Outcome::Ended;
            self.commands.push(Command::Settled { id: moving.pending.id, outcome });
        }
    }

    fn settled_abort(&mut self, first: bool, outcome: Outcome) {
        if let Some(moving) = self.moving().filter(|_| first) {
            let id = moving.pending.id;
            self.commands.push(Command::Settled { id, outcome });
        }
        self.close_if_done();
    }

    fn close_if_done(&mut self) {
        let done = |phase: &Phase| matches!(phase, Phase::Aborting(abort) if abort.thawed && abort.discarded);
        if self.moving().is_some_and(|moving| done(&moving.phase)) {
            self.close();
        }
    }

    fn close(&mut self) {
        self.record.pending = None;
        let number = self.persist();
        if let Some(moving) = self.moving_mut() {
            moving.phase = Phase::Closing(number);
            moving.deadline = None;
        }
    }
}
