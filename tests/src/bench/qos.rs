//! `bench qos`: what watching costs the watched, how late a verdict falls, and what the monitor
//! itself takes.

mod counters;
mod daemon;
mod group;
mod pingpong;

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};
use phantom_ebpf::Monitor;
use phantom_model::{AppId, Limits, Verdict};
use phantom_qos::{Command, Config, Crossing, Machine};

use super::{Bound, Report, Row, in_turns, median};
use group::Group;

const BENCH: &str = "qos";
const APP: AppId = AppId(1);
/// Everything that can be limited of an app, out of reach.
const ALL_LIMITS: &str = "cpu=5000%/10s,memory=1TiB,delay=6553600%,net=1TiB/s,disk=1TiB/s";
/// An interface behind which nobody listens, and a socket of the shell that sends there.
const NETWORK: &str = "ip link add d0 type veth peer name d1 && ip addr add 10.9.9.1/24 dev d0 && \
    ip link set d0 up && ip link set d1 up && \
    ip neigh add 10.9.9.2 lladdr 02:00:00:00:00:02 dev d0 && exec 3>/dev/udp/10.9.9.2/9 &&";
/// Datagrams over the loopback in a run.
const DATAGRAMS: u32 = 20_000;
const PINGPONG_PAIRS: usize = 41;
const PACKET_PAIRS: usize = 21;
const VERDICTS: usize = 9;
const PROCESSES: usize = 500;
const CAPSULES: usize = 50;
const AT_REST: Duration = Duration::from_secs(3);
const AT_REST_PAIRS: usize = 3;

/// Runs all cases; each row is reported as soon as it is known.
pub fn run(report: &mut Report) -> anyhow::Result<()> {
    ping_pong(report)?;
    packets(report)?;
    let spin = "while :; do :; done";
    verdict_delay(report, "one spinning thread", "cpu=20%/500ms", spin)?;
    let hold = "held=$(head -c 100000000 /dev/zero | tr '\\0' x); sleep 100";
    verdict_delay(report, "100 MB held", "memory=64MiB/500ms", hold)?;
    let crowd = "for i in 1 2 3 4 5 6; do while :; do :; done & done; wait";
    verdict_delay(report, "six spinning processes", "delay=50%/500ms", crowd)?;
    let send = format!("exec unshare -n bash -c '{NETWORK} while :; do printf %1000s x >&3; done'");
    verdict_delay(report, "packets of 1 kB", "net=500kB/s/500ms", &send)?;
    let file = std::env::temp_dir().join(format!("phantom-bench-{}", std::process::id()));
    let write = format!("while :; do dd if=/dev/zero of={} bs=1M count=16; done", file.display());
    verdict_delay(report, "a file written", "disk=5MB/s/500ms", &write)?;
    let _ = std::fs::remove_file(file);
    verdict_delay(report, "six spinning processes", "stutter=30%/500ms", crowd)?;
    counters::agree(report)?;
    at_rest(report, 1)?;
    at_rest(report, CAPSULES)?;
    daemon::at_rest(report)
}

/// Time of a round trip between two threads on one core, watched and unwatched in turns.
fn ping_pong(report: &mut Report) -> anyhow::Result<()> {
    let group = Group::new("pingpong")?;
    // All threads of this process, so those of the ping-pong too.
    let _inside = group.enter()?;
    let limits: Limits = ALL_LIMITS.parse()?;
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let unwatched = || pingpong::round_trip().map(micros);
    let watched = || {
        let mut monitor = Monitor::load()?;
        monitor.watch_path(APP, group.path(), &limits)?;
        pingpong::round_trip().map(micros)
    };
    unwatched()?; // warms up
    let (on, off) = in_turns(PINGPONG_PAIRS, watched, unwatched)?;
    let case = "ping-pong of two threads on one core";
    let row = Row::new(BENCH, case, "round trip, watched", on, "us");
    report.row(row.against("not watched", off).must(Bound::Ratio(1.04)))
}

/// Time of a datagram to a socket of this process, watched and unwatched in turns.
fn packets(report: &mut Report) -> anyhow::Result<()> {
    let group = Group::new("packets")?;
    let _inside = group.enter()?;
    let limits: Limits = ALL_LIMITS.parse()?;
    let unwatched = || {
        let (from, to) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
        from.connect(to.local_addr()?)?;
        let (begin, mut buffer) = (Instant::now(), [0; 1000]);
        for _ in 0..DATAGRAMS {
            from.send(&buffer)?;
            to.recv(&mut buffer)?;
        }
        Ok(begin.elapsed().as_secs_f64() * 1e6 / f64::from(DATAGRAMS))
    };
    let watched = || {
        let mut monitor = Monitor::load()?;
        monitor.watch_path(APP, group.path(), &limits)?;
        unwatched()
    };
    unwatched()?; // warms up
    let (on, off) = in_turns(PACKET_PAIRS, watched, unwatched)?;
    let case = "a datagram of 1 kB to oneself";
    let row = Row::new(BENCH, case, "sent and received, watched", on, "us");
    report.row(row.against("not watched", off))
}

