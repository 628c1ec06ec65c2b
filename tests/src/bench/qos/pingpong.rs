use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

const ROUNDS: u32 = 40_000;

/// Mean time of a round trip between two new threads on one core, by pipes.
pub(super) fn round_trip() -> anyhow::Result<Duration> {
    let cpu = first_cpu()?;
    let (there, mut ping) = pipe().context("pipe")?;
    let (mut pong, back) = pipe().context("pipe")?;
    std::thread::scope(|scope| {
        scope.spawn(move || echo(cpu, there, back));
        let measured = scope.spawn(move || -> anyhow::Result<Duration> {
            pin(cpu)?;
            let mut byte = [0];
            let mut round = || -> std::io::Result<()> {
                ping.write_all(&byte)?;
                pong.read_exact(&mut byte)
            };
            for _ in 0..ROUNDS / 20 {
                round()?;
            }
            let begin = Instant::now();
            for _ in 0..ROUNDS {
                round()?;
            }
            Ok(begin.elapsed() / ROUNDS)
        });
        measured
            .join()
            .map_err(|_| anyhow!("the measuring thread panicked"))?
    })
}

/// Sends every byte back until the other side closes.
fn echo(cpu: usize, mut from: PipeReader, mut to: PipeWriter) -> anyhow::Result<()> {
    pin(cpu)?;
    let mut byte = [0];
    while from.read(&mut byte)? == 1 {
        to.write_all(&byte)?;
    }
    Ok(())
}

/// A core this process may use.
fn first_cpu() -> anyhow::Result<usize> {
    let allowed = sched_getaffinity(Pid::this()).context("sched_getaffinity")?;
    let mut cpus = 0..CpuSet::count();
    cpus.find(|cpu| allowed.is_set(*cpu).unwrap_or(false))
        .context("no core to run on")
}

/// Binds the calling thread to one core.
fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot run on core {cpu}"))
}
