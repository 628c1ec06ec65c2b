//! Whole moves in virtual time: three nodes, a network that loses, repeats and delays, and parties
//! that are restarted at any moment.

use std::collections::{BTreeMap, BTreeSet};

use phantom_model::handoff::{Failure, ImageManifest, Needs, Report, Saved};
use phantom_model::{AppId, AppSpec, Credentials, Epoch, Limits, Step, TermSize};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::*;

pub(super) const APP: AppId = AppId(7);
pub(super) const HOME: NodeId = NodeId([1; 32]);
pub(super) const OTHER: NodeId = NodeId([2; 32]);
pub(super) const TARGET: NodeId = NodeId([3; 32]);

pub(super) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(super) fn record(host: NodeId) -> AppRecord {
    let user = Credentials {
        user: "u".into(),
        uid: 1000,
        gid: 1000,
        groups: vec![],
        group_names: Vec::new(),
        home_dir: "/home/u".into(),
    };
    AppRecord {
        app: APP,
        epoch: Epoch(5),
        host,
        home: HOME,
        pending: None,
        spec: AppSpec {
            name: "a".into(),
            argv: vec!["true".into()],
            env: vec![],
            cwd: "/".into(),
            user,
            limits: Limits::default(),
            term_size: TermSize::default(),
            vo: None,
        },
        started_unix_s: 0,
    }
}

pub(super) fn saved() -> Saved {
    Saved { manifest: ImageManifest::default(), terminal: vec![1], timings: vec![] }
}

pub(super) fn failed(step: Step) -> Failure {
    Failure { step, reason: "it was to fail".into() }
}

/// A node's copies and roles.
#[derive(Default)]
pub(super) struct Node {
    pub(super) source: Option<SourceRole>,
    pub(super) target: Option<TargetRole>,
    /// What the kernel has here, whatever the roles believe.
    pub(super) copy: Option<Copy>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Copy {
    Frozen(Option<MoveId>),
    Running(Epoch),
}

pub(super) enum Work {
    ToNode(NodeId, Addressed<Request>),
    ToHome(NodeId, Addressed<Report>),
    Persisted(u64, Box<AppRecord>),
    Save(NodeId, MoveId),
    Prepared(NodeId, MoveId),
    Held(NodeId, MoveId),
    Resumed(NodeId, MoveId),
}

/// The world.
pub(super) struct World {
    pub(super) rng: StdRng,
    pub(super) now: Duration,
    pub(super) queue: BTreeMap<(Duration, u64), Work>,
    pub(super) count: u64,
    pub(super) home: Coordinator,
    pub(super) durable: AppRecord,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// Chance in percent that a message is lost, repeated, or a step fails.
    pub(super) trouble: u32,
    pub(super) settled: Vec<Outcome>,
    pub(super) epochs_run: BTreeSet<(Epoch, NodeId)>,
    pub(super) limits: Deadlines,
}

impl World {
    pub(super) fn new(seed: u64, host: NodeId, trouble: u32) -> Self {
        let record = record(host);
        let limits = Deadlines::default();
        let mut nodes: BTreeMap<NodeId, Node> =
            [HOME, OTHER, TARGET].map(|id| (id, Node::default())).into();
        let start = nodes.get_mut(&host).unwrap();
        start.source = Some(SourceRole::new(APP, record.epoch));
        start.copy = Some(Copy::Running(record.epoch));
        Self {
            rng: StdRng::seed_from_u64(seed),
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            count: 0,
            home: Coordinator::new(record.clone(), limits, Duration::ZERO),
            durable: record,
            nodes,
            trouble,
            settled: vec![],
            epochs_run: BTreeSet::new(),
            limits,
        }
    }

    fn chance(&mut self) -> bool {
        self.trouble > 0 && self.rng.random_range(0..100) < self.trouble
    }

    fn later(&mut self, most_ms: u64, work: Work) {
        let delay = Duration::from_millis(self.rng.random_range(1..=most_ms));
        self.count += 1;
        self.queue.insert((self.now + delay, self.count), work);
    }

    fn post(&mut self, make: impl Fn() -> Work) {
        let slow = if self.chance() { 5000 } else { 20 };
        if !self.chance() {
            self.later(slow, make());
        }
        if self.chance() {
            self.later(5000, make());
        }
    }

    pub(super) fn drain_home(&mut self) {
        for command in self.home.take_commands() {
            match command {
                Command::Persist { number, record } => {
                    self.later(10, Work::Persisted(number, record));
                }
                Command::Send { to, request } => {
                    self.post(|| Work::ToNode(to, request.clone()));
                }
                Command::Settled { outcome, .. } => self.settled.push(outcome),
                Command::Closed { .. } => {}
            }
        }
    }

    fn report(&mut self, from: NodeId, report: Addressed<Report>) {
        self.post(|| Work::ToHome(from, report.clone()));
    }

