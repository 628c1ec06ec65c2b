use std::collections::VecDeque;
use std::time::Duration;

use phantom_model::NodeId;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{
    Command, End, Found, Lead, Record, Report, Saved, Seen, Situation, Terms, Value, Written,
};
use crate::machine::Mandate;
use crate::machine::group::Stamp;

/// What did not work is tried again after so long.
const AGAIN: Duration = Duration::from_millis(300);
/// What needs somebody to mend it is tried again after so long.
const MENDED: Duration = Duration::from_secs(10);
/// Why the group refuses what is new.
const FULL: &str = "the sub-grid's small memory is full: follow fewer services, or smaller";
/// The pause after the first failure; it doubles.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What ran so long starts with the shortest pause again.
const WELL: Duration = Duration::from_secs(60);

mod claim;
mod course;

/// What of the service exists on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
    /// It is not yet known whether one was left by a daemon before.
    Unknown,
    /// Nothing: whatever there was has ended.
    None,
    /// Its folder is being filled, with these terms.
    Filling(u64),
    Running(Running),
    Stopping(Running),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Running {
    run: u64,
    since: Duration,
    version: u64,
    stop: Duration,
}

/// A claim of this node's that the group has.
#[derive(Debug, Clone)]
struct Held {
    stamp: Stamp,
    record: Record,
    /// In which mandate the group has told that it has it.
    confirmed: Option<Mandate>,
    /// With which terms the folder was filled.
    filled: Option<u64>,
    /// The run that left the folder as it is, if that may be newer than what was saved.
    former: Option<u64>,
}

#[derive(Debug, Clone)]
struct Writing {
    ticket: u64,
    expect: Stamp,
    record: Record,
    /// Of a first claim: whose the folder is, if this node's.
    former: Option<u64>,
    /// With what is new in the folder, if anything is.
    whole: bool,
}

/// One node's part in one service.
pub struct Service {
    own: NodeId,
    rng: StdRng,
    /// Or why it shall not run here.
    terms: Result<Terms, String>,
    ending: bool,
    situation: Situation,
    /// The mandate in which this node decides, and since when.
    decided: Option<(Mandate, Duration)>,
    held: Option<Held>,
    writing: Option<Writing>,
    /// A write of which nobody can tell whether it happened.
    unsure: Option<Writing>,
    tickets: u64,
    reading: bool,
    copy: Copy,
    permit: Duration,
    /// How often the folder is looked at, of the copy that is or was here.
    save: Option<Duration>,
    looking: bool,
    /// The look under way began before the copy had ended.
    look_again: bool,
    look_at: Duration,
    /// What is in the folder and not in the group.
    content: Option<Saved>,
    save_after: Duration,
    /// The group had no room for what is new; until then it is not tried again.
    room_after: Option<Duration>,
    /// Nothing is started before,
    not_before: Duration,
    /// and nothing read or written.
    retry: Duration,
    failures: u32,
    give_up: Option<Duration>,
    since_unix_s: u64,
    why: Option<String>,
    trouble: Option<String>,
    exit: Option<String>,
    due: Option<Duration>,
    commands: VecDeque<Command>,
}

impl Service {
    /// Not to be run yet, and without knowledge of what a daemon before has left;
    /// [`Service::handle_found`] tells. `seed` is random.
    pub fn new(own: NodeId, seed: [u8; 32]) -> Self {
        Self {
            own,
            rng: StdRng::from_seed(seed),
            terms: Err("nobody has asked for it".to_owned()),
            ending: false,
            situation: Situation { lead: Lead::Nobody, lease: None, electors: 0, unix_s: 0 },
            decided: None,
            held: None,
            writing: None,
            unsure: None,
            tickets: 0,
            reading: false,
            copy: Copy::Unknown,
            permit: Duration::ZERO,
            save: None,
            looking: false,
            look_again: false,
            look_at: Duration::ZERO,
            content: None,
            save_after: Duration::ZERO,
            room_after: None,
            not_before: Duration::ZERO,
            retry: Duration::ZERO,
            failures: 0,
            give_up: None,
            since_unix_s: 0,
            why: None,
            trouble: None,
            exit: None,
            due: None,
            commands: VecDeque::new(),
        }
    }

    /// How it is to be run here, or why not.
    pub fn handle_terms(&mut self, terms: Result<Terms, String>, now: Duration) {
        if self.terms != terms {
            self.not_before = now;
        }
        self.terms = terms;
        self.drive(now);
    }

    /// How the sub-grid stands; to be told again before the lease ends.
    pub fn handle_situation(&mut self, situation: Situation, now: Duration) {
        self.situation = situation;
        self.drive(now);
    }

    /// A copy that was started for a daemon before this one; `None` when all of it is dead.
    pub fn handle_found(&mut self, found: Option<Found>, now: Duration) {
        if self.copy != Copy::Unknown {
            return;
        }
        self.copy = Copy::None;
        if let Some(Found { run, until, version, stop }) = found {
            self.permit = until;
            self.since_unix_s = self.situation.unix_s;
            self.save = self.terms.as_ref().ok().and_then(|terms| terms.save);
            self.look_at = now;
            self.copy = Copy::Running(Running { run, since: now, version, stop });
        }
        self.drive(now);
    }

    /// The value could not be read.
    pub fn handle_unread(&mut self, now: Duration) {
        self.reading = false;
        self.retry = now + AGAIN;
        self.drive(now);
    }

