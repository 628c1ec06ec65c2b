//! What a process takes of the machine.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use nix::unistd::{Pid, SysconfVar, sysconf};

/// What a process has used and holds.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// CPU time of all its threads, living and ended.
    pub cpu: Duration,
    /// Resident memory, MiB.
    pub resident_mib: f64,
    /// What of it is the process's own, not of files, MiB.
    pub anonymous_mib: f64,
    /// Open files.
    pub files: usize,
    /// Threads.
    pub threads: usize,
}

impl Usage {
    /// Of a process of this machine.
    pub fn of(pid: Pid) -> anyhow::Result<Self> {
        Self::read(&Path::new("/proc").join(pid.to_string()))
            .with_context(|| format!("what process {pid} uses"))
    }

    fn read(process: &Path) -> anyhow::Result<Self> {
        let status = std::fs::read_to_string(process.join("status"))?;
        let mib = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let kib: Option<f64> =
                line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            Ok::<_, anyhow::Error>(kib.with_context(|| format!("no {key}"))? / 1024.0)
        };
        let stat = std::fs::read_to_string(process.join("stat"))?;
        // Behind the name, which may hold anything: state is the third field, user time the 14th.
        let (_, fields) = stat.rsplit_once(") ").context("no name")?;
        let ticks =
            fields.split(' ').skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
        Ok(Self {
            cpu: Duration::from_secs_f64(ticks as f64 / per_second as f64),
            resident_mib: mib("VmRSS:")?,
            anonymous_mib: mib("RssAnon:")?,
            files: std::fs::read_dir(process.join("fd"))?.count(),
            threads: std::fs::read_dir(process.join("task"))?.count(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_own() {
        let before = Usage::of(Pid::this()).unwrap();
        let memory = vec![1_u8; 64 << 20];
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        let mut sum = 0_u64;
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(100) {
            sum += memory.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        }
        let after = Usage::of(Pid::this()).unwrap();
        assert!(after.anonymous_mib > before.anonymous_mib + 60.0, "{before:?} {after:?}");
        assert!(after.resident_mib >= after.anonymous_mib, "{after:?}");
        assert!(after.cpu > before.cpu, "{before:?} {after:?} {sum}");
        assert!(after.files >= 1 && after.threads >= 1, "{after:?}");
        drop(file);
    }
}
