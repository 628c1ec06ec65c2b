//! Jobs that wait: each is planned for a node, and given to it when it can begin there.

use super::index::Figures;
use super::jobs::{Entry, NONE, Stage};
use super::{Adaptive, MOVES, OVERDUE};
use crate::Job;
use crate::policy::Command;

/// A job is late when it takes this part longer than was expected.
const LATE: f64 = 0.05;
/// One of a batch in doubt is late when it takes this part longer than it may.
const BEYOND: f64 = 0.5;
/// It is moved on if it is done in less than this part of the time it would take where it is.
const WORTH: f64 = 0.9;
/// A job that has hardly begun stays where it is if it is done later by no more than this part of
/// the whole.
const STAY: f64 = 0.05;
/// Plans mended after one event, at most.
const MENDS: usize = 4;
/// What waits for jobs in doubt is served earlier by this part: another node may be free before.
const EARLY: f64 = 0.1;
/// What counts of the time without a trunk, where the trunk decides.
const TIE: f64 = 1e-2;
/// After which part of the time it should take a transfer is looked at.
const LOOK: f64 = 0.005;
/// An end that is overdue by this part of what it should have taken is looked into.
const SLACK: f64 = 0.1;
/// Jobs at a node, of all brokers, at which nothing more is sent to it that has to be computed.
pub(super) const MOST_AT_ONCE: u32 = 3;
/// Jobs of a node looked at for one that can begin, at most.
const LOOKED_AT: usize = 16;

impl Adaptive {
    /// What one more job would take at a node by counts: as if all jobs there shared it from now on
    /// (seconds).
    pub(super) fn shared(&self, node: u32, job: &Job) -> f64 {
        let one = &self.nodes[node as usize];
        let per_flop = f64::from(1 + one.queued + one.planned) / one.speed;
        let mut per_byte = f64::from(1 + one.sending + one.planned_data) / one.link;
        if let Some(site) = one.site {
            per_byte = per_byte.max(self.sites[site as usize].per_byte());
        }
        job.flops * per_flop + job.bytes * per_byte
    }

    /// When one more job would be done at a node that serves one after the other: its data there,
    /// and it computed.
    fn end(&self, node: u32, job: &Job, now: f64) -> (f64, f64) {
        let one = &self.nodes[node as usize];
        let mut sent = now;
        if job.bytes > 0.0 {
            sent = one.link_free.max(now) + one.sends(job);
            if let Some(site) = one.site {
                let site = &self.sites[site as usize];
                sent = sent.max(now + site.backlog_s() + job.bytes / site.bytes_per_s);
            }
        }
        let done = match job.flops > 0.0 {
            true => one.processor_free.max(sent) + one.computes(job),
            false => sent,
        };
        (sent, done)
    }

    /// When a job is done at a node; of several that wait for the same trunk alike, the one that
    /// would be done first without it.
    fn preference(&self, node: u32, job: &Job, risk: f64, now: f64) -> f64 {
        let (_, done) = self.end(node, job, now);
        let one = &self.nodes[node as usize];
        let done = doubted(done, one.sends(job) + one.computes(job), risk, now);
        if one.site.is_none() || job.bytes <= 0.0 {
            return done;
        }
        let sent = one.link_free.max(now) + one.sends(job);
        let alone = sent.max(if job.flops > 0.0 { one.processor_free } else { 0.0 });
        done + TIE * (alone + one.computes(job) - now)
    }

    /// The node where a job is done first.
    pub(super) fn earliest(&self, job: &Job, risk: f64, now: f64) -> Option<(u32, f64)> {
        let Job { flops, bytes } = *job;
        let bound = |least: &Figures| {
            let mut sent = now;
            if bytes > 0.0 {
                sent = least.link_free.max(now) + bytes * least.byte;
                sent = sent.max(now + least.trunk_backlog + bytes * least.trunk_byte);
            }
            let done = match flops > 0.0 {
                true => least.processor_free.max(sent) + flops * least.flop,
                false => sent,
            };
            doubted(done, bytes * least.byte + flops * least.flop, risk, now)
        };
        self.index.least(bound, |node| self.preference(node, job, risk, now))
    }

