//! One command of the host, with its pipes or its terminal.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Gid, Pid, Uid, read, write};

use super::os;
use crate::desktops::wire::{Kind, Run};

/// How much input is kept for a command that does not read it.
const MAX_INPUT: usize = 64 << 20;

/// A command that was started.
pub struct Command {
    pid: Pid,
    /// Output pipe, or the terminal.
    output: Option<OwnedFd>,
    errors: Option<OwnedFd>,
    input: Option<OwnedFd>,
    waiting: Vec<u8>,
    is_terminal: bool,
    input_ends: bool,
    exit_code: Option<i32>,
}

impl Command {
    /// Starts it in a session of its own.
    pub fn start(run: &Run) -> anyhow::Result<Self> {
        let Some((program, args)) = run.args.split_first() else { bail!("no command") };
        let mut command = std::process::Command::new(program);
        let name = run.user.as_deref().unwrap_or("root");
        let account = account(name)?;
        let dir = if account.home.is_dir() { account.home.as_path() } else { Path::new("/") };
        command.args(args).current_dir(dir).env_clear().envs(environment(name, dir));
        let ends = match run.terminal {
            Some((rows, cols)) => Ends::terminal(rows, cols)?,
            None => Ends::pipes()?,
        };
        command.stdin(ends.theirs[0].try_clone()?);
        command.stdout(ends.theirs[1].try_clone()?);
        command.stderr(ends.theirs[2].try_clone()?);
        os::lead_session(&mut command, account.uid, account.gid, run.terminal.is_some());
        let child = command.spawn().with_context(|| format!("cannot start `{program}`"))?;
        Ok(Self {
            pid: Pid::from_raw(child.id() as i32),
            output: Some(ends.output),
            errors: ends.errors,
            input: Some(ends.input),
            waiting: Vec::new(),
            is_terminal: run.terminal.is_some(),
            input_ends: false,
            exit_code: None,
        })
    }

    /// Its first process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// What it may be read from.
    pub fn outputs(&self) -> impl Iterator<Item = (Kind, BorrowedFd<'_>)> {
        let output = self.output.as_ref().map(|fd| (Kind::Output, fd.as_fd()));
        let errors = self.errors.as_ref().map(|fd| (Kind::Errors, fd.as_fd()));
        output.into_iter().chain(errors)
    }

    /// Where its input goes, when there is some.
    pub fn wanting_input(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().filter(|_| !self.waiting.is_empty()).map(OwnedFd::as_fd)
    }

    /// Reads what it wrote; `None` when there is nothing, or no more.
    pub fn read(&mut self, kind: Kind, buffer: &mut [u8]) -> Option<usize> {
        let place = if kind == Kind::Errors { &mut self.errors } else { &mut self.output };
        match read(place.as_ref()?, buffer) {
            Err(Errno::EAGAIN | Errno::EINTR) => None,
            // A terminal that nobody has open any more answers with EIO.
            Ok(0) | Err(_) => {
                *place = None;
                None
            }
            Ok(count) => Some(count),
        }
    }

    /// Whether something it wrote waits to be read.
    pub fn has_more(&self) -> bool {
        self.outputs().any(|(_, fd)| {
            let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).is_ok()
                && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN))
        })
    }

    /// Keeps bytes for its input. A command that leaves too much unread is ended.
    pub fn queue_input(&mut self, bytes: &[u8]) {
        if self.waiting.len() + bytes.len() > MAX_INPUT {
            self.signal(Signal::SIGKILL as i32);
        } else if self.input.is_some() {
            self.waiting.extend(bytes);
            self.write_input();
        }
    }

    /// Ends its input after what waits. A terminal has no end.
    pub fn end_input(&mut self) {
        self.input_ends = !self.is_terminal;
        self.close_input();
    }

    fn close_input(&mut self) {
        if self.input_ends && self.waiting.is_empty() {
            self.input = None;
        }
    }

    /// Writes what its input takes now.
    pub fn write_input(&mut self) {
        while let (Some(input), false) = (&self.input, self.waiting.is_empty()) {
            match write(input, &self.waiting) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(Errno::EAGAIN | Errno::EINTR) => return,
                // It has closed its input: nobody will read the rest.
                Err(_) => {
                    self.input = None;
                    self.waiting.clear();
                }
            }
        }
        self.close_input();
    }

    /// Changes its terminal's size: rows and columns.
    pub fn resize(&mut self, payload: &[u8]) {
        if let (Some(output), [r0, r1, c0, c1]) = (&self.output, payload) {
            let size = Winsize {
                ws_row: u16::from_le_bytes([*r0, *r1]),
                ws_col: u16::from_le_bytes([*c0, *c1]),
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            // Pipes have no size.
            let _ = crate::os::resize(output, &size);
        }
    }

    /// Signals its process group.
    pub fn signal(&self, number: i32) {
        if let (None, Ok(signal)) = (self.exit_code, Signal::try_from(number)) {
            // It may have ended this moment.
            let _ = killpg(self.pid, signal);
        }
    }

    /// Notes that its first process has ended.
    pub fn ended(&mut self, code: i32) {
        self.exit_code = Some(code);
    }

    /// How it ended, when it has.
    pub fn exit_code(&self) -> Option<i32> {
        self.exit_code
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL as i32);
    }
}

/// Both ends of what a command reads and writes.
struct Ends {
    theirs: [OwnedFd; 3],
    input: OwnedFd,
    output: OwnedFd,
    errors: Option<OwnedFd>,
}

impl Ends {
    fn pipes() -> anyhow::Result<Self> {
        let (their_input, input) = os::pipe_writing()?;
        let (output, their_output) = os::pipe_reading()?;
        let (errors, their_errors) = os::pipe_reading()?;
        let theirs = [their_input, their_output, their_errors];
        Ok(Self { theirs, input, output, errors: Some(errors) })
    }

    fn terminal(rows: u16, cols: u16) -> anyhow::Result<Self> {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).context("cannot make a terminal")?;
        os::make_private_nonblocking(&pty.master)?;
        os::make_private(&pty.slave)?;
        let theirs = [pty.slave.try_clone()?, pty.slave.try_clone()?, pty.slave];
        Ok(Self { theirs, input: pty.master.try_clone()?, output: pty.master, errors: None })
    }
}

/// An account, as far as a command needs it.
struct Account {
    uid: Uid,
    gid: Gid,
    home: PathBuf,
}

/// Looks an account up. The agent is a static program: no name service but this file.
fn account(name: &str) -> anyhow::Result<Account> {
    let text = std::fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
    let line = text.lines().find(|line| line.split(':').next() == Some(name));
    let fields: Vec<&str> = line.with_context(|| format!("no user `{name}`"))?.split(':').collect();
    let [_, _, uid, gid, _, home, ..] = fields[..] else { bail!("a broken line for `{name}`") };
    Ok(Account {
        uid: uid.parse::<u32>()?.into(),
        gid: gid.parse::<u32>()?.into(),
        home: home.into(),
    })
}

fn environment(name: &str, home: &Path) -> [(&'static str, String); 7] {
    [
        ("HOME", home.display().to_string()),
        ("USER", name.to_owned()),
        ("LOGNAME", name.to_owned()),
        ("SHELL", "/bin/bash".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("TERM", "xterm-256color".to_owned()),
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
    ]
}
