//! What the home makes of the reports of sources and targets.

use std::time::Duration;

use phantom_model::handoff::{Addressed, Failure, Outcome, Report, Request};
use phantom_model::{NodeId, Step};

use super::Coordinator;
use super::phase::Phase;
use crate::machine::Command;

impl Coordinator {
    pub(super) fn report(&mut self, from: NodeId, report: Addressed<Report>, now: Duration) {
        if report.app != self.record.app {
            return;
        }
        match self.moving().map(|moving| moving.pending.clone()) {
            Some(pending) if pending.id == report.id => {
                // A node is never both: a move to where the app is does not start.
                if from == pending.source {
                    self.source_report(report.body, now);
                } else if from == pending.target {
                    self.target_report(report.body, now);
                }
            }
            _ => self.late_report(from, report),
        }
    }

    /// A node speaks of a move that is over: it is told what became of it.
    fn late_report(&mut self, from: NodeId, report: Addressed<Report>) {
        let host = self.record.host == from;
        // Its copy may be needed again: what it said earlier as a target is history.
        if !host && self.moving().is_some_and(|moving| moving.pending.source == from) {
            return;
        }
        let epoch = self.record.epoch;
        match &report.body {
            // Perhaps a frozen copy: at the node that has the app it may go on, elsewhere it ends.
            // Targets take no notice of either.
            Report::Saved(_) | Report::Failed(_) if host => {
                self.send(from, report.id, Request::Thaw { epoch });
            }
            Report::Saved(_) | Report::Failed(_) => self.send(from, report.id, Request::Drop),
            Report::Prepared | Report::Held { .. } if !host => {
                self.send(from, report.id, Request::Discard);
            }
            // From the node that has the app it is an old message, whatever epoch it names.
            Report::Running { .. } if !host => self.send(from, report.id, Request::Discard),
            _ => {}
        }
    }

    fn source_report(&mut self, report: Report, now: Duration) {
        let Some(moving) = self.moving_mut() else { return };
        match (&mut moving.phase, report) {
            (Phase::Saving, Report::Saved(saved)) => {
                moving.timings.extend(&saved.timings);
                self.enter(Phase::Restoring(saved), now);
            }
            (Phase::Saving | Phase::Restoring(_), Report::Failed(failure)) => {
                self.abort(failure, false, now);
            }
            // It was restarted and has lost the image; it may have the program.
            (Phase::Restoring(_), Report::Unknown) => {
                self.fail("the source was restarted", now);
            }
            (Phase::Aborting(abort), Report::Thawed { .. }) => {
                let first = !std::mem::replace(&mut abort.thawed, true);
                let outcome = match abort.reverted {
                    true => Outcome::Reverted(abort.failure.clone()),
                    false => Outcome::Stayed(abort.failure.clone()),
                };
                self.settled_abort(first, outcome);
            }
            // It has no copy any more: the program ended, or the machine went down.
            (Phase::Aborting(abort), Report::Dropped) => {
                let first = !std::mem::replace(&mut abort.thawed, true);
                let outcome = Outcome::Lost(abort.failure.clone());
                self.settled_abort(first, outcome);
            }
            (Phase::Dropping, Report::Dropped | Report::Unknown) => self.close(),
            _ => {}
        }
    }

    fn target_report(&mut self, report: Report, now: Duration) {
        let epoch = self.record.epoch;
        let Some(moving) = self.moving_mut() else { return };
        match (&mut moving.phase, report) {
            (Phase::Preparing, Report::Prepared) => self.enter(Phase::Saving, now),
            (Phase::Restoring(_), Report::Held { timings }) => {
                moving.timings.extend(timings);
                self.commit(now);
            }
            (Phase::Preparing | Phase::Saving | Phase::Restoring(_), Report::Failed(failure)) => {
                self.abort(failure, false, now)
            }
            (Phase::Restoring(_) | Phase::Saving, Report::Unknown) => {
                self.fail("the target was restarted", now);
            }
            (Phase::Resuming, Report::Running { epoch: theirs, timings }) if theirs == epoch => {
                moving.timings.extend(timings);
                let id = moving.pending.id;
                let outcome = Outcome::Moved { timings: moving.timings.clone() };
                self.commands.push(Command::Settled { id, outcome });
                self.enter(Phase::Dropping, now);
            }
            (Phase::Resuming, Report::Failed(failure)) => self.revert(failure),
            (Phase::Resuming, Report::Unknown) => self
                .revert(Failure { step: Step::Resume, reason: "the target lost its copy".into() }),
            (Phase::Aborting(abort), Report::Discarded | Report::Unknown | Report::Failed(_)) => {
                abort.discarded = true;
                moving.deadline = None;
                self.close_if_done();
            }
            _ => {}
        }
    }
}
