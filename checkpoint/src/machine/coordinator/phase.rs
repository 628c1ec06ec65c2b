//! Where a move is.

use std::time::Duration;

use phantom_model::Step;
use phantom_model::app::PendingMove;
use phantom_model::handoff::{Failure, Saved, Timing};

use super::Start;

#[derive(Debug)]
pub(super) enum State {
    Idle,
    Moving(Box<Moving>),
}

#[derive(Debug)]
pub(super) struct Moving {
    pub(super) pending: PendingMove,
    pub(super) phase: Phase,
    /// When the phase gives up; absent where it never does.
    pub(super) deadline: Option<Duration>,
    pub(super) repeat_at: Duration,
    pub(super) timings: Vec<Timing>,
    /// Absent after a restart of the home: then only ending the move is left.
    pub(super) start: Option<Start>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Phase {
    /// The record with the pending move is being written.
    Recording(u64),
    Preparing,
    Saving,
    Restoring(Box<Saved>),
    Committing(u64),
    Resuming,
    Dropping,
    /// The record is being given back to the source.
    Reverting(u64, Failure),
    Aborting(Abort),
    /// The record without the pending move is being written.
    Closing(u64),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Abort {
    pub(super) failure: Failure,
    pub(super) reverted: bool,
    /// The source has answered.
    pub(super) thawed: bool,
    /// The target has answered, or time is up for it.
    pub(super) discarded: bool,
}

impl Phase {
    pub(super) fn step(&self) -> Step {
        match self {
            Phase::Recording(_) | Phase::Preparing => Step::Prepare,
            Phase::Saving => Step::Dump,
            Phase::Restoring(_) => Step::Restore,
            Phase::Committing(_) => Step::Commit,
            Phase::Resuming | Phase::Reverting(..) => Step::Resume,
            Phase::Dropping | Phase::Aborting(_) | Phase::Closing(_) => Step::Drop,
        }
    }

    /// Whether it has been told how the move ended.
    pub(super) fn is_settled(&self) -> bool {
        match self {
            Phase::Dropping | Phase::Closing(_) => true,
            Phase::Aborting(abort) => abort.thawed,
            _ => false,
        }
    }

    /// Whether it waits for somebody's answer, rather than for the store.
    pub(super) fn repeats(&self) -> bool {
        !matches!(
            self,
            Phase::Recording(_) | Phase::Committing(_) | Phase::Reverting(..) | Phase::Closing(_)
        )
    }
}
