//! The source's part of a move: it answers every request of the home, repeated ones too, and
//! keeps the frozen copy until it is told to drop it or to go on.

use phantom_model::handoff::{Addressed, Failure, Report, Request, Saved};
use phantom_model::{AppId, Epoch, MoveId, NodeId};

/// What the driver does.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceAction {
    /// Freeze, take the terminal's bytes, dump and stream to the target; then
    /// [`SourceRole::saved`].
    Save {
        /// Which move.
        id: MoveId,
        /// Where the image goes.
        target: NodeId,
    },
    /// Stop saving, if that is under way, and let the program go on with this epoch.
    Thaw {
        /// The epoch of everything it does from now on.
        epoch: Epoch,
    },
    /// End the frozen copy and remove everything of it.
    Kill,
    /// Tell the home.
    Reply(Addressed<Report>),
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Running,
    Saving(MoveId),
    /// Frozen, until the home says what becomes of it: the result of the save.
    Saved(MoveId, Result<Box<Saved>, Failure>),
    Gone(MoveId),
}

/// The copy of one app at the node that has it.
#[derive(Debug, Clone)]
pub struct SourceRole {
    app: AppId,
    epoch: Epoch,
    state: State,
    /// The last move that ended with a thaw: late requests of it are not begun again.
    thawed: Option<MoveId>,
}

impl SourceRole {
    /// A running copy with this epoch.
    pub fn new(app: AppId, epoch: Epoch) -> Self {
        Self { app, epoch, state: State::Running, thawed: None }
    }

    /// A copy found frozen after a restart of whatever holds this role. What was saved is not
    /// known any more; the home decides.
    pub fn frozen(app: AppId, epoch: Epoch, id: MoveId) -> Self {
        let failure = Failure {
            step: phantom_model::Step::Dump,
            reason: "the source was restarted in the middle of the move".into(),
        };
        Self { app, epoch, state: State::Saved(id, Err(failure)), thawed: None }
    }

    /// The epoch of this copy.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether the program may run here.
    pub fn runs(&self) -> bool {
        self.state == State::Running
    }

    /// What to tell the home without being asked, after a restart or a lost connection.
    pub fn standing(&self) -> Option<Addressed<Report>> {
        match &self.state {
            State::Saved(id, result) => Some(self.address(*id, report_of(result))),
            _ => None,
        }
    }

    fn address(&self, id: MoveId, body: Report) -> Addressed<Report> {
        Addressed { app: self.app, id, body }
    }

    fn reply(&self, id: MoveId, body: Report) -> Vec<SourceAction> {
        vec![SourceAction::Reply(self.address(id, body))]
    }

    /// A request from the home.
    pub fn handle(&mut self, id: MoveId, request: &Request) -> Vec<SourceAction> {
        match request {
            // Of an earlier stay here.
            Request::Save { epoch, .. } if *epoch != self.epoch => Vec::new(),
            Request::Save { target, .. } => self.save(id, *target),
            Request::Thaw { epoch } => self.thaw(id, *epoch),
            Request::Drop => self.drop_copy(id),
            // These are for targets.
            _ => Vec::new(),
        }
    }

    fn save(&mut self, id: MoveId, target: NodeId) -> Vec<SourceAction> {
        match &self.state {
            State::Running if self.thawed == Some(id) => {
                self.reply(id, Report::Thawed { epoch: self.epoch })
            }
            State::Running => {
                self.state = State::Saving(id);
                vec![SourceAction::Save { id, target }]
            }
            State::Saving(current) if *current == id => Vec::new(),
            State::Saved(current, result) if *current == id => {
                let report = report_of(result);
                self.reply(id, report)
            }
            State::Gone(current) if *current == id => self.reply(id, Report::Dropped),
            _ => self.reply(id, Report::Unknown),
        }
    }

    fn thaw(&mut self, id: MoveId, epoch: Epoch) -> Vec<SourceAction> {
        match &self.state {
            State::Gone(_) => return self.reply(id, Report::Dropped),
            // An old request must not set an epoch back.
            _ if epoch < self.epoch => return Vec::new(),
            State::Running if self.epoch == epoch => {}
            State::Saving(current) | State::Saved(current, _) if *current != id => {
                return Vec::new();
            }
            _ => {
                self.state = State::Running;
                self.epoch = epoch;
                self.thawed = Some(id);
                let mut actions = vec![SourceAction::Thaw { epoch }];
                actions.extend(self.reply(id, Report::Thawed { epoch }));
                return actions;
            }
        }
        self.thawed = Some(id);
        self.reply(id, Report::Thawed { epoch })
    }

    fn drop_copy(&mut self, id: MoveId) -> Vec<SourceAction> {
        match &self.state {
            State::Saved(current, _) if *current == id => {
                self.state = State::Gone(id);
                let mut actions = vec![SourceAction::Kill];
                actions.extend(self.reply(id, Report::Dropped));
                actions
            }
            State::Gone(_) => self.reply(id, Report::Dropped),
            // A running copy is never dropped by a late request.
            _ => Vec::new(),
        }
    }

    /// The home has said that this copy is not the app any more ([`super::Coordinator::is_stale`]).
    pub fn superseded(&mut self, id: MoveId) -> Vec<SourceAction> {
        self.state = State::Gone(id);
        vec![SourceAction::Kill]
    }

    /// The save that [`SourceAction::Save`] asked for has ended; `Err` says why it failed, and the
    /// program stands frozen or runs, as the failure left it, until the home's word.
    pub fn saved(&mut self, id: MoveId, result: Result<Saved, Failure>) -> Vec<SourceAction> {
        if self.state != State::Saving(id) {
            return Vec::new();
        }
        let result = result.map(Box::new);
        let report = report_of(&result);
        self.state = State::Saved(id, result);
        self.reply(id, report)
    }
}

fn report_of(result: &Result<Box<Saved>, Failure>) -> Report {
    match result {
        Ok(saved) => Report::Saved(saved.clone()),
        Err(failure) => Report::Failed(failure.clone()),
    }
}
