//! What a choice among nodes needs: what they say, what was measured of them and of the ways to
//! them. The broker decides.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures::future::join_all;
use phantom_broker::{
    Bandwidth, Candidate, Decision, Estimate, Left, Link, Needs, PIECES, PROBE_BYTES, ProbeBudget,
    SLOW_PROBE, STEPS, Situation, Standing, decide, mflops, work,
};
use phantom_model::{AppId, AppRecord, Bytes, Limit, NodeId, Resource, Verdict};
use tokio::sync::Semaphore;

use super::Daemon;
use super::apps::now_unix_us;
use super::peers::{Answer, Ask};

/// How long one measurement may take.
const MEASURE_DEADLINE: Duration = Duration::from_secs(3);
/// How often a node is given a piece of work, and one that did it much slower than it says.
const WORK_EVERY: Duration = Duration::from_secs(600);
const DOUBTED_EVERY: Duration = Duration::from_secs(20);
/// An app over a limit that is not about CPUs is a burden like half a core.
const OTHER_BURDEN_CORES: f64 = 0.5;
/// Between two looks at what went to a node, no more time counts.
const COUNTED_WITHIN: Duration = Duration::from_secs(5);
/// What an image holds besides memory, at most times.
const IMAGE_EXTRA: u64 = 8 << 20;

/// What was measured of the others.
pub struct Market {
    known: Mutex<HashMap<NodeId, Known>>,
    probes: Mutex<ProbeBudget>,
    /// Probes go one after the other: two at a time would measure each other.
    probing: tokio::sync::Mutex<()>,
    /// One piece of work at a time is done for others.
    working: Arc<Semaphore>,
}

#[derive(Default)]
struct Known {
    way: Bandwidth,
    standing: Standing,
    worked: Option<Instant>,
    /// Bytes that had gone there when it was last looked, and when that was.
    counted: Option<(u64, Duration)>,
}

impl Default for Market {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            probes: Mutex::default(),
            probing: tokio::sync::Mutex::default(),
            working: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Market {
    fn budget(&self) -> MutexGuard<'_, ProbeBudget> {
        self.probes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Known>> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// So many bytes went to a node in that time; no faster, perhaps, than they came to be.
    pub fn sent(&self, node: NodeId, bytes: u64, took: Duration) {
        let now = phantom_ebpf::now();
        self.lock().entry(node).or_default().way.observe_at_least(bytes, took, now);
    }

    /// The way to a node was found to carry no more than so many bytes in that time.
    pub fn collapsed(&self, node: NodeId, bytes: u64, took: Duration) {
        let now = phantom_ebpf::now();
        let mut known = self.lock();
        let way = &mut known.entry(node).or_default().way;
        way.forget();
        way.observe(bytes, took, now);
    }

    /// A move to a node came to an end; whether by the node's fault it failed.
    pub fn moved(&self, node: NodeId, went_well: bool) {
        let got = if went_well { 1.0 } else { 0.3 };
        self.lock().entry(node).or_default().standing.observe_result(1.0, 1.0, got);
    }

    /// So many bytes in all have gone to a node by now: what went since the last time tells how much
    /// the way carries at least.
    fn counted(&self, node: NodeId, bytes: u64) {
        let now = phantom_ebpf::now();
        let mut known = self.lock();
        let known = known.entry(node).or_default();
        let (before, at) = known.counted.replace((bytes, now)).unwrap_or((bytes, now));
        let took = now.saturating_sub(at);
        // Where it was not looked for long, it was not sent all the time; a new connection begins
        // with nothing.
        if took <= COUNTED_WITHIN {
            known.way.observe_at_least(bytes.saturating_sub(before), took, now);
        }
    }

    /// The way to a node, where known.
    pub fn way(&self, node: NodeId) -> Option<Estimate> {
        self.lock().get(&node)?.way.estimate(phantom_ebpf::now())
    }

    /// Does a piece of work for another node.
    pub async fn do_work(&self, seed: u64, steps: u32) -> anyhow::Result<[u64; 4]> {
        anyhow::ensure!(steps <= STEPS, "that is too much work");
        let turn = self.working.clone().try_acquire_owned();
        let turn = turn.map_err(|_| anyhow::anyhow!("busy with another node's question"))?;
        Ok(tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work(seed, steps)
        })
        .await?)
    }
}

