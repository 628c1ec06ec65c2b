//! Ends what was started when the user stops us.
//!
//! Every child is registered while it runs. On SIGINT, SIGTERM or SIGHUP each gets SIGTERM and
//! some time to clean up, then SIGKILL. This process is the subreaper of its descendants, so that
//! a test's daemon that has detached itself is found as well.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How long children may clean up after SIGTERM.
const GRACE: Duration = Duration::from_secs(20);

/// Children that run now, and whether each leads its own process group.
static RUNNING: Mutex<BTreeMap<i32, bool>> = Mutex::new(BTreeMap::new());
static CHANGED: Condvar = Condvar::new();
static STOPPED: AtomicBool = AtomicBool::new(false);

fn running() -> MutexGuard<'static, BTreeMap<i32, bool>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts to listen for signals and becomes the subreaper.
pub fn install() -> Result<()> {
    nix::sys::prctl::set_child_subreaper(true).context("becoming the subreaper")?;
    let mut signals =
        signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signals")?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            STOPPED.store(true, Ordering::SeqCst);
            eprintln!("\nxtask: stopped, ending what was started");
            end_all();
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// A child that is ended when we are.
pub struct Registered(i32);

impl Registered {
    /// Registers a child; `group` when it leads its own process group.
    pub fn new(pid: u32, group: bool) -> Registered {
        let pid = pid.cast_signed();
        running().insert(pid, group);
        Registered(pid)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        running().remove(&self.0);
        CHANGED.notify_all();
        park_if_stopped();
    }
}

/// Keeps the calling thread from starting more work once the user has stopped us.
pub fn park_if_stopped() {
    while STOPPED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

fn end_all() {
    let deadline = Instant::now() + GRACE;
    let mut children = running();
    for (&pid, &group) in children.iter() {
        signal(pid, group, Signal::SIGTERM);
    }
    while !children.is_empty() && Instant::now() < deadline {
        let left = deadline.saturating_duration_since(Instant::now());
        children = CHANGED.wait_timeout(children, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    for (&pid, &group) in children.iter() {
        signal(pid, group, Signal::SIGKILL);
    }
    drop(children);
    kill_leftovers();
}

/// Sends a signal to a process or its group, through sudo where it belongs to root.
pub fn signal(pid: i32, group: bool, signal: Signal) {
    let target = Pid::from_raw(pid);
    let sent = if group { killpg(target, signal) } else { kill(target, signal) };
    if sent == Err(Errno::EPERM) {
        let target = if group { format!("-{pid}") } else { pid.to_string() };
        // Nothing more can be done when this fails too: the process stays, and is named.
        let _ = std::process::Command::new("sudo")
            .args(["-n", "kill", "-s", signal.as_str(), "--", &target])
            .stdin(std::process::Stdio::null())
            .status();
    }
}

/// A process that outlived the program that started it.
pub struct Leftover {
    /// Its process id.
    pub pid: i32,
    /// Its short name.
    pub name: String,
}

/// Ends every remaining descendant and says which there were. Call it only while no child of
/// ours is meant to run.
pub fn kill_leftovers() -> Vec<Leftover> {
    let mut found: Vec<Leftover> = Vec::new();
    // Killing one can hand its children to us: repeat until none is left, but not for ever.
    for _ in 0..50 {
        let alive = descendants();
        for one in &alive {
            signal(one.pid, false, Signal::SIGKILL);
        }
        reap();
        if alive.is_empty() {
            break;
        }
        for one in alive {
            if !found.iter().any(|known| known.pid == one.pid) {
                found.push(one);
            }
        }
        // The kernel needs a moment to end them; there is no event to wait for.
        std::thread::sleep(Duration::from_millis(20));
    }
    found
}

/// Collects children that have ended.
fn reap() {
    while let Ok(status) = waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
        if status.pid().is_none() {
            break;
        }
    }
}

/// Living processes below this one.
pub fn descendants() -> Vec<Leftover> {
    let mut parents: Vec<(i32, i32, String)> = Vec::new();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process that has gone in between has no stat, which is as good.
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        match parse_stat(&stat) {
            Some((name, state, parent)) if state != 'Z' => parents.push((pid, parent, name)),
            _ => {}
        }
    }
    let mut below = vec![std::process::id().cast_signed()];
    let mut found = Vec::new();
    let mut next = 0;
    while let Some(&parent) = below.get(next) {
        next += 1;
        for (pid, of, name) in &parents {
            if *of == parent {
                below.push(*pid);
                found.push(Leftover { pid: *pid, name: name.clone() });
            }
        }
    }
    found
}

/// Name, state and parent from `/proc/PID/stat`; the name may hold blanks and parentheses.
fn parse_stat(stat: &str) -> Option<(String, char, i32)> {
    let open = stat.find('(')?;
    let close = stat.rfind(')')?;
    let mut rest = stat.get(close + 1..)?.split_whitespace();
    let state = rest.next()?.chars().next()?;
    let parent = rest.next()?.parse().ok()?;
    Some((stat.get(open + 1..close)?.to_owned(), state, parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_hostile_name() {
        let read = parse_stat("12 (a) S 9 (b) R 34 12 12 0");
        assert_eq!(read, Some(("a) S 9 (b".to_owned(), 'R', 34)));
        assert_eq!(parse_stat(""), None);
        assert_eq!(parse_stat("12 )("), None);
    }

    #[test]
    fn a_child_is_a_descendant() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = descendants().iter().any(|one| one.pid == child.id().cast_signed());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found);
    }
}
