//! Jobs, brokers and the grid together.

use std::collections::VecDeque;

use super::{Arrival, Discipline, Happened, World};
use crate::policy::{Command, Event, News, Policy, Profile, Random};
use crate::{Grid, Job};

/// How far off what the brokers know is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Doubts {
    /// Bandwidth: 0.5 where what is known lies between half and one and a half of what is so.
    pub bandwidth: f64,
    /// Jobs: 2 where what is known of each size lies between half and double.
    pub size: f64,
    /// Sizes are off by all of that factor, this way or the other; else by any factor up to it.
    pub extreme: bool,
}

impl Doubts {
    /// All is known exactly.
    pub const NONE: Self = Self { bandwidth: 0.0, size: 1.0, extreme: false };
}

/// What is tried.
#[derive(Debug, Clone)]
pub struct Trial<'a> {
    /// The grid as it is.
    pub grid: &'a Grid,
    /// The jobs as they are, in order of arrival.
    pub jobs: &'a [Arrival],
    /// How nodes serve.
    pub discipline: Discipline,
    /// How far off what the brokers know is.
    pub doubts: Doubts,
    /// How many brokers place jobs, each without a word to the others.
    pub brokers: usize,
    /// How long news of what happens takes to reach a broker, seconds.
    pub news_age_s: f64,
    /// Whether a broker counts its own dispatches at once, whatever the age of other news.
    pub own_at_once: bool,
    /// For errors and for who gets which job.
    pub seed: u64,
}

impl<'a> Trial<'a> {
    /// One broker that knows everything at once.
    pub fn exact(grid: &'a Grid, jobs: &'a [Arrival], discipline: Discipline) -> Self {
        let doubts = Doubts::NONE;
        Self {
            grid,
            jobs,
            discipline,
            doubts,
            brokers: 1,
            news_age_s: 0.0,
            own_at_once: false,
            seed: 0,
        }
    }
}

/// What came of it, by job.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Where it finished or is; `None` where it was never placed.
    pub nodes: Vec<Option<u32>>,
    /// When it finished, seconds since the beginning; infinite when it never did.
    pub finished: Vec<f64>,
    /// How often a job was taken back from the node it had been given to.
    pub recalls: usize,
    arrived: Vec<f64>,
}

impl Outcome {
    /// When the last job finished.
    pub fn makespan(&self) -> f64 {
        self.finished.iter().copied().fold(0.0, f64::max)
    }

    /// From arrival to finish, on average.
    pub fn mean_completion(&self) -> f64 {
        self.completions().sum::<f64>() / self.finished.len().max(1) as f64
    }

    /// From arrival to finish, of each job.
    pub fn completions(&self) -> impl Iterator<Item = f64> {
        self.finished.iter().zip(&self.arrived).map(|(finished, arrived)| finished - arrived)
    }
}

/// Runs a trial to its end; `broker` makes each broker's policy from the grid as it is known to
/// all. Ends too when nothing more happens while jobs still wait.
pub fn run(trial: &Trial<'_>, broker: &mut dyn FnMut(&Grid) -> Box<dyn Policy>) -> Outcome {
    Course::new(trial, broker).run()
}

/// Wakes one after the other in which nothing happened, at most.
const MOST_IDLE: usize = 10_000;

struct Course<'a> {
    trial: &'a Trial<'a>,
    world: World,
    brokers: Vec<Box<dyn Policy>>,
    profiles: Vec<Profile>,
    broker_of: Vec<u32>,
    /// What is left of each job that was placed.
    left: Vec<Job>,
    news: VecDeque<(f64, Event)>,
    outcome: Outcome,
}

impl<'a> Course<'a> {
    fn new(trial: &'a Trial<'a>, broker: &mut dyn FnMut(&Grid) -> Box<dyn Policy>) -> Self {
        let mut random = Random::new(trial.seed);
        let Doubts { bandwidth, size, extreme } = trial.doubts;
        let mut known = trial.grid.clone();
        for node in &mut known.nodes {
            node.bytes_per_s *= random.between(1.0 - bandwidth, 1.0 + bandwidth);
        }
        let mut off = || match extreme {
            true if random.unit() < 0.5 => size,
            true => 1.0 / size,
            false => size.powf(random.between(-1.0, 1.0)),
        };
        let profiles = trial.jobs.iter().map(|Arrival { job, data_at, .. }| {
            let job = Job { flops: job.flops * off(), bytes: job.bytes * off() };
            Profile { job, doubt: size, data_at: *data_at }
        });
        let profiles = profiles.collect();
        let count = trial.jobs.len();
        let broker_of = (0..count).map(|_| random.below(trial.brokers) as u32).collect();
        Self {
            world: World::new(trial.grid, trial.discipline),
            brokers: (0..trial.brokers.max(1)).map(|_| broker(&known)).collect(),
            profiles,
            broker_of,
            left: trial.jobs.iter().map(|arrival| arrival.job).collect(),
            news: VecDeque::new(),
            outcome: Outcome {
                nodes: vec![None; count],
                finished: vec![f64::INFINITY; count],
                recalls: 0,
                arrived: trial.jobs.iter().map(|arrival| arrival.at).collect(),
            },
            trial,
        }
    }

