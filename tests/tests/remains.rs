//! What moves leave behind: nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use phantom_tests::lab::{LabNode, MOVE, Node, Pair, SOON};

/// What a node has of everything that apps and moves make.
type Things = BTreeMap<String, Vec<String>>;

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

fn things(node: &LabNode) -> anyhow::Result<Things> {
    let mut things = Things::new();
    for (kind, command) in KINDS {
        let mut lines: Vec<String> =
            node.enter(&["sh", "-c", command])?.stdout.lines().map(str::to_owned).collect();
        lines.sort();
        things.insert(kind.to_owned(), lines);
    }
    let processes = node.processes();
    things.insert("processes".into(), processes.iter().map(command_line).collect());
    let mut groups = Vec::new();
    for root in ["/sys/fs/cgroup/unified/phantom", "/sys/fs/cgroup/phantom"] {
        let id = this_node(node)?;
        let found = node.enter(&["find", &format!("{root}/{id}"), "-type", "d"]);
        groups.extend(
            found.map(|output| output.stdout).unwrap_or_default().lines().map(str::to_owned),
        );
    }
    things.insert("control groups".into(), groups);
    Ok(things)
}

/// The first digits of the node's id, by which its control group is called.
fn this_node(node: &LabNode) -> anyhow::Result<String> {
    let nodes: Vec<serde_json::Value> = node.phantom_json(false, &["nodes"])?;
    let this = nodes.iter().find(|row| row["this"] == true).context("`nodes` lacks this node")?;
    Ok(this["node"].as_str().context("no id")?.chars().take(10).collect())
}

fn command_line(pid: &nix::unistd::Pid) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// Waits until a node has again what it had before; says what is too much or missing.
fn expect_same(node: &LabNode, before: &Things) -> anyhow::Result<()> {
    let end = std::time::Instant::now() + SOON;
    loop {
        let after = things(node)?;
        let differences: Vec<String> = before
            .iter()
            .filter(|(kind, things)| after.get(*kind) != Some(*things))
            .map(|(kind, things)| {
                format!("{kind}: {things:#?} before, {:#?} after", after.get(kind))
            })
            .collect();
        if differences.is_empty() {
            return Ok(());
        }
        if std::time::Instant::now() > end {
            bail!("{} is not as before:\n{}", node.name(), differences.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Descriptors that a process has open.
fn open_files(pid: i32) -> anyhow::Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

#[test]
fn twenty_moves_leave_nothing() -> anyhow::Result<()> {
    Pair::scenario("twenty_moves_leave_nothing", |pair| {
        let nodes = [pair.home(), pair.away()];
        let bare = [things(nodes[0])?, things(nodes[1])?];
        let args = ["run", "--name", "repl", "--", "/usr/bin/python3", "-q"];
        let mut repl = pair.home().terminal(&args)?;
        repl.expect(">>> ", SOON)?;
        // The first two moves open what stays open: connections and caches.
        pair.migrate("repl", "cellar")?;
        pair.migrate("repl", "attic")?;
        expect_same(nodes[1], &bare[1]).context("after one move to and fro")?;
        let resting = things(nodes[0])?;
        let daemons = [nodes[0].daemon_pid()?, nodes[1].daemon_pid()?];
        let opened = [open_files(daemons[0])?, open_files(daemons[1])?];
        for round in 0..9 {
            pair.migrate("repl", "cellar").with_context(|| format!("round {round}"))?;
            pair.migrate("repl", "attic").with_context(|| format!("round {round}"))?;
        }
        repl.type_line("print('still', 6 * 7)")?;
        repl.expect("still 42", MOVE)?;
        expect_same(nodes[1], &bare[1]).context("after twenty moves")?;
        expect_same(nodes[0], &resting).context("after twenty moves")?;
        for (daemon, before) in daemons.into_iter().zip(opened) {
            let now = open_files(daemon)?;
            ensure!(now <= before + 8, "a daemon has {now} files open, {before} before");
        }
        repl.type_line("exit()")?;
        ensure!(repl.wait(SOON)? == 0, "the REPL ended badly");
        expect_same(nodes[0], &bare[0]).context("after the app's end")
    })
}