    fn run_source(&mut self, at: NodeId, actions: Vec<SourceAction>) {
        for action in actions {
            let node = self.nodes.get_mut(&at).unwrap();
            match action {
                SourceAction::Save { id, .. } => {
                    node.target = None;
                    if node.copy.is_some() {
                        node.copy = Some(Copy::Frozen(Some(id)));
                    }
                    self.later(2000, Work::Save(at, id));
                }
                SourceAction::Thaw { epoch } => {
                    assert!(node.copy.is_some(), "nothing to thaw");
                    node.copy = Some(Copy::Running(epoch));
                }
                SourceAction::Kill => node.copy = None,
                SourceAction::Reply(report) => self.report(at, report),
            }
        }
    }

    fn run_target(&mut self, at: NodeId, actions: Vec<TargetAction>) {
        for action in actions {
            let node = self.nodes.get_mut(&at).unwrap();
            let id = node.target.as_ref().unwrap().id();
            match action {
                TargetAction::Prepare(_) => self.later(100, Work::Prepared(at, id)),
                TargetAction::Restore(_) => self.later(2000, Work::Held(at, id)),
                TargetAction::Resume { .. } => self.later(100, Work::Resumed(at, id)),
                TargetAction::Discard => {
                    node.copy = None;
                    node.source = None;
                }
                TargetAction::Reply(report) => self.report(at, report),
            }
        }
    }

    fn request(&mut self, at: NodeId, request: Addressed<Request>) {
        let now = self.now;
        let id = request.id;
        let node = self.nodes.get_mut(&at).unwrap();
        match &request.body {
            Request::Save { .. } | Request::Thaw { .. } | Request::Drop => {
                let actions = match &mut node.source {
                    Some(role) => role.handle(id, &request.body),
                    None => {
                        // A drop or thaw of what is not there.
                        let body = Report::Dropped;
                        vec![SourceAction::Reply(Addressed { app: APP, id, body })]
                    }
                };
                if actions.contains(&SourceAction::Kill) {
                    let host = &self.nodes[&self.durable.host];
                    // It runs, or stands frozen for its next move already.
                    assert!(host.copy.is_some(), "the only copy");
                    let node = self.nodes.get_mut(&at).unwrap();
                    node.source = None;
                    node.target = None;
                }
                self.run_source(at, actions);
            }
            body => {
                let known = node.target.as_mut().filter(|role| role.id() == id);
                if let Some(role) = known {
                    let actions = role.handle(body, now);
                    self.run_target(at, actions);
                } else if let Request::Prepare(prepare) = body
                    && node.target.as_ref().is_none_or(TargetRole::is_over)
                    && node.source.is_none()
                {
                    let (role, actions) = TargetRole::new(APP, id, prepare.clone(), now);
                    node.target = Some(role);
                    self.run_target(at, actions);
                } else {
                    self.report(at, TargetRole::unknown(APP, id));
                }
            }
        }
    }

    fn with_target(
        &mut self,
        at: NodeId,
        id: MoveId,
        act: impl FnOnce(&mut TargetRole) -> Vec<TargetAction>,
    ) {
        let node = self.nodes.get_mut(&at).unwrap();
        let Some(role) = node.target.as_mut().filter(|role| role.id() == id) else { return };
        let actions = act(role);
        self.run_target(at, actions);
    }

    fn work(&mut self, work: Work) {
        let (now, bad) = (self.now, self.chance());
        match work {
            Work::ToNode(at, request) => self.request(at, request),
            Work::ToHome(from, report) => self.home.handle(Event::Report { from, report }, now),
            Work::Persisted(number, record) => {
                if bad {
                    self.home.handle(Event::PersistFailed(number, "full".into()), now);
                } else {
                    self.durable = *record;
                    self.home.handle(Event::Persisted(number), now);
                }
            }
            Work::Save(at, id) => {
                let result = if bad { Err(failed(Step::Dump)) } else { Ok(saved()) };
                if let Some(role) = &mut self.nodes.get_mut(&at).unwrap().source {
                    let actions = role.saved(id, result);
                    self.run_source(at, actions);
                }
            }
            Work::Prepared(at, id) => {
                let result = if bad { Err(failed(Step::Prepare)) } else { Ok(()) };
                self.with_target(at, id, |role| role.prepared(result));
            }
            Work::Held(at, id) => {
                let result = if bad { Err(failed(Step::Restore)) } else { Ok(vec![]) };
                let mut held = false;
                self.with_target(at, id, |role| {
                    let actions = role.held(result);
                    held = matches!(role.standing().map(|r| r.body), Some(Report::Held { .. }));
                    actions
                });
                if held {
                    self.nodes.get_mut(&at).unwrap().copy = Some(Copy::Frozen(None));
                }
            }
            Work::Resumed(at, id) => {
                let result = if bad { Err(failed(Step::Resume)) } else { Ok(vec![]) };
                let mut running = None;
                self.with_target(at, id, |role| {
                    let actions = role.resumed(result);
                    running = role.running();
                    actions
                });
                if let Some(epoch) = running {
                    let node = self.nodes.get_mut(&at).unwrap();
                    node.copy = Some(Copy::Running(epoch));
                    // From now on it may be the source of another move.
                    node.source = Some(SourceRole::new(APP, epoch));
                }
            }
        }
        self.drain_home();
        self.check();
    }

