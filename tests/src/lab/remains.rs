//! What a node has of everything that apps and moves make, to be compared.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::fault::command_line;
use super::{LabNode, Node, SOON};

/// A shell command for each kind of thing, run inside the node; its lines are compared.
const KINDS: [(&str, &str); 7] = [
    ("mounts", "sed 's/^[0-9]* [0-9]* [0-9:]* //' /proc/self/mountinfo | cut -d' ' -f2"),
    ("links", "ip -o link | cut -d: -f2"),
    ("tables", "nft list tables"),
    ("network namespaces", "ls /run/netns /var/run/netns 2>/dev/null || true"),
    ("run files", "find /run/phantom | grep -v -e shim.log -e network.lock"),
    ("state files", "find /var/lib/phantom | grep -v daemon.log"),
    // Both may be the machine's own, where others work too.
    ("temporary files", "ls -A /tmp /dev/shm | grep -i -e phantom -e criu || true"),
];

/// Mounts, links, namespaces, control groups, files and processes of a node.
#[derive(Debug, Clone)]
pub struct Things(BTreeMap<String, Vec<String>>);

impl Things {
    /// What the node has now.
    pub fn of(node: &LabNode) -> anyhow::Result<Self> {
        let mut things = BTreeMap::new();
        for (kind, command) in KINDS {
            let mut lines: Vec<String> =
                node.enter(&["sh", "-c", command])?.stdout.lines().map(str::to_owned).collect();
            lines.sort();
            things.insert(kind.to_owned(), lines);
        }
        let mut processes: Vec<String> = node.processes().into_iter().map(command_line).collect();
        processes.sort();
        things.insert("processes".into(), processes);
        things.insert("control groups".into(), control_groups(node)?);
        Ok(Self(things))
    }

    /// Waits until the node has this again; says what is too much or missing.
    pub fn expect_again(&self, node: &LabNode) -> anyhow::Result<()> {
        let end = Instant::now() + SOON;
        loop {
            let Self(after) = Self::of(node)?;
            let differences: Vec<String> = self
                .0
                .iter()
                .filter(|(kind, things)| after.get(*kind) != Some(*things))
                .map(|(kind, things)| {
                    format!("{kind}: {things:#?} before, {:#?} after", after.get(kind))
                })
                .collect();
            if differences.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("{} is not as before:\n{}", node.name(), differences.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn control_groups(node: &LabNode) -> anyhow::Result<Vec<String>> {
    let nodes: Vec<serde_json::Value> = node.phantom_json(false, &["nodes"])?;
    let this = nodes.iter().find(|row| row["this"] == true).context("`nodes` lacks this node")?;
    // A node's control group is called by the first digits of its id.
    let id: String = this["node"].as_str().context("no id")?.chars().take(10).collect();
    let mut groups = Vec::new();
    for root in ["/sys/fs/cgroup/unified/phantom", "/sys/fs/cgroup/phantom"] {
        let found = node.enter(&["find", &format!("{root}/{id}"), "-type", "d"]);
        groups.extend(found.iter().flat_map(|found| found.stdout.lines()).map(str::to_owned));
    }
    Ok(groups)
}
