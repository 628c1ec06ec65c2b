use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use phantom_model::{Limit, Limits, Resource, Verdict, fits};

/// Marks kept for a window, at most.
const MARKS: usize = 256;

/// Which programs that Phantom did not start are watched: those that fit all that is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Name of the program as the kernel knows it, 15 bytes of it; a pattern with `*`.
    pub name: Option<String>,
    /// Login name of its user.
    pub user: Option<String>,
    /// Its control group, like `/user.slice/user-1000.slice/*`; a pattern with `*`.
    pub cgroup: Option<String>,
    /// Against what.
    pub limits: Limits,
}

impl Rule {
    /// What can be limited of a program that is looked at from outside.
    pub const RESOURCES: [Resource; 4] =
        [Resource::Cpu, Resource::Memory, Resource::Delay, Resource::Disk];

    fn fits(&self, process: &Process) -> bool {
        let pattern = |pattern: &Option<String>, text: &str| {
            pattern.as_ref().is_none_or(|pattern| fits(pattern, text))
        };
        pattern(&self.name, &process.name)
            && pattern(&self.cgroup, &process.cgroup)
            && self.user.as_ref().is_none_or(|user| *user == process.user)
    }
}

/// A process of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its parent's id.
    pub parent: u32,
    /// When it began, in any unit: tells it from a later one with the same id.
    pub started: u64,
    /// Its name.
    pub name: String,
    /// Login name of its user.
    pub user: String,
    /// Its control group.
    pub cgroup: String,
}

/// What a process and the children it has waited for have used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// CPU time.
    pub cpu: Duration,
    /// Time its threads were ready and waited for a CPU.
    pub delay: Duration,
    /// Bytes from and for disks.
    pub disk: u64,
    /// Bytes it holds in memory now.
    pub memory: u64,
}

impl Totals {
    fn add(&mut self, other: Totals) {
        self.cpu += other.cpu;
        self.delay += other.delay;
        self.disk += other.disk;
        self.memory += other.memory;
    }

    /// What grows, in the unit of `grown_level`; or bytes of memory.
    fn of(&self, resource: Resource) -> u64 {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        match resource {
            Resource::Cpu => nanos(self.cpu),
            Resource::Delay => nanos(self.delay),
            Resource::Disk => self.disk,
            _ => self.memory,
        }
    }
}

/// A program exceeds a limit of a rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// Its first process.
    pub pid: u32,
    /// Login name of its user.
    pub user: String,
    /// Which limit, by how much, since when.
    pub verdict: Verdict,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, pid, user, verdict } = self;
        write!(
            f,
            "{name} of {user} (process {pid}) {verdict}; started with `phantom run --limit {} -- \
             {name}` it would move",
            verdict.limit
        )
    }
}

/// Programs that Phantom did not start, and what they use. A program is a process that fits a rule
/// while none of its ancestors does, with all that descends from it.
#[derive(Debug, Default)]
pub struct Programs {
    rules: Vec<Rule>,
    known: BTreeMap<Key, Program>,
}

/// Rule, process, its beginning.
type Key = (usize, u32, u64);

#[derive(Debug)]
struct Program {
    name: String,
    user: String,
    meters: Vec<Meter>,
    /// The delay of each of its processes as last seen, and what all have grown by: the kernel
    /// forgets it with the process, where it hands everything else on to the parent.
    delays: BTreeMap<u32, Duration>,
    delay: Duration,
}

#[derive(Debug)]
struct Meter {
    limit: Limit,
    /// Of what grows: when, and how much by then.
    marks: VecDeque<(Duration, u64)>,
    /// Since when it has been above, by all looks.
    since: Option<Duration>,
    /// The excursion that was reported.
    told: Option<Verdict>,
}

