//! The default policy: one mechanism that does what suits what it measures.
//!
//! ```text
//!  news older than a job takes? ──yes──> draw 2 to 8 nodes by what they can do, take the best
//!        │ no
//!  each job gets a place in a plan: ──┬── came alone: the least of (1+q)F/s + (1+t)D/b
//!        │                            └── came with 7 others or more: the longest first, each
//!        │                                where it ends first, trunks reckoned with; in doubt only
//!        │                                as many as there is room for now
//!        └──> is given to its node only when it can begin there; till then, and at each piece of
//!             news, the worst placed may go where it is better off
//! ```
//!
//! - *Late binding*: a node has one transfer and one computation under way and at most one job that
//!   waits; all others wait here, where a plan is changed for nothing. Behind a trunk as many are
//!   sent to at once as fill it, those with the most left to do first.
//! - *Exact batches*: for equal jobs in a star the earliest end is the optimum.
//! - *Arrivals*: q jobs at and planned for a node and t transfers count as if all shared it: who
//!   comes later finds room on fast nodes.
//! - *Doubt*: sizes that differ by no more than they may be off are taken for equal. Where they do
//!   differ, a batch waits in one line ([`line`]) and goes where room is: first what may take longest,
//!   each where it would be done first even then. How fast a transfer runs is looked at after half a
//!   hundredth of the batch; when links are not as thought, what has hardly begun is planned anew.
//!   What is later than doubt explains goes on to another node where it ends sooner even though it
//!   begins anew.
//! - *Old news*: what it dispatched itself it counts at once; nodes are drawn so that brokers which
//!   know nothing of each other do not all take the same.
//! - *What was measured* counts more than what a node says: each transfer and computation corrects
//!   it, at once where it is far off.
//!
//! A decision looks at few nodes ([`index`]) and allocates nothing.

mod index;
mod jobs;
mod line;
mod nodes;
mod plan;
mod stale;
mod tournament;

use std::collections::VecDeque;

use index::Index;
use jobs::{Entry, Jobs, NONE, Stage};
use nodes::{Node, Site};
use stale::{Age, Average, Drawing};
use tournament::Tournament;

use super::{Command, Event, News, Policy, Profile};
use crate::timers::Timers;
use crate::{Grid, Job};

/// Jobs that came at once are a batch from this many on.
const BATCH: usize = 8;
/// What is overdue is expected to take this part of what it has taken already.
const OVERDUE: f64 = 0.5;
/// A link is other than was known when it is off by this part.
const SURPRISE: f64 = 0.05;
/// News are stale when they are older than this part of what a job takes on an average node.
const STALE: f64 = 1.0;
/// Room for jobs and commands from the beginning.
const ROOM: usize = 256;
/// No size is further off.
const MOST_DOUBT: f64 = 1e6;
/// A job is moved on no more often.
const MOVES: u8 = 2;

/// Places jobs by what is known and measured: late-bound plans, counts, and draws when news are old;
/// `ARCHITECTURE.md` says how it decides. Brokers of one grid need seeds that differ.
#[derive(Debug, Clone)]
pub struct Adaptive {
    nodes: Vec<Node>,
    sites: Vec<Site>,
    index: Index,
    jobs: Jobs,
    /// Jobs that came since the last release.
    came: Vec<u32>,
    /// Nodes at which something may begin.
    touched: Vec<u32>,
    touching: Vec<u32>,
    is_touched: Vec<bool>,
    /// Jobs of batches whose sizes are in doubt, in the order in which they are served.
    line: Vec<u32>,
    /// How many they were when all nodes were asked last.
    line_before: usize,
    /// When each node's last planned job would be done, and its last given one.
    late: Tournament,
    flying: Tournament,
    alarms: Timers,
    commands: VecDeque<Command>,
    /// How long the last batch was expected to take as a whole, seconds.
    horizon_s: f64,
    /// Links that turned out to be other than was known since all was planned.
    surprises: usize,
    /// The kind of job with which the index reckons, and how many of another kind came since.
    flop_per_byte: f64,
    unlike: usize,
    /// What jobs take, lately.
    typical: Job,
    drawing: Drawing,
    average: Average,
    news: Age,
}

