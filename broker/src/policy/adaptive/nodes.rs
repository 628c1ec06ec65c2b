//! What is known of nodes and sites: as they said, as it was told, as it was measured.

use super::index::Figures;
use super::jobs::List;
use crate::{Grid, GridNode, Job};

/// By how much what is said of speed and bandwidth is off before anything was measured (variance of
/// the logarithm): bandwidth between half and one and a half.
const PRIOR: f64 = 0.12;
/// What one measurement is off when the job's sizes are exact (the same): rounding, delays.
const NOISE: f64 = 1e-4;

/// What was measured against what was said, as a factor on durations.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    log: f64,
    variance: f64,
}

impl Seen {
    const NOTHING: Self = Self { log: 0.0, variance: PRIOR };

    /// Something took `took` where what was said made it `expected`, for a job whose size may be
    /// off by `doubt`.
    fn learn(&mut self, took: f64, expected: f64, doubt: f64) {
        let log = (took / expected).ln();
        if !log.is_finite() {
            return;
        }
        let noise = NOISE + 0.5 * doubt.ln().powi(2);
        let off = log - self.log;
        // Further off than doubt explains: what was known is not worth anything.
        if off * off > 9.0 * (self.variance + noise) {
            self.variance = off * off;
        }
        let gain = self.variance / (self.variance + noise);
        self.log = (self.log + gain * off).clamp(-20.0, 20.0);
        self.variance *= 1.0 - gain;
        // It may change again.
        self.variance = self.variance.max(0.01 * PRIOR);
    }

    fn factor(&self) -> f64 {
        self.log.exp()
    }
}

/// A node.
#[derive(Debug, Clone)]
pub(super) struct Node {
    said: GridNode,
    /// Speed, flop/s, corrected by what was measured.
    pub speed: f64,
    /// Bandwidth of its link, bytes/s, the same.
    pub link: f64,
    pub latency: f64,
    pub site: Option<u32>,
    /// Jobs there, and those of them whose data is on the way, of all brokers, as told.
    pub queued: u32,
    pub sending: u32,
    /// Jobs of this broker that wait here for it, and those of them with data.
    pub planned: u32,
    pub planned_data: u32,
    pub waiting: List,
    /// Jobs of this broker that are there.
    pub given: List,
    pub given_count: u32,
    pub given_sending: u32,
    /// What it takes of its site's trunk while something is sent to it.
    pub takes: f64,
    /// When link and processor will have done all that was given to and planned for it.
    pub link_free: f64,
    pub processor_free: f64,
    /// How long its link, and all in all it, has to do, seconds from when it was last reckoned, if
    /// no trunk keeps it waiting.
    pub to_send: f64,
    pub to_do: f64,
    /// When its last transfer and computation ended.
    pub last_sent: f64,
    pub last_finished: f64,
    speed_seen: Seen,
    link_seen: Seen,
}

impl Node {
    pub fn new(said: &GridNode) -> Self {
        Self {
            said: *said,
            speed: said.flops_per_s,
            link: said.bytes_per_s,
            latency: said.latency_s,
            site: said.site,
            queued: 0,
            sending: 0,
            planned: 0,
            planned_data: 0,
            waiting: List::EMPTY,
            given: List::EMPTY,
            given_count: 0,
            given_sending: 0,
            takes: 0.0,
            link_free: 0.0,
            processor_free: 0.0,
            to_send: 0.0,
            to_do: 0.0,
            last_sent: 0.0,
            last_finished: 0.0,
            speed_seen: Seen::NOTHING,
            link_seen: Seen::NOTHING,
        }
    }

    /// Seconds that sending takes, with the link to itself.
    pub fn sends(&self, job: &Job) -> f64 {
        if job.bytes > 0.0 { self.latency + job.bytes / self.link } else { 0.0 }
    }

    /// Seconds that computing takes, with the processor to itself.
    pub fn computes(&self, job: &Job) -> f64 {
        job.flops / self.speed
    }

    /// A transfer took so long.
    pub fn sent(&mut self, job: &Job, took: f64, doubt: f64) {
        let expected = self.said.latency_s + job.bytes / self.said.bytes_per_s;
        self.link_seen.learn(took, expected, doubt);
        self.link = self.said.bytes_per_s / self.link_seen.factor();
    }

    /// So much of a job's data came in a transfer's first seconds: that says how fast the link is,
    /// however large the job.
    pub fn progressed(&mut self, bytes: f64, took: f64) {
        self.link_seen.learn(took, self.said.latency_s + bytes / self.said.bytes_per_s, 1.0);
        self.link = self.said.bytes_per_s / self.link_seen.factor();
    }

    /// A computation took so long.
    pub fn computed(&mut self, job: &Job, took: f64, doubt: f64) {
        self.speed_seen.learn(took, job.flops / self.said.flops_per_s, doubt);
        self.speed = self.said.flops_per_s / self.speed_seen.factor();
    }

    /// Such jobs a second, by its speed or by its link alone, as it said.
    pub fn said_rate(&self, job: &Job, by_speed: bool) -> f64 {
        match by_speed {
            true => self.said.flops_per_s / job.flops,
            false => self.said.bytes_per_s / job.bytes,
        }
    }

    /// What decides on it; `flop_per_byte` is the kind of job that has both.
    pub fn figures(&self, flop_per_byte: f64) -> Figures {
        let per_flop = f64::from(1 + self.queued + self.planned) / self.speed;
        let per_byte = f64::from(1 + self.sending + self.planned_data) / self.link;
        Figures {
            per_flop,
            per_byte,
            per_both: flop_per_byte * per_flop + per_byte,
            trunk_per_byte: 0.0,
            link_free: self.link_free,
            processor_free: self.processor_free,
            flop: 1.0 / self.speed,
            byte: 1.0 / self.link,
            trunk_backlog: 0.0,
            trunk_byte: 0.0,
        }
    }
}

/// A site's trunk.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Site {
    pub bytes_per_s: f64,
    /// Transfers on it, of all brokers, and those this one plans.
    pub sending: u32,
    pub planned: u32,
    /// What this broker has to send over it, bytes.
    pub backlog: f64,
    /// What the links to which something is sent take together, bytes/s.
    pub taken: f64,
    /// When they last took more than there is.
    pub full_at: f64,
}

impl Site {
    pub fn all(grid: &Grid) -> Vec<Self> {
        let site = |trunk: &f64| Self {
            bytes_per_s: *trunk,
            full_at: f64::NEG_INFINITY,
            ..Self::default()
        };
        grid.trunks.iter().map(site).collect()
    }

    /// Seconds a byte that one more transfer's part of the trunk makes.
    pub fn per_byte(&self) -> f64 {
        f64::from(1 + self.sending + self.planned) / self.bytes_per_s
    }

    /// Seconds that sending what is left takes.
    pub fn backlog_s(&self) -> f64 {
        self.backlog.max(0.0) / self.bytes_per_s
    }

    /// Whether another transfer would make the trunk fuller than it is.
    pub fn has_room(&self) -> bool {
        self.taken < self.bytes_per_s
    }
}
