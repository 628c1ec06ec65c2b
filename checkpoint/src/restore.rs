//! Carries out a [`RestorePlan`]: the tree is rebuilt in a frozen cgroup and held there, complete;
//! then the caller lets it go or has it removed.
//!
//! CRIU and all it makes start in the capsule's cgroup, so that memory is charged to it and that
//! removing a half-made tree is one `cgroup.kill`. At CRIU's last step before the tasks are let go
//! (`pre-resume`: memory, files, terminal, credentials and filters are in place) CRIU is moved out
//! and the cgroup is frozen; CRIU then lets go of tasks that cannot run. What is left for after the
//! commit is one write that thaws them: nothing of substance can fail there, and if the caller
//! dies while it holds the tree, the tree stays frozen.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::cancel::Cancel;
use crate::dump::{common, proceed, refused, with_log};
use crate::error::{Error, Task};
use crate::os::cgroup::Cgroup;
use crate::os::criu::{Criu, Session, Surroundings};
use crate::os::{process, rpc};
use crate::plan::{RestorePlan, bytes_of, check_key, text_of};

/// How long the rebuilt tasks may take to stand still.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);
/// How long CRIU may take to clean up after a failure.
const UNWIND_LIMIT: Duration = Duration::from_secs(2);
/// How long killed tasks may take to disappear.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// What a restore took.
#[derive(Debug, Clone, Copy, Default)]
pub struct RestoreTimings {
    /// From the request until the namespaces stood.
    pub namespaces: Duration,
    /// From then until the tasks were complete and held.
    pub tasks: Duration,
}

/// A rebuilt tree whose tasks have not run yet. Dropping it removes it.
#[derive(Debug)]
pub struct Held {
    cgroup: Option<Cgroup>,
    root_pid: u32,
    timings: RestoreTimings,
}

/// Rebuilds the tree and holds it. The root will be a child of the calling process.
///
/// # Errors
/// [`Error::Criu`] with the reason in words, [`Error::Deadline`], [`Error::Cancelled`]. Nothing of
/// the tree is left then.
pub fn restore(criu: &Criu, plan: &RestorePlan, cancel: &Cancel) -> Result<Held, Error> {
    let work = File::open(&plan.work).map_err(Error::io("open", &plan.work))?;
    let options = options(plan, work.as_raw_fd())?;
    let inherit: Vec<BorrowedFd<'_>> =
        plan.terminal.iter().map(|(_, slave)| slave.as_fd()).collect();
    let around = Surroundings {
        cgroup: Some(&plan.cgroup),
        inherit: &inherit,
        private_tmp: !uses_tmp(criu, plan),
        ..Default::default()
    };
    let mut session = Session::start(criu, Task::Restore, &around)?;
    let cgroup = Cgroup::at(&plan.cgroup);
    let mut progress = Progress::default();
    match build(&mut session, options, plan, cancel, &mut progress) {
        Ok(root_pid) => {
            session.finish();
            Ok(Held { cgroup: Some(cgroup), root_pid, timings: progress.timings })
        }
        Err(error) => {
            // All tasks end with the first of their namespace, before CRIU does: those it traces
            // would run. Then CRIU removes its folders in /tmp by itself, and what is left in the
            // cgroup is killed.
            if let Some(pid) = progress.root_pid.and_then(|pid| i32::try_from(pid).ok()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                session.unwind(UNWIND_LIMIT);
            }
            remove(&cgroup, progress.root_pid);
            drop(session);
            Err(error)
        }
    }
}

/// Whether CRIU must see what is below the machine's /tmp.
fn uses_tmp(criu: &Criu, plan: &RestorePlan) -> bool {
    let places = [criu.program(), &plan.images, &plan.work, &plan.root];
    let provided = plan.externals.iter().map(|provided| provided.path.as_path());
    places.into_iter().chain(provided).any(|path| path.starts_with("/tmp"))
}

/// How far a restore has come.
#[derive(Default)]
struct Progress {
    root_pid: Option<u32>,
    timings: RestoreTimings,
}