impl Adaptive {
    /// On idle nodes.
    pub fn new(grid: &Grid, seed: u64) -> Self {
        let count = grid.nodes.len();
        let mut this = Self {
            nodes: grid.nodes.iter().map(Node::new).collect(),
            sites: Site::all(grid),
            index: Index::new(grid),
            jobs: Jobs::with_room(3 * count + ROOM),
            came: Vec::with_capacity(ROOM),
            touched: Vec::with_capacity(count),
            touching: Vec::with_capacity(count),
            is_touched: vec![false; count],
            line: Vec::new(),
            line_before: 0,
            late: Tournament::new(count),
            flying: Tournament::new(count),
            alarms: Timers::new(count),
            commands: VecDeque::with_capacity(ROOM),
            horizon_s: 0.0,
            surprises: 0,
            flop_per_byte: 1.0,
            unlike: count,
            typical: Job { flops: 0.0, bytes: 0.0 },
            drawing: Drawing::new(grid, seed),
            average: Average::new(grid),
            news: Age::default(),
        };
        for node in 0..count as u32 {
            this.reindex(node);
        }
        for site in 0..this.sites.len() as u32 {
            this.reindex_site(site);
        }
        this
    }

    fn reindex(&mut self, node: u32) {
        let (nodes, flop_per_byte) = (&self.nodes, self.flop_per_byte);
        self.index.changed(node, |node| nodes[node as usize].figures(flop_per_byte));
    }

    /// The index reckons with jobs of one proportion of computation to data: when many others came,
    /// with that of the last one.
    fn reckon_with(&mut self, job: &Job) {
        let flop_per_byte = job.flops / job.bytes;
        if !(job.bytes > 0.0 && flop_per_byte > 0.0 && flop_per_byte.is_finite()) {
            return;
        }
        let alike = (0.9..1.1).contains(&(flop_per_byte / self.flop_per_byte));
        self.unlike = if alike { 0 } else { self.unlike + 1 };
        if self.unlike > self.nodes.len() / 4 {
            (self.unlike, self.flop_per_byte) = (0, flop_per_byte);
            for node in 0..self.nodes.len() as u32 {
                self.reindex(node);
            }
        }
    }

    fn reindex_site(&mut self, site: u32) {
        let one = &self.sites[site as usize];
        self.index.trunk_changed(site, one.per_byte(), one.backlog_s(), 1.0 / one.bytes_per_s);
    }

    fn touch(&mut self, node: u32) {
        if !std::mem::replace(&mut self.is_touched[node as usize], true) {
            self.touched.push(node);
        }
    }

    fn count_queued(&mut self, node: u32, change: i32) {
        let one = &mut self.nodes[node as usize];
        one.queued = one.queued.saturating_add_signed(change);
    }

    fn count_sending(&mut self, node: u32, change: i32, now: f64) {
        let one = &mut self.nodes[node as usize];
        let before = one.sending;
        one.sending = before.saturating_add_signed(change);
        let Some(site) = one.site else { return };
        let trunk = &mut self.sites[site as usize];
        trunk.sending = trunk.sending.saturating_add_signed(change);
        if !trunk.has_room() {
            trunk.full_at = now;
        }
        match (before, one.sending) {
            (0, 1..) => {
                one.takes = one.link;
                trunk.taken += one.takes;
            }
            (1.., 0) => trunk.taken -= one.takes,
            _ => {}
        }
        if trunk.sending == 0 {
            trunk.taken = 0.0;
        }
        self.reindex_site(site);
    }

    /// A job is no longer at the node it was given to.
    fn withdraw(&mut self, slot: u32, now: f64) {
        let entry = *self.jobs.get(slot);
        let Entry { node, stage, .. } = entry;
        let one = &mut self.nodes[node as usize];
        self.jobs.unlink(&mut one.given, slot);
        one.given_count -= 1;
        self.count_queued(node, -1);
        if stage == Stage::Given && entry.here().bytes > 0.0 {
            self.nodes[node as usize].given_sending -= 1;
            self.count_sending(node, -1, now);
        }
        self.refresh(node, now);
        self.touch(node);
    }

    fn sent(&mut self, slot: u32, at: f64, now: f64) {
        let entry = *self.jobs.get(slot);
        let Entry { node, stage, given_at, doubt, .. } = entry;
        let job = entry.here();
        if stage != Stage::Given || job.bytes <= 0.0 {
            return;
        }
        let began = given_at.max(self.nodes[node as usize].last_sent);
        let full = self.was_full(node, began);
        let one = &mut self.nodes[node as usize];
        if !full && one.given_sending == one.sending {
            one.sent(&job, at - began, doubt);
        }
        one.last_sent = at;
        one.given_sending -= 1;
        let entry = self.jobs.get_mut(slot);
        (entry.stage, entry.sent_at) = (Stage::Sent, at);
        self.count_sending(node, -1, now);
        if let Some(site) = self.nodes[node as usize].site {
            self.sites[site as usize].backlog -= job.bytes;
            self.reindex_site(site);
        }
        self.refresh(node, now);
    }