/// Counts what a probe took, even if nobody waits for it any more.
struct Spent<'a> {
    market: &'a Market,
    sent: Instant,
}

impl Drop for Spent<'_> {
    fn drop(&mut self) {
        self.market.budget().spend(self.sent.elapsed(), phantom_ebpf::now());
    }
}

impl Daemon {
    /// What an app asks of a node.
    pub async fn needs(&self, record: &AppRecord) -> Needs {
        let read = self.apps.with(record.app, |app| app.reading).ok().flatten();
        let read = read.unwrap_or_default().resident;
        // What the monitor read may be seconds old, and programs that start grow fast.
        let measured = match record.host == self.node {
            true => self.survey(record.app).await.map_or(read, |now| now.resident.max(read)),
            false => read,
        };
        Needs {
            host: record.host,
            home: record.home,
            resident: measured,
            started_on: self.facts.now(),
            left: self.apps.with(record.app, |app| app.left.clone()).unwrap_or_default(),
            rules: self.rules(record),
        }
    }

    /// The app as it is now; with a verdict, as it was found to exceed its limit.
    pub async fn situation(&self, record: &AppRecord, verdict: Option<&Verdict>) -> Situation {
        let needs = self.needs(record).await;
        let read = self.apps.with(record.app, |app| app.reading).ok().flatten().unwrap_or_default();
        let cores = |percent: u64| percent as f64 / 100.0;
        let read_cores = cores(read.cpu_percent.into());
        let mut waiting_cores = cores(read.delay_percent.into());
        let (used_cores, excess_cores) = match verdict {
            Some(Verdict { limit: Limit { resource, level, .. }, measured, .. }) => {
                let excess = cores(measured.saturating_sub(*level));
                match resource {
                    Resource::Cpu => (cores(*measured), excess),
                    Resource::Delay => {
                        waiting_cores = cores(*measured);
                        (read_cores, excess.min(read_cores))
                    }
                    Resource::Stutter => (read_cores, read_cores.max(OTHER_BURDEN_CORES)),
                    Resource::Memory | Resource::Net | Resource::Disk => {
                        (read_cores, OTHER_BURDEN_CORES)
                    }
                }
            }
            None => (read_cores, 0.0),
        };
        let own = f64::from(self.facts.mflops());
        let there = self.members.last(record.host).map_or(own, |facts| f64::from(facts.mflops));
        let known = self.market.lock().get(&record.host).map(|known| known.standing);
        let mflops_here = match known {
            Some(standing) if record.host != self.node => standing.mflops(there, own),
            _ => own,
        };
        let age = (now_unix_us() / 1_000_000).saturating_sub(record.started_unix_s);
        let image = Bytes(needs.resident.0.saturating_add(IMAGE_EXTRA));
        let ran = Duration::from_secs(age);
        Situation { needs, used_cores, waiting_cores, excess_cores, mflops_here, ran, image }
    }

    /// Asks and measures the members, and decides where an app should be.
    pub async fn weigh(&self, situation: &Situation) -> (Decision, Vec<Candidate>) {
        let mut candidates = self.candidates().await;
        let own = f64::from(self.facts.mflops());
        let may = |candidate: &&Candidate| candidate.refusal(&situation.needs).is_none();
        let mut open: Vec<&Candidate> = candidates.iter().filter(may).collect();
        join_all(open.iter().map(|candidate| self.measure_work(candidate))).await;
        // What may be probed is little: those first that have most to offer.
        let idle = |it: &Candidate| {
            it.facts.as_ref().map_or(0, |it| u64::from(it.idle_centicores) * u64::from(it.mflops))
        };
        open.sort_by_key(|candidate| std::cmp::Reverse(idle(candidate)));
        // Those whose turn does not come in time are measured next time.
        let began = Instant::now();
        for candidate in open {
            if began.elapsed() < MEASURE_DEADLINE {
                self.measure_way(candidate.node).await;
            }
        }
        let (peers, now) = (self.network.peers(), phantom_ebpf::now());
        let known = self.market.lock();
        for candidate in &mut candidates {
            let rtt = peers.iter().find(|peer| peer.node == candidate.node).and_then(|it| it.rtt);
            if let Some(known) = known.get(&candidate.node) {
                candidate.standing = known.standing;
                candidate.link = Link { way: known.way.estimate(now), rtt };
            }
            if candidate.node == self.node {
                candidate.standing.observe_work(own);
                // The image comes from where the app is.
                let way = known.get(&situation.needs.host).and_then(|it| it.way.estimate(now));
                candidate.link.way = way;
            }
        }
        drop(known);
        (decide(situation, &candidates, now), candidates)
    }

