//! Machines of one sub-grid, of which each runs the service when it may: daemons that die and freeze,
//! guards that do not, and a ledger of every copy that runs.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;

use crate::machine::follow::{
    Command, End, Found, KILL, Lead, Record, Seen, Service, Situation, Terms, Value, Written, name,
};
use crate::machine::group::tests::world::{World, id};
use crate::machine::group::{Op, Outcome};

/// How fine the time is here.
pub const SLICE: Duration = Duration::from_millis(10);
const LOOK: Duration = Duration::from_millis(500);
const SERVICE: &str = "keeper";

pub const TERMS: Terms =
    Terms { version: 1, stop: Duration::from_secs(3), save: Some(Duration::from_secs(1)) };

/// A guard with the service it holds. Times are the host's.
struct Guard {
    found: Found,
    /// From then on it runs.
    starts: Duration,
    /// It was asked to end.
    kill_at: Option<Duration>,
    /// When it ends, by itself or not, and how.
    ends: Option<(Duration, End)>,
}

#[derive(Default)]
struct Host {
    service: Option<Service>,
    /// Of the daemon.
    start: u64,
    guard: Option<Guard>,
    /// What a guard has told a daemon that has not read it.
    told: Option<(u64, End)>,
    tickets: BTreeMap<u64, u64>,
    next_look: Duration,
    /// The folder: a counter, and whose it is.
    folder: u64,
    lineage: u64,
    wanted: bool,
}

pub struct Machines {
    pub world: World,
    hosts: Vec<Host>,
    /// Who runs a copy now.
    pub runs: Option<usize>,
    pub starts: usize,
    pub saves: usize,
    /// The highest counter that was told to be kept.
    kept: u64,
    /// How often it ends by itself in a slice.
    pub fails: f64,
    pub log: Vec<String>,
}

impl Machines {
    pub fn new(count: usize, seed: u64) -> Self {
        let world = World::with_clocks(count, seed, 0.9..1.1);
        let hosts = (0..count).map(|_| Host { wanted: true, ..Host::default() }).collect();
        let (runs, starts, saves, kept) = (None, 0, 0, 0);
        Self { world, hosts, runs, starts, saves, kept, fails: 0.0003, log: Vec::new() }
    }

    pub fn run(&mut self, span: Duration) {
        let end = self.world.now + span;
        while self.world.now < end {
            self.step();
        }
    }

    pub fn run_until(
        &mut self,
        what: &str,
        limit: Duration,
        so: impl Fn(&Self) -> bool,
    ) -> Duration {
        let begin = self.world.now;
        while !so(self) {
            let log = &self.log[self.log.len().saturating_sub(30)..];
            let late = self.world.now - begin > limit;
            assert!(!late, "{what}: not within {limit:?}: {log:#?}\n{}", self.world.describe());
            self.step();
        }
        self.world.now - begin
    }

    fn step(&mut self) {
        self.world.run(SLICE);
        for (host, ticket, outcome) in std::mem::take(&mut self.world.untaken) {
            self.written(host, ticket, outcome);
        }
        for host in 0..self.hosts.len() {
            self.guard(host);
            let start = self.world.hosts[host].start;
            if self.world.hosts[host].group.is_none() || self.hosts[host].start != start {
                self.hosts[host].start = start;
                self.hosts[host].service = None;
                self.hosts[host].tickets.clear();
            } else if self.world.is_up(host) {
                self.daemon(host);
            }
        }
    }

    fn note(&mut self, host: usize, words: &str) {
        self.log.push(format!("{:?} n{host}: {words}", self.world.now));
    }

