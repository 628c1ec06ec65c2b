//! What is to be done now: the course of a copy from its claim to its end.

use std::time::Duration;

use super::{AGAIN, Copy, Running, Service};
use crate::machine::follow::{Command, Lead, Lease, Record, Terms};

/// Who hands back tells so within this time, or not at all.
const HAND_BACK: Duration = Duration::from_secs(10);

impl Service {
    pub(super) fn drive(&mut self, now: Duration) {
        self.due = None;
        if let Some(lease) = self.lease(now)
            && self.decided.is_none_or(|(mandate, _)| mandate != lease.mandate)
        {
            self.decided = Some((lease.mandate, now));
        }
        if self.unsure.is_some() {
            self.read(now);
        }
        match self.copy {
            Copy::Running(running) => self.keep(running, now),
            Copy::None => match self.may_run(now) {
                Some(lease) => self.begin(lease, now),
                None => self.hand_back(now),
            },
            Copy::Unknown | Copy::Filling(_) | Copy::Stopping(_) => {}
        }
        self.save(now);
    }

    /// Toward a copy that runs; nothing of one is here.
    pub(super) fn begin(&mut self, lease: Lease, now: Duration) {
        self.give_up = None;
        if self.looking || self.writing.is_some() || self.unsure.is_some() {
            return;
        }
        if now < self.not_before {
            return self.wake(self.not_before);
        }
        let Some(held) = self.held.clone() else { return self.read(now) };
        let Ok(Terms { version, stop, save }) = self.terms else { return };
        let run = held.record.run;
        if held.confirmed != Some(lease.mandate) || held.record.stopped {
            self.renew(&held, lease, now);
        } else if held.filled != Some(version) {
            self.copy = Copy::Filling(version);
            // What the last look has found is newer than what the group has.
            let saved = self.content.clone().or(held.record.saved);
            let former = held.former;
            self.commands.push_back(Command::Fill { saved, former, run });
        } else if lease.until <= now + stop.min(lease.length / 4) {
            // It would be asked to end at once.
            self.wake(now + AGAIN);
        } else {
            self.copy = Copy::Running(Running { run, since: now, version, stop });
            self.permit = lease.until;
            self.save = save;
            self.look_at = now + save.unwrap_or_default();
            self.since_unix_s = self.situation.unix_s;
            self.why = None;
            self.commands.push_back(Command::Start { run, until: lease.until });
            self.tell("it starts".to_owned());
            self.wake(now + AGAIN);
        }
    }

    /// Sees to a copy that runs.
    pub(super) fn keep(&mut self, running: Running, now: Duration) {
        let lease = self.lease(now);
        match (&self.held, lease) {
            (None, _) => self.read(now),
            (Some(held), Some(lease)) if held.confirmed == Some(lease.mandate) => {
                if lease.until > self.permit {
                    self.permit = lease.until;
                    self.commands.push_back(Command::Permit { until: lease.until });
                }
            }
            (Some(held), Some(lease)) => {
                let held = held.clone();
                self.renew(&held, lease, now);
            }
            (Some(_), None) => {}
        }
        // So much before its time it is asked to end.
        let length = self.held.as_ref().map_or(Duration::ZERO, |held| held.record.lease);
        let lapse = self.permit.saturating_sub(running.stop.min(length / 4));
        let reason = match (&self.terms, self.situation.lead) {
            _ if self.ending => Some("this node's daemon ends".to_owned()),
            (Err(words), _) => Some(words.clone()),
            (Ok(terms), _) if running.version != terms.version => {
                Some("the policy wants it otherwise".to_owned())
            }
            (_, Lead::Other) => Some("another node is super-peer now".to_owned()),
            (_, Lead::Out) => Some("this node is in no sub-grid".to_owned()),
            _ if now >= lapse => Some("too few of the electors are in reach".to_owned()),
            _ => None,
        };
        if let Some(words) = reason {
            return self.stop(running, &words, now);
        }
        self.wake(lapse);
        if let Some(save) = self.save {
            if now >= self.look_at && !self.looking {
                self.look_at = now + save;
                self.look();
            }
            self.wake(self.look_at.max(now + AGAIN));
        }
    }

    pub(super) fn stop(&mut self, running: Running, words: &str, now: Duration) {
        let kill_at = (now + running.stop).min(self.permit);
        self.copy = Copy::Stopping(running);
        self.why = Some(words.to_owned());
        self.tell(format!("it is stopped: {words}"));
        self.commands.push_back(Command::Stop { kill_at });
    }

    /// Tells that nothing of it runs here any more, with what it has left.
    pub(super) fn hand_back(&mut self, now: Duration) {
        let Some(held) = self.held.clone() else {
            self.unsure = None;
            return;
        };
        let wanted = self.terms.is_ok() && !self.ending;
        match self.situation.lead {
            // It may go on here.
            Lead::Own | Lead::Nobody if wanted => return,
            Lead::Out => return self.let_go(),
            _ => {}
        }
        if self.give_up.is_none() {
            // The last chance for what is new, whether there was room a moment ago or not.
            self.room_after = None;
        }
        let give_up = *self.give_up.get_or_insert(now + HAND_BACK);
        if held.record.stopped || now >= give_up {
            return self.let_go();
        }
        self.wake(give_up);
        if !self.looking {
            self.write(held.stamp, Record { stopped: true, ..held.record }, None, now);
        }
    }

    pub(super) fn let_go(&mut self) {
        self.held = None;
        self.unsure = None;
        self.writing = None;
        self.content = None;
        self.room_after = None;
        self.give_up = None;
    }

    /// Has the group keep what is new in the folder.
    pub(super) fn save(&mut self, now: Duration) {
        let (Some(held), Some(lease), Some(_)) = (&self.held, self.lease(now), &self.content)
        else {
            return;
        };
        if held.confirmed != Some(lease.mandate) || self.writing.is_some() || self.unsure.is_some()
        {
            return;
        }
        let at = self.retry.max(self.save_after).max(self.room_after.unwrap_or_default());
        if now < at {
            return self.wake(at);
        }
        let (expect, record) = (held.stamp, held.record.clone());
        self.write(expect, record, None, now);
    }

    pub(super) fn wake(&mut self, at: Duration) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    pub(super) fn tell(&mut self, words: String) {
        self.commands.push_back(Command::Tell(words));
    }

    /// The lease, while it lasts.
    pub(super) fn lease(&self, now: Duration) -> Option<Lease> {
        let own = self.situation.lead == Lead::Own;
        self.situation.lease.filter(|lease| own && lease.until > now)
    }

    pub(super) fn may_run(&self, now: Duration) -> Option<Lease> {
        self.lease(now).filter(|_| self.terms.is_ok() && !self.ending)
    }

    pub(super) fn read(&mut self, now: Duration) {
        if self.reading {
        } else if now < self.retry {
            self.wake(self.retry);
        } else {
            self.reading = true;
            self.commands.push_back(Command::Read);
        }
    }

    pub(super) fn look(&mut self) {
        if !self.looking {
            self.looking = true;
            self.commands.push_back(Command::Look);
        }
    }
}