impl Programs {
    /// Watches by these rules.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules, known: BTreeMap::new() }
    }

    /// Whether there is anything to look for.
    pub fn is_idle(&self) -> bool {
        self.rules.is_empty()
    }

    /// One look at all processes; `read` tells what one has used, if it is still there. Gives each
    /// excursion once.
    pub fn look(
        &mut self,
        at: Duration,
        processes: &[Process],
        mut read: impl FnMut(u32) -> Option<Totals>,
    ) -> Vec<Report> {
        let mut reports = Vec::new();
        let mut seen = BTreeMap::new();
        for (number, rule) in self.rules.iter().enumerate() {
            for (root, members) in trees(rule, processes) {
                let key = (number, root.pid, root.started);
                let mut program =
                    self.known.remove(&key).unwrap_or_else(|| Program::new(root, &rule.limits));
                let found = members.iter().filter_map(|pid| Some((*pid, read(*pid)?)));
                let totals = program.sum(found.collect());
                reports.extend(program.look(root.pid, at, totals));
                seen.insert(key, program);
            }
        }
        self.known = seen;
        reports
    }

    /// The excursions that last, as they were reported.
    pub fn exceeding(&self) -> Vec<Report> {
        let told = |(key, program): (&Key, &Program)| {
            let meters = program.meters.iter().filter_map(|meter| meter.told.clone());
            meters.map(|verdict| program.report(key.1, verdict)).collect::<Vec<_>>()
        };
        self.known.iter().flat_map(told).collect()
    }
}

/// Processes that fit while no ancestor does, each with itself and all its descendants.
fn trees<'a>(rule: &Rule, processes: &'a [Process]) -> Vec<(&'a Process, Vec<u32>)> {
    let by_pid: BTreeMap<u32, &Process> = processes.iter().map(|it| (it.pid, it)).collect();
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for process in processes {
        children.entry(process.parent).or_default().push(process.pid);
    }
    let fits: BTreeMap<u32, bool> =
        processes.iter().map(|process| (process.pid, rule.fits(process))).collect();
    let is_below = |process: &Process| {
        let mut parent = process.parent;
        // Bounded, as what is read while processes come and go may hold a circle.
        for _ in 0..processes.len() {
            let Some(next) = by_pid.get(&parent) else { return false };
            if fits[&parent] {
                return true;
            }
            parent = next.parent;
        }
        false
    };
    let roots = processes.iter().filter(|process| fits[&process.pid] && !is_below(process));
    roots
        .map(|root| {
            let mut members = vec![root.pid];
            let mut at = 0;
            while at < members.len() && members.len() <= processes.len() {
                members.extend(children.get(&members[at]).into_iter().flatten());
                at += 1;
            }
            (root, members)
        })
        .collect()
}

impl Program {
    fn new(root: &Process, limits: &Limits) -> Self {
        let meter = |limit: &Limit| Meter {
            limit: *limit,
            marks: VecDeque::new(),
            since: None,
            told: None,
        };
        Self {
            name: root.name.clone(),
            user: root.user.clone(),
            meters: limits.iter().map(meter).collect(),
            delays: BTreeMap::new(),
            delay: Duration::ZERO,
        }
    }

    /// What all its processes have used, by what each of them has.
    fn sum(&mut self, processes: Vec<(u32, Totals)>) -> Totals {
        let mut totals = Totals::default();
        let mut delays = BTreeMap::new();
        for (pid, found) in processes {
            totals.add(found);
            let before = self.delays.get(&pid).copied().unwrap_or_default();
            self.delay += found.delay.saturating_sub(before);
            delays.insert(pid, found.delay);
        }
        self.delays = delays;
        totals.delay = self.delay;
        totals
    }

    fn look(&mut self, pid: u32, at: Duration, totals: Totals) -> Vec<Report> {
        let found: Vec<Verdict> =
            self.meters.iter_mut().filter_map(|meter| meter.look(at, totals)).collect();
        found.into_iter().map(|verdict| self.report(pid, verdict)).collect()
    }

    fn report(&self, pid: u32, verdict: Verdict) -> Report {
        Report { name: self.name.clone(), pid, user: self.user.clone(), verdict }
    }
}