    /// A guard is never frozen here: a machine that is has no service that runs either.
    fn guard(&mut self, host: usize) {
        let now = self.world.local(host);
        let Some(guard) = &mut self.hosts[host].guard else { return };
        let late = |world: &mut World| KILL.mul_f64(world.rng.random_range(0.0..0.8));
        if now < guard.starts {
            return;
        }
        let run = guard.found.run;
        if self.runs != Some(host) {
            if now >= guard.found.until || guard.kill_at.is_some() {
                let end = End { how: "came too late to start".to_owned(), lapsed: true };
                self.hosts[host].guard = None;
                self.hosts[host].told = Some((run, end));
                return;
            }
            assert_eq!(self.runs, None, "two copies run at a time: {:#?}", self.log);
            self.runs = Some(host);
            self.starts += 1;
            let folder = self.hosts[host].folder;
            assert!(folder >= self.kept, "a state went back: {folder} after {}", self.kept);
            self.note(host, "RUNS");
        }
        let Some(guard) = &mut self.hosts[host].guard else { return };
        let end = |how: &str, lapsed| End { how: how.to_owned(), lapsed };
        if guard.ends.is_none() && now >= guard.found.until {
            guard.ends = Some((now + late(&mut self.world), end("permission", true)));
        } else if let Some(kill_at) = guard.kill_at
            && guard.ends.is_none()
        {
            let patience = TERMS.stop.mul_f64(self.world.rng.random_range(0.0..1.3));
            let by_itself = now + patience;
            let killed = kill_at.max(now) + late(&mut self.world);
            guard.ends = Some((by_itself.min(killed), end("asked", false)));
        } else if self.world.rng.random_bool(self.fails) && guard.ends.is_none() {
            guard.ends = Some((now, end("by itself", false)));
        }
        // Death may come earlier than was thought.
        if let Some((at, _)) = &mut guard.ends {
            *at = (*at).min(guard.found.until + KILL.mul_f64(0.8));
        }
        if let Some((at, end)) = guard.ends.clone()
            && now >= at
        {
            self.hosts[host].guard = None;
            self.hosts[host].told = Some((run, end));
            self.runs = None;
            self.note(host, "DEAD");
        } else {
            self.hosts[host].folder += u64::from(self.world.rng.random_bool(0.02));
        }
    }

    /// All of the machine is lost: the service with it.
    pub fn power_off(&mut self, host: usize) {
        self.world.crash(host);
        self.hosts[host].guard = None;
        self.hosts[host].told = None;
        if self.runs == Some(host) {
            self.runs = None;
        }
        self.note(host, "POWER OFF");
    }

    pub fn set_wanted(&mut self, wanted: bool) {
        self.hosts.iter_mut().for_each(|host| host.wanted = wanted);
    }

    /// The daemon is told to end; whether it has.
    pub fn end(&mut self, host: usize) {
        let now = self.world.local(host);
        if let Some(service) = &mut self.hosts[host].service {
            service.handle_end(true, now);
        }
        self.note(host, "is to end");
    }

    pub fn is_over(&self, host: usize) -> bool {
        self.hosts[host].service.as_ref().is_none_or(Service::is_idle)
    }

    fn daemon(&mut self, host: usize) {
        let now = self.world.local(host);
        let situation = self.situation(host);
        let it = &mut self.hosts[host];
        let is_new = it.service.is_none();
        let seed = self.world.rng.random();
        let service = it.service.get_or_insert_with(|| Service::new(id(host), seed));
        let terms = if it.wanted { Ok(TERMS) } else { Err("nobody wants it".to_owned()) };
        if is_new || now >= it.next_look {
            it.next_look = now + LOOK;
            service.handle_terms(terms, now);
            service.handle_situation(situation, now);
        }
        if is_new {
            it.told = None;
            service.handle_found(it.guard.as_ref().map(|guard| guard.found), now);
        }
        if let Some((run, end)) = it.told.take() {
            service.handle_ended(run, end, now);
        }
        if service.poll_timeout().is_some_and(|due| due <= now) {
            service.handle_timeout(now);
        }
        while let Some(command) = self.hosts[host].service.as_mut().and_then(Service::poll_command)
        {
            self.carry_out(host, command, now);
        }
    }