/// Talks to CRIU until the tree stands in the frozen cgroup; gives its root.
fn build(
    session: &mut Session,
    options: rpc::Options,
    plan: &RestorePlan,
    cancel: &Cancel,
    progress: &mut Progress,
) -> Result<u32, Error> {
    let start = Instant::now();
    let cgroup = Cgroup::at(&plan.cgroup);
    session.send(&rpc::Request {
        kind: rpc::Kind::Restore as i32,
        options: Some(options),
        ..Default::default()
    })?;
    loop {
        let response = session
            .receive(start + plan.limit, plan.limit, cancel)
            .map_err(|error| with_log(error, &plan.work))?;
        if response.kind != rpc::Kind::Notify as i32 {
            return match progress.root_pid {
                Some(root_pid) if response.success => {
                    cgroup.freeze(FREEZE_LIMIT)?;
                    let total = start.elapsed();
                    progress.timings.tasks = total.saturating_sub(progress.timings.namespaces);
                    Ok(root_pid)
                }
                _ => Err(refused(Task::Restore, &plan.work, &response)),
            };
        }
        let notify = response.notify.unwrap_or_default();
        let pid = notify.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|&pid| pid > 0);
        progress.root_pid = pid.or(progress.root_pid);
        match (notify.script.as_deref(), progress.root_pid) {
            (Some("setup-namespaces"), Some(pid)) => {
                if plan.own_network {
                    process::raise_loopback(pid)
                        .map_err(Error::io("raise the loopback link of", &plan.root))?;
                }
                progress.timings.namespaces = start.elapsed();
            }
            (Some("pre-resume"), Some(_)) => {
                cgroup.evict(session.pid())?;
                cgroup.start_freezing()?;
            }
            _ => {}
        }
        session.send(&proceed())?;
    }
}

fn options(plan: &RestorePlan, work_dir_fd: i32) -> Result<rpc::Options, Error> {
    let mut external = Vec::new();
    for mount in &plan.externals {
        check_key(&mount.key)?;
        external.push([b"mnt[", mount.key.as_bytes(), b"]:", bytes_of(&mount.path)?].concat());
    }
    let inherit_fd = plan
        .terminal
        .iter()
        .map(|(key, slave)| rpc::InheritFd { key: key.name(), fd: slave.as_raw_fd() })
        .collect();
    Ok(rpc::Options {
        root: Some(text_of(&plan.root)?.to_owned()),
        file_locks: Some(true),
        tcp_established: Some(true),
        notify_scripts: Some(true),
        rst_sibling: Some(true),
        external,
        inherit_fd,
        ..common(&plan.images, work_dir_fd, plan.own_network)?
    })
}

impl Held {
    /// The root's process id on this machine; a child of the process that called [`restore`].
    pub fn root_pid(&self) -> u32 {
        self.root_pid
    }

    /// What building took.
    pub fn timings(&self) -> RestoreTimings {
        self.timings
    }

    /// Lets the tasks run.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when the cgroup cannot be thawed; the tree is removed then.
    pub fn resume(mut self) -> Result<Resumed, Error> {
        if let Some(cgroup) = &self.cgroup {
            cgroup.thaw()?;
        }
        // From here on dropping this must not remove the tree.
        self.cgroup = None;
        Ok(Resumed { root_pid: self.root_pid, timings: self.timings })
    }

    /// Removes the tree. The same as dropping it, by a name that says so.
    pub fn discard(self) {}
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(cgroup) = self.cgroup.take() {
            remove(&cgroup, Some(self.root_pid));
        }
    }
}

/// Kills all in the cgroup and takes the root's exit status, so that no zombie stays.
fn remove(cgroup: &Cgroup, root_pid: Option<u32>) {
    if let Err(error) = cgroup.kill(KILL_LIMIT) {
        tracing::warn!(%error, "a half-restored program could not be removed");
    }
    let Some(pid) = root_pid else { return };
    // The cgroup is empty a moment before the zombie is there.
    process::wait_ended(pid, KILL_LIMIT);
    // It is ours to reap, or the caller's reaper has it already.
    match waitpid(Pid::from_raw(pid as i32), Some(WaitPidFlag::WNOHANG)) {
        Ok(_) | Err(Errno::ECHILD) => {}
        Err(error) => tracing::warn!(%error, pid, "a removed program's status could not be taken"),
    }
}

/// A tree that runs.
#[derive(Debug, Clone, Copy)]
pub struct Resumed {
    /// Its root: a child of this process.
    pub root_pid: u32,
    /// What each phase took.
    pub timings: RestoreTimings,
}
