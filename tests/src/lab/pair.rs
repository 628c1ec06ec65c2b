//! Two joined nodes: where almost every scenario takes place.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context, bail, ensure};

use super::{Lab, LabNode, Person};
use crate::node::{AppRow, Event, Moved, Node, SOON, wait_until};

/// A laboratory of two nodes that know each other: `attic`, where ada (1000) is at home, and
/// `cellar`, where she is unknown and `/home` is empty.
pub struct Pair {
    lab: Lab,
    home: usize,
    away: usize,
}

impl Pair {
    /// Both nodes up and joined; `cellar` has the root that `PHANTOM_SECOND_ROOT` names, or else
    /// this machine's. `Ok(None)` with a `SKIP` line where there can be no laboratory.
    pub fn open(test: &str) -> anyhow::Result<Option<Self>> {
        let second_root = std::env::var_os("PHANTOM_SECOND_ROOT").map(PathBuf::from);
        Self::open_with(test, second_root.as_deref())
    }

    /// The same with two nodes that both have this machine's root, as what they are compared with.
    pub fn alike(test: &str) -> anyhow::Result<Option<Self>> {
        Self::open_with(test, None)
    }

    fn open_with(test: &str, root: Option<&Path>) -> anyhow::Result<Option<Self>> {
        let Some(mut lab) = Lab::open(test)? else { return Ok(None) };
        let home = lab.add("attic", Person::at_home("ada", 1000))?;
        let bob = Person { name: "bob".into(), uid: 1500, has_home: false };
        let away = lab.add_with_root("cellar", bob, root)?;
        lab.link(home, away, 1)?;
        let pair = Self { lab, home, away };
        pair.join().inspect_err(|_| eprintln!("{}", pair.lab.logs()))?;
        Ok(Some(pair))
    }

    fn join(&self) -> anyhow::Result<()> {
        self.home().found()?;
        self.home().let_in(self.away())
    }

    /// Waits until both nodes are up and connected.
    pub fn wait_connected(&self) -> anyhow::Result<()> {
        self.home().wait_for_nodes(2)?;
        // Home may still hold the connection to a daemon that was killed; one that was started anew
        // has none but its own.
        self.away().wait_for_nodes(2)
    }

    /// Cuts or restores the link between the two.
    pub fn set_link(&self, up: bool) -> anyhow::Result<()> {
        self.lab.set_link(self.home, 1, up)
    }

    /// Waits until home knows that the other node cannot be reached.
    pub fn wait_disconnected(&self) -> anyhow::Result<()> {
        wait_until("the link's end", SOON, || {
            let nodes: Vec<serde_json::Value> = self.home().phantom_json(true, &["nodes"])?;
            Ok(nodes.iter().any(|node| node["reachable"] == false))
        })
    }

    /// Runs a scenario in a laboratory of its own; when it fails, the nodes' logs are printed.
    pub fn scenario(
        test: &str,
        body: impl FnOnce(&Pair) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Some(pair) = Self::open(test)? else { return Ok(()) };
        body(&pair).inspect_err(|_| eprintln!("{}", pair.lab.logs()))
    }

    /// The laboratory.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// ada's node.
    pub fn home(&self) -> &LabNode {
        self.lab.node(self.home)
    }

    /// The other node.
    pub fn away(&self) -> &LabNode {
        self.lab.node(self.away)
    }

    /// The row of one app, as ada sees it; `None` when it does not run.
    pub fn row(&self, app: &str) -> anyhow::Result<Option<AppRow>> {
        self.home().row(app)
    }

    /// Moves an app by hand and waits until it runs there.
    pub fn migrate(&self, app: &str, node: &str) -> anyhow::Result<Moved> {
        self.home().migrate(app, node)
    }

    /// Starts a move by hand; [`Moving::wait`] waits for its end.
    pub fn start_move(&self, app: &str, node: &str) -> anyhow::Result<Moving> {
        let mut command = self.home().phantom_command(true, &["migrate", app, node, "--json"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Moving(command.spawn().context("cannot run `phantom migrate`")?))
    }

    /// Starts a move by hand that `holder` holds at a border; returns once it is held there.
    pub fn held_move(
        &self,
        holder: &LabNode,
        border: &str,
        app: &str,
        to: &str,
    ) -> anyhow::Result<Moving> {
        holder.hold_at(Some(border))?;
        self.wait_connected()?;
        let moving = self.start_move(app, to)?;
        holder.wait_held()?;
        Ok(moving)
    }

    /// Waits until `ps` shows the app running on `host`.
    pub fn wait_for_host(&self, app: &str, host: &str) -> anyhow::Result<()> {
        self.home().wait_for_host(app, host)
    }

    /// The life of an app.
    pub fn events(&self, app: &str) -> anyhow::Result<Vec<Event>> {
        self.home().events(app)
    }
}

/// A move that was started by hand.
pub struct Moving(Child);

impl Moving {
    /// Whether it has not ended yet.
    pub fn goes_on(&mut self) -> anyhow::Result<bool> {
        Ok(self.0.try_wait()?.is_none())
    }

    /// Waits for its end; a failed move is an error with its words.
    pub fn wait(self) -> anyhow::Result<Moved> {
        let output = super::node::output(self.0.wait_with_output()?);
        ensure!(output.code == 0, "`phantom migrate`: {}", output.stderr.trim());
        serde_json::from_str(&output.stdout).context("`phantom migrate` printed no JSON")
    }

    /// Waits for its end, which must be a failure; gives its words.
    pub fn fails(self) -> anyhow::Result<String> {
        match self.wait() {
            Ok(moved) => bail!("the move has not failed: {moved:?}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }
}