    fn situation(&self, host: usize) -> Situation {
        let local = self.world.local(host);
        let group = self.world.hosts[host].group.as_ref();
        let lead = match group.and_then(|group| group.super_peer()) {
            Some(led) if led.node == id(host) => Lead::Own,
            Some(_) => Lead::Other,
            None => Lead::Nobody,
        };
        let lease = group.and_then(|group| group.lease(local));
        Situation { lead, lease, electors: 3, unix_s: 0 }
    }

    fn carry_out(&mut self, host: usize, command: Command, now: Duration) {
        if let Command::Tell(words) = &command {
            self.note(host, words);
        }
        let it = &mut self.hosts[host];
        let Some(service) = &mut it.service else { return };
        match command {
            Command::Read => {
                let state = self.world.hosts[host].group.as_ref().and_then(|group| group.state());
                let Some(state) = state else { return service.handle_unread(now) };
                let record = state.get(&name(SERVICE)).map(Record::decode);
                let record = record.map_or(Ok(None), |record| record.map(Some).ok_or(()));
                service.handle_value(Value { stamp: state.stamp(&name(SERVICE)), record }, now);
            }
            Command::Write { ticket, expect, record } => {
                let bytes = Some(record.encode());
                let op = Op::Set { name: name(SERVICE), expect: Some(expect), bytes, sure: true };
                match self.world.propose(host, op) {
                    Some(number) => drop(self.hosts[host].tickets.insert(number, ticket)),
                    None => service.handle_written(ticket, Written::NotNow, now),
                }
            }
            Command::Fill { saved, former, run } => {
                if let Some(saved) = saved.filter(|_| former != Some(it.lineage)) {
                    it.folder = counter(&saved.packed);
                }
                it.lineage = run;
                service.handle_filled(Ok(()), now);
            }
            Command::Start { run, until } => {
                assert!(it.guard.is_none(), "there is a copy already");
                let found = Found { run, until, version: TERMS.version, stop: TERMS.stop };
                let starts = now + KILL.mul_f64(self.world.rng.random_range(0.0..1.0));
                it.guard = Some(Guard { found, starts, kill_at: None, ends: None });
            }
            Command::Permit { until } => {
                if let Some(guard) = &mut it.guard {
                    guard.found.until = until;
                }
            }
            Command::Stop { kill_at } => {
                if let Some(guard) = &mut it.guard {
                    guard.kill_at = Some(kill_at);
                }
            }
            Command::Look => {
                service.handle_seen(Seen::Content(it.folder.to_le_bytes().to_vec()), now);
            }
            Command::Tell(_) => {}
        }
    }

    fn written(&mut self, host: usize, number: u64, outcome: Option<Outcome>) {
        let now = self.world.local(host);
        let it = &mut self.hosts[host];
        let (Some(ticket), Some(service)) = (it.tickets.remove(&number), &mut it.service) else {
            return;
        };
        let written = match outcome {
            Some(Outcome::Done(stamp)) => Written::Done(stamp),
            Some(Outcome::Changed(_)) => Written::Changed,
            Some(Outcome::Full) => Written::Full,
            _ => Written::Unknown,
        };
        service.handle_written(ticket, written, now);
        if let Written::Done(stamp) = written {
            self.saves += 1;
            let state = self.world.hosts[host].group.as_ref().and_then(|group| group.state());
            let known = state.filter(|state| state.stamp(&name(SERVICE)) == stamp);
            let record = known.and_then(|it| it.get(&name(SERVICE))).and_then(Record::decode);
            if let Some(saved) = record.and_then(|record| record.saved) {
                self.kept = self.kept.max(counter(&saved.packed));
            }
        }
    }

    /// Who is the super-peer and may decide, if all that are up agree.
    pub fn agreed(&self) -> Option<usize> {
        self.world.agreed()
    }
}

fn counter(packed: &[u8]) -> u64 {
    packed.try_into().map_or(0, u64::from_le_bytes)
}