    /// The node where a job takes least by counts.
    pub(super) fn least_shared(&self, job: &Job) -> Option<(u32, f64)> {
        // As much of it as is like the jobs that the index reckons with, and the rest.
        let alike = job.bytes.min(job.flops / self.flop_per_byte);
        let flops = (job.flops - alike * self.flop_per_byte).max(0.0);
        let bytes = job.bytes - alike;
        let bound = |least: &Figures| {
            let both = alike * least.per_both + flops * least.per_flop + bytes * least.per_byte;
            // Sums in another order may come out a little greater.
            let both = both * (1.0 - 1e-12);
            if least.trunk_per_byte > least.per_byte {
                both.max(job.flops * least.per_flop + job.bytes * least.trunk_per_byte)
            } else {
                both
            }
        };
        self.index.least(bound, |node| self.shared(node, job))
    }

    /// Where a job is best off, and when it is done there (in a batch) or what it takes: where it has
    /// to be sent to, or where its data lies.
    fn best(&self, entry: &Entry, now: f64) -> Option<(u32, f64)> {
        let Entry { job, batch, risk, data_at, .. } = entry;
        let best = if *batch { self.earliest(job, *risk, now) } else { self.least_shared(job) };
        let there = data_at.map(|node| {
            let job = entry.at(node);
            let end = match batch {
                true => self.preference(node, &job, *risk, now),
                false => self.shared(node, &job),
            };
            (node, end)
        });
        match (best, there) {
            (Some(best), Some(there)) => Some(if there.1 <= best.1 { there } else { best }),
            (best, there) => best.or(there),
        }
    }

    /// Plans a job that waits.
    pub(super) fn plan(&mut self, slot: u32, now: f64) {
        let entry = *self.jobs.get(slot);
        let Entry { risk, fresh_at, .. } = entry;
        let Some((mut node, end)) = self.best(&entry, now) else { return };
        // Where it has begun it stays, unless that is much worse.
        if let Some(one) = self.nodes.get(fresh_at as usize)
            && one.given.first == NONE
            && one.waiting.first == NONE
            && self.preference(fresh_at, &entry.at(fresh_at), risk, now)
                < end + STAY * self.horizon_s
        {
            node = fresh_at;
        }
        self.append(slot, node, now);
    }

    fn append(&mut self, slot: u32, node: u32, now: f64) {
        let entry = self.jobs.get(slot);
        let Entry { batch, risk, .. } = *entry;
        let job = entry.at(node);
        let (sent, done) = self.end(node, &job, now);
        let shared = self.shared(node, &job);
        let entry = self.jobs.get_mut(slot);
        (entry.node, entry.stage) = (node, Stage::Planned);
        let one = &mut self.nodes[node as usize];
        self.jobs.push(&mut one.waiting, slot);
        one.planned += 1;
        if job.bytes > 0.0 {
            one.planned_data += 1;
            one.link_free = sent;
        }
        if job.flops > 0.0 {
            one.processor_free = done;
        }
        one.to_send += one.sends(&job);
        one.to_do = one.to_do.max(one.to_send) + one.computes(&job);
        let one = &self.nodes[node as usize];
        let risky = doubted(done, one.sends(&job) + one.computes(&job), risk, now);
        self.late.set(node as usize, if batch { risky } else { shared });
        self.count_trunk(node, &job, 1.0);
        self.touch(node);
        self.reindex(node);
    }

    /// Takes a job off the plan.
    pub(super) fn unplan(&mut self, slot: u32, now: f64) {
        let entry = self.jobs.get(slot);
        let (node, job) = (entry.node, entry.here());
        let one = &mut self.nodes[node as usize];
        self.jobs.unlink(&mut one.waiting, slot);
        one.planned -= 1;
        one.planned_data -= u32::from(job.bytes > 0.0);
        self.count_trunk(node, &job, -1.0);
        self.jobs.get_mut(slot).node = NONE;
        self.refresh(node, now);
    }

    /// What a trunk has to do changes by a job that is planned.
    fn count_trunk(&mut self, node: u32, job: &Job, times: f64) {
        if let Some(site) = self.nodes[node as usize].site
            && job.bytes > 0.0
        {
            let one = &mut self.sites[site as usize];
            one.backlog += times * job.bytes;
            one.planned = one.planned.saturating_add_signed(times as i32);
            self.reindex_site(site);
        }
    }

