//! What this node tells the others about itself, and the doctor's findings behind it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use anyhow::Context;
use phantom_checkpoint::Criu;
use phantom_checkpoint::canary::canary;
use phantom_model::{Bytes, Capability, NodeFacts, NodeId};

use crate::account;
use crate::config::Config;
use crate::doctor;

/// How long a daemon that starts waits for an examination.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// How often it is looked whether CRIU is still the one that was examined.
pub const CRIU_EVERY: Duration = Duration::from_secs(10);
/// How long it waits when it asks again for what did not answer then: on a machine that has just
/// been switched on, everything starts at once.
pub const AGAIN: [Duration; 3] =
    [Duration::from_secs(60), Duration::from_secs(120), Duration::from_secs(240)];

/// The CRIU that would be used now.
pub fn criu_now(config: &Config) -> Option<PathBuf> {
    doctor::criu_file(&places(config))
}

fn places(config: &Config) -> doctor::Places {
    let home = account::of(nix::unistd::getuid().as_raw()).map(|account| account.home_dir);
    doctor::Places {
        run_dir: config.run_dir.clone(),
        cache_dir: config.cache_dir.clone(),
        home_dir: home.unwrap_or_else(|_| "/root".into()),
        criu: std::env::var_os("PHANTOM_CRIU").map(PathBuf::from),
    }
}

/// Examines this machine.
pub fn examine(config: &Config, limit: Duration) -> doctor::Report {
    let places = places(config);
    let hooks = doctor::Hooks {
        canary: Some(Arc::new(try_criu)),
        job_control: Some(Arc::new(|program| Ok(Criu::at(program).restores_job_control()))),
    };
    doctor::examine(&places, &hooks, limit)
}

/// Saves and restores a throw-away process.
fn try_criu(program: &Path) -> Result<String, String> {
    let dir = PathBuf::from(format!("/run/phantom-canary-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let tried = canary(&Criu::at(program), &dir);
    let _ = std::fs::remove_dir_all(&dir);
    let report = tried.map_err(|error| error.to_string())?;
    let millis = |took: Duration| took.as_millis();
    Ok(format!(
        "a process was saved in {} ms and restored in {} ms",
        millis(report.dump),
        millis(report.restore)
    ))
}

/// Gives the node's facts, measuring what changes each time.
pub struct FactBook {
    learned: RwLock<Learned>,
    cpu: Mutex<CpuSample>,
}

/// What only another examination changes.
struct Learned {
    facts: NodeFacts,
    criu: Option<PathBuf>,
    stamp: Option<Stamp>,
}

/// Tells one version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified_ns: i128,
}

impl Stamp {
    fn of(file: Option<&Path>) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(file?).ok()?;
        let modified_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        Some(Self { inode: meta.ino(), bytes: meta.len(), modified_ns })
    }
}

#[derive(Debug, Clone, Copy)]
struct CpuSample {
    at: Instant,
    idle_ticks: u64,
    idle_centicores: u32,
}

/// Samples closer than this say more about the tick than about the load.
const MIN_SAMPLE_SECONDS: f64 = 0.5;

impl FactBook {
    /// Learns from a first examination.
    pub fn new(node: NodeId, config: &Config, report: &doctor::Report) -> anyhow::Result<Self> {
        let system = nix::sys::utsname::uname()?;
        let cores = std::thread::available_parallelism()?.get() as u32;
        let facts = NodeFacts {
            node,
            name: config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            arch: system.machine().to_string_lossy().into_owned(),
            kernel: system.release().to_string_lossy().into_owned(),
            cpu_flags: cpu_flags()?,
            cores,
            idle_centicores: cores * 100,
            mflops: config.claim_mflops.unwrap_or_else(own_mflops),
            load_centi: load_centi(),
            memory_total: memory("MemTotal:")?,
            memory_free: memory("MemAvailable:")?,
            capabilities: Vec::new(),
            canary: String::new(),
            criu_version: None,
            criu_restores_job_control: false,
        };
        let sample = CpuSample {
            at: Instant::now(),
            idle_ticks: idle_ticks()?,
            idle_centicores: cores * 100,
        };
        let learned = RwLock::new(Learned { facts, criu: None, stamp: None });
        let book = Self { learned, cpu: Mutex::new(sample) };
        book.learn(report);
        Ok(book)
    }