impl Meter {
    /// The verdict, if an excursion begins.
    fn look(&mut self, at: Duration, totals: Totals) -> Option<Verdict> {
        let Limit { resource, level, window, .. } = self.limit;
        let (measured, is_full) = match resource {
            Resource::Memory => (totals.memory, true),
            _ => self.mean(at, totals.of(resource)),
        };
        if measured <= level {
            self.since = None;
        } else if self.since.is_none() {
            self.since = Some(at);
        }
        if self.told.is_some() {
            if measured <= level - level / 10 {
                self.told = None;
            }
            return None;
        }
        let held = at - self.since?;
        let waits = resource == Resource::Memory && held < window.0;
        if !is_full || waits {
            return None;
        }
        let held = if resource == Resource::Memory { held } else { held + window.0 };
        let verdict = Verdict { limit: self.limit, measured, held, delay: Duration::ZERO };
        self.told = Some(verdict.clone());
        Some(verdict)
    }

    /// Mean over the window in the limit's unit, and whether the window has been watched in full.
    fn mean(&mut self, at: Duration, total: u64) -> (u64, bool) {
        // A child that nobody waited for takes along what it had used.
        let total = self.marks.back().map_or(total, |(_, before)| total.max(*before));
        let window = self.limit.window.0;
        self.marks.push_back((at, total));
        while self.marks.get(1).is_some_and(|(second, _)| at - *second >= window) {
            self.marks.pop_front();
        }
        let (from, before) = self.marks[0];
        // Of a mark that is close to the one before, the newest takes the place.
        let (spacing, len) = (window / MARKS as u32, self.marks.len());
        if len > 2 && self.marks[len - 2].0 - self.marks[len - 3].0 < spacing {
            self.marks.remove(len - 2);
        }
        let unit = match self.limit.resource {
            Resource::Disk => 1_000_000_000,
            _ => 100,
        };
        let span = (at - from).as_nanos();
        let mean = u128::from(total - before) * unit / span.max(1);
        (u64::try_from(mean).unwrap_or(u64::MAX), at - from >= window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn process(pid: u32, parent: u32, name: &str, user: &str) -> Process {
        let cgroup = format!("/user.slice/{user}/{name}.scope");
        Process { pid, parent, started: 1, name: name.into(), user: user.into(), cgroup }
    }

    fn rule(name: Option<&str>, user: Option<&str>, cgroup: Option<&str>, limits: &str) -> Rule {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let limits = limits.parse().unwrap();
        Rule { name: text(name), user: text(user), cgroup: text(cgroup), limits }
    }

    fn desktop() -> Vec<Process> {
        vec![
            process(1, 0, "systemd", "root"),
            process(10, 1, "bash", "ada"),
            process(20, 10, "make", "ada"),
            process(21, 20, "cc1", "ada"),
            process(22, 20, "make", "ada"),
            process(23, 22, "cc1", "ada"),
            process(30, 1, "make", "bob"),
        ]
    }

    #[test]
    fn a_program_is_the_topmost_that_fits_with_its_descendants() {
        let found = |rule: Rule| -> Vec<(u32, Vec<u32>)> {
            let processes = desktop();
            trees(&rule, &processes).into_iter().map(|(root, all)| (root.pid, all)).collect()
        };
        let makes = found(rule(Some("make"), None, None, ""));
        assert_eq!(makes, [(20, vec![20, 21, 22, 23]), (30, vec![30])]);
        assert_eq!(found(rule(Some("make"), Some("bob"), None, "")), [(30, vec![30])]);
        let adas = found(rule(None, None, Some("/user.slice/ada/*"), ""));
        assert_eq!(adas, [(10, vec![10, 20, 21, 22, 23])]);
        assert!(found(rule(Some("firefox*"), None, None, "")).is_empty());
    }

    #[test]
    fn an_excursion_is_told_once_with_what_to_do() {
        let mut programs =
            Programs::new(vec![rule(Some("make"), Some("ada"), None, "cpu=150%/20s")]);
        let mut told = Vec::new();
        for look in 0..60u64 {
            let at = Duration::from_secs(5 * look);
            // Four processes with half a core each, for 100 s; then nothing; then again.
            let busy = (5 * look).min(100) + (5 * look).saturating_sub(200);
            let cpu = Duration::from_secs(busy) / 2;
            let reports =
                programs.look(at, &desktop(), |_| Some(Totals { cpu, ..Totals::default() }));
            told.extend(reports.into_iter().map(|report| (5 * look, report)));
        }
        let times: Vec<u64> = told.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [20, 220], "{told:?}");
        assert_eq!(
            told[0].1.to_string(),
            "make of ada (process 20) uses 200% of a core over 20s, 50% more than its limit of \
             150%, since 35.0 s; started with `phantom run --limit cpu=150%/20s -- make` it would \
             move"
        );
        assert_eq!(programs.exceeding().len(), 1);
        programs.look(Duration::from_secs(400), &[], |_| None);
        assert!(programs.exceeding().is_empty() && programs.known.is_empty());
    }

    #[test]
    fn the_delay_of_children_that_ended_is_kept() {
        let mut programs =
            Programs::new(vec![rule(Some("make"), Some("ada"), None, "delay=50%/10s")]);
        let mut told = Vec::new();
        for look in 0..10u64 {
            // Each look sees another child, which has waited for 4 s since the last one.
            let mut processes = desktop();
            processes[3].pid = 100 + look as u32;
            let reports = programs.look(Duration::from_secs(5 * look), &processes, |pid| {
                let delay = Duration::from_secs(if pid >= 100 { 4 } else { 0 });
                Some(Totals { delay, ..Totals::default() })
            });
            told.extend(reports.into_iter().map(|report| (look, report.verdict.measured)));
        }
        assert_eq!(told, [(2, 80)]);
    }

    #[test]
    fn a_long_window_slides_in_bounded_memory() {
        let mut programs = Programs::new(vec![rule(Some("make"), Some("bob"), None, "cpu=50%/1h")]);
        let mut told = Vec::new();
        // Idle for a day, then busy.
        for look in 0..20_000u64 {
            let at = Duration::from_secs(5 * look);
            let cpu = at.saturating_sub(Duration::from_secs(86_400));
            let reports =
                programs.look(at, &desktop(), |_| Some(Totals { cpu, ..Totals::default() }));
            told.extend(reports.iter().map(|_| 5 * look));
        }
        assert!(matches!(told[..], [at] if (88_200..88_260).contains(&at)), "{told:?}");
        let kept = programs.known.values().flat_map(|it| &it.meters).map(|it| it.marks.len());
        assert!(kept.sum::<usize>() <= MARKS + 3);
    }

    #[test]
    fn memory_must_stay_above_for_the_window() {
        let mut programs = Programs::new(vec![rule(None, Some("bob"), None, "memory=1GiB/10s")]);
        let mut look = |at: u64, memory: u64| {
            let totals = Totals { memory, ..Totals::default() };
            programs.look(Duration::from_secs(at), &desktop(), |_| Some(totals)).len()
        };
        let (low, high) = (1 << 29, 1 << 31);
        let told = [look(0, high), look(5, low), look(10, high), look(15, high), look(20, high)];
        assert_eq!(told, [0, 0, 0, 0, 1]);
        assert_eq!([look(25, high), look(30, low), look(35, high)], [0, 0, 0]);
    }

    proptest! {
        #[test]
        fn any_processes_are_looked_at(
            links in prop::collection::vec((0u32..12, 0u32..12, 0u64..1000), 0..24)) {
            let mut programs = Programs::new(vec![rule(Some("a*"), None, None, "cpu=1%/1s,disk=1B/s")]);
            for at in 0..4 {
                let named = |pid: u32| if pid.is_multiple_of(2) { "a" } else { "b" };
                let all: Vec<Process> = links
                    .iter()
                    .map(|(pid, parent, _)| process(*pid, *parent, named(*pid), "ada"))
                    .collect();
                programs.look(Duration::from_secs(at), &all, |pid| {
                    let (_, _, used) = links.iter().find(|link| link.0 == pid)?;
                    Some(Totals { disk: *used, ..Totals::default() })
                });
            }
        }
    }
}
