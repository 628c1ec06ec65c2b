//! `bench failover`: seven daemons in namespaces; the super-peer is killed with -9. How long until
//! another node answers a query of a third with the whole registry? Beside it, where etcd is
//! installed: how long a cluster of its takes to another leader.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Bound, Report, Row, median};
use crate::lab::{Household, wait_until};

const BENCH: &str = "failover";
/// Machines of the household.
pub const NODES: usize = 7;
const KILLS: usize = 10;
const MEDIAN_S: f64 = 1.5;
const WORST_S: f64 = 3.0;
const PATIENCE: Duration = Duration::from_secs(60);
/// Members of etcd's cluster, its client port and the next ones.
const ETCD: usize = 3;
const ETCD_PORT: u16 = 23_790;

/// Runs it.
pub fn run(report: &mut Report) -> anyhow::Result<()> {
    let household = Household::open(BENCH, NODES)?.context("this benchmark needs root")?;
    let took = kills(report, &household, KILLS)?;
    let case = format!("{NODES} daemons, super-peer killed");
    let worst = took.iter().copied().fold(0.0, f64::max);
    let row = Row::new(BENCH, &case, "whole registry again, median", median(&took)?, "s");
    report.row(row.must(Bound::Value(MEDIAN_S)))?;
    let row = Row::new(BENCH, &case, "whole registry again, worst", worst, "s");
    report.row(row.must(Bound::Value(WORST_S)))?;
    drop(household);
    if let Some(took) = etcd(report)? {
        let case = format!("etcd, {ETCD} members, leader killed");
        let worst = took.iter().copied().fold(0.0, f64::max);
        report.row(Row::new(BENCH, &case, "another leader, median", median(&took)?, "s"))?;
        report.row(Row::new(BENCH, &case, "another leader, worst", worst, "s"))?;
    } else {
        report.progress("etcd is not installed: nothing stands beside it");
    }
    Ok(())
}

/// Kills the super-peer so many times, and it comes back each time; how long nobody had the whole
/// registry, in seconds.
pub fn kills(report: &mut Report, household: &Household, kills: usize) -> anyhow::Result<Vec<f64>> {
    let all: Vec<usize> = (0..NODES).collect();
    let mut took = Vec::new();
    for _ in 0..kills {
        let super_peer = household.wait_agreed(&all, NODES)?;
        let asker = (super_peer + 3) % NODES;
        let every: Vec<String> = (0..NODES).map(|number| format!("n{number}")).collect();
        wait_until("the whole registry", PATIENCE, || {
            Ok(household.found(asker, "true").is_ok_and(|found| found == every))
        })?;
        household.wait_archived(super_peer)?;
        report.progress(format!("n{super_peer} is killed"));
        let before = household.state(asker)?.mandate;
        let pid = Pid::from_raw(household.node(super_peer).daemon_pid()?);
        let killed = Instant::now();
        kill(pid, Signal::SIGKILL)?;
        wait_until("another super-peer with the whole registry", PATIENCE, || {
            let answers = household.found(asker, "true").is_ok_and(|found| found == every);
            Ok(answers && household.state(asker)?.mandate != before)
        })?;
        took.push(killed.elapsed().as_secs_f64());
        household.node(super_peer).restart_daemon()?;
    }
    Ok(took)
}

/// A cluster of etcd, with its defaults, on this machine's loopback.
struct Etcd {
    dir: tempfile::TempDir,
    members: Vec<Option<Child>>,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in self.members.iter_mut().flatten() {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn client(number: usize) -> u16 {
    ETCD_PORT + 2 * number as u16
}

impl Etcd {
    fn start(&mut self, number: usize) -> anyhow::Result<()> {
        let cluster: Vec<String> =
            (0..ETCD).map(|it| format!("m{it}={}", url(client(it) + 1))).collect();
        let data = self.dir.path().join(format!("m{number}"));
        let (peer, client) = (url(client(number) + 1), url(client(number)));
        let member = Command::new("etcd")
            .arg("--data-dir")
            .arg(&data)
            .args(["--name", &format!("m{number}"), "--initial-cluster", &cluster.join(",")])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start etcd")?;
        self.members[number] = Some(member);
        Ok(())
    }

    /// Which member leads, as `asked` says.
    fn leader(&self, asked: &[usize]) -> Option<usize> {
        let endpoints: Vec<String> = asked.iter().map(|number| url(client(*number))).collect();
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &endpoints.join(","), "endpoint", "status", "-w", "json"])
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let rows: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        let status = |row: &serde_json::Value| row["Status"].clone();
        let of = |row: &serde_json::Value| status(row)["header"]["member_id"].as_u64();
        rows.as_array()?.iter().zip(asked).find_map(|(row, number)| {
            let leader = status(row)["leader"].as_u64().filter(|leader| *leader != 0);
            (leader.is_some() && leader == of(row)).then_some(*number)
        })
    }
}

fn etcd(report: &mut Report) -> anyhow::Result<Option<Vec<f64>>> {
    if ["etcd", "etcdctl"].iter().any(|name| which(name).is_none()) {
        return Ok(None);
    }
    let dir = tempfile::tempdir()?;
    let mut cluster = Etcd { dir, members: (0..ETCD).map(|_| None).collect() };
    (0..ETCD).try_for_each(|number| cluster.start(number))?;
    let all: Vec<usize> = (0..ETCD).collect();
    let mut took = Vec::new();
    for _ in 0..KILLS {
        let mut leader = None;
        wait_until("a leader of etcd's", PATIENCE, || {
            leader = cluster.leader(&all);
            Ok(leader.is_some())
        })?;
        let leader = leader.context("no leader")?;
        report.progress(format!("etcd's m{leader} is killed"));
        let left: Vec<usize> = all.iter().copied().filter(|number| *number != leader).collect();
        let mut member = cluster.members[leader].take().context("it does not run")?;
        let killed = Instant::now();
        member.kill()?;
        member.wait()?;
        wait_until("another leader of etcd's", PATIENCE, || Ok(cluster.leader(&left).is_some()))?;
        took.push(killed.elapsed().as_secs_f64());
        cluster.start(leader)?;
    }
    ensure!(took.len() == KILLS);
    Ok(Some(took))
}

fn which(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
