//! A person at a terminal: types, reads the screen, resizes the window.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{Winsize, openpty};

use crate::os;

/// Keys that are not letters.
#[derive(Debug, Clone, Copy)]
pub enum Key {
    /// Ctrl and a letter.
    Ctrl(char),
    /// Escape.
    Esc,
    /// Return.
    Enter,
}

impl Key {
    fn bytes(self) -> Vec<u8> {
        match self {
            Key::Ctrl(letter) => vec![letter as u8 & 0x1f],
            Key::Esc => vec![0x1b],
            Key::Enter => vec![b'\r'],
        }
    }
}

/// What joins a terminal to the command in it. Dropping it hangs up.
pub trait Line {
    /// What the command prints; asked for once.
    fn output(&mut self) -> Receiver<Vec<u8>>;
    /// Types.
    fn type_bytes(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Changes the window size.
    fn resize(&mut self, rows: u16, cols: u16) -> io::Result<()>;
    /// How the command ended, when it has: 128 + signal when it was killed.
    fn exit_code(&mut self) -> io::Result<Option<i32>>;
}

/// A command in a terminal, with the person in front of it.
pub struct Terminal {
    line: Box<dyn Line>,
    output: Receiver<Vec<u8>>,
    seen: Vec<u8>,
    mark: usize,
    screen: vt100::Parser,
}

impl Terminal {
    /// Starts `command` on this machine with a new terminal as its controlling one.
    pub fn spawn(command: Command, rows: u16, cols: u16) -> anyhow::Result<Self> {
        Ok(Self::over(Box::new(LocalLine::spawn(command, rows, cols)?), rows, cols))
    }

    /// A terminal at the end of a line.
    pub fn over(mut line: Box<dyn Line>, rows: u16, cols: u16) -> Self {
        let output = line.output();
        let screen = vt100::Parser::new(rows, cols, 1000);
        Self { line, output, seen: Vec::new(), mark: 0, screen }
    }

    /// Types text.
    pub fn type_text(&mut self, text: &str) -> anyhow::Result<()> {
        self.line.type_bytes(text.as_bytes()).context("the terminal takes no more")
    }

    /// Types text and presses Return.
    pub fn type_line(&mut self, text: &str) -> anyhow::Result<()> {
        self.type_text(text)?;
        self.press(Key::Enter)
    }

    /// Presses a key.
    pub fn press(&mut self, key: Key) -> anyhow::Result<()> {
        self.line.type_bytes(&key.bytes()).context("the terminal takes no more")
    }

    /// Everything printed so far.
    pub fn transcript(&mut self) -> &[u8] {
        self.take_in(Duration::ZERO);
        &self.seen
    }

    /// Waits for `text` in what was printed since the last match; later calls look behind it.
    pub fn expect(&mut self, text: &str, deadline: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + deadline;
        loop {
            let found = find(&self.seen[self.mark..], text.as_bytes());
            if let Some(at) = found {
                self.mark += at + text.len();
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.take_in(left) {
                let rest = String::from_utf8_lossy(&self.seen[self.mark..]).into_owned();
                bail!(
                    "`{text}` was not printed within {deadline:?}; since the last match: {rest:?}"
                );
            }
        }
    }

    /// Waits until the screen shows `text`.
    pub fn expect_screen(&mut self, text: &str, deadline: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + deadline;
        while !self.screen_text().contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.take_in(left) {
                bail!(
                    "the screen does not show `{text}` after {deadline:?}:\n{}",
                    self.screen_text()
                );
            }
        }
        Ok(())
    }

    /// What the screen shows now.
    pub fn screen_text(&mut self) -> String {
        self.take_in(Duration::ZERO);
        self.screen.screen().contents()
    }

    /// Changes the window size.
    pub fn resize(&mut self, rows: u16, cols: u16) -> anyhow::Result<()> {
        self.line.resize(rows, cols).context("cannot resize the terminal")?;
        self.screen.screen_mut().set_size(rows, cols);
        Ok(())
    }

    /// Waits for the command's end and gives its exit code.
    pub fn wait(&mut self, deadline: Duration) -> anyhow::Result<i32> {
        let end = Instant::now() + deadline;
        loop {
            self.take_in(Duration::from_millis(10));
            if let Some(code) = self.line.exit_code()? {
                return Ok(code);
            }
            if Instant::now() > end {
                bail!("the command did not end within {deadline:?}:\n{}", self.screen_text());
            }
        }
    }

    /// Takes in what was printed; waits up to `wait` for the first of it. False when it has ended.
    fn take_in(&mut self, wait: Duration) -> bool {
        let first = match self.output.recv_timeout(wait) {
            Ok(bytes) => bytes,
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        };
        let more: Vec<Vec<u8>> = self.output.try_iter().collect();
        for bytes in std::iter::once(first).chain(more) {
            self.screen.process(&bytes);
            self.seen.extend_from_slice(&bytes);
        }
        true
    }
}

/// A terminal of this machine.
struct LocalLine {
    child: Child,
    keyboard: File,
    output: Option<Receiver<Vec<u8>>>,
}

impl LocalLine {
    fn spawn(mut command: Command, rows: u16, cols: u16) -> anyhow::Result<Self> {
        let pty = openpty(Some(&winsize(rows, cols)), None).context("cannot make a terminal")?;
        // Other threads start processes too; those must not inherit it.
        for end in [&pty.master, &pty.slave] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
        let slave: OwnedFd = pty.slave;
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        os::own_terminal(&mut command);
        let child = command.spawn().context("cannot start the command in a terminal")?;
        drop(command);
        let keyboard = File::from(pty.master);
        let mut reader = keyboard.try_clone()?;
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(count) = reader.read(&mut buffer) {
                if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, keyboard, output: Some(output) })
    }
}

impl Line for LocalLine {
    fn output(&mut self) -> Receiver<Vec<u8>> {
        self.output.take().expect("it is asked for once")
    }

    fn type_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.keyboard.write_all(bytes)
    }

    fn resize(&mut self, rows: u16, cols: u16) -> io::Result<()> {
        os::resize(&self.keyboard, &winsize(rows, cols))
    }

    fn exit_code(&mut self) -> io::Result<Option<i32>> {
        let ended = self.child.try_wait()?;
        Ok(ended.map(|status| status.code().unwrap_or(128 + status.signal().unwrap_or(0))))
    }
}

impl Drop for LocalLine {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn winsize(rows: u16, cols: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len().max(1)).position(|window| window == needle)
}
