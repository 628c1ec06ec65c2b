//! What user space and the kernel programs hand each other: structures of 64-bit words in the
//! machine's byte order, declared in `bpf/monitor.bpf.c`.

use std::time::Duration;

use phantom_model::{Limit, Limits, Percent, Resource};

/// A level that nothing exceeds.
const NO_LIMIT: u64 = u64::MAX;

/// `N` words, ready to be a program's context.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words<const N: usize>([u64; N]);

impl<const N: usize> Words<N> {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// `None` if there are too few bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut words = [0; N];
        let mut chunks = bytes.chunks_exact(8);
        for word in &mut words {
            *word = u64::from_ne_bytes(chunks.next()?.try_into().ok()?);
        }
        Some(Self(words))
    }
}

/// A limit as the kernel programs compare it: CPU nanoseconds used in a window, or bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KernelLimit {
    level: u64,
    width_ns: u64,
}

impl KernelLimit {
    pub(crate) fn cpu(limits: &Limits) -> Self {
        match limits.get(Resource::Cpu) {
            Some(Limit::Cpu { level, window }) => {
                let width_ns = nanos(window.0);
                let level = u128::from(level.0) * u128::from(width_ns) / 100;
                Self { level: u64::try_from(level).unwrap_or(NO_LIMIT), width_ns }
            }
            _ => Self { level: NO_LIMIT, width_ns: nanos(Limit::DEFAULT_CPU_WINDOW) },
        }
    }

    pub(crate) fn memory(limits: &Limits) -> Self {
        match limits.get(Resource::Memory) {
            Some(Limit::Memory { level, window }) => {
                Self { level: level.0, width_ns: nanos(window.0) }
            }
            _ => Self { level: NO_LIMIT, width_ns: nanos(Limit::DEFAULT_MEMORY_WINDOW) },
        }
    }

    pub(crate) fn width(self) -> Duration {
        Duration::from_nanos(self.width_ns)
    }
}

/// What the kernel programs must know of the machine.
pub(crate) fn machine(cpus: u64, page_bytes: u64) -> Words<2> {
    Words([cpus, page_bytes])
}

/// Context of `phantom_watch`. A `serial` of 0 frees the slot.
pub(crate) fn watch_call(slot: u32, fd: i32, serial: u64, limits: &Limits) -> Words<8> {
    let (cpu, memory) = (KernelLimit::cpu(limits), KernelLimit::memory(limits));
    Words([
        u64::from(slot),
        u64::try_from(fd).unwrap_or(u64::MAX),
        serial,
        0, // the program finds the cgroup's address
        cpu.level,
        cpu.width_ns,
        memory.level,
        memory.width_ns,
    ])
}

/// Context of `phantom_read`, as it is sent.
pub(crate) fn read_call(slot: u32) -> Words<14> {
    let mut words = [0; 14];
    words[0] = u64::from(slot);
    Words(words)
}

/// Context of `phantom_read`, as it comes back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadAnswer {
    pub(crate) serial: u64,
    pub(crate) at: Duration,
    pub(crate) begin: Duration,
    pub(crate) cpu: Duration,
    pub(crate) used: Duration,
    pub(crate) peak_used: Duration,
    pub(crate) resident_bytes: u64,
    pub(crate) peak_bytes: u64,
    pub(crate) processes: u64,
    pub(crate) cpu_over: bool,
    pub(crate) memory_over: bool,
    pub(crate) timer_runs: u64,
    pub(crate) timer_busy: Duration,
}

impl From<Words<14>> for ReadAnswer {
    fn from(Words(words): Words<14>) -> Self {
        Self {
            serial: words[1],
            at: Duration::from_nanos(words[2]),
            begin: Duration::from_nanos(words[3]),
            cpu: Duration::from_nanos(words[4]),
            used: Duration::from_nanos(words[5]),
            peak_used: Duration::from_nanos(words[6]),
            resident_bytes: words[7],
            peak_bytes: words[8],
            processes: words[9],
            cpu_over: words[10] != 0,
            memory_over: words[11] != 0,
            timer_runs: words[12],
            timer_busy: Duration::from_nanos(words[13]),
        }
    }
}

/// A record of the ring buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CrossingRecord {
    pub(crate) serial: u64,
    pub(crate) resource: Resource,
    pub(crate) over: bool,
    pub(crate) measured: u64,
    pub(crate) at: Duration,
    pub(crate) crossed: Duration,
    pub(crate) since: Duration,
}

impl CrossingRecord {
    /// `None` if it is not one.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let Words(words) = Words::<7>::from_bytes(bytes)?;
        let resource = match words[1] {
            0 => Resource::Cpu,
            1 => Resource::Memory,
            _ => return None,
        };
        Some(Self {
            serial: words[0],
            resource,
            over: words[2] != 0,
            measured: words[3],
            at: Duration::from_nanos(words[4]),
            crossed: Duration::from_nanos(words[5]),
            since: Duration::from_nanos(words[6]),
        })
    }
}

/// CPU time used in some time, rounded up: what exceeds a limit never looks equal to it.
pub(crate) fn percent(used: Duration, time: Duration) -> Percent {
    let share = (used.as_nanos() * 100).div_ceil(time.as_nanos().max(1));
    Percent(u32::try_from(share).unwrap_or(u32::MAX))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_nanoseconds_and_bytes() {
        let limits: Limits = "cpu=150%/10s,memory=2GiB/5s".parse().unwrap();
        let second = 1_000_000_000;
        assert_eq!(
            KernelLimit::cpu(&limits),
            KernelLimit { level: 15 * second, width_ns: 10 * second }
        );
        assert_eq!(
            KernelLimit::memory(&limits),
            KernelLimit { level: 2 << 30, width_ns: 5 * second }
        );
        let most: Limits = "cpu=6553600%/24h".parse().unwrap();
        assert_eq!(KernelLimit::cpu(&most).level, 65_536 * 24 * 3600 * second);
        assert_eq!(KernelLimit::cpu(&Limits::default()).level, NO_LIMIT);
    }

    #[test]
    fn shares_are_rounded_up() {
        let second = Duration::from_secs(1);
        assert_eq!(percent(Duration::from_millis(1500), second), Percent(150));
        assert_eq!(percent(Duration::from_nanos(1_500_000_001), second), Percent(151));
        assert_eq!(percent(second, Duration::ZERO), Percent(u32::MAX));
    }

    #[test]
    fn short_or_foreign_records_are_refused() {
        assert!(CrossingRecord::parse(&[0; 55]).is_none());
        let mut record = vec![0; 56];
        assert!(CrossingRecord::parse(&record).is_some());
        record[8] = 2;
        assert!(CrossingRecord::parse(&record).is_none());
    }
}