/// From the moment the window is full to the verdict in user space.
fn verdict_delay(
    report: &mut Report,
    case: &str,
    limits: &str,
    script: &str,
) -> anyhow::Result<()> {
    let limits: Limits = limits.parse()?;
    let mut monitor = Monitor::load()?;
    let mut delays = Vec::new();
    for _ in 0..VERDICTS {
        let mut machine = Machine::new(Config::default());
        let group = Group::new("verdict")?;
        machine.handle_watch(APP, &limits, false);
        monitor.watch_path(APP, group.path(), &limits)?;
        let _process = group.shell(script)?;
        delays.push(first_verdict(&mut monitor, &mut machine)?.delay.as_secs_f64() * 1e3);
        monitor.unwatch(APP)?;
    }
    let worst = delays.iter().copied().fold(0.0, f64::max);
    let case = format!("{case}, {limits}");
    let row = Row::new(BENCH, &case, "window full to verdict", median(&delays)?, "ms");
    report.row(row.must(Bound::Value(50.0)))?;
    report.row(Row::new(BENCH, &case, "the same, worst", worst, "ms"))
}

fn first_verdict(monitor: &mut Monitor, machine: &mut Machine) -> anyhow::Result<Verdict> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if machine.pressure_due().is_some_and(|due| due <= phantom_ebpf::now()) {
            let pressure = phantom_ebpf::pressure()?;
            let found = machine.handle_pressure(pressure, phantom_ebpf::now());
            if let Some(Command::Verdict { verdict, .. }) = found {
                return Ok(verdict);
            }
        }
        for seen in monitor.drain()? {
            let crossing = Crossing {
                app: seen.app,
                resource: seen.resource,
                over: seen.over,
                measured: seen.measured,
                crossed: seen.crossed,
                since: seen.since,
            };
            let now = phantom_ebpf::now();
            if let Some(Command::Verdict { verdict, .. }) = machine.handle_crossing(crossing, now) {
                return Ok(verdict);
            }
        }
        let left = end.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no verdict in 30 s");
        let next = machine.pressure_due().map(|due| due.saturating_sub(phantom_ebpf::now()));
        let left = next.map_or(left, |next| left.min(next + Duration::from_millis(1)));
        let mut fds = [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::try_from(left)?).context("cannot wait for a crossing")?;
    }
}

/// What it takes to watch 500 idle processes in so many capsules, against reading /proc.
fn at_rest(report: &mut Report, capsules: usize) -> anyhow::Result<()> {
    let limits: Limits = "cpu=150%/10s,memory=2GiB".parse()?;
    let each = PROCESSES / capsules;
    let mut groups = Vec::new();
    for _ in 0..capsules {
        let group = Group::new("rest")?;
        let process = group.shell(&format!(
            "i=1; while [ $i -lt {each} ]; do sleep 1000 & i=$((i+1)); done; exec sleep 1000"
        ))?;
        groups.push((group, process));
    }
    let mut pids = Vec::new();
    for (group, _) in &groups {
        pids.extend(group.wait_for_processes(each)?);
    }

    let watching = || {
        let mut monitor = Monitor::load()?;
        for (index, (group, _)) in groups.iter().enumerate() {
            monitor.watch_path(AppId(index as u64), group.path(), &limits)?;
        }
        let before = monitor.cost()?;
        let (own, time) = own_share(|| std::thread::sleep(AT_REST))?;
        Ok(own + percent(monitor.cost()?.busy - before.busy, time))
    };
    let polling = || {
        let (own, _) = own_share(|| {
            let begin = Instant::now();
            while begin.elapsed() < AT_REST {
                read_proc(&pids);
                std::thread::sleep(Duration::from_millis(100));
            }
        })?;
        Ok(own)
    };
    let (watched, polled) = in_turns(AT_REST_PAIRS, watching, polling)?;
    let of = if capsules == 1 { "one capsule".into() } else { format!("{capsules} capsules") };
    let case = format!("{PROCESSES} idle processes in {of}, {limits}");
    let row = Row::new(BENCH, case, "CPU of the monitor", watched, "% of a core");
    report.row(row.against("polling /proc at 10 Hz", polled))
}

/// CPU time of this process while `work` runs, in percent of a core, and how long that took.
fn own_share(work: impl FnOnce()) -> anyhow::Result<(f64, Duration)> {
    let (before, begin) = (own_cpu()?, Instant::now());
    work();
    let time = begin.elapsed();
    Ok((percent(own_cpu()?.saturating_sub(before), time), time))
}

fn percent(busy: Duration, time: Duration) -> f64 {
    100.0 * busy.as_secs_f64() / time.as_secs_f64()
}

/// What a monitor without kernel programs would read.
fn read_proc(pids: &[String]) {
    for pid in pids {
        for file in ["stat", "statm"] {
            // A process may have gone.
            let _ = std::hint::black_box(std::fs::read(format!("/proc/{pid}/{file}")));
        }
    }
}

/// CPU time of this process.
fn own_cpu() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("getrusage")?;
    let micros = |time: nix::sys::time::TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    let sum = micros(usage.user_time()) + micros(usage.system_time());
    Ok(Duration::from_micros(sum.try_into()?))
}