    fn run(mut self) -> Outcome {
        let (mut arrived, mut idle) = (0, 0);
        loop {
            let arrival = self.trial.jobs.get(arrived).map(|arrival| arrival.at);
            let news = self.news.front().map(|(at, _)| *at);
            let next = [self.world.next(), arrival, news].into_iter().flatten();
            let next = next.fold(f64::INFINITY, f64::min);
            let wakes = self.brokers.iter().filter_map(|broker| broker.wake());
            let now = wakes.fold(next, f64::min).max(self.world.now());
            idle = if now < next { idle + 1 } else { 0 };
            if now == f64::INFINITY || idle > MOST_IDLE {
                return self.outcome;
            }
            while let Some(happened) = self.world.advance(now) {
                self.happened(happened);
            }
            self.tell(now);
            while let Some(arrival) = self.trial.jobs.get(arrived).filter(|one| one.at <= now) {
                self.arrives(arrived as u32, arrival.job, now);
                arrived += 1;
            }
            for broker in 0..self.brokers.len() {
                while let Some(command) = self.brokers[broker].release(now) {
                    self.obey(command, now);
                }
            }
        }
    }

    fn happened(&mut self, happened: Happened) {
        let now = self.world.now();
        match happened {
            Happened::Sent { job, node } => self.spread(Event::Sent { job, node }, now),
            Happened::Finished { job, node } => {
                self.outcome.finished[job as usize] = now;
                self.spread(Event::Finished { job, node }, now);
            }
        }
    }

    fn knows_at_once(&self, event: &Event) -> bool {
        self.trial.own_at_once
            && self.trial.news_age_s > 0.0
            && matches!(event, Event::Dispatched { .. })
    }

    fn spread(&mut self, event: Event, now: f64) {
        if let Event::Dispatched { job, .. } = event
            && self.knows_at_once(&event)
        {
            let broker = self.broker_of[job as usize] as usize;
            self.brokers[broker].told(&News { event, at: now, own: true }, now);
        }
        self.news.push_back((now + self.trial.news_age_s, event));
        if self.trial.news_age_s <= 0.0 {
            self.tell(now);
        }
    }

    fn tell(&mut self, now: f64) {
        while let Some((_, event)) = self.news.front().copied().filter(|(at, _)| *at <= now) {
            self.news.pop_front();
            let (Event::Dispatched { job, .. }
            | Event::Sent { job, .. }
            | Event::Progress { job, .. }
            | Event::Finished { job, .. }
            | Event::Withdrawn { job, .. }) = event;
            let known = self.knows_at_once(&event);
            for (place, broker) in self.brokers.iter_mut().enumerate() {
                let own = self.broker_of[job as usize] as usize == place;
                if own && known {
                    continue;
                }
                broker.told(&News { event, at: now - self.trial.news_age_s, own }, now);
            }
        }
    }

    fn arrives(&mut self, id: u32, job: Job, now: f64) {
        let broker = self.broker_of[id as usize] as usize;
        if let Some(node) = self.brokers[broker].choose(id, &self.profiles[id as usize], now) {
            self.give(id, job, node, now);
        }
    }

    fn give(&mut self, id: u32, mut job: Job, node: u32, now: f64) {
        if self.trial.jobs[id as usize].data_at == Some(node) {
            job.bytes = 0.0;
        }
        // A broker with old news may give away what is done.
        if self.outcome.finished[id as usize] <= now || self.outcome.nodes[id as usize].is_some() {
            return;
        }
        self.outcome.nodes[id as usize] = Some(node);
        self.spread(Event::Dispatched { job: id, node, data: job.bytes > 0.0 }, now);
        self.world.dispatch(id, job, node);
    }

    fn obey(&mut self, command: Command, now: f64) {
        match command {
            Command::Give { job, node } => self.give(job, self.left[job as usize], node, now),
            Command::Look { job } => {
                if let Some((node, bytes)) = self.world.progress(job) {
                    self.spread(Event::Progress { job, node, bytes }, now);
                }
            }
            Command::Recall { job } => {
                let Some(node) = self.outcome.nodes[job as usize] else { return };
                let Some((flops, there)) = self.world.withdraw(job) else { return };
                self.outcome.recalls += 1;
                self.outcome.nodes[job as usize] = None;
                self.left[job as usize].flops = flops;
                self.spread(Event::Withdrawn { job, node, sending: !there }, now);
            }
        }
    }
}