    /// What must hold at every moment.
    fn check(&mut self) {
        for (id, node) in &self.nodes {
            if let Some(Copy::Running(epoch)) = node.copy {
                self.epochs_run.insert((epoch, *id));
                let newest = self.durable.epoch;
                assert!(epoch <= newest, "epoch {epoch} runs, {newest} is granted");
            }
        }
        let mut epochs: Vec<Epoch> = self.epochs_run.iter().map(|(epoch, _)| *epoch).collect();
        epochs.dedup();
        assert_eq!(epochs.len(), self.epochs_run.len(), "one epoch ran at two nodes");
        assert!(self.nodes.values().any(|node| node.copy.is_some()), "no copy is left");
    }

    /// One event: the next message, or the home's timer.
    pub(super) fn step(&mut self) {
        let next = self.queue.keys().next().copied();
        let timer = self.home.poll_timeout();
        match (next, timer) {
            (Some((at, _)), Some(timer)) if timer < at => self.fire(timer),
            (None, Some(timer)) => self.fire(timer),
            (Some(key), _) => {
                self.now = self.now.max(key.0);
                let work = self.queue.remove(&key).unwrap();
                self.work(work);
            }
            (None, None) => self.now += seconds(1),
        }
    }

    fn fire(&mut self, timer: Duration) {
        self.now = self.now.max(timer);
        self.home.handle_timeout(self.now);
        self.drain_home();
    }

    pub(super) fn restart_home(&mut self) {
        self.queue.retain(|_, work| !matches!(work, Work::Persisted(..) | Work::ToHome(..)));
        self.home = Coordinator::new(self.durable.clone(), self.limits, self.now);
        self.drain_home();
    }

    /// The node's daemon is restarted; the kernel's copies stay.
    pub(super) fn restart_node(&mut self, at: NodeId) {
        self.queue.retain(|_, work| match work {
            Work::ToNode(node, _)
            | Work::Save(node, _)
            | Work::Prepared(node, _)
            | Work::Held(node, _)
            | Work::Resumed(node, _) => *node != at,
            _ => true,
        });
        let node = self.nodes.get_mut(&at).unwrap();
        if let Some(role) = &node.source {
            let epoch = role.epoch();
            node.source = Some(match &node.copy {
                Some(Copy::Frozen(Some(id))) => SourceRole::frozen(APP, epoch, *id),
                _ => SourceRole::new(APP, epoch),
            });
        }
        if let Some(role) = node.target.take() {
            match node.copy {
                Some(Copy::Running(epoch)) => {
                    node.target = Some(TargetRole::found_running(APP, role.id(), epoch));
                }
                Some(Copy::Frozen(Some(_))) => {}
                _ => node.copy = None,
            }
        }
    }

    /// Nodes say where they stand, as they do when a connection comes up.
    pub(super) fn reconnect(&mut self) {
        for at in [HOME, OTHER, TARGET] {
            let node = &self.nodes[&at];
            let source = node.source.as_ref().and_then(SourceRole::standing);
            let target = node.target.as_ref().and_then(TargetRole::standing);
            for report in source.into_iter().chain(target) {
                self.report(at, report);
            }
            if let Some(Copy::Running(epoch)) = self.nodes[&at].copy
                && self.home.is_stale(at, epoch)
            {
                let node = self.nodes.get_mut(&at).unwrap();
                *node = Node::default();
            }
        }
    }

    /// Trouble is over: in the end the app runs once, where the record says.
    pub(super) fn heal_and_check(&mut self) {
        self.trouble = 0;
        let end = self.now + seconds(1200);
        while self.now < end {
            let before = self.now;
            self.step();
            if (before.as_secs() / 30) != (self.now.as_secs() / 30) {
                self.reconnect();
                for at in [HOME, OTHER, TARGET] {
                    let now = self.now;
                    if let Some(id) = self.nodes[&at].target.as_ref().map(TargetRole::id) {
                        self.with_target(at, id, |role| role.handle_timeout(now));
                    }
                }
            }
        }
        assert!(!self.home.is_busy(), "{:?}", self.home);
        assert_eq!(self.durable.pending, None);
        for (id, node) in &self.nodes {
            let wanted = (*id == self.durable.host).then_some(Copy::Running(self.durable.epoch));
            assert_eq!(node.copy, wanted, "at {id:?}, host {:?}", self.durable.host);
        }
    }

    pub(super) fn start(&mut self, id: u64) {
        self.start_to(id, TARGET).unwrap();
    }

    pub(super) fn start_to(&mut self, id: u64, target: NodeId) -> Result<(), Refusal> {
        let start = Start { id: MoveId(id), target, needs: Needs::default(), capsule: vec![] };
        let started = self.home.start(start, self.now);
        self.drain_home();
        started
    }
}
