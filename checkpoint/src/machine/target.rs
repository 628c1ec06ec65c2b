//! The target's part of a move. Until the home says [`Request::Resume`], which it does only after
//! the record names this node durably, the copy is held frozen.

use std::time::Duration;

use phantom_model::handoff::{Addressed, Failure, Prepare, Report, Request, Saved, Timing};
use phantom_model::{AppId, Epoch, MoveId};

/// How long a target keeps what it has without a word from the home. It may only lose a copy that
/// was never let run; the home then gives the app back to the source.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the driver does.
#[derive(Debug, Clone, PartialEq)]
pub enum TargetAction {
    /// Make ready for an image; then [`TargetRole::prepared`].
    Prepare(Box<Prepare>),
    /// Finish the image, check it, rebuild the app and hold it; then [`TargetRole::held`].
    Restore(Box<Saved>),
    /// Let the held app run with this epoch; then [`TargetRole::resumed`].
    Resume {
        /// The epoch of everything it does.
        epoch: Epoch,
    },
    /// Stop whatever is under way and remove everything, running or not.
    Discard,
    /// Tell the home.
    Reply(Addressed<Report>),
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Preparing,
    Prepared,
    Restoring,
    Held(Vec<Timing>),
    Resuming(Epoch),
    Running(Epoch, Vec<Timing>),
    /// It failed and everything was removed.
    Failed(Failure),
    Discarded,
}

/// One attempt to move an app to this node. Once the copy runs, the driver also gives it a
/// [`super::SourceRole`], and forgets this role when that one begins to save.
#[derive(Debug, Clone)]
pub struct TargetRole {
    app: AppId,
    id: MoveId,
    state: State,
    expires: Duration,
}

impl TargetRole {
    /// Starts with the home's [`Request::Prepare`].
    pub fn new(
        app: AppId,
        id: MoveId,
        prepare: Box<Prepare>,
        now: Duration,
    ) -> (Self, Vec<TargetAction>) {
        let role = Self { app, id, state: State::Preparing, expires: now + PATIENCE };
        (role, vec![TargetAction::Prepare(prepare)])
    }

    /// A copy that was found running after a restart of whatever holds this role.
    pub fn found_running(app: AppId, id: MoveId, epoch: Epoch) -> Self {
        let state = State::Running(epoch, Vec::new());
        Self { app, id, state, expires: Duration::MAX }
    }

    /// For any request of a move that nothing is known of.
    pub fn unknown(app: AppId, id: MoveId) -> Addressed<Report> {
        Addressed { app, id, body: Report::Unknown }
    }

    /// Which move.
    pub fn id(&self) -> MoveId {
        self.id
    }

    /// The epoch the app runs with here, once it runs.
    pub fn running(&self) -> Option<Epoch> {
        match self.state {
            State::Running(epoch, _) => Some(epoch),
            _ => None,
        }
    }

    /// Whether nothing of the move is left here, so that the role may be forgotten.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Failed(_) | State::Discarded)
    }

    /// What to tell the home without being asked, after a lost connection.
    pub fn standing(&self) -> Option<Addressed<Report>> {
        self.report().map(|body| Addressed { app: self.app, id: self.id, body })
    }

    fn report(&self) -> Option<Report> {
        Some(match &self.state {
            State::Preparing | State::Restoring | State::Resuming(_) => return None,
            State::Prepared => Report::Prepared,
            State::Held(timings) => Report::Held { timings: timings.clone() },
            State::Running(epoch, timings) => {
                Report::Running { epoch: *epoch, timings: timings.clone() }
            }
            State::Failed(failure) => Report::Failed(failure.clone()),
            State::Discarded => Report::Discarded,
        })
    }

    fn reply(&self) -> Vec<TargetAction> {
        self.standing().map(TargetAction::Reply).into_iter().collect()
    }

    /// A request of this move from the home.
    pub fn handle(&mut self, request: &Request, now: Duration) -> Vec<TargetAction> {
        self.expires = now + PATIENCE;
        match (request, &self.state) {
            (Request::Restore(saved), State::Prepared) => {
                self.state = State::Restoring;
                vec![TargetAction::Restore(saved.clone())]
            }
            (Request::Resume { epoch }, State::Held(_)) => {
                self.state = State::Resuming(*epoch);
                vec![TargetAction::Resume { epoch: *epoch }]
            }
            // Asked for what cannot come any more: nothing was restored, or it is gone.
            (Request::Resume { .. }, State::Preparing | State::Prepared | State::Restoring) => {
                self.discard(Report::Unknown)
            }
            (Request::Resume { .. }, State::Discarded) => self.say(Report::Unknown),
            (Request::Discard, State::Discarded) => self.reply(),
            (Request::Discard, _) => self.discard(Report::Discarded),
            (Request::Prepare(_) | Request::Restore(_) | Request::Resume { .. }, _) => self.reply(),
            // These are for sources.
            _ => Vec::new(),
        }
    }

    fn say(&self, body: Report) -> Vec<TargetAction> {
        vec![TargetAction::Reply(Addressed { app: self.app, id: self.id, body })]
    }

    fn discard(&mut self, body: Report) -> Vec<TargetAction> {
        let mut actions = match self.is_over() {
            true => Vec::new(),
            false => vec![TargetAction::Discard],
        };
        self.state = State::Discarded;
        actions.extend(self.say(body));
        actions
    }

    /// [`TargetAction::Prepare`] has ended.
    pub fn prepared(&mut self, result: Result<(), Failure>) -> Vec<TargetAction> {
        if self.state == State::Preparing {
            self.settle(result.map(|()| State::Prepared))
        } else {
            Vec::new()
        }
    }

    /// [`TargetAction::Restore`] has ended; on a failure everything was removed.
    pub fn held(&mut self, result: Result<Vec<Timing>, Failure>) -> Vec<TargetAction> {
        if self.state == State::Restoring {
            self.settle(result.map(State::Held))
        } else {
            Vec::new()
        }
    }

    /// [`TargetAction::Resume`] has ended; on a failure everything was removed.
    pub fn resumed(&mut self, result: Result<Vec<Timing>, Failure>) -> Vec<TargetAction> {
        match self.state {
            State::Resuming(epoch) => {
                self.settle(result.map(|timings| State::Running(epoch, timings)))
            }
            _ => Vec::new(),
        }
    }

    fn settle(&mut self, result: Result<State, Failure>) -> Vec<TargetAction> {
        let mut actions = Vec::new();
        self.state = result.unwrap_or_else(|failure| {
            actions.push(TargetAction::Discard);
            State::Failed(failure)
        });
        actions.extend(self.reply());
        actions
    }

    /// When [`TargetRole::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let waits = !self.is_over() && !matches!(self.state, State::Running(..));
        waits.then_some(self.expires)
    }

    /// Removes a copy that nobody has asked for in a long time.
    pub fn handle_timeout(&mut self, now: Duration) -> Vec<TargetAction> {
        match self.poll_timeout() {
            Some(expires) if expires <= now => self.discard(Report::Discarded),
            _ => Vec::new(),
        }
    }
}
