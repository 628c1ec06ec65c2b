//! A laboratory: nodes in network and mount namespaces on this machine, each with its own root,
//! its own users and its own `/run` and `/var/lib`, joined by links.
//!
//! It needs root. Everything it makes lies in namespaces and one folder, both of which go when
//! the [`Lab`] is dropped; daemons and apps are ended with it.

mod campus;
mod cpu;
mod fault;
mod household;
mod node;
mod pair;
mod remains;
mod usage;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

pub use crate::node::{AppRow, Event, MOVE, Moved, Node, Output, SOON, wait_until};
pub use crate::terminal::{Key, Terminal};
pub use campus::{Campus, REGION, RegionState, SiteState};
pub use cpu::CpuShare;
pub use fault::{processes_beginning, processes_with, wait_for_one};
pub use household::{Followed, Household, SubgridState};
pub use node::{LabNode, Person};
pub use pair::{Moving, Pair};
pub use remains::Things;
pub use usage::Usage;

use crate::command::stdout_of;

/// What a laboratory is made of.
pub struct LabConfig {
    /// The `phantom` binary under test.
    pub phantom: PathBuf,
    /// The CRIU the nodes use; found by the daemon itself when absent.
    pub criu: Option<PathBuf>,
}

impl LabConfig {
    /// From the environment that `cargo xtask` sets: `PHANTOM_BIN`, `PHANTOM_CRIU`. Without the
    /// first, the binary beside this test's own.
    pub fn from_env() -> anyhow::Result<Self> {
        let phantom = match std::env::var_os("PHANTOM_BIN") {
            Some(path) => PathBuf::from(path),
            None => beside_this_binary()?,
        };
        if !phantom.is_file() {
            bail!(
                "{} is not there; build it with `cargo build -p phantom` or use `cargo xtask test`",
                phantom.display()
            );
        }
        Ok(Self { phantom, criu: std::env::var_os("PHANTOM_CRIU").map(PathBuf::from) })
    }
}

fn beside_this_binary() -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let folder = this
        .ancestors()
        .find(|folder| folder.join("phantom").is_file())
        .context("no `phantom` beside this program; build it with `cargo build -p phantom`")?;
    Ok(folder.join("phantom"))
}

/// The laboratory.
pub struct Lab {
    config: LabConfig,
    // Dropped in this order: the nodes end their processes before the folder goes.
    nodes: Vec<LabNode>,
    folder: tempfile::TempDir,
}

impl Lab {
    /// An empty laboratory. `Ok(None)` with a `SKIP` line when this machine cannot have one.
    pub fn open(test: &str) -> anyhow::Result<Option<Self>> {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIP {test}: needs root");
            return Ok(None);
        }
        let config = LabConfig::from_env()?;
        let folder = tempfile::Builder::new()
            .prefix("phantom-lab-")
            .tempdir_in("/var/tmp")
            .context("cannot make the laboratory's folder in /var/tmp")?;
        // Users of the nodes must be able to walk into their home directories.
        std::fs::set_permissions(
            folder.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )?;
        Ok(Some(Self { config, nodes: Vec::new(), folder }))
    }

    /// Adds a node whose system is this machine's own.
    pub fn add(&mut self, name: &str, person: Person) -> anyhow::Result<usize> {
        self.add_with_root(name, person, None)
    }

    /// Adds a node with another distribution's root, which stays as it is.
    pub fn add_with_root(
        &mut self,
        name: &str,
        person: Person,
        root: Option<&Path>,
    ) -> anyhow::Result<usize> {
        let folder = self.folder.path().join(name);
        let node = LabNode::start(&self.config, name, person, root, folder)
            .with_context(|| format!("cannot start the laboratory's node `{name}`"))?;
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    /// Joins two nodes by a link with addresses 10.77.NET.1 and 10.77.NET.2.
    pub fn link(&mut self, a: usize, b: usize, net: u8) -> anyhow::Result<()> {
        let (left, right) = (format!("ph{net}a"), format!("ph{net}b"));
        let (pid_a, pid_b) = (self.nodes[a].pid().to_string(), self.nodes[b].pid().to_string());
        stdout_of(Command::new("ip").args([
            "link", "add", &left, "netns", &pid_a, "type", "veth", "peer", "name", &right, "netns",
            &pid_b,
        ]))?;
        for (node, device, host) in [(a, &left, 1), (b, &right, 2)] {
            self.nodes[node].enter(&[
                "ip",
                "addr",
                "add",
                &format!("10.77.{net}.{host}/24"),
                "dev",
                device,
            ])?;
            self.nodes[node].enter(&["ip", "link", "set", device, "up"])?;
        }
        Ok(())
    }

    /// Puts nodes on one local network, with addresses 10.77.NET.1 and on, in their order. Its
    /// switch lies in the first one's namespace, under a name that is none of an app's links: what
    /// that node forbids its apps it would forbid the others.
    pub fn lan(&mut self, nodes: &[usize], net: u8) -> anyhow::Result<()> {
        let (switch, others) = nodes.split_first().context("a network without nodes")?;
        let hub = &self.nodes[*switch];
        let bridge = format!("sw{net}");
        // Without snooping it carries multicast as the cheap switches of a home do.
        hub.enter(&["ip", "link", "add", &bridge, "type", "bridge", "mcast_snooping", "0"])?;
        hub.enter(&["ip", "addr", "add", &format!("10.77.{net}.1/24"), "dev", &bridge])?;
        hub.enter(&["ip", "link", "set", &bridge, "up"])?;
        let hub_pid = hub.pid().to_string();
        for (number, node) in (2..).zip(others) {
            let node = &self.nodes[*node];
            let (port, device) = (format!("sw{net}p{number}"), format!("ph{net}b"));
            stdout_of(Command::new("ip").args([
                "link",
                "add",
                &port,
                "netns",
                &hub_pid,
                "type",
                "veth",
                "peer",
                "name",
                &device,
                "netns",
                &node.pid().to_string(),
            ]))?;
            hub.enter(&["ip", "link", "set", &port, "master", &bridge, "up"])?;
            node.enter(&[
                "ip",
                "addr",
                "add",
                &format!("10.77.{net}.{number}/24"),
                "dev",
                &device,
            ])?;
            node.enter(&["ip", "link", "set", &device, "up"])?;
        }
        Ok(())
    }

    /// Cuts or restores a link.
    pub fn set_link(&self, node: usize, net: u8, up: bool) -> anyhow::Result<()> {
        let list = self.nodes[node].enter(&["ip", "-o", "link"])?.stdout;
        let device = [format!("ph{net}a"), format!("ph{net}b")]
            .into_iter()
            .find(|device| list.contains(device.as_str()))
            .with_context(|| format!("node {node} has no link {net}"))?;
        self.nodes[node].enter(&["ip", "link", "set", &device, if up { "up" } else { "down" }])?;
        Ok(())
    }

    /// The ends of all daemons' and shims' logs, for a failed scenario.
    pub fn logs(&self) -> String {
        self.nodes.iter().map(LabNode::logs).collect()
    }

    /// Where everything of it lies, as machines that have this machine's system see it too.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// One of its nodes.
    pub fn node(&self, index: usize) -> &LabNode {
        &self.nodes[index]
    }

    /// One of its nodes, to change it.
    pub fn node_mut(&mut self, index: usize) -> &mut LabNode {
        &mut self.nodes[index]
    }
}
