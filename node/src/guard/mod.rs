//! `phantom guard`: one process for each copy of a followed service. It holds the service as its
//! child, in a control group of its own, and ends all of it when the permission that the daemon sends
//! is over, whether the daemon lives or not. It ends with the service.
//!
//! Nothing here waits for the daemon, a disk or the service: what the service prints goes through a
//! thread of its own. The time is CLOCK_BOOTTIME's, by a timer of the kernel's.

pub mod control;
mod log;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use phantom_capsule::cgroup::Cgroup;

use crate::os;
use control::{Charge, GuardDir, ORDER_BYTES, Order, Word, boot_clock, group_name};

/// How long killed processes are waited for before it is said that they do not end.
const REMAINS: Duration = Duration::from_secs(10);
/// How long a daemon is waited for that has not connected yet, of a service that is dead already.
const MEET: u16 = 1000;
/// Orders that come at once; a daemon sends two a second.
const MAX_ORDERS: usize = 64;

/// Holds one copy of a service until it has ended.
pub fn main(dir: &Path) -> anyhow::Result<()> {
    let dir = GuardDir::from(dir);
    match Guard::start(&dir) {
        Ok(mut guard) => {
            tell_daemon(&Ok(()));
            guard.watch()
        }
        Err(error) => {
            tell_daemon(&Err(format!("{error:#}")));
            Err(error)
        }
    }
}

/// One line to the daemon that started this guard.
fn tell_daemon(outcome: &Result<(), String>) {
    let told = serde_json::to_string(outcome)
        .map_err(anyhow::Error::from)
        .and_then(|line| Ok(writeln!(std::io::stdout(), "{line}")?));
    if let Err(error) = told {
        tracing::warn!(%error, "the daemon does not listen");
    }
}

struct Guard {
    charge: Charge,
    group: Cgroup,
    main: Pid,
    listener: UnixListener,
    daemon: Option<UnixStream>,
    /// Whether a daemon has ever connected.
    met: bool,
    /// Of an order that has come in part.
    part: Vec<u8>,
    signals: SignalFd,
    timer: TimerFd,
    until: Duration,
    kill_at: Option<Duration>,
    /// How the service's own process has ended.
    ended: Option<String>,
}