    /// What this broker has to send over a node's trunk changes.
    pub(super) fn count_backlog(&mut self, node: u32, bytes: f64) {
        if let Some(site) = self.nodes[node as usize].site {
            self.sites[site as usize].backlog += bytes;
            self.reindex_site(site);
        }
    }

    /// Reckons anew when a node will be done with what was given to it and is planned for it.
    pub(super) fn refresh(&mut self, node: u32, now: f64) {
        let one = &self.nodes[node as usize];
        let (mut link, mut processor) = (one.last_sent, one.last_finished);
        let part = match one.site.map(|site| &self.sites[site as usize]) {
            Some(site) => site.bytes_per_s / f64::from(site.sending.max(1)),
            None => f64::INFINITY,
        };
        let (mut latest, mut alarm) = (f64::NEG_INFINITY, f64::INFINITY);
        let (mut sending, mut computing) = (false, false);
        let mut look = f64::INFINITY;
        let mut slot = one.given.first;
        while slot != NONE {
            let entry = self.jobs.get_mut(slot);
            let job = entry.here();
            let (mut done, mut more) = (entry.sent_at, 0.0);
            // Only what is under way can be late, not what waits behind it.
            let mut stage = |begin: f64, takes: f64, under_way: bool| {
                let done = overdue(begin, takes, entry.most, now);
                more += (begin + takes * entry.risk - done).max(0.0);
                if under_way {
                    alarm = alarm.min(done + SLACK * takes);
                }
                done
            };
            if entry.stage == Stage::Given && job.bytes > 0.0 {
                let begin = link.max(entry.given_at);
                let takes = one.latency + job.bytes / one.link.min(part);
                done = stage(begin, takes, !sending);
                link = done;
                if !entry.looked && !sending {
                    let after = if entry.batch { self.horizon_s } else { takes };
                    look = begin + (4.0 * one.latency).max(LOOK * after);
                }
                sending = true;
            }
            if job.flops > 0.0 {
                done = stage(processor.max(done), one.computes(&job), !computing);
                computing = true;
                processor = done;
            }
            entry.end = done + more;
            latest = latest.max(entry.end);
            slot = entry.next;
        }
        // Jobs of other brokers are as this one's, for all that is known.
        let others = one.queued.saturating_sub(one.given_count);
        let sending = one.sending.saturating_sub(one.given_sending).min(others);
        link = link.max(now) + f64::from(sending) * one.sends(&self.typical);
        processor = processor.max(now) + f64::from(others) * one.computes(&self.typical);
        let mut late = f64::NEG_INFINITY;
        let (mut before, mut before_data) = (one.queued, one.sending);
        let mut slot = one.waiting.first;
        while slot != NONE {
            let entry = self.jobs.get(slot);
            let job = entry.here();
            let mut done = now;
            before += 1;
            if job.bytes > 0.0 {
                before_data += 1;
                link = link.max(now) + one.sends(&job);
                done = link;
            }
            if job.flops > 0.0 {
                processor = processor.max(done) + one.computes(&job);
                done = processor;
            }
            late = doubted(done, one.sends(&job) + one.computes(&job), entry.risk, now);
            if !entry.batch {
                late = f64::from(before) * one.computes(&job)
                    + f64::from(before_data) * job.bytes / one.link;
            }
            slot = entry.next;
        }
        let one = &mut self.nodes[node as usize];
        (one.link_free, one.processor_free) = (link, processor);
        (one.to_send, one.to_do) = (link - now, processor.max(link) - now);
        self.late.set(node as usize, late);
        self.flying.set(node as usize, latest);
        // It is looked at again when something should have happened there.
        let least = now + 1e-6_f64.max(1e-9 * now);
        self.alarms.set(node as usize, alarm.min(look).max(least));
        self.reindex(node);
    }

