//! What the monitor counts, against the kernel's own accounts, over a minute of a mixed load.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use phantom_ebpf::Monitor;
use phantom_model::Resource;

use super::group::Group;
use super::{APP, BENCH, NETWORK};
use crate::bench::{Bound, Report, Row};

const LASTS: Duration = Duration::from_secs(60);
/// How much less than all is missing or too much, at most.
const APART: Bound = Bound::Value(1.0);

/// Short-lived programs without a pause, and beside them for all of the time: two that spin, one
/// that writes to a disk, one that sends packets.
pub(super) fn agree(report: &mut Report) -> anyhow::Result<()> {
    let group = Group::new("counters")?;
    let file = std::env::temp_dir().join(format!("phantom-bench-{}", std::process::id()));
    let mut monitor = Monitor::load()?;
    monitor.watch_path(APP, group.path(), &"delay=6553600%,disk=1TiB/s,net=1TiB/s".parse()?)?;
    // Its children are born in the group, and its own accounts are known too.
    let inside = group.enter()?;
    // What its own threads had done before moved into the group with them; what earlier children
    // had done did not.
    let before = disk_of("/proc/self")?;
    let brought: u64 = std::fs::read_dir("/proc/self/task")?
        .map(|task| disk_of(task?.path().to_str().context("a path")?))
        .sum::<anyhow::Result<u64>>()?;
    let spin = "while :; do :; done";
    let write =
        format!("while :; do printf %65536s x > {0} && read -rN 1 < {0}; done", file.display());
    let send = format!("{NETWORK} while :; do printf %1000s x >&3; done");
    let mut lasting = vec![bash(&[], spin)?, bash(&[], spin)?, bash(&[], &write)?];
    let sender = bash(&["unshare", "-n"], &send)?;
    let (end, mut short, mut ended) = (Instant::now() + LASTS, 0u32, Sums::default());
    while Instant::now() < end {
        ended.add_and_reap(Command::new("true").spawn().context("cannot start true")?)?;
        short += 1;
    }
    for child in lasting.iter().chain([&sender]) {
        kill(pid(child)?, Signal::SIGSTOP)?;
        stopped(child.id())?;
    }
    let reading = monitor.reading(APP)?;
    let told_sent = sent_bytes(sender.id())?;
    let memory: u64 = memory_of(std::process::id())?
        + lasting
            .iter()
            .chain([&sender])
            .map(|it| memory_of(it.id()))
            .sum::<anyhow::Result<u64>>()?;
    lasting.push(sender);
    for mut child in lasting {
        child.kill()?;
        ended.add_and_reap(child)?;
    }
    let own = Sums::of(std::process::id())?;
    drop(inside);
    let _ = std::fs::remove_file(&file);
    // Again, as what was killed ran once more, to its end.
    let last = monitor.reading(APP)?;

    let case = format!("a minute of a mixed load with {short} short-lived programs");
    let mut row = |what: &str, counted: u64, told: u64| {
        let apart = 100.0 * counted.abs_diff(told) as f64 / told.max(1) as f64;
        report.row(
            Row::new(BENCH, &case, format!("{what}: apart from the kernel's"), apart, "%")
                .must(APART),
        )
    };
    row("CPU time", micros(last.cpu), group.usage_micros()?)?;
    row("memory", reading.of(Resource::Memory).now, memory)?;
    row("run-queue delay", micros(last.delay), (ended.delay_ns + own.delay_ns) / 1000)?;
    // What children did is added to the parent that waits for them.
    row("disk", last.disk.0, disk_of("/proc/self")? - before + brought)?;
    row("network", reading.net.0, told_sent)
}

/// What the kernel says of one process.
#[derive(Debug, Default)]
struct Sums {
    delay_ns: u64,
}

impl Sums {
    fn of(pid: u32) -> anyhow::Result<Self> {
        let mut delay_ns = 0;
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
            delay_ns += text.split(' ').nth(1).context("schedstat")?.parse::<u64>()?;
        }
        Ok(Self { delay_ns })
    }

    /// A zombie's accounts are final and can be read.
    fn add_and_reap(&mut self, mut child: Child) -> anyhow::Result<()> {
        waitid(Id::Pid(pid(&child)?), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
        let found = Self::of(child.id())?;
        self.delay_ns += found.delay_ns;
        child.wait()?;
        Ok(())
    }
}

fn disk_of(task: &str) -> anyhow::Result<u64> {
    let io = std::fs::read_to_string(format!("{task}/io"))?;
    Ok(field(&io, "read_bytes:")? + field(&io, "write_bytes:")?)
}

fn bash(by: &[&str], script: &str) -> anyhow::Result<Child> {
    let (first, rest) = by.split_first().unwrap_or((&"bash", &[]));
    let own = (!by.is_empty()).then_some("bash");
    let mut command = Command::new(first);
    command.args(rest).args(own).args(["-c", script]).stdin(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("cannot start bash")
}

fn pid(child: &Child) -> anyhow::Result<Pid> {
    Ok(Pid::from_raw(child.id().try_into()?))
}

fn stopped(pid: u32) -> anyhow::Result<()> {
    crate::node::wait_until("a process to stop", Duration::from_secs(5), || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        Ok(status.lines().any(|line| line.starts_with("State:\tT")))
    })
}

/// Anonymous and shared memory, in bytes.
fn memory_of(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(1024 * (field(&status, "RssAnon:")? + field(&status, "RssShmem:")?))
}

/// What the process's network interface sent, without Ethernet headers.
fn sent_bytes(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("net/dev"))?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("d0:")).context("no d0")?;
    let counts: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    ensure!(counts.len() > 9 && counts[9] > 1000, "hardly anything was sent: {line}");
    Ok(counts[8] - 14 * counts[9])
}

fn field(text: &str, name: &str) -> anyhow::Result<u64> {
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| name.to_owned())?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