    /// Asks how far the transfer to a node is, once.
    fn look(&mut self, node: u32) {
        let mut slot = self.nodes[node as usize].given.first;
        while slot != NONE {
            let entry = self.jobs.get_mut(slot);
            if entry.stage == Stage::Given && entry.here().bytes > 0.0 {
                if !std::mem::replace(&mut entry.looked, true) {
                    self.commands.push_back(Command::Look { job: entry.id });
                }
                return;
            }
            slot = entry.next;
        }
    }

    fn progressed(&mut self, slot: u32, bytes: f64, at: f64, now: f64) {
        let Entry { node, stage, given_at, .. } = *self.jobs.get(slot);
        if stage != Stage::Given {
            return;
        }
        let began = given_at.max(self.nodes[node as usize].last_sent);
        if self.was_full(node, began) {
            return;
        }
        let one = &mut self.nodes[node as usize];
        if one.given_sending == one.sending && bytes > 0.0 && at - began > 2.0 * one.latency {
            let before = one.link;
            one.progressed(bytes, at - began);
            if (one.link / before).ln().abs() > SURPRISE {
                self.surprises += 1;
            }
            self.refresh(node, now);
            self.touch(node);
        }
    }

    /// Whether the trunk that leads to a node was full since.
    fn was_full(&self, node: u32, since: f64) -> bool {
        self.nodes[node as usize].site.is_some_and(|site| {
            let site = &self.sites[site as usize];
            !site.has_room() || site.full_at > since
        })
    }

    fn finished(&mut self, slot: u32, at: f64, now: f64) {
        let Entry { node, sent_at, job, doubt, moves, stage, .. } = *self.jobs.get(slot);
        if stage == Stage::Planned {
            // It was taken back, but too late.
            match node {
                NONE => self.came.retain(|other| *other != slot),
                _ => self.unplan(slot, now),
            }
            self.jobs.get_mut(slot).in_line = false;
            self.jobs.remove(slot);
            return;
        }
        let one = &mut self.nodes[node as usize];
        if job.flops > 0.0 {
            let took = at - sent_at.max(one.last_finished);
            // Where others' computations or two of its own overlap, only what cannot be explained
            // by sharing counts.
            let alone = one.given_count == one.queued && one.given_count - one.given_sending == 1;
            if moves == 0 && (alone || took > 3.0 * one.computes(&job)) {
                one.computed(&job, took, doubt);
            }
            one.last_finished = at;
        }
        self.withdraw(slot, now);
        self.jobs.remove(slot);
    }

    /// Something began or ended at a node: others of its site may begin.
    fn touch_site(&mut self, node: u32) {
        self.touch(node);
        let Some(site) = self.nodes[node as usize].site else { return };
        for place in 0..self.index.of_site(site).len() {
            let other = self.index.of_site(site)[place];
            if self.nodes[other as usize].planned > 0 {
                self.touch(other);
            }
        }
    }

    fn settle(&mut self, now: f64) {
        let came = std::mem::take(&mut self.came);
        let queued = came.len() >= BATCH;
        if queued {
            self.plan_batch(&came, now);
        } else {
            for slot in &came {
                self.plan(*slot, now);
            }
        }
        self.came = came;
        self.came.clear();
        while let Some((node, _)) = self.alarms.first().filter(|(_, due)| *due <= now) {
            self.look(node as u32);
            self.refresh(node as u32, now);
            self.touch(node as u32);
        }
        if self.surprises > self.index.len() / 50 {
            self.plan_anew(now);
        } else if !self.touched.is_empty() || queued {
            self.serve_line(queued, now);
        }
        while !self.touched.is_empty() {
            std::mem::swap(&mut self.touched, &mut self.touching);
            let mut touched = std::mem::take(&mut self.touching);
            for node in &touched {
                self.is_touched[*node as usize] = false;
                self.mend(*node, now);
            }
            // Where the most is left to do is served first.
            let key = |node: &u32| self.nodes[*node as usize].to_do;
            touched.sort_unstable_by(|a, b| key(b).total_cmp(&key(a)).then(a.cmp(b)));
            for node in &touched {
                self.give(*node, now);
            }
            self.hurry(now);
            touched.clear();
            self.touching = touched;
        }
    }