impl Guard {
    fn start(dir: &GuardDir) -> anyhow::Result<Self> {
        let charge: Charge = serde_json::from_slice(&std::fs::read(dir.charge())?)
            .with_context(|| format!("{} cannot be read", dir.charge().display()))?;
        nix::sys::prctl::set_child_subreaper(true).context("cannot adopt its processes")?;
        let mut set = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
            set.add(signal);
        }
        set.thread_block().context("cannot hold signals back")?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags).context("cannot make a timer")?;
        let _ = std::fs::remove_file(dir.socket());
        let listener = UnixListener::bind(dir.socket())
            .with_context(|| format!("cannot listen at {}", dir.socket().display()))?;
        std::fs::set_permissions(dir.socket(), std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let group = Cgroup::create(&charge.node_short, &group_name(&charge.name))?;
        // What a guard that was killed has left.
        group.kill()?;
        group.wait_empty(REMAINS)?;
        let main = spawn(&charge, &group).inspect_err(|_| {
            let _ = group.kill().and_then(|()| group.remove());
        })?;
        let until = charge.until;
        Ok(Self {
            charge,
            group,
            main,
            listener,
            daemon: None,
            met: false,
            part: Vec::new(),
            signals,
            timer,
            until,
            kill_at: None,
            ended: None,
        })
    }

    /// Until the service has ended or must.
    fn watch(&mut self) -> anyhow::Result<()> {
        loop {
            self.reap();
            if let Some(how) = self.ended.take() {
                return self.finish(&how, false);
            }
            let now = boot_clock();
            if now >= self.until {
                return self.finish("killed, for its permission was over", true);
            }
            if self.kill_at.is_some_and(|at| now >= at) {
                return self.finish("killed, for it did not end when it was asked to", false);
            }
            self.wait()?;
            self.obey_signals();
            self.meet();
            self.hear();
        }
    }

    fn wait(&self) -> anyhow::Result<()> {
        let at = self.kill_at.map_or(self.until, |at| at.min(self.until));
        // Zero would put the timer out.
        let at = Expiration::OneShot(TimeSpec::from_duration(at.max(Duration::from_nanos(1))));
        self.timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME).context("cannot set the timer")?;
        let wanted = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut waited = vec![
            wanted(self.timer.as_fd()),
            wanted(self.signals.as_fd()),
            wanted(self.listener.as_fd()),
        ];
        waited.extend(self.daemon.as_ref().map(|daemon| wanted(daemon.as_fd())));
        match poll(&mut waited, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => bail!("cannot wait: {errno}"),
        }
    }

    /// Notes the ends of its processes.
    fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.main => {
                    self.ended = Some(format!("exit code {code}"));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.main => {
                    self.ended = Some(format!("ended by {signal}"));
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    fn obey_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                self.stop(boot_clock() + self.charge.stop);
            }
        }
    }

    /// A daemon that connects takes the place of the one before.
    fn meet(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let Charge { run, version, stop, .. } = self.charge;
            self.daemon = Some(stream);
            self.met = true;
            self.part.clear();
            self.say(&Word::Standing { run, until: self.until, version, stop });
        }
    }

    fn hear(&mut self) {
        let mut bytes = [0; ORDER_BYTES * MAX_ORDERS];
        let Some(daemon) = &mut self.daemon else { return };
        match daemon.read(&mut bytes) {
            Ok(0) => self.daemon = None,
            Ok(count) => self.part.extend(&bytes[..count]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.daemon = None,
        }
        while let Some((order, rest)) = self.part.split_first_chunk::<ORDER_BYTES>() {
            let order = Order::decode(*order);
            self.part = rest.to_vec();
            match order {
                Some(Order::Permit(until)) => self.until = self.until.max(until),
                Some(Order::Stop(kill_at)) => self.stop(kill_at),
                None => tracing::warn!("an order that is none"),
            }
        }
    }

    fn stop(&mut self, kill_at: Duration) {
        self.kill_at = Some(self.kill_at.map_or(kill_at, |at| at.min(kill_at)));
        for pid in self.group.processes().unwrap_or_default() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    fn say(&mut self, word: &Word) {
        let Ok(mut line) = serde_json::to_vec(word) else { return };
        line.push(b'\n');
        // A line fits into the socket, unless nobody has read any for long.
        let said = self.daemon.as_mut().map(|daemon| daemon.write_all(&line));
        if let Some(Err(error)) = said {
            tracing::warn!(%error, "the daemon does not listen");
            self.daemon = None;
        }
    }

    /// Ends what is left of it, and tells.
    fn finish(&mut self, how: &str, lapsed: bool) -> anyhow::Result<()> {
        loop {
            self.group.kill()?;
            let waited = self.group.wait_empty(REMAINS);
            self.reap();
            match waited {
                Ok(()) => break,
                // The kernel holds on to one; whoever comes next must not start.
                Err(error) => tracing::error!(%error, "its processes do not end"),
            }
        }
        tracing::info!(service = self.charge.name, how, "ended");
        if !self.met {
            // The daemon that has started this guard is about to connect.
            let mut waited = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut waited, MEET);
        }
        self.meet();
        self.say(&Word::Ended { how: how.to_owned(), lapsed });
        if let Err(error) = self.group.remove() {
            tracing::warn!(%error, "its control group stays");
        }
        Ok(())
    }
}

/// Starts the service with its user's rights.
fn spawn(charge: &Charge, group: &Cgroup) -> anyhow::Result<Pid> {
    let (program, arguments) = charge.command.split_first().context("no command")?;
    let (output, printed) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    log::keep(File::from(output), charge.log.clone())?;
    let procs = group.path().join("cgroup.procs");
    let procs: OwnedFd = File::options().write(true).open(&procs)?.into();
    let user = &charge.user;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LANG", "C.UTF-8")
        .env("HOME", &user.home_dir)
        .env("USER", &user.name)
        .env("LOGNAME", &user.name)
        .current_dir(&charge.cwd)
        .stdin(Stdio::null())
        .stdout(printed.try_clone()?)
        .stderr(printed)
        .process_group(0);
    os::confine(&mut command, procs, user.uid, user.gid, &user.groups);
    if boot_clock() >= charge.until {
        bail!("its permission was over before it could start");
    }
    let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    Ok(Pid::from_raw(i32::try_from(child.id())?))
}
