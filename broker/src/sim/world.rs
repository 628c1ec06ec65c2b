//! The grid itself, as a fluid: transfers share links and trunks, computations share processors.

use std::collections::VecDeque;

use super::share::Stage;
use super::{Discipline, Happened};
use crate::timers::Timers;
use crate::{Grid, GridNode, Job};

/// Timers of a node: the end of the first delay, transfer and computation.
const DELAY: usize = 0;
const TRANSFER: usize = 1;
const COMPUTE: usize = 2;
const TIMERS: usize = 3;

/// A job that was dispatched.
#[derive(Debug, Clone, Copy)]
struct Task {
    node: u32,
    job: Job,
}

#[derive(Debug, Clone, Default)]
struct Machine {
    /// Transfers that are on their way but have not begun to flow, in order of their ends.
    delayed: VecDeque<(f64, u32)>,
    link: Stage,
    processor: Stage,
}

/// A grid in virtual time. Deterministic: the same calls give the same times.
#[derive(Debug, Clone)]
pub struct World {
    grid: Grid,
    discipline: Discipline,
    now: f64,
    machines: Vec<Machine>,
    /// Which nodes are behind each trunk, and which of these have transfers that flow.
    sites: Vec<Vec<u32>>,
    timers: Timers,
    tasks: Vec<Option<Task>>,
    happened: VecDeque<Happened>,
    /// Room to work in.
    groups: Vec<(f64, u32, u32)>,
}

impl World {
    /// At time 0, without any job. A node or trunk whose rate is not above zero never gets anything
    /// done.
    pub fn new(grid: &Grid, discipline: Discipline) -> Self {
        Self {
            grid: grid.clone(),
            discipline,
            now: 0.0,
            machines: vec![Machine::default(); grid.nodes.len()],
            sites: vec![Vec::new(); grid.trunks.len()],
            timers: Timers::new(TIMERS * grid.nodes.len()),
            tasks: Vec::new(),
            happened: VecDeque::new(),
            groups: Vec::new(),
        }
    }

    /// Seconds since it began.
    pub fn now(&self) -> f64 {
        self.now
    }

    /// When something happens next, if nothing is dispatched before.
    pub fn next(&self) -> Option<f64> {
        if self.happened.is_empty() {
            self.timers.first().map(|(_, at)| at.max(self.now))
        } else {
            Some(self.now)
        }
    }

    /// Goes on to `at`, but not beyond what happens before; gives one thing that happened, if any.
    pub fn advance(&mut self, at: f64) -> Option<Happened> {
        loop {
            if let Some(happened) = self.happened.pop_front() {
                return Some(happened);
            }
            match self.timers.first() {
                Some((slot, due)) if due <= at => {
                    self.now = self.now.max(due);
                    self.ring(slot / TIMERS, slot % TIMERS);
                }
                _ => {
                    self.now = self.now.max(at);
                    return None;
                }
            }
        }
    }

    /// Gives `job`, known as `id` from now on, to `node`. Ids are small and used once; a node that
    /// is not there takes nothing.
    pub fn dispatch(&mut self, id: u32, job: Job, node: u32) {
        let place = id as usize;
        if node as usize >= self.machines.len() {
            return;
        }
        if place >= self.tasks.len() {
            self.tasks.resize(place + 1, None);
        }
        let job = job.sound();
        self.tasks[place] = Some(Task { node, job });
        if job.bytes > 0.0 {
            self.machines[node as usize].link.waiting.push_back(id);
            self.begin_transfers(node as usize);
        } else {
            self.has_data(node as usize, id);
        }
    }

    /// Takes a job back that has not finished; gives the computation that is left of it, and
    /// whether its data had arrived.
    pub fn withdraw(&mut self, id: u32) -> Option<(f64, bool)> {
        let Task { node, job } = self.tasks.get_mut(id as usize)?.take()?;
        let (now, node) = (self.now, node as usize);
        let machine = &mut self.machines[node];
        let waited = machine.link.waiting.len() + machine.delayed.len();
        machine.link.waiting.retain(|one| *one != id);
        machine.delayed.retain(|(_, one)| *one != id);
        let flowed = machine.link.share.take(now, id).is_some();
        if flowed || waited > machine.link.waiting.len() + machine.delayed.len() {
            self.time_delay(node);
            self.links_changed(node);
            self.begin_transfers(node);
            return Some((job.flops, false));
        }
        let waited = machine.processor.waiting.len();
        machine.processor.waiting.retain(|one| *one != id);
        if waited > machine.processor.waiting.len() {
            return Some((job.flops, true));
        }
        let left = machine.processor.share.take(now, id)?;
        self.begin_computing(node);
        Some((left, true))
    }

    /// How much of a job's data is at its node, bytes, while the rest is on the way.
    pub fn progress(&self, id: u32) -> Option<(u32, f64)> {
        let Task { node, job } = (*self.tasks.get(id as usize)?)?;
        let left = self.machines[node as usize].link.share.left(self.now, id)?;
        Some((node, job.bytes - left))
    }