    /// Sees how fast a member is, where that is not known, or no longer.
    async fn measure_work(&self, candidate: &Candidate) {
        let node = candidate.node;
        let work_due = {
            let mut known = self.market.lock();
            let known = known.entry(node).or_default();
            let claimed = candidate.facts.as_ref().map_or(0.0, |facts| f64::from(facts.mflops));
            let doubted = known.standing.is_doubtful(claimed);
            let every = if doubted { DOUBTED_EVERY } else { WORK_EVERY };
            known.worked.is_none_or(|at| at.elapsed() > every)
        };
        if work_due && node != self.node {
            self.give_work(node).await;
        }
    }

    /// Measures the way to a node, unless it is known.
    pub async fn measure_way(&self, node: NodeId) {
        let wants = || {
            let now = phantom_ebpf::now();
            let may = self.market.budget().may(now);
            may && self.market.lock().entry(node).or_default().way.wants_probe(now)
        };
        if node == self.node || !wants() {
            return;
        }
        let _turn = self.market.probing.lock().await;
        // Somebody else may have done it meanwhile.
        if wants() {
            self.probe(node).await;
        }
    }

    /// Looks how much has gone to other nodes, while apps are there whose bytes say something.
    pub fn count_sent(&self) {
        for peer in self.network.peers() {
            if peer.bytes_out > 0 {
                self.market.counted(peer.node, peer.bytes_out);
            }
        }
    }

    /// Sees how fast a node is.
    async fn give_work(&self, node: NodeId) {
        let mut quickest: Option<Duration> = None;
        for _ in 0..PIECES {
            let (seed, began) = (rand::random(), Instant::now());
            let answer = self.ask(node, &Ask::Work(seed, STEPS), MEASURE_DEADLINE).await;
            let took = began.elapsed();
            let Ok(Answer::Worked(result)) = answer else { return };
            let expected = tokio::task::spawn_blocking(move || work(seed, STEPS)).await;
            if expected.is_ok_and(|expected| expected != result) {
                tracing::warn!(node = %node.short(), "a wrong answer to a piece of work");
                let mut known = self.market.lock();
                return known.entry(node).or_default().standing.observe_result(1.0, 1.0, 0.0);
            }
            quickest = Some(quickest.map_or(took, |known| known.min(took)));
        }
        let peers = self.network.peers();
        let rtt = peers.iter().find(|peer| peer.node == node).and_then(|peer| peer.rtt);
        let mut known = self.market.lock();
        let known = known.entry(node).or_default();
        known.worked = Some(Instant::now());
        if let Some(took) = quickest {
            let spent = took.saturating_sub(rtt.unwrap_or_default());
            known.standing.observe_work(mflops(STEPS, spent.max(took / 10)));
        }
    }

    /// Sees how fast the way to a node is.
    async fn probe(&self, node: NodeId) {
        let mut took = Vec::new();
        for bytes in PROBE_BYTES {
            let sent = Instant::now();
            let _spent = Spent { market: &self.market, sent };
            let answer = self.ask(node, &Ask::Probe(vec![0; bytes]), MEASURE_DEADLINE).await;
            if answer.is_err() {
                let now = phantom_ebpf::now();
                let mut known = self.market.lock();
                let way = &mut known.entry(node).or_default().way;
                return way.probe_failed(&took, bytes, sent.elapsed(), now);
            }
            took.push(sent.elapsed());
            if took.len() > 1 && sent.elapsed() > SLOW_PROBE {
                break;
            }
        }
        let now = phantom_ebpf::now();
        self.market.lock().entry(node).or_default().way.observe_probe(&took, now);
    }

    /// Notes that an app left a node because it exceeded a limit there.
    pub fn note_left(&self, app: AppId, situation: &Situation) {
        let (node, rate) = (situation.needs.host, situation.used_cores * situation.mflops_here);
        let note = |left: &mut Left| left.note(node, rate, phantom_ebpf::now());
        let _ = self.apps.with(app, |app| note(&mut app.left));
    }
}
