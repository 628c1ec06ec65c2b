//! Runs other programs: as root where needed, with a deadline, a log and progress.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::interrupt::{self, Registered};
use crate::root;
use crate::say::Progress;

/// How long a program may take to end after SIGTERM.
const TERM_GRACE: Duration = Duration::from_secs(15);
/// How much of a failed program's log is shown.
const TAIL_LINES: usize = 30;

/// A program to run.
#[derive(Debug, Clone)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
    root: bool,
    limit: Duration,
}

/// How a program ended that ran with a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with success.
    Ok,
    /// By itself, with this exit code, or by a signal (128 + its number).
    Failed(i32),
    /// By us, because its time was over.
    TimedOut,
}

impl Cmd {
    /// A program by name or path; it may take five minutes.
    pub fn new(program: impl AsRef<OsStr>) -> Cmd {
        Cmd {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            dir: None,
            root: false,
            limit: Duration::from_secs(300),
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Cmd {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, args: I) -> Cmd {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable; it reaches the program through sudo too.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Cmd {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the directory to run in.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Cmd {
        self.dir = Some(dir.into());
        self
    }

    /// Runs it as root: through sudo when we are not.
    pub fn rooted(mut self) -> Cmd {
        self.root = true;
        self
    }

    /// Sets how long it may take.
    pub fn limit(mut self, limit: Duration) -> Cmd {
        self.limit = limit;
        self
    }

    /// The command as a user would type it.
    pub fn shown(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        if self.root && !root::is_root() {
            words.push("sudo".to_owned());
        }
        words.extend(
            std::iter::once(&self.program)
                .chain(&self.args)
                .map(|word| quote(&word.to_string_lossy())),
        );
        words.join(" ")
    }

    fn build(&self) -> Command {
        let mut command = if self.root && !root::is_root() {
            let mut sudo = Command::new("sudo");
            sudo.args(["-n", "--", "env"]);
            for (name, value) in &self.env {
                let mut pair = name.clone();
                pair.push("=");
                pair.push(value);
                sudo.arg(pair);
            }
            sudo.arg(&self.program);
            sudo
        } else {
            let mut command = Command::new(&self.program);
            command.envs(self.env.iter().map(|(name, value)| (name, value)));
            if self.root {
                command.env("PATH", root::path_with_sbin());
            }
            command
        };
        command.args(&self.args);
        // Set by `cargo run` for us alone. A cargo below would take them for a change of its
        // environment and compile again what build scripts had derived from them.
        for (name, _) in std::env::vars_os() {
            if is_cargo_run(&name.to_string_lossy()) && !self.env.iter().any(|own| own.0 == name) {
                command.env_remove(name);
            }
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
    }

    /// Runs it and returns its standard output; fails with what it said.
    pub fn stdout(&self) -> Result<String> {
        interrupt::park_if_stopped();
        let mut child = self
            .build()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting `{}`", self.shown()))?;
        let registered = Registered::new(child.id(), true);
        let out = drain(child.stdout.take());
        let err = drain(child.stderr.take());
        let status = self.wait(child, true, || ())?;
        drop(registered);
        let (out, err) = (joined(out), joined(err));
        match status {
            Some(status) if status.success() => Ok(out),
            Some(status) => {
                let said = [err.trim(), out.trim()].join("\n");
                bail!("`{}` failed ({status}): {}", self.shown(), said.trim());
            }
            None => bail!("`{}` took longer than {:?}", self.shown(), self.limit),
        }
    }

    /// Runs it without a word; fails with what it said.
    pub fn quiet(&self) -> Result<()> {
        self.stdout().map(drop)
    }

    /// Whether it ends with success; a program that is not there does not.
    pub fn succeeds(&self) -> bool {
        self.stdout().is_ok()
    }

    /// Runs it with both outputs written to `log`, showing `progress` meanwhile.
    pub fn logged(&self, log: &Path, progress: &str) -> Result<(Ended, Duration)> {
        interrupt::park_if_stopped();
        let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let child = self
            .build()
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("sharing a log")?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting `{}`", self.shown()))?;
        let registered = Registered::new(child.id(), true);
        let mut line = Progress::start(progress);
        let status = self.wait(child, true, || line.tick());
        let took = line.end();
        drop(registered);
        Ok((ended(status?), took))
    }

    /// As [`Cmd::logged`], and fails with the end of the log unless it succeeds.
    pub fn must(&self, log: &Path, progress: &str) -> Result<Duration> {
        let (ended, took) = self.logged(log, progress)?;
        let how = match ended {
            Ended::Ok => return Ok(took),
            Ended::Failed(code) => format!("failed (exit code {code})"),
            Ended::TimedOut => format!("took longer than {:?}", self.limit),
        };
        bail!("`{}` {how}; the end of {}:\n{}", self.shown(), log.display(), tail(log));
    }

    /// Runs it on the user's own terminal, in the foreground; returns its exit code.
    pub fn foreground(&self) -> Result<i32> {
        interrupt::park_if_stopped();
        let child = self.build().spawn().with_context(|| format!("starting `{}`", self.shown()))?;
        let registered = Registered::new(child.id(), false);
        let status = self.wait(child, false, || ());
        drop(registered);
        Ok(match ended(status?) {
            Ended::Ok => 0,
            Ended::Failed(code) => code,
            Ended::TimedOut => 124,
        })
    }

    /// Runs it, giving each line of its standard output to `line`; its standard error is ours.
    pub fn lines(&self, mut line: impl FnMut(&str)) -> Result<Ended> {
        use std::io::BufRead;
        interrupt::park_if_stopped();
        let mut child = self
            .build()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting `{}`", self.shown()))?;
        let registered = Registered::new(child.id(), false);
        let out = child.stdout.take().context("no standard output")?;
        for text in std::io::BufReader::new(out).lines() {
            line(&text.with_context(|| format!("reading from `{}`", self.shown()))?);
        }
        let status = self.wait(child, false, || ());
        drop(registered);
        Ok(ended(status?))
    }

    /// Waits for the child, calling `tick` every second; `None` when its time was over.
    fn wait(
        &self,
        mut child: std::process::Child,
        group: bool,
        mut tick: impl FnMut(),
    ) -> Result<Option<ExitStatus>> {
        let pid = child.id().cast_signed();
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            // The receiver is gone only after a failure that is already being reported.
            let _ = sender.send(child.wait());
        });
        let deadline = Instant::now() + self.limit;
        let mut renew = Instant::now() + root::RENEW;
        loop {
            match receiver.recv_timeout(Duration::from_secs(1)) {
                Ok(status) => return Ok(Some(status.context("waiting for a program")?)),
                Err(RecvTimeoutError::Disconnected) => bail!("lost `{}`", self.shown()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            tick();
            if !root::is_root() && Instant::now() >= renew {
                root::renew();
                renew = Instant::now() + root::RENEW;
            }
            if Instant::now() >= deadline {
                interrupt::signal(pid, group, Signal::SIGTERM);
                if receiver.recv_timeout(TERM_GRACE).is_err() {
                    interrupt::signal(pid, group, Signal::SIGKILL);
                    receiver
                        .recv_timeout(TERM_GRACE)
                        .with_context(|| format!("`{}` does not end", self.shown()))?
                        .context("waiting for a program")?;
                }
                return Ok(None);
            }
        }
    }
}

/// Whether `cargo run` sets this variable to describe the package it runs.
fn is_cargo_run(name: &str) -> bool {
    let families = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
    name == "LD_LIBRARY_PATH"
        || name == "CARGO_PRIMARY_PACKAGE"
        || families.iter().any(|family| name.starts_with(family))
}

fn ended(status: Option<ExitStatus>) -> Ended {
    use std::os::unix::process::ExitStatusExt;
    match status {
        None => Ended::TimedOut,
        Some(status) if status.success() => Ended::Ok,
        Some(status) => {
            Ended::Failed(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
        }
    }
}

type Drained = Option<std::thread::JoinHandle<Vec<u8>>>;

fn drain(pipe: Option<impl Read + Send + 'static>) -> Drained {
    pipe.map(|mut pipe| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What was read before an error is all there is to show.
            let _ = pipe.read_to_end(&mut bytes);
            bytes
        })
    })
}

fn joined(handle: Drained) -> String {
    let bytes = handle.and_then(|handle| handle.join().ok()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The end of a log.
pub fn tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:+,%@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted() {
        assert_eq!(quote("--opt=1"), "--opt=1");
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote(""), "''");
    }

    #[test]
    fn what_cargo_run_sets_is_taken_away_again() {
        assert!(is_cargo_run("CARGO_PKG_NAME") && is_cargo_run("LD_LIBRARY_PATH"));
        assert!(!is_cargo_run("CARGO_TARGET_DIR") && !is_cargo_run("CARGO_HOME"));
        let printed = Cmd::new("env").env("CARGO_PKG_NAME", "ours").stdout().unwrap();
        assert!(printed.contains("CARGO_PKG_NAME=ours"));
        assert!(!printed.contains("CARGO_PKG_VERSION="));
    }

    #[test]
    fn output_and_failure() {
        assert_eq!(Cmd::new("printf").arg("%s").arg("hi").stdout().unwrap(), "hi");
        let error = Cmd::new("sh").args(["-c", "echo why >&2; exit 3"]).stdout().unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
        assert!(Cmd::new("no-such-program").stdout().is_err());
    }

    #[test]
    fn a_deadline_ends_a_whole_group() {
        let cmd = Cmd::new("sh").args(["-c", "sleep 600 & wait"]).limit(Duration::from_millis(10));
        let error = cmd.stdout().unwrap_err();
        assert!(error.to_string().contains("longer"), "{error}");
    }
}