    /// What the group has.
    pub fn handle_value(&mut self, value: Value, now: Duration) {
        self.reading = false;
        if let Some(write) = self.unsure.take() {
            self.settle(write, value, now);
        } else if let (Copy::Running(running), None) = (self.copy, &self.held) {
            self.take_up(running, value, now);
        } else if self.copy == Copy::None && self.held.is_none() && self.writing.is_none() {
            self.claim(value, now);
        }
        self.drive(now);
    }

    /// What came of [`Command::Write`].
    pub fn handle_written(&mut self, ticket: u64, written: Written, now: Duration) {
        let Some(write) = self.writing.take_if(|write| write.ticket == ticket) else { return };
        match written {
            Written::Done(stamp) => {
                let mandate = write.record.mandate;
                self.hold(write, stamp, Some(mandate), now);
            }
            Written::Changed => self.unsure = Some(write),
            Written::Unknown => {
                self.unsure = Some(write);
                self.retry = now + AGAIN;
            }
            Written::NotNow => self.retry = now + AGAIN,
            Written::Full if self.held.is_none() => {
                self.retry = now + MENDED;
                self.why = Some(FULL.to_owned());
                self.not_before = now + MENDED;
            }
            // What does not grow is written at once, for a permission may hang on it.
            Written::Full if write.whole => {
                if self.room_after.is_none() && self.content.is_some() {
                    self.tell(format!("its state is not saved: {FULL}"));
                }
                self.room_after = Some(now + MENDED);
            }
            Written::Full => self.retry = now + PAUSE,
        }
        self.drive(now);
    }

    /// What came of [`Command::Fill`].
    pub fn handle_filled(&mut self, filled: Result<(), String>, now: Duration) {
        let Copy::Filling(version) = self.copy else { return };
        self.copy = Copy::None;
        match filled {
            Ok(()) => {
                if let Some(held) = &mut self.held {
                    held.filled = Some(version);
                    held.former = Some(held.record.run);
                }
            }
            Err(words) => {
                self.tell(format!("its state cannot be put back: {words}"));
                self.why = Some(words);
                self.not_before = now + MENDED;
            }
        }
        self.drive(now);
    }

    /// What [`Command::Look`] has found.
    pub fn handle_seen(&mut self, seen: Seen, now: Duration) {
        self.looking = false;
        match seen {
            Seen::Same => {}
            Seen::Content(packed) => {
                let saved = self.held.as_ref().and_then(|held| held.record.saved.as_ref());
                let is_new = saved.is_none_or(|saved| saved.packed != packed);
                let unix_s = self.situation.unix_s;
                self.content = is_new.then_some(Saved { unix_s, packed });
                self.trouble = None;
            }
            Seen::Refused(words) => {
                self.content = None;
                if self.trouble.as_ref() != Some(&words) {
                    self.tell(format!("its state is not saved: {words}"));
                }
                self.trouble = Some(words);
            }
        }
        if std::mem::take(&mut self.look_again) {
            self.look();
        }
        self.drive(now);
    }

    /// The copy has ended with all its processes, or could not be started.
    pub fn handle_ended(&mut self, run: u64, end: End, now: Duration) {
        let (running, meant) = match self.copy {
            Copy::Running(running) => (running, false),
            Copy::Stopping(running) => (running, true),
            _ => return,
        };
        if running.run != run {
            return;
        }
        self.copy = Copy::None;
        self.exit = Some(Record::exit_words(&end.how));
        if meant || end.lapsed {
            self.tell(format!("it has ended: {}", end.how));
        } else {
            let well = now.saturating_sub(running.since) >= WELL;
            self.failures = if well { 0 } else { self.failures.saturating_add(1).min(16) };
            let pause = (PAUSE * 2u32.pow(self.failures.saturating_sub(1))).min(LONGEST_PAUSE);
            self.not_before = now + pause;
            let words = format!("{}; it is started again after {pause:?}", end.how);
            self.tell(format!("it has ended by itself: {words}"));
            self.why = Some(words);
        }
        if self.save.is_some() && self.held.is_some() {
            self.look_again = self.looking;
            self.look();
        }
        self.drive(now);
    }

    /// Whether the daemon ends, or leaves the sub-grid: the service is stopped and handed back.
    /// [`Service::is_idle`] tells when that has happened.
    pub fn handle_end(&mut self, ending: bool, now: Duration) {
        if self.ending != ending {
            self.ending = ending;
            self.drive(now);
        }
    }

    /// Whether nothing of it is here, and nothing is left to be done.
    pub fn is_idle(&self) -> bool {
        self.copy == Copy::None && self.held.is_none() && self.writing.is_none()
    }

    /// When [`Service::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.due
    }

    /// The time has come.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.drive(now);
    }

    /// The next thing to do.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Whether and how it runs here.
    pub fn report(&self) -> Report {
        let running = matches!(self.copy, Copy::Running(_) | Copy::Stopping(_));
        let is_full = self.room_after.is_some() && self.content.is_some();
        Report {
            since_unix_s: running.then_some(self.since_unix_s),
            stopping: matches!(self.copy, Copy::Stopping(_)),
            why: match (&self.terms, running) {
                (_, true) => None,
                (Err(words), false) => Some(words.clone()),
                (Ok(_), false) => self.why.clone(),
            },
            trouble: if is_full { Some(FULL.to_owned()) } else { self.trouble.clone() },
            exit: self.exit.clone(),
        }
    }
}
