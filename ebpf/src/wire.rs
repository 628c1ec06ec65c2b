//! What user space and the kernel programs hand each other: structures of 64-bit words in the
//! machine's byte order, declared in `bpf/monitor.bpf.c`.

use std::time::Duration;

use phantom_model::{Limits, Resource};

/// A level that nothing exceeds.
const NO_LIMIT: u64 = u64::MAX;

const SECOND_NS: u64 = 1_000_000_000;

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

/// A limit as the kernel programs compare it: what a meter (nanoseconds, bytes) may grow in a
/// window, or resident bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KernelLimit {
    level: u64,
    width_ns: u64,
}

impl KernelLimit {
    /// Without a limit a level that nothing exceeds, over the default window.
    pub(crate) fn of(limits: &Limits, resource: Resource) -> Self {
        let Some(limit) = limits.get(resource) else {
            return Self { level: NO_LIMIT, width_ns: nanos(resource.default_window().0) };
        };
        let width_ns = nanos(limit.window.0);
        let (level, width) = (u128::from(limit.level), u128::from(width_ns));
        let level = match resource {
            Resource::Cpu | Resource::Delay | Resource::Stutter => level * width / 100,
            Resource::Memory => level,
            Resource::Net | Resource::Disk => level * width / u128::from(SECOND_NS),
        };
        Self { level: u64::try_from(level).unwrap_or(NO_LIMIT), width_ns }
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
pub(crate) fn watch_call(slot: u32, fd: i32, serial: u64, limits: &Limits) -> Words<14> {
    // After the serial comes the cgroup's address, which the program finds.
    let mut words = [0; 14];
    words[..3].copy_from_slice(&[u64::from(slot), u64::try_from(fd).unwrap_or(u64::MAX), serial]);
    for (pair, resource) in words[4..].chunks_exact_mut(2).zip(Resource::OF_AN_APP) {
        let limit = KernelLimit::of(limits, resource);
        pair.copy_from_slice(&[limit.level, limit.width_ns]);
    }
    Words(words)
}

/// Words of the context of `phantom_read`.
pub(crate) const READ_WORDS: usize = 13 + 3 * Resource::OF_AN_APP.len();

/// Context of `phantom_read`, as it is sent.
pub(crate) fn read_call(slot: u32) -> Words<READ_WORDS> {
    let mut words = [0; READ_WORDS];
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
    pub(crate) delay: Duration,
    pub(crate) net_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) processes: u64,
    pub(crate) keeps_delay: bool,
    pub(crate) keeps_disk: bool,
    pub(crate) timer_runs: u64,
    pub(crate) timer_busy: Duration,
    /// One for each resource of an app: growth in the window, or bytes.
    pub(crate) uses: [KernelUse; Resource::OF_AN_APP.len()],
}

/// What `phantom_read` tells of one resource.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct KernelUse {
    pub(crate) now: u64,
    pub(crate) peak: u64,
    pub(crate) over: bool,
}

impl From<Words<READ_WORDS>> for ReadAnswer {
    fn from(Words(words): Words<READ_WORDS>) -> Self {
        let mut uses = [KernelUse::default(); Resource::OF_AN_APP.len()];
        for (told, place) in words[13..].chunks_exact(3).zip(&mut uses) {
            *place = KernelUse { now: told[0], peak: told[1], over: told[2] != 0 };
        }
        Self {
            serial: words[1],
            at: Duration::from_nanos(words[2]),
            begin: Duration::from_nanos(words[3]),
            cpu: Duration::from_nanos(words[4]),
            delay: Duration::from_nanos(words[5]),
            net_bytes: words[6],
            disk_bytes: words[7],
            processes: words[8],
            keeps_delay: words[9] != 0,
            keeps_disk: words[10] != 0,
            timer_runs: words[11],
            timer_busy: Duration::from_nanos(words[12]),
            uses,
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
        let resource = *Resource::OF_AN_APP.get(usize::try_from(words[1]).ok()?)?;
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

/// An amount in the unit of its resource's limits, from how much a meter grew in some time; rounded
/// up, so that what exceeds a limit never looks equal to it.
pub(crate) fn amount(resource: Resource, grown: u64, time: Duration) -> u64 {
    let unit = match resource {
        Resource::Memory => return grown,
        Resource::Cpu | Resource::Delay | Resource::Stutter => 100,
        Resource::Net | Resource::Disk => u128::from(SECOND_NS),
    };
    let amount = (u128::from(grown) * unit).div_ceil(time.as_nanos().max(1));
    u64::try_from(amount).unwrap_or(u64::MAX)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_nanoseconds_and_bytes() {
        let limits: Limits =
            "cpu=150%/10s,memory=2GiB/5s,net=10MiB/s/30s,delay=20%/1s".parse().unwrap();
        for (resource, level, width_s) in [
            (Resource::Cpu, 15 * SECOND_NS, 10),
            (Resource::Memory, 2 << 30, 5),
            (Resource::Net, 300 << 20, 30),
            (Resource::Delay, SECOND_NS / 5, 1),
            (Resource::Disk, NO_LIMIT, 10),
        ] {
            let limit = KernelLimit::of(&limits, resource);
            assert_eq!(limit, KernelLimit { level, width_ns: width_s * SECOND_NS }, "{resource}");
        }
        let most: Limits = "cpu=6553600%/24h".parse().unwrap();
        assert_eq!(KernelLimit::of(&most, Resource::Cpu).level, 65_536 * 24 * 3600 * SECOND_NS);
    }

    #[test]
    fn amounts_are_rounded_up() {
        let second = Duration::from_secs(1);
        assert_eq!(amount(Resource::Cpu, 1_500_000_000, second), 150);
        assert_eq!(amount(Resource::Cpu, 1_500_000_001, second), 151);
        assert_eq!(amount(Resource::Delay, SECOND_NS, Duration::ZERO), 100 * SECOND_NS);
        assert_eq!(amount(Resource::Net, 3001, 3 * second), 1001);
        assert_eq!(amount(Resource::Memory, 77, second), 77);
    }

    #[test]
    fn short_or_foreign_records_are_refused() {
        assert!(CrossingRecord::parse(&[0; 55]).is_none());
        let mut record = vec![0; 56];
        assert!(CrossingRecord::parse(&record).is_some());
        record[8] = 5;
        assert!(CrossingRecord::parse(&record).is_none());
    }
}
