use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::time::Duration;

use anyhow::{Context, anyhow};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

const ROUNDS: u32 = 5_000;

/// Mean time of a round trip between two new threads on one core, by pipes.
///
/// One of the two is always running or about to, so the CPU time of this process is the time that
/// passes, less what other programs take of that core: on a busy machine their turns would
/// otherwise drown what is measured. Time in interrupts, where the monitor's timer runs, is in it
/// unless the kernel accounts interrupts apart.
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
            let begin = cpu_time()?;
            for _ in 0..ROUNDS {
                round()?;
            }
            Ok((cpu_time()? - begin) / ROUNDS)
        });
        measured.join().map_err(|_| anyhow!("the measuring thread panicked"))?
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

/// CPU time of all threads of this process.
fn cpu_time() -> anyhow::Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).context("clock_gettime")?;
    Ok(time.into())
}

/// A core this process may use.
fn first_cpu() -> anyhow::Result<usize> {
    let allowed = sched_getaffinity(Pid::this()).context("sched_getaffinity")?;
    let mut cpus = 0..CpuSet::count();
    cpus.find(|cpu| allowed.is_set(*cpu).unwrap_or(false)).context("no core to run on")
}

/// Binds the calling thread to one core.
fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot run on core {cpu}"))
}
