//! What is read and written in the group, and what that means.

use std::time::Duration;

use rand::RngExt;

use super::{AGAIN, Copy, Held, MENDED, Running, Service, Writing};
use crate::machine::Mandate;
use crate::machine::follow::{Command, Lease, Record, Value, wait};
use crate::machine::group::Stamp;

/// Another's claim is looked at so often while it is waited for: it may say `stopped`.
const WATCH: Duration = Duration::from_millis(200);
/// States are written to all electors with so many bytes a second at most, all of them together.
const BYTES_PER_S: u64 = 1 << 20;

impl Service {
    /// Writes the claim in this mandate; until that has happened it gives no permission.
    pub(super) fn renew(&mut self, held: &Held, lease: Lease, now: Duration) {
        let record = Record {
            mandate: lease.mandate,
            lease: lease.length,
            stopped: false,
            ..held.record.clone()
        };
        self.write(held.stamp, record, None, now);
    }

    pub(super) fn write(
        &mut self,
        expect: Stamp,
        mut record: Record,
        former: Option<u64>,
        now: Duration,
    ) {
        if self.writing.is_some() || self.unsure.is_some() {
            return;
        }
        if now < self.retry {
            return self.wake(self.retry);
        }
        self.tickets += 1;
        let ticket = self.tickets;
        record.count += 1;
        let whole = self.room_after.is_none_or(|at| now >= at);
        if self.held.is_some() && whole {
            record.saved = self.content.clone().or(record.saved);
            record.exit = self.exit.clone().or(record.exit);
        }
        if self.held.is_some() {
            record.since_unix_s = self.since_unix_s;
        }
        let boxed = Box::new(record.clone());
        self.commands.push_back(Command::Write { ticket, expect, record: boxed });
        self.writing = Some(Writing { ticket, expect, record, former, whole });
    }

    /// Claims the service, unless whoever has it may still run it.
    pub(super) fn claim(&mut self, value: Value, now: Duration) {
        let (Some(lease), Some((_, decided))) = (self.may_run(now), self.decided) else { return };
        if now < self.not_before {
            return;
        }
        let Ok(prior) = value.record else {
            let words =
                "what the sub-grid keeps of it cannot be read; a newer Phantom may be needed";
            self.why = Some(words.to_owned());
            self.not_before = now + MENDED;
            return;
        };
        if let Some(prior) = &prior {
            let at = decided + wait(prior.lease);
            let may_run = !prior.stopped && prior.node != self.own && now < at;
            // Of a mandate to come: this node's knowledge of itself is behind.
            if may_run || prior.mandate > lease.mandate {
                let left = at.saturating_sub(now).as_secs() + 1;
                let node = prior.node.short();
                let words = format!("{node} may still run it, {left} s at most");
                self.why = Some(words);
                self.retry = now + WATCH;
                return;
            }
        }
        let own = prior.as_ref().filter(|prior| prior.node == self.own);
        let former = own.map(|prior| prior.run);
        let record = Record {
            node: self.own,
            mandate: lease.mandate,
            lease: lease.length,
            run: self.rng.random(),
            count: 0,
            stopped: false,
            since_unix_s: self.situation.unix_s,
            exit: prior.as_ref().and_then(|prior| prior.exit.clone()),
            saved: prior.and_then(|prior| prior.saved),
        };
        self.write(value.stamp, record, former, now);
    }

    /// A write has happened.
    pub(super) fn hold(
        &mut self,
        write: Writing,
        stamp: Stamp,
        confirmed: Option<Mandate>,
        now: Duration,
    ) {
        let record = write.record;
        let saved = record.saved.as_ref();
        if saved.map(|saved| &saved.packed) == self.content.as_ref().map(|it| &it.packed) {
            self.content = None;
            self.room_after = None;
            let bytes = saved.map_or(0, |saved| saved.packed.len()) as u64;
            let all = bytes.saturating_mul(self.situation.electors as u64);
            self.save_after = now + Duration::from_millis(all.saturating_mul(1000) / BYTES_PER_S);
        }
        let (filled, former) = match &self.held {
            Some(held) => (held.filled, held.former),
            None => (None, write.former),
        };
        self.held = Some(Held { stamp, record, confirmed, filled, former });
    }

    /// What became of a write of which nobody could tell.
    pub(super) fn settle(&mut self, write: Writing, value: Value, now: Duration) {
        let ours = value.record.as_ref().ok().and_then(Option::as_ref);
        let ours = ours.filter(|it| it.node == self.own && it.run == write.record.run).cloned();
        match ours {
            // Nobody else writes in the name of this run. That this node has it in its log does not
            // mean that the group has: it is written once more before it gives a permission.
            Some(record) if value.stamp > write.expect => {
                self.hold(Writing { record, ..write }, value.stamp, None, now);
            }
            _ if value.stamp == write.expect => self.retry = now + AGAIN,
            // What this node knows of the group is behind.
            _ if value.stamp < write.expect => {
                self.unsure = Some(write);
                self.retry = now + AGAIN;
            }
            _ => self.conflict(now),
        }
    }

    /// Somebody else has written: the service is that one's now.
    pub(super) fn conflict(&mut self, now: Duration) {
        if self.held.take().is_none() {
            return;
        }
        self.content = None;
        self.room_after = None;
        let words = "another node has taken it over";
        match self.copy {
            Copy::Running(running) => self.stop(running, words, now),
            _ => self.tell(words.to_owned()),
        }
    }

    /// Takes up a copy that was found, if the group knows of no later one.
    pub(super) fn take_up(&mut self, running: Running, value: Value, now: Duration) {
        let Ok(Some(record)) = value.record else {
            self.retry = now + AGAIN;
            return;
        };
        if record.node != self.own {
            self.stop(running, "another node has taken it over", now);
        } else if record.run == running.run && !record.stopped {
            self.tell("it is taken up again".to_owned());
            self.since_unix_s = record.since_unix_s;
            let stamp = value.stamp;
            let (filled, former) = (Some(running.version), Some(record.run));
            self.held = Some(Held { stamp, record, confirmed: None, filled, former });
        } else {
            self.retry = now + AGAIN;
        }
    }
}
