//! `bench join`: how long a new machine takes to ask and to become a member, and how fast the
//! members of a sub-grid of twenty know that one is gone.
//!
//! Nodes in namespaces on one network, each with a daemon of its own. What a node knows of others
//! is read from its log, where its daemon writes it as it learns it: asking twenty daemons all the
//! time would be part of what is measured.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Bound, Report, Row, median};
use crate::lab::{Lab, LabNode, Node, Person, Usage, wait_until};

const BENCH: &str = "join";
/// Machines that join one after the other.
const JOINS: usize = 7;
/// Members of the large sub-grid.
const MEMBERS: usize = 20;
/// Daemons that are killed one after the other.
const KILLS: usize = 5;
/// From `phantom up` to the code, milliseconds.
const ASKED_MS: f64 = 2000.0;
/// From `phantom accept` to a member that is connected, milliseconds.
const MEMBER_MS: f64 = 1000.0;
/// Until all know that a member was killed, seconds.
const KNOWN_S: f64 = 5.0;
/// How long a member that stood still for ten seconds may be taken for gone, seconds.
const REMOVED_S: f64 = 15.0;
/// For how long the idle sub-grid is watched.
const IDLE: Duration = Duration::from_secs(30);
/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs it.
pub fn run(report: &mut Report) -> anyhow::Result<()> {
    let mut lab = Lab::open(BENCH)?.context("this benchmark needs root")?;
    let mut numbers = Vec::new();
    for number in 0..MEMBERS {
        let person = Person { name: "bob".into(), uid: 1500, has_home: false };
        numbers.push(lab.add(&format!("n{number}"), person)?);
    }
    lab.lan(&numbers, 1)?;
    let nodes: Vec<&LabNode> = numbers.iter().map(|number| lab.node(*number)).collect();
    joins(report, &nodes)?;
    let grid = Grid::new(nodes)?;
    grid.all_know_all()?;
    idle(report, &grid)?;
    kills(report, &grid)?;
    freeze(report, &grid)
}

/// Machines that know nobody join the first one's sub-grid.
fn joins(report: &mut Report, nodes: &[&LabNode]) -> anyhow::Result<()> {
    let (founder, others) = nodes.split_first().context("no nodes")?;
    founder.found()?;
    let (mut asked_ms, mut member_ms) = (Vec::new(), Vec::new());
    for (number, node) in others.iter().enumerate() {
        report.progress(format!("{} joins", node.name()));
        let began = Instant::now();
        let asked: Value = node.phantom_json(false, &["up", "--no-wait"])?;
        let took = began.elapsed();
        let code = asked["asked"]["code"].as_str().context("no code")?.to_owned();
        let accepted = Instant::now();
        let output = founder.phantom(false, &["accept", &code])?;
        ensure!(output.code == 0, "{}", output.stderr);
        wait_until("a connected member", PATIENCE, || {
            let rows = node.phantom(true, &["nodes", "--json"])?;
            let rows: Vec<Value> = serde_json::from_str(&rows.stdout).unwrap_or_default();
            Ok(rows.iter().any(|row| row["name"] == "n0" && row["reachable"] == true))
        })?;
        // The first ones tell; with more daemons this machine is too busy to be a desktop.
        if number < JOINS {
            asked_ms.push(took.as_secs_f64() * 1e3);
            member_ms.push(accepted.elapsed().as_secs_f64() * 1e3);
        }
    }
    let case = "one machine";
    let worst = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    report.row(Row::new(BENCH, case, "up to code, median", median(&asked_ms)?, "ms"))?;
    let row = Row::new(BENCH, case, "up to code, worst", worst(&asked_ms), "ms");
    report.row(row.must(Bound::Value(ASKED_MS)))?;
    report.row(Row::new(BENCH, case, "accept to member, median", median(&member_ms)?, "ms"))?;
    let row = Row::new(BENCH, case, "accept to member, worst", worst(&member_ms), "ms");
    report.row(row.must(Bound::Value(MEMBER_MS)))
}

/// The sub-grid of twenty.
struct Grid<'a> {
    nodes: Vec<&'a LabNode>,
    /// What each is called in the others' logs.
    ids: Vec<String>,
}

impl<'a> Grid<'a> {
    fn new(nodes: Vec<&'a LabNode>) -> anyhow::Result<Self> {
        let rows: Vec<Value> = nodes[0].phantom_json(true, &["nodes"])?;
        let id = |node: &&LabNode| {
            let row = rows.iter().find(|row| row["name"] == node.name());
            let id = row.and_then(|row| row["node"].as_str()).context("not among the nodes")?;
            Ok(id.parse::<phantom_model::NodeId>().context("no id")?.short())
        };
        let ids = nodes.iter().map(id).collect::<anyhow::Result<_>>()?;
        Ok(Self { nodes, ids })
    }

    /// What node `from` knows of node `of`: the last its log says, and how often it has said it.
    fn lives(&self, from: usize, of: usize) -> Option<bool> {
        let log = self.nodes[from].daemon_log();
        let about = |line: &&str| line.contains(&self.ids[of]) && line.contains("a member ");
        log.lines().rev().find(about).map(|line| line.contains("a member lives"))
    }

    fn others(&self, of: usize) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(move |from| *from != of)
    }

    /// How many of the others say so of `of`.
    fn say(&self, of: usize, lives: bool) -> usize {
        self.others(of).filter(|from| self.lives(*from, of) == Some(lives)).count()
    }

    fn all_know_all(&self) -> anyhow::Result<()> {
        wait_until("all know all", PATIENCE, || {
            Ok((0..self.nodes.len()).all(|of| self.say(of, true) == self.nodes.len() - 1))
        })
    }
}

