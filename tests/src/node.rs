//! A machine with Phantom on it, as a scenario sees it: a node of the laboratory or a desktop.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::terminal::Terminal;

/// How long anything but a move may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);
/// How long a move may take on a busy machine.
pub const MOVE: Duration = Duration::from_secs(90);

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; 128 + signal when it was killed.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A row of `phantom ps`, as far as scenarios look at it.
#[derive(Debug, Clone, Deserialize)]
pub struct AppRow {
    /// Name of the app.
    pub name: String,
    /// `running`, `moving` or `unreachable`.
    pub state: String,
    /// Name of the node it runs on.
    pub host: String,
    /// Name of its home.
    pub home: String,
    /// Its epoch.
    pub epoch: u64,
    /// Percent of a core it uses, once that is known.
    pub cpu_percent: Option<u32>,
}

/// What `phantom migrate` says of a move, as far as scenarios look at it.
#[derive(Debug, Clone, Deserialize)]
pub struct Moved {
    /// For how long the app was stopped, milliseconds.
    pub frozen_ms: f64,
}

/// A line of `phantom log`, as far as scenarios look at it.
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    /// When, in microseconds since 1970.
    #[serde(default)]
    pub at_unix_us: u64,
    /// What happened.
    pub event: String,
    /// In words.
    pub detail: String,
}

/// A machine with Phantom on it, and one user at home there.
pub trait Node {
    /// Its name in the sub-grid.
    fn name(&self) -> &str;

    /// Runs `phantom ARGS`, as root or as the user, whatever its exit code.
    fn phantom(&self, as_user: bool, args: &[&str]) -> anyhow::Result<Output>;

    /// Starts `phantom ARGS` as the user in a terminal of its own.
    fn terminal(&self, args: &[&str]) -> anyhow::Result<Terminal>;

    /// Runs a shell script as the user, in the home directory; gives what it printed.
    fn shell(&self, script: &str) -> anyhow::Result<String>;

    /// Runs `phantom ARGS --json` and reads its answer; a failure is an error with its words.
    fn phantom_json<T: DeserializeOwned>(&self, as_user: bool, args: &[&str]) -> anyhow::Result<T>
    where
        Self: Sized,
    {
        let output = self.phantom(as_user, &[args, &["--json"]].concat())?;
        let shown = args.join(" ");
        ensure!(output.code == 0, "on {}: phantom {shown}: {}", self.name(), output.stderr.trim());
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("`phantom {shown}` printed no JSON"))
    }

    /// The row of one app, as its user sees it; `None` when it does not run.
    fn row(&self, app: &str) -> anyhow::Result<Option<AppRow>>
    where
        Self: Sized,
    {
        let rows: Vec<AppRow> = self.phantom_json(true, &["ps"])?;
        Ok(rows.into_iter().find(|row| row.name == app))
    }

    /// The life of an app.
    fn events(&self, app: &str) -> anyhow::Result<Vec<Event>>
    where
        Self: Sized,
    {
        self.phantom_json(true, &["log", app])
    }

    /// How many times slower than usual it may be: deadlines are so many times longer.
    fn slowness(&self) -> u32 {
        1
    }

    /// Starts the daemon and lets it found or join a sub-grid.
    fn up(&self, args: &[&str]) -> anyhow::Result<()> {
        let output = self.phantom(false, &[&["up"], args].concat())?;
        ensure!(output.code == 0, "`phantom up` on {}: {}", self.name(), output.stderr.trim());
        Ok(())
    }

    /// Starts the daemon and lets it found a sub-grid, without looking whether one is near.
    fn found(&self) -> anyhow::Result<()> {
        self.up(&["--new"])
    }

    /// Starts the daemon of another node and lets it ask to be let in here, which is granted, and
    /// waits until they see each other.
    fn accept(&self, other: &Self) -> anyhow::Result<()>
    where
        Self: Sized,
    {
        let asked: serde_json::Value = other.phantom_json(false, &["up", "--no-wait"])?;
        let code = asked["asked"]["code"].as_str().with_context(|| {
            format!("{} did not ask to be let in: {}", other.name(), asked["line"])
        })?;
        let accepted = self.phantom(false, &["accept", code])?;
        ensure!(accepted.code == 0, "`phantom accept`: {}", accepted.stderr.trim());
        self.wait_for_nodes(2)
    }

    /// Lets another node into this one's sub-grid by a token, and waits until they see each other.
    fn let_in(&self, other: &Self) -> anyhow::Result<()>
    where
        Self: Sized,
    {
        let invited: serde_json::Value = self.phantom_json(false, &["invite"])?;
        let token = invited["token"].as_str().context("`phantom invite` gave no token")?;
        other.up(&["--join", token])?;
        self.wait_for_nodes(2)
    }

    /// Waits until this many nodes, this one included, can be reached.
    fn wait_for_nodes(&self, count: usize) -> anyhow::Result<()>
    where
        Self: Sized,
    {
        wait_until(&format!("{count} reachable nodes"), SOON * self.slowness(), || {
            let nodes: Vec<serde_json::Value> = self.phantom_json(true, &["nodes"])?;
            Ok(nodes.iter().filter(|node| node["reachable"] == true).count() == count)
        })
    }

    /// Moves an app by hand and waits until it runs there.
    fn migrate(&self, app: &str, node: &str) -> anyhow::Result<Moved>
    where
        Self: Sized,
    {
        self.phantom_json(true, &["migrate", app, node])
    }

    /// Waits until `ps` shows the app running on `host`.
    fn wait_for_host(&self, app: &str, host: &str) -> anyhow::Result<()>
    where
        Self: Sized,
    {
        wait_until(&format!("the move of {app} to {host}"), MOVE * self.slowness(), || {
            Ok(self.row(app)?.is_some_and(|row| row.host == host && row.state == "running"))
        })
    }
}

/// Asks again and again until the answer is yes; says what it waited for when the time is over.
pub fn wait_until(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let end = Instant::now() + deadline;
    while !condition()? {
        if Instant::now() > end {
            bail!("{what} did not come within {deadline:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = std::io::stdout().flush();
    Ok(())
}
