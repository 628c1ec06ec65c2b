//! `bench qos`: what watching costs the watched, how late a verdict falls, and what the monitor
//! itself takes.

mod group;
mod pingpong;

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};
use phantom_ebpf::Monitor;
use phantom_model::{AppId, Limits, Verdict};
use phantom_qos::{Command, Config, Crossing, Machine};

use super::{Row, median};
use group::Group;

const BENCH: &str = "qos";
const APP: AppId = AppId(1);
const PINGPONG_PAIRS: usize = 15;
const VERDICTS: usize = 9;
const PROCESSES: usize = 500;
const CAPSULES: usize = 50;
const AT_REST: Duration = Duration::from_secs(5);

/// Runs all cases; each row is handed over as soon as it is known.
pub fn run(out: &mut dyn FnMut(Row)) -> anyhow::Result<()> {
    out(ping_pong()?);
    let spin = "while :; do :; done";
    verdict_delay("one spinning thread", "cpu=20%/500ms", spin, out)?;
    let hold = "held=$(head -c 100000000 /dev/zero | tr '\\0' x); sleep 100";
    verdict_delay("100 MB held", "memory=64MiB/500ms", hold, out)?;
    at_rest(1, out)?;
    at_rest(CAPSULES, out)
}

/// Time of a round trip between two threads on one core, unwatched and watched in turn.
fn ping_pong() -> anyhow::Result<Row> {
    let group = Group::new("pingpong")?;
    // All threads of this process, so those of the ping-pong too.
    let _inside = group.enter()?;
    let limits: Limits = "cpu=5000%/10s,memory=1TiB".parse()?;
    let (mut off, mut on) = (Vec::new(), Vec::new());
    pingpong::round_trip()?; // warms up
    for pair in 0..PINGPONG_PAIRS {
        // Which of the two comes first alternates, so that a drift of the machine cancels out.
        for watched in [pair % 2 == 0, pair % 2 != 0] {
            let mut monitor = None;
            if watched {
                let mut loaded = Monitor::load()?;
                loaded.watch_path(APP, group.path(), &limits)?;
                monitor = Some(loaded);
            }
            let time = pingpong::round_trip()?.as_secs_f64() * 1e6;
            if watched { on.push(time) } else { off.push(time) }
            drop(monitor);
        }
    }
    let (value, baseline_value) = (median(&on), median(&off));
    let ratio = value / baseline_value;
    Ok(Row {
        bench: BENCH,
        case: "ping-pong of two threads on one core".into(),
        metric: "round trip, watched",
        value,
        unit: "us",
        baseline: "not watched".into(),
        baseline_value,
        ratio,
        target: "ratio <= 1.04".into(),
        met: Some(ratio <= 1.04),
    })
}

/// From the moment the window is full to the verdict in user space.
fn verdict_delay(
    case: &str,
    limits: &str,
    script: &str,
    out: &mut dyn FnMut(Row),
) -> anyhow::Result<()> {
    let limits: Limits = limits.parse()?;
    let mut monitor = Monitor::load()?;
    let mut delays = Vec::new();
    for _ in 0..VERDICTS {
        let mut machine = Machine::new(Config::default());
        let group = Group::new("verdict")?;
        machine.handle_watch(APP, &limits);
        monitor.watch_path(APP, group.path(), &limits)?;
        let _process = group.shell(script)?;
        delays.push(first_verdict(&mut monitor, &mut machine)?.delay.as_secs_f64() * 1e3);
        monitor.unwatch(APP)?;
    }
    let worst = delays.iter().copied().fold(0.0, f64::max);
    for (metric, value, gate) in [
        ("window full to verdict, median", median(&delays), true),
        ("window full to verdict, worst", worst, false),
    ] {
        out(Row {
            bench: BENCH,
            case: format!("{case}, {limits}"),
            metric,
            value,
            unit: "ms",
            baseline: "bound".into(),
            baseline_value: 50.0,
            ratio: value / 50.0,
            target: if gate { "value <= 50".into() } else { String::new() },
            met: gate.then_some(value <= 50.0),
        });
    }
    Ok(())
}

fn first_verdict(monitor: &mut Monitor, machine: &mut Machine) -> anyhow::Result<Verdict> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
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
        let mut fds = [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::try_from(left)?).context("cannot wait for a crossing")?;
    }
}

/// What it takes to watch 500 idle processes in so many capsules, against reading /proc.
fn at_rest(capsules: usize, out: &mut dyn FnMut(Row)) -> anyhow::Result<()> {
    let limits: Limits = "cpu=150%/10s,memory=2GiB".parse()?;
    let mut groups = Vec::new();
    for _ in 0..capsules {
        let group = Group::new("rest")?;
        let each = PROCESSES / capsules;
        let process = group.shell(&format!(
            "i=1; while [ $i -lt {each} ]; do sleep 1000 & i=$((i+1)); done; exec sleep 1000"
        ))?;
        groups.push((group, process));
    }
    let mut pids = Vec::new();
    for (group, _) in &groups {
        pids.extend(group.wait_for_processes(PROCESSES / capsules)?);
    }

    let mut monitor = Monitor::load()?;
    for (index, (group, _)) in groups.iter().enumerate() {
        monitor.watch_path(AppId(index as u64), group.path(), &limits)?;
    }
    let (before, own_before, begin) = (monitor.cost()?, own_cpu()?, Instant::now());
    std::thread::sleep(AT_REST);
    let busy = monitor.cost()?.busy - before.busy + own_cpu()?.saturating_sub(own_before);
    let value = 100.0 * busy.as_secs_f64() / begin.elapsed().as_secs_f64();

    let (own_before, begin) = (own_cpu()?, Instant::now());
    while begin.elapsed() < AT_REST {
        read_proc(&pids);
        std::thread::sleep(Duration::from_millis(100));
    }
    let polled = own_cpu()?.saturating_sub(own_before);
    let baseline_value = 100.0 * polled.as_secs_f64() / begin.elapsed().as_secs_f64();
    out(Row {
        bench: BENCH,
        case: format!("{PROCESSES} idle processes in {capsules} capsule(s), {limits}"),
        metric: "CPU of the monitor",
        value,
        unit: "% of a core",
        baseline: "polling /proc at 10 Hz".into(),
        baseline_value,
        ratio: value / baseline_value,
        target: String::new(),
        met: None,
    });
    Ok(())
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