    /// Gives a node what can begin there: one transfer and one computation at a time, and no more
    /// than two jobs.
    pub(super) fn give(&mut self, node: u32, now: f64) {
        let (mut no_data, mut no_room) = (false, false);
        let mut slot = self.nodes[node as usize].waiting.first;
        for _ in 0..LOOKED_AT {
            let one = &self.nodes[node as usize];
            if slot == NONE || (no_data && no_room) {
                return;
            }
            let entry = self.jobs.get(slot);
            let (job, next) = (entry.here(), entry.next);
            let open = if job.bytes > 0.0 {
                let room = one.site.is_none_or(|site| self.sites[site as usize].has_room());
                no_room = true;
                room && one.sending == 0 && (one.queued < MOST_AT_ONCE || job.flops <= 0.0)
            } else {
                no_data = true;
                one.queued == one.sending
            };
            if open {
                self.begin(slot, now);
                (no_data, no_room) = (false, false);
                slot = self.nodes[node as usize].waiting.first;
            } else {
                slot = next;
            }
        }
    }

    /// Gives a planned job to its node.
    fn begin(&mut self, slot: u32, now: f64) {
        let entry = self.jobs.get(slot);
        let (id, node, job) = (entry.id, entry.node, entry.here());
        let one = &mut self.nodes[node as usize];
        self.jobs.unlink(&mut one.waiting, slot);
        one.planned -= 1;
        one.planned_data -= u32::from(job.bytes > 0.0);
        if let Some(site) = one.site
            && job.bytes > 0.0
        {
            self.sites[site as usize].planned -= 1;
        }
        self.take(slot, node, now);
        self.news.dispatched(now);
        self.commands.push_back(Command::Give { job: id, node });
    }

    /// Counts a job as given to a node.
    pub(super) fn take(&mut self, slot: u32, node: u32, now: f64) {
        let entry = self.jobs.get_mut(slot);
        (entry.node, entry.stage, entry.given_at) = (node, Stage::Given, now);
        (entry.looked, entry.in_line) = (false, false);
        let data = entry.here().bytes > 0.0;
        if !data {
            entry.sent_at = now;
        }
        let one = &mut self.nodes[node as usize];
        self.jobs.push(&mut one.given, slot);
        one.given_count += 1;
        one.given_sending += u32::from(data);
        self.count_queued(node, 1);
        if data {
            self.count_sending(node, 1, now);
        }
        self.refresh(node, now);
        let entry = self.jobs.get_mut(slot);
        entry.expected = entry.end;
    }

    /// Puts plans right that turned out wrong: the job that would be done last goes where it is
    /// done earlier.
    pub(super) fn mend(&mut self, touched: u32, now: f64) {
        for _ in 0..MENDS {
            let Some((node, late)) = self.late.top() else { return };
            let slot = self.nodes[node].waiting.last;
            let entry = *self.jobs.get(slot);
            if entry.in_line {
                return;
            }
            let (to, better) = if entry.batch {
                let Some((to, end)) = self.best(&entry, now) else { return };
                (to, end < late - 1e-3 * (late - now))
            } else {
                (touched, self.shared(touched, &entry.at(touched)) < late)
            };
            if !better || to as usize == node {
                return;
            }
            self.unplan(slot, now);
            self.append(slot, to, now);
        }
    }

    /// Jobs that will be done later than was expected as they were given go on to other nodes that
    /// can begin at once, where they are done sooner.
    pub(super) fn hurry(&mut self, now: f64) {
        for _ in 0..MENDS {
            let Some((node, _)) = self.flying.top() else { return };
            if !self.hurry_from(node as u32, now) {
                return;
            }
        }
    }

    fn hurry_from(&mut self, node: u32, now: f64) -> bool {
        let mut slot = self.nodes[node as usize].given.first;
        while slot != NONE {
            let entry = *self.jobs.get(slot);
            let end = entry.end;
            let should = entry.expected - entry.given_at;
            let late = match entry.rank > 0.0 {
                // Others wait: only what doubt cannot explain goes on.
                true => now > entry.expected + BEYOND * should,
                false => entry.risk > 1.0 || end > entry.expected + LATE * should,
            };
            if late && entry.moves < MOVES && entry.id != NONE {
                let (job, risk) = larger(&entry, now);
                let as_one_of_many = Entry { job, risk, batch: true, ..entry };
                let Some((to, sooner)) = self.best(&as_one_of_many, now) else { return false };
                if to != node && sooner - now < WORTH * (end - now) {
                    if entry.stage == Stage::Given {
                        self.count_backlog(node, -entry.here().bytes);
                    }
                    self.withdraw(slot, now);
                    self.commands.push_back(Command::Recall { job: entry.id });
                    let moved = self.jobs.get_mut(slot);
                    moved.moves += 1;
                    (moved.job, moved.risk, moved.most) = (job, risk, risk);
                    self.append(slot, to, now);
                    return true;
                }
            }
            slot = entry.next;
        }
        false
    }
}

