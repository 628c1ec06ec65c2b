//! Ways to break a node at a chosen moment.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::node::LabNode;
use crate::node::{Node, SOON, wait_until};

/// Where a node's daemon reads its configuration.
const CONFIG: &str = "/etc/phantom/phantom.toml";
/// What the daemon makes when it holds a move, and what lets it go on.
const HELD: &str = "/run/phantom/held";
const GO: &str = "/run/phantom/go";

impl LabNode {
    /// Sets a key of the configuration, or takes it away; the daemon reads it when it starts.
    /// `value` is TOML.
    pub fn configure(&self, key: &str, value: Option<&str>) -> anyhow::Result<()> {
        self.enter(&["sed", "-i", &format!("/^{key} = /d"), CONFIG])?;
        if let Some(value) = value {
            let line = format!("echo '{key} = {value}' >> {CONFIG}");
            self.enter(&["sh", "-c", &line])?;
        }
        Ok(())
    }

    /// Kills the daemon, where it lives, and starts it again.
    pub fn restart_daemon(&self) -> anyhow::Result<()> {
        if !self.processes_with("phantom daemon").is_empty() {
            self.kill_daemon()?;
        }
        self.up(&[])
    }

    /// Has the daemon stop at a border of every move from now on, or at none; restarts it.
    pub fn hold_at(&self, border: Option<&str>) -> anyhow::Result<()> {
        let quoted = border.map(|border| format!("\"{border}\""));
        self.configure("hold_at", quoted.as_deref())?;
        self.enter(&["rm", "-f", HELD, GO])?;
        self.restart_daemon()
    }

    /// Waits until a move is held.
    pub fn wait_held(&self) -> anyhow::Result<()> {
        wait_until(&format!("a held move on {}", self.name()), SOON, || {
            Ok(self.command(false, &["test", "-e", HELD]).status()?.success())
        })
    }

    /// Lets held moves go on.
    pub fn let_go(&self) -> anyhow::Result<()> {
        self.enter(&["touch", GO]).map(drop)
    }

    /// Processes of this node whose command line contains `text`.
    pub fn processes_with(&self, text: &str) -> Vec<Pid> {
        let mut found = self.processes();
        found.retain(|pid| command_line(*pid).contains(text));
        found
    }

    /// Signals the processes of this node whose command line contains `text`; gives their number.
    pub fn signal_all(&self, text: &str, signal: Signal) -> usize {
        self.processes_with(text).into_iter().filter(|pid| kill(*pid, signal).is_ok()).count()
    }
}

/// The arguments of a process, each followed by a space; empty when it has gone.
pub(super) fn command_line(pid: Pid) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// All processes of this machine whose arguments begin with `text`, zombies not counted.
pub fn processes_beginning(text: &str) -> Vec<Pid> {
    all_processes(|line| line.starts_with(text))
}

/// All processes of this machine whose arguments contain `text`, zombies not counted.
pub fn processes_with(text: &str) -> Vec<Pid> {
    all_processes(|line| line.contains(text))
}

fn all_processes(fits: impl Fn(&str) -> bool) -> Vec<Pid> {
    let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
    all.flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .filter(|pid| fits(&command_line(*pid)))
        .collect()
}

/// Waits until exactly one process has arguments that begin with `text`.
pub fn wait_for_one(text: &str, deadline: Duration) -> anyhow::Result<()> {
    wait_until(&format!("exactly one `{text}`"), deadline, || {
        Ok(processes_beginning(text).len() == 1)
    })
}
