//! Programs that Phantom did not start, as far as this machine's owner wants them watched
//! (`[[watch]]` in the configuration).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use phantom_qos::{Process, Programs, Report, Totals};

use super::Daemon;
use crate::account;

/// How often all processes are looked at: some 30 us for each.
const EVERY: Duration = Duration::from_secs(5);

/// How long login names are taken for known.
const NAMES_KEPT: Duration = Duration::from_secs(600);

/// They and what they use.
pub struct Watchlist(Mutex<Programs>);

impl Watchlist {
    /// Watches by the owner's rules.
    pub fn new(programs: Programs) -> Self {
        Self(Mutex::new(programs))
    }

    fn lock(&self) -> MutexGuard<'_, Programs> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What exceeds a limit now.
    pub fn exceeding(&self) -> Vec<Report> {
        self.lock().exceeding()
    }

    fn look(&self, names: &mut Names) -> anyhow::Result<Vec<Report>> {
        let processes = names.processes()?;
        let mut programs = self.lock();
        Ok(programs.look(phantom_ebpf::now(), &processes, |pid| totals(pid).ok()))
    }
}

impl Daemon {
    /// Looks at other programs until the daemon stops, if there are rules.
    pub async fn watch_programs(self: Arc<Self>) {
        if self.watchlist.lock().is_idle() {
            return;
        }
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut names = Names::default();
        loop {
            tick.tick().await;
            let daemon = self.clone();
            let looked = tokio::task::spawn_blocking(move || {
                let found = daemon.watchlist.look(&mut names);
                (names, found)
            });
            let Ok((kept, found)) = looked.await else { return };
            names = kept;
            match found {
                Ok(reports) => {
                    reports.iter().for_each(|report| tracing::warn!("{report}"));
                }
                Err(error) => tracing::warn!(error = format!("{error:#}"), "no processes are seen"),
            }
        }
    }
}

/// Login names, kept for a while: a directory service may take its time, or be away.
struct Names {
    known: HashMap<u32, String>,
    since: Instant,
}

impl Default for Names {
    fn default() -> Self {
        Self { known: HashMap::new(), since: Instant::now() }
    }
}

impl Names {
    fn of(&mut self, uid: u32) -> String {
        let name = self.known.entry(uid).or_insert_with(|| {
            account::of(uid).map_or_else(|_| uid.to_string(), |account| account.name)
        });
        name.clone()
    }

    /// All processes outside capsules.
    fn processes(&mut self) -> anyhow::Result<Vec<Process>> {
        if self.since.elapsed() > NAMES_KEPT {
            *self = Self::default();
        }
        let mut processes = Vec::new();
        for process in procfs::process::all_processes()? {
            // One that ends meanwhile is none.
            let Ok(process) = process else { continue };
            let Ok((stat, uid)) = process.stat().and_then(|stat| Ok((stat, process.uid()?))) else {
                continue;
            };
            let cgroup = process.cgroups().ok().and_then(|groups| {
                let unified = groups.into_iter().find(|group| group.hierarchy == 0)?;
                Some(unified.pathname)
            });
            let cgroup = cgroup.unwrap_or_default();
            if cgroup.starts_with("/phantom/") {
                continue;
            }
            processes.push(Process {
                pid: stat.pid.unsigned_abs(),
                parent: stat.ppid.unsigned_abs(),
                started: stat.starttime,
                name: stat.comm,
                user: self.of(uid),
                cgroup,
            });
        }
        Ok(processes)
    }
}

/// What one process, and the children it has waited for, have used.
fn totals(pid: u32) -> procfs::ProcResult<Totals> {
    let process = procfs::process::Process::new(pid.cast_signed())?;
    let stat = process.stat()?;
    // A name that is no text makes the status unreadable as a whole. What the memory's other account
    // has in shared pages is partly of files, so it tells less than it should.
    let memory = match process.status() {
        Ok(status) => 1024 * (status.rssanon.unwrap_or(0) + status.rssshmem.unwrap_or(0)),
        Err(_) => {
            let pages = process.statm()?;
            pages.resident.saturating_sub(pages.shared) * procfs::page_size()
        }
    };
    let waited_for = stat.cutime.saturating_add(stat.cstime).max(0).unsigned_abs();
    // A kernel may keep no account of these.
    let disk = process.io().map_or(0, |io| io.read_bytes + io.write_bytes);
    let delay = process.tasks()?.filter_map(Result::ok).filter_map(|task| task.schedstat().ok());
    Ok(Totals {
        cpu: ticks_to_time(stat.utime + stat.stime + waited_for),
        delay: Duration::from_nanos(delay.map(|found| found.run_delay).sum()),
        disk,
        memory,
    })
}

fn ticks_to_time(ticks: u64) -> Duration {
    let per_second = procfs::ticks_per_second().max(1);
    Duration::from_secs(ticks / per_second)
        + Duration::from_nanos(ticks % per_second * 1_000_000_000 / per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_with_what_it_uses() {
        let own = std::process::id();
        let processes = Names::default().processes().unwrap();
        let found = processes.iter().find(|process| process.pid == own).unwrap();
        assert!(found.name.starts_with("phantom"), "{found:?}");
        assert!(!found.user.is_empty());
        let before = totals(own).unwrap();
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_millis(100) {
            std::hint::black_box(0);
        }
        let after = totals(own).unwrap();
        assert!(after.memory > 0 && after.cpu > before.cpu, "{before:?} {after:?}");
    }
}