impl Adaptive {
    /// Links turned out to be other than was known: what waits and what has hardly begun is planned
    /// anew.
    pub(super) fn plan_anew(&mut self, now: f64) {
        self.surprises = 0;
        let mut again = std::mem::take(&mut self.came);
        for node in 0..self.nodes.len() as u32 {
            let mut slot = self.nodes[node as usize].waiting.first;
            while slot != NONE {
                let Entry { next, in_line, .. } = *self.jobs.get(slot);
                if !in_line {
                    self.unplan(slot, now);
                    again.push(slot);
                }
                slot = next;
            }
            let mut slot = self.nodes[node as usize].given.first;
            while slot != NONE {
                let entry = *self.jobs.get(slot);
                let begun = entry.given_at + 2.5 * LOOK * self.horizon_s < now;
                let bytes = entry.here().bytes;
                if entry.stage == Stage::Given && bytes > 0.0 && !begun && entry.batch {
                    self.count_backlog(node, -bytes);
                    self.withdraw(slot, now);
                    let entry = self.jobs.get_mut(slot);
                    (entry.stage, entry.fresh_at, entry.node) = (Stage::Planned, node, NONE);
                    again.push(slot);
                }
                slot = entry.next;
            }
        }
        let (doubtful, exact): (Vec<u32>, Vec<u32>) =
            again.iter().partition(|slot| self.jobs.get(**slot).rank > 0.0);
        self.rank_and_plan(&exact, now);
        self.join_line(&doubtful);
        self.serve_line(true, now);
        // Those that are planned where they are already, stay there.
        for slot in &again {
            let entry = *self.jobs.get(*slot);
            let Entry { id, node, fresh_at, given_at, looked, .. } = entry;
            if fresh_at == NONE {
                continue;
            }
            let one = &self.nodes[fresh_at as usize];
            self.jobs.get_mut(*slot).fresh_at = NONE;
            if node == fresh_at && one.given.first == NONE && one.waiting.first == *slot {
                self.unplan(*slot, now);
                self.count_backlog(node, entry.here().bytes);
                self.take(*slot, node, now);
                let entry = self.jobs.get_mut(*slot);
                (entry.given_at, entry.looked) = (given_at, looked);
                self.refresh(node, now);
            } else {
                self.commands.push_back(Command::Recall { job: id });
            }
        }
        again.clear();
        self.came = again;
    }
}

/// What has taken longer than it should is larger than was thought, half way to what it may be at
/// most; gives that, and by which factor it may be off still.
fn larger(entry: &Entry, now: f64) -> (Job, f64) {
    let Entry { job, risk, most, expected, given_at, .. } = *entry;
    let share = risk * (now - given_at) / (expected - given_at);
    if !(share > 1.0 && most > 1.0) {
        return (job, risk);
    }
    let share = share.min(most);
    let larger = (share * most).sqrt();
    (Job { flops: job.flops * larger, bytes: job.bytes * larger }, (most / share).sqrt())
}

/// When a job that takes `takes` seconds and should be done at `done` is done for all that one can be
/// sure of; more than it, the later either is.
fn doubted(done: f64, takes: f64, risk: f64, now: f64) -> f64 {
    if risk <= 1.0 {
        return done;
    }
    done + (risk - 1.0) * takes - EARLY * (done - risk * takes - now).max(0.0)
}

/// When something ends that began at `begin` and should take `takes` seconds, give or take a factor
/// of `risk`: when it is overdue, half way to what it may take at most, and later, the longer it is
/// overdue.
fn overdue(begin: f64, takes: f64, risk: f64, now: f64) -> f64 {
    let end = begin + takes;
    if now <= end + 1e-3 * takes {
        return end.max(now);
    }
    let most = begin + takes * risk;
    if most > now { 0.5 * (now + most) } else { now + OVERDUE * (now - begin) }
}