    /// Learns from another examination.
    pub fn learn(&self, report: &doctor::Report) {
        let mut learned = self.learned.write().unwrap_or_else(PoisonError::into_inner);
        let criu = report.criu.as_ref();
        learned.criu = criu.map(|criu| criu.path.clone());
        learned.facts.capabilities = report.capabilities();
        learned.facts.canary = report.canary();
        learned.stamp = Stamp::of(learned.criu.as_deref());
        learned.facts.criu_version = criu.map(|criu| criu.version);
        learned.facts.criu_restores_job_control =
            criu.is_some_and(|criu| criu.restores_job_control);
    }

    fn learned(&self) -> RwLockReadGuard<'_, Learned> {
        self.learned.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The facts as of now.
    pub fn now(&self) -> NodeFacts {
        let mut facts = self.learned().facts.clone();
        facts.idle_centicores = self.idle_centicores(facts.cores);
        facts.load_centi = load_centi();
        facts.memory_free = memory("MemAvailable:").unwrap_or_default();
        facts
    }

    /// Whether CRIU is another than the one that was examined: upgraded, gone, or put there since.
    pub fn is_outdated(&self, found: Option<&Path>) -> bool {
        let learned = self.learned();
        learned.criu.as_deref() != found || Stamp::of(found) != learned.stamp
    }

    /// Speed of one core, Mflop/s.
    pub fn mflops(&self) -> u32 {
        self.learned().facts.mflops
    }

    /// Whether this node can do `what`.
    pub fn can(&self, what: Capability) -> bool {
        self.learned().facts.can(what)
    }

    /// The CRIU to use.
    pub fn criu(&self) -> Option<PathBuf> {
        self.learned().criu.clone()
    }

    fn idle_centicores(&self, cores: u32) -> u32 {
        let mut last = self.cpu.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = last.at.elapsed().as_secs_f64();
        if seconds >= MIN_SAMPLE_SECONDS
            && let Ok(ticks) = idle_ticks()
        {
            // /proc/stat counts in USER_HZ, which is 100 on Linux: a tick is a centisecond.
            let idle = ticks.saturating_sub(last.idle_ticks) as f64 / seconds;
            let most = f64::from(cores * 100);
            *last = CpuSample {
                at: Instant::now(),
                idle_ticks: ticks,
                idle_centicores: idle.clamp(0.0, most) as u32,
            };
        }
        last.idle_centicores
    }
}

/// Speed of one core: the best of a few pieces of work, as the others of this node's programs that
/// run meanwhile make it slower.
fn own_mflops() -> u32 {
    let once = || {
        let began = Instant::now();
        std::hint::black_box(phantom_broker::work(1, phantom_broker::STEPS));
        phantom_broker::mflops(phantom_broker::STEPS, began.elapsed())
    };
    (0..2 * phantom_broker::PIECES).map(|_| once()).fold(0.0, f64::max) as u32
}

/// The load average of the last minute (proc(5)), in hundredths.
pub(super) fn load_centi() -> u32 {
    let text = read("/proc/loadavg").unwrap_or_default();
    let load: Option<f64> = text.split_whitespace().next().and_then(|load| load.parse().ok());
    load.map_or(0, |load| (load * 100.0) as u32)
}

fn read(path: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(Path::new(path)).with_context(|| format!("cannot read {path}"))
}

fn cpu_flags() -> anyhow::Result<Vec<String>> {
    let info = read("/proc/cpuinfo")?;
    let mut flags: Vec<String> = info
        .lines()
        .find_map(|line| line.strip_prefix("flags")?.split_once(':'))
        .map(|(_, flags)| flags.split_whitespace().map(str::to_owned).collect())
        .unwrap_or_default();
    flags.sort();
    Ok(flags)
}

fn memory(key: &str) -> anyhow::Result<Bytes> {
    read("/proc/meminfo")?
        .lines()
        .find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB")?.trim().parse().ok())
        .map(|kib: u64| Bytes(kib << 10))
        .with_context(|| format!("/proc/meminfo has no {key}"))
}

fn idle_ticks() -> anyhow::Result<u64> {
    let stat = read("/proc/stat")?;
    let fields: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // cpu user nice system idle iowait …
    match fields[..] {
        [_, _, _, idle, iowait, ..] => Ok(idle + iowait),
        _ => anyhow::bail!("/proc/stat has no line for all CPUs"),
    }
}