    fn ring(&mut self, node: usize, timer: usize) {
        let now = self.now;
        let machine = &mut self.machines[node];
        match timer {
            DELAY => {
                let Some((_, id)) = machine.delayed.pop_front() else { return };
                let bytes = self.tasks[id as usize].map_or(0.0, |task| task.job.bytes);
                machine.link.share.add(now, id, bytes);
                self.time_delay(node);
                self.links_changed(node);
            }
            TRANSFER => {
                let Some(id) = machine.link.share.pop(now) else { return };
                self.happened.push_back(Happened::Sent { job: id, node: node as u32 });
                self.links_changed(node);
                self.begin_transfers(node);
                self.has_data(node, id);
            }
            _ => {
                let Some(id) = machine.processor.share.pop(now) else { return };
                self.finished(node, id);
                self.begin_computing(node);
            }
        }
    }

    fn finished(&mut self, node: usize, id: u32) {
        self.tasks[id as usize] = None;
        self.happened.push_back(Happened::Finished { job: id, node: node as u32 });
    }

    fn has_data(&mut self, node: usize, id: u32) {
        match self.tasks[id as usize] {
            Some(task) if task.job.flops > 0.0 => {
                self.machines[node].processor.waiting.push_back(id);
                self.begin_computing(node);
            }
            _ => self.finished(node, id),
        }
    }

    fn begin_transfers(&mut self, node: usize) {
        let latency = self.grid.nodes[node].latency_s.max(0.0);
        let machine = &mut self.machines[node];
        loop {
            let busy = machine.link.share.users() + machine.delayed.len() > 0;
            let Some(id) = machine.link.admit(self.discipline, busy) else { break };
            machine.delayed.push_back((self.now + latency, id));
        }
        self.time_delay(node);
    }

    fn begin_computing(&mut self, node: usize) {
        let now = self.now;
        let processor = &mut self.machines[node].processor;
        loop {
            let busy = processor.share.users() > 0;
            let Some(id) = processor.admit(self.discipline, busy) else { break };
            let flops = self.tasks[id as usize].map_or(0.0, |task| task.job.flops);
            processor.share.add(now, id, flops);
        }
        let users = processor.share.users().max(1) as f64;
        processor.share.set_rate(now, self.grid.nodes[node].flops_per_s / users);
        self.timers.set(TIMERS * node + COMPUTE, processor.share.due());
    }

    fn time_delay(&mut self, node: usize) {
        let due = self.machines[node].delayed.front().map_or(f64::INFINITY, |(at, _)| *at);
        self.timers.set(TIMERS * node + DELAY, due);
    }

    /// Gives the transfers that one more or one fewer on `node`'s link touches their rates: those
    /// of the node, and those behind the same trunk.
    fn links_changed(&mut self, node: usize) {
        let site = self.grid.nodes[node].site.map(|site| site as usize);
        match site.filter(|site| *site < self.sites.len()) {
            None => {
                let users = self.machines[node].link.share.users();
                let rate = self.grid.nodes[node].bytes_per_s / users.max(1) as f64;
                self.give_rate(node, rate);
            }
            Some(site) => self.share_trunk(site, node),
        }
    }

    /// Max-min fair: those whose own link gives less than their part of the trunk leave the rest
    /// to the others.
    fn share_trunk(&mut self, site: usize, node: usize) {
        let id = node as u32;
        let flows = self.machines[node].link.share.users() > 0;
        match self.sites[site].binary_search(&id) {
            Ok(place) if !flows => {
                self.sites[site].remove(place);
                self.give_rate(node, self.grid.nodes[node].bytes_per_s);
            }
            Err(place) if flows => self.sites[site].insert(place, id),
            _ => {}
        }
        let mut groups = std::mem::take(&mut self.groups);
        groups.clear();
        groups.extend(self.sites[site].iter().map(|id| {
            let users = self.machines[*id as usize].link.share.users() as u32;
            let GridNode { bytes_per_s, .. } = self.grid.nodes[*id as usize];
            (bytes_per_s / f64::from(users.max(1)), users, *id)
        }));
        groups.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.2.cmp(&b.2)));
        let mut left = self.grid.trunks[site].max(0.0);
        let mut flows: f64 = groups.iter().map(|(_, users, _)| f64::from(*users)).sum();
        for (own, users, id) in &groups {
            let rate = own.min(left / flows).max(0.0);
            left = (left - rate * f64::from(*users)).max(0.0);
            flows -= f64::from(*users);
            self.give_rate(*id as usize, rate);
        }
        self.groups = groups;
    }

    fn give_rate(&mut self, node: usize, rate: f64) {
        let share = &mut self.machines[node].link.share;
        share.set_rate(self.now, rate);
        self.timers.set(TIMERS * node + TRANSFER, share.due());
    }
}