/// What a sub-grid costs that does nothing.
fn idle(report: &mut Report, grid: &Grid) -> anyhow::Result<()> {
    report.progress(format!("{} s of rest", IDLE.as_secs()));
    let node = grid.nodes[1];
    let pid = Pid::from_raw(node.daemon_pid()?);
    // Every frame on the wire, with its headers, by the port of Phantom's it belongs to.
    let script = format!(
        "import socket,struct,time\n\
         s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW,socket.htons(3));s.settimeout(0.2)\n\
         s.setsockopt(socket.SOL_SOCKET,socket.SO_RCVBUF,8<<20)\n\
         b={{41610:0,41611:0}};end=time.time()+{}\n\
         while time.time()<end:\n\
         \x20try:f=s.recv(65535)\n\
         \x20except OSError:continue\n\
         \x20if f[12:14]!=b'\\x08\\x00' or f[23]!=17:continue\n\
         \x20o=14+(f[14]&15)*4;ports=struct.unpack('!HH',f[o:o+4])\n\
         \x20for p in b:\n\
         \x20\x20if p in ports:b[p]+=len(f)\n\
         print(b[41610],b[41611])",
        IDLE.as_secs()
    );
    let mut capture = node.command(false, &["python3", "-c", &script]);
    let capture = capture.stdout(Stdio::piped()).spawn().context("cannot capture")?;
    let (before, began) = (Usage::of(pid)?, Instant::now());
    let output = capture.wait_with_output().context("the capture failed")?;
    let after = Usage::of(pid)?;
    let seconds = began.elapsed().as_secs_f64();
    let counted: Vec<f64> = String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect();
    let [connections, datagrams] = counted[..] else { anyhow::bail!("the capture gave nothing") };
    let kbit_s = |bytes: f64| bytes * 8.0 / seconds / 1000.0;
    let case = format!("{MEMBERS} members, idle");
    let cpu = (after.cpu - before.cpu).as_secs_f64() / seconds * 100.0;
    report.row(Row::new(BENCH, &case, "daemon CPU", cpu, "% of a core"))?;
    report.row(Row::new(BENCH, &case, "daemon memory", after.resident_mib, "MiB"))?;
    let metric = "connections, both ways";
    report.row(Row::new(BENCH, &case, metric, kbit_s(connections), "kbit/s"))?;
    report.row(Row::new(BENCH, &case, "datagrams, both ways", kbit_s(datagrams), "kbit/s"))
}

/// Daemons are killed; the others find out.
fn kills(report: &mut Report, grid: &Grid) -> anyhow::Result<()> {
    let mut known_s = Vec::new();
    for number in 0..KILLS {
        let victim = 3 + 3 * number;
        let node = grid.nodes[victim];
        report.progress(format!("{} is killed", node.name()));
        let pid = Pid::from_raw(node.daemon_pid()?);
        let killed = Instant::now();
        kill(pid, Signal::SIGKILL)?;
        wait_until("all know it", PATIENCE, || Ok(grid.say(victim, false) == MEMBERS - 1))?;
        known_s.push(killed.elapsed().as_secs_f64());
        node.restart_daemon()?;
        wait_until("it is back", PATIENCE, || Ok(grid.say(victim, true) == MEMBERS - 1))?;
    }
    let case = format!("{MEMBERS} members, one killed");
    report.row(Row::new(BENCH, &case, "known to all, median", median(&known_s)?, "s"))?;
    let worst = known_s.iter().copied().fold(0.0, f64::max);
    let row = Row::new(BENCH, &case, "known to all, worst", worst, "s");
    report.row(row.must(Bound::Value(KNOWN_S)))
}

/// A daemon stands still for ten seconds; it is back with all before long.
fn freeze(report: &mut Report, grid: &Grid) -> anyhow::Result<()> {
    report.progress("one stands still for 10 s");
    let (frozen, node) = (5, grid.nodes[5]);
    let pid = Pid::from_raw(node.daemon_pid()?);
    let mut gone: Vec<Option<Instant>> = vec![None; MEMBERS];
    let mut removed_s = [0.0_f64; MEMBERS];
    let began = Instant::now();
    kill(pid, Signal::SIGSTOP)?;
    let mut stopped = true;
    let ended = wait_until("it is back with all", PATIENCE, || {
        if stopped && began.elapsed() >= Duration::from_secs(10) {
            kill(pid, Signal::SIGCONT)?;
            stopped = false;
        }
        for from in grid.others(frozen) {
            match (grid.lives(from, frozen), gone[from]) {
                (Some(false), None) => gone[from] = Some(Instant::now()),
                (Some(true), Some(at)) => {
                    removed_s[from] = removed_s[from].max(at.elapsed().as_secs_f64());
                    gone[from] = None;
                }
                _ => {}
            }
        }
        let back = gone.iter().all(Option::is_none);
        Ok(!stopped && back && began.elapsed() > Duration::from_secs(12))
    });
    if stopped {
        kill(pid, Signal::SIGCONT)?;
    }
    ended?;
    let worst = removed_s.iter().copied().fold(0.0, f64::max);
    let case = format!("{MEMBERS} members, 10 s freeze");
    let row = Row::new(BENCH, case, "taken for gone, longest", worst, "s");
    report.row(row.must(Bound::Value(REMOVED_S)))
}
