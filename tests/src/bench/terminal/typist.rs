//! Somebody who types one key and waits until it is on the screen.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};

/// Letters that are in no control sequence, so that they are echoes wherever they come.
const KEYS: &[u8] = b"vwyzVWYZ";
/// How long an echo may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A command in a terminal of its own, with somebody in front of it. Dropping it ends the command.
pub struct Typist {
    child: Child,
    terminal: File,
    next: usize,
}

impl Typist {
    /// Starts the command and waits until it says `ready`.
    pub fn start(mut command: Command) -> anyhow::Result<Self> {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).context("cannot make a terminal")?;
        // The next way's processes must not inherit this one's.
        for end in [&pty.master, &pty.slave] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
        command.stdin(pty.slave.try_clone()?).stdout(pty.slave.try_clone()?).stderr(pty.slave);
        crate::os::own_terminal(&mut command);
        let child = command.spawn().context("cannot start it")?;
        drop(command);
        let mut typist = Self { child, terminal: File::from(pty.master), next: 0 };
        typist.wait_for(b"ready")?;
        // What follows the word is not an echo.
        while typist.readable(Duration::from_millis(100))? {
            typist.read()?;
        }
        Ok(typist)
    }

    /// Types a key; how long until it is back.
    pub fn key(&mut self) -> anyhow::Result<Duration> {
        let key = KEYS[self.next % KEYS.len()];
        self.next += 1;
        let start = Instant::now();
        self.terminal.write_all(&[key])?;
        self.wait_for(&[key])?;
        Ok(start.elapsed())
    }

    fn wait_for(&mut self, wanted: &[u8]) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while !seen.windows(wanted.len()).any(|window| window == wanted) {
            ensure!(
                self.readable(end.saturating_duration_since(Instant::now()))?,
                "it did not come within {PATIENCE:?}; this did: {:?}",
                String::from_utf8_lossy(&seen)
            );
            let read = self.read();
            match read {
                Ok(bytes) => seen.extend(bytes),
                Err(error) => bail!("{error:#}: {:?}", String::from_utf8_lossy(&seen)),
            }
        }
        Ok(())
    }

    fn readable(&self, limit: Duration) -> anyhow::Result<bool> {
        let mut fds = [PollFd::new(self.terminal.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, PollTimeout::try_from(limit)?)? > 0)
    }

    fn read(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut chunk = [0; 4096];
        let count = self.terminal.read(&mut chunk).context("the program has ended")?;
        Ok(chunk[..count].to_vec())
    }
}

impl Drop for Typist {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