    fn plan_batch(&mut self, came: &[u32], now: f64) {
        for slot in came {
            let entry = self.jobs.get_mut(*slot);
            (entry.risk, entry.most) = (1.0, 1.0);
        }
        let differ =
            self.level(came, |job| &mut job.flops) | self.level(came, |job| &mut job.bytes);
        if differ {
            self.queue_up(came);
        } else {
            self.rank_and_plan(came, now);
            self.horizon_s = self.late.top().map_or(0.0, |(_, end)| end - now);
        }
    }

    /// Plans jobs, the longest on average nodes first.
    fn rank_and_plan(&mut self, came: &[u32], now: f64) {
        let (mut flop, mut byte) = (0.0, 0.0);
        let mut count = 0.0f64;
        for node in self.nodes.iter().enumerate().filter(|(node, _)| self.index.has(*node as u32)) {
            flop += node.1.speed;
            byte += node.1.link;
            count += 1.0;
        }
        let rank = |job: &Job| job.flops * count / flop + job.bytes * count / byte;
        let mut ranked: Vec<(f64, u32)> =
            came.iter().map(|slot| (rank(&self.jobs.get(*slot).job), *slot)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (_, slot) in ranked {
            self.jobs.get_mut(slot).batch = true;
            self.plan(slot, now);
        }
    }
}

impl Policy for Adaptive {
    fn told(&mut self, news: &News, now: f64) {
        let News { event, at, own } = *news;
        if !own || !matches!(event, Event::Dispatched { .. }) {
            self.news.heard(now - at);
        }
        match event {
            Event::Dispatched { node, data, .. } if !own => {
                if self.index.has(node) {
                    self.count_queued(node, 1);
                    if data {
                        self.count_sending(node, 1, now);
                    }
                    self.refresh(node, now);
                }
            }
            Event::Dispatched { .. } => {}
            Event::Sent { job, node } => {
                if own && let Some(slot) = self.jobs.find(job) {
                    self.sent(slot, at, now);
                } else if self.index.has(node) {
                    self.count_sending(node, -1, now);
                    self.refresh(node, now);
                }
                if self.index.has(node) {
                    self.touch_site(node);
                }
            }
            Event::Finished { job, node } => {
                if own && let Some(slot) = self.jobs.find(job) {
                    self.finished(slot, at, now);
                } else if self.index.has(node) {
                    self.count_queued(node, -1);
                    self.refresh(node, now);
                }
                if self.index.has(node) {
                    self.touch_site(node);
                }
            }
            Event::Progress { job, bytes, .. } => {
                if own && let Some(slot) = self.jobs.find(job) {
                    self.progressed(slot, bytes, at, now);
                }
            }
            Event::Withdrawn { node, sending, .. } if !own => {
                if self.index.has(node) {
                    self.count_queued(node, -1);
                    if sending {
                        self.count_sending(node, -1, now);
                    }
                    self.refresh(node, now);
                    self.touch_site(node);
                }
            }
            // What this broker does it counts as it does it.
            Event::Withdrawn { .. } => {}
        }
    }

    fn choose(&mut self, id: u32, profile: &Profile, now: f64) -> Option<u32> {
        if self.index.len() == 0 {
            return None;
        }
        let job = profile.job.sound();
        self.typical = job;
        self.reckon_with(&job);
        let data_at = profile.data_at.filter(|node| self.index.has(*node));
        if self.news.age_s(now) > STALE * self.average.takes(&job) {
            return self.draw(&job, data_at, now);
        }
        let doubt = match profile.doubt {
            doubt if doubt.is_nan() => 1.0,
            doubt => doubt.clamp(1.0, MOST_DOUBT),
        };
        let slot = self.jobs.add(Entry {
            id,
            job,
            data_at,
            doubt,
            risk: doubt,
            most: doubt,
            stage: Stage::Planned,
            batch: false,
            rank: 0.0,
            in_line: false,
            node: NONE,
            given_at: now,
            sent_at: now,
            end: now,
            expected: now,
            looked: false,
            fresh_at: NONE,
            moves: 0,
            previous: NONE,
            next: NONE,
        });
        self.came.push(slot);
        None
    }

    fn release(&mut self, now: f64) -> Option<Command> {
        if self.commands.is_empty() {
            self.settle(now);
        }
        self.commands.pop_front()
    }

    fn wake(&self) -> Option<f64> {
        self.alarms.first().map(|(_, at)| at)
    }
}
