use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Once;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use libbpf_rs::query::ProgInfoIter;
use libbpf_rs::{
    Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, PrintLevel, ProgramInput,
    ProgramMut, ProgramType, RingBuffer, RingBufferBuilder,
};
use phantom_model::{AppId, Bytes, Limits, Resource};

use crate::wire::{self, CrossingRecord, KernelLimit, ReadAnswer, Words};
use crate::{MonitorError, os};

/// How many apps one monitor watches at most: `MAX_SLOTS` of the kernel programs.
pub const MAX_APPS: usize = 512;

const BTF: &str = "/sys/kernel/btf/vmlinux";
const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/monitor.bpf.o"));
const START: &str = "phantom_start";
const WATCH: &str = "phantom_watch";
const READ: &str = "phantom_read";
const EXIT: &str = "phantom_exit";
/// Count the packets of the cgroups that they are attached to.
const PACKETS: [&str; 2] = ["phantom_ingress", "phantom_egress"];
const REPLAY: &str = "phantom_replay";
const PINS: &str = "phantom_pins";
const MACHINE: &str = ".rodata.machine";
const RING: &str = "phantom_ring";

/// One app began or ceased to exceed a limit. Times are of the monotonic clock, see [`os::now`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crossing {
    /// Which app.
    pub app: AppId,
    /// Which of its limits.
    pub resource: Resource,
    /// True if the excursion begins, false if it ends.
    pub over: bool,
    /// In the unit of the limit, rounded up.
    pub measured: u64,
    /// When the kernel saw it.
    pub at: Duration,
    /// When it happened: the window was full and the level exceeded.
    pub crossed: Duration,
    /// Since when the level has been exceeded.
    pub since: Duration,
}

/// What one app uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Which app.
    pub app: AppId,
    /// When this was read, by the monotonic clock.
    pub at: Duration,
    /// CPU time of all its tasks, living and ended, since its cgroup was made.
    pub cpu: Duration,
    /// Run-queue delay of the tasks it has, and of those that ended since it is watched.
    pub delay: Duration,
    /// Bytes sent and received since it is watched, with IP headers, over all but the loopback.
    pub net: Bytes,
    /// Bytes read from and written for block devices by the tasks it has, and by those that ended
    /// since it is watched.
    pub disk: Bytes,
    /// Its processes (address spaces, to be exact).
    pub processes: u64,
    uses: [Use; Resource::OF_AN_APP.len()],
}

/// What one app uses of one resource, in the unit of its limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    /// Mean over the window of its limit (without one the default window), or since it is watched
    /// where that is shorter; memory: now.
    pub now: u64,
    /// Highest mean over a full window; memory: the most seen.
    pub peak: u64,
    /// Whether its limit is exceeded.
    pub over: bool,
}

impl Reading {
    /// What it uses of a resource; nothing of what is not measured of an app.
    pub fn of(&self, resource: Resource) -> Use {
        let mut measured = Resource::OF_AN_APP.iter().zip(self.uses);
        measured.find(|(one, _)| **one == resource).map(|(_, it)| it).unwrap_or_default()
    }
}

/// What the timer in the kernel has cost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// How often it ran.
    pub runs: u64,
    /// For how long.
    pub busy: Duration,
}

struct Watched {
    app: AppId,
    /// Names this order to the kernel; never used twice.
    serial: u64,
    cgroup: OwnedFd,
    limits: Limits,
    /// Counts its packets as long as it lives.
    _packets: Vec<Link>,
}

impl Watched {
    fn window(&self, resource: Resource) -> Duration {
        KernelLimit::of(&self.limits, resource).width()
    }
}

/// The kernel programs, loaded. Dropping it unloads all of them.
///
/// [`AsFd`] gives a descriptor that is readable while crossings wait; then call
/// [`Monitor::drain`]. It may be waited for edge-triggered, as every drain empties it.
pub struct Monitor {
    // Declared, and so dropped, before the object whose map it reads.
    ring: RingBuffer<'static>,
    crossings: Receiver<CrossingRecord>,
    ring_map: MapHandle,
    pins: MapHandle,
    /// Sees the ends of tasks, while an app is watched.
    exits: Option<Link>,
    object: Object,
    /// Whether this kernel can count packets.
    counts_packets: bool,
    slots: Vec<Option<Watched>>,
    last_serial: u64,
}

impl Monitor {
    /// Loads the kernel programs. Nothing is attached and nothing runs while no app is watched.
    pub fn load() -> Result<Self, MonitorError> {
        Self::load_with(false)
    }

    /// With the program that runs the decisions in virtual time; for tests only.
    #[doc(hidden)]
    pub fn load_with(replay: bool) -> Result<Self, MonitorError> {
        if !Path::new(BTF).exists() {
            return Err(MonitorError::NoBtf { path: BTF });
        }
        forward_messages();
        let failed = |source| MonitorError::Load { source };
        let mut open = ObjectBuilder::default()
            .name("phantom")
            .and_then(|b| b.open_memory(OBJECT))
            .map_err(failed)?;
        let counts_packets = ProgramType::CgroupSkb.is_supported().unwrap_or(false);
        for mut program in open.progs_mut() {
            let name = program.name();
            if name == REPLAY {
                program.set_autoload(replay);
            } else if PACKETS.iter().any(|one| name == *one) {
                program.set_autoload(counts_packets);
            }
        }
        let missing = MonitorError::Missing { name: MACHINE };
        let Some(mut machine) = open.maps_mut().find(|map| map.name() == MACHINE) else {
            return Err(missing);
        };
        let constants = wire::machine(os::possible_cpus()?, os::page_bytes()).to_bytes();
        match machine.initial_value_mut() {
            Some(data) if data.len() >= constants.len() => {
                data[..constants.len()].copy_from_slice(&constants);
            }
            _ => return Err(missing),
        }
        let object = open.load().map_err(failed)?;

        let ring_map = map_handle(&object, RING)?;
        let pins = map_handle(&object, PINS)?;
        let (sender, crossings) = channel();
        let mut builder = RingBufferBuilder::new();
        builder
            .add(&ring_map, move |bytes| {
                if let Some(record) = CrossingRecord::parse(bytes) {
                    // The receiver lives as long as the ring.
                    let _ = sender.send(record);
                }
                0
            })
            .map_err(|source| MonitorError::Ring { source })?;
        let ring = builder.build().map_err(|source| MonitorError::Ring { source })?;

        let monitor = Self {
            ring,
            crossings,
            ring_map,
            pins,
            exits: None,
            object,
            counts_packets,
            slots: Vec::new(),
            last_serial: 0,
        };
        match monitor.run(START, None)? {
            0 => Ok(monitor),
            code => Err(MonitorError::Refused { name: START, code }),
        }
    }

    /// Watches the tasks of a cgroup v2 directory against `limits`, which may be empty. An app
    /// that is watched already is watched anew: its windows begin now.
    ///
    /// Only the tasks of this very cgroup count, not those of cgroups below it.
    pub fn watch(
        &mut self,
        app: AppId,
        cgroup: BorrowedFd<'_>,
        limits: &Limits,
    ) -> Result<(), MonitorError> {
        self.can_watch(app, limits)?;
        let not_cgroup = |source| MonitorError::NotCgroup { app, source };
        let cgroup = cgroup.try_clone_to_owned().map_err(|error| not_cgroup(error.into()))?;
        let index = self.slot_for(app)?;
        let key = u32::try_from(index).unwrap_or(u32::MAX).to_ne_bytes();
        self.free(index)?;
        self.pins
            .update(&key, &cgroup.as_raw_fd().to_ne_bytes(), MapFlags::ANY)
            .map_err(not_cgroup)?;
        if self.exits.is_none() {
            self.exits = Some(self.program(EXIT, |program| program.attach())?);
        }
        let mut packets = Vec::new();
        for name in PACKETS.iter().filter(|_| self.counts_packets) {
            packets.push(self.program(name, |program| program.attach_cgroup(cgroup.as_raw_fd()))?);
        }
        self.last_serial += 1;
        let serial = self.last_serial;
        let watched = Watched { app, serial, cgroup, limits: limits.clone(), _packets: packets };
        let ordered = self.order(index, &watched);
        self.slots[index] = Some(watched);
        if ordered.is_err() {
            self.free(index)?;
        }
        ordered
    }

    /// [`Monitor::watch`] by path.
    pub fn watch_path(
        &mut self,
        app: AppId,
        cgroup: &Path,
        limits: &Limits,
    ) -> Result<(), MonitorError> {
        let dir = File::open(cgroup).map_err(|source| MonitorError::OpenCgroup {
            app,
            path: cgroup.to_owned(),
            source,
        })?;
        self.watch(app, dir.as_fd(), limits)
    }

    /// Other limits for a watched app; its windows begin anew.
    pub fn set_limits(&mut self, app: AppId, limits: &Limits) -> Result<(), MonitorError> {
        self.can_watch(app, limits)?;
        let index = self.find(app).ok_or(MonitorError::Unknown { app })?;
        let Some(mut watched) = self.slots[index].take() else {
            return Err(MonitorError::Unknown { app });
        };
        self.last_serial += 1;
        watched.serial = self.last_serial;
        watched.limits = limits.clone();
        let ordered = self.order(index, &watched);
        self.slots[index] = Some(watched);
        ordered
    }

    /// Stops watching; says whether the app was watched. Crossings that wait are dropped.
    pub fn unwatch(&mut self, app: AppId) -> Result<bool, MonitorError> {
        match self.find(app) {
            Some(index) => self.free(index).map(|()| true),
            None => Ok(false),
        }
    }

    /// Who is watched.
    pub fn watched(&self) -> impl Iterator<Item = AppId> {
        self.slots.iter().flatten().map(|watched| watched.app)
    }

    /// Takes the crossings that wait, oldest first.
    pub fn drain(&mut self) -> Result<Vec<Crossing>, MonitorError> {
        self.ring.consume().map_err(|source| MonitorError::Ring { source })?;
        let records: Vec<_> = self.crossings.try_iter().collect();
        Ok(records.iter().filter_map(|record| self.crossing(record)).collect())
    }

    /// What every watched app uses now.
    pub fn readings(&self) -> Result<Vec<Reading>, MonitorError> {
        let watched = self.slots.iter().enumerate();
        watched
            .filter_map(|(index, slot)| Some((index, slot.as_ref()?)))
            .filter_map(|(index, watched)| self.read_slot(index, watched).transpose())
            .collect()
    }

    /// What one app uses now.
    pub fn reading(&self, app: AppId) -> Result<Reading, MonitorError> {
        let unknown = MonitorError::Unknown { app };
        let Some(index) = self.find(app) else {
            return Err(unknown);
        };
        let Some(watched) = &self.slots[index] else {
            return Err(unknown);
        };
        self.read_slot(index, watched)?.ok_or(unknown)
    }

    /// What the timer has cost since the programs were loaded.
    pub fn cost(&self) -> Result<Cost, MonitorError> {
        let (_, answer) = self.call_read(u32::MAX)?;
        Ok(Cost { runs: answer.timer_runs, busy: answer.timer_busy })
    }

    /// The kernel's ids of the loaded programs.
    pub fn program_ids(&self) -> Vec<u32> {
        let loaded = self.object.progs();
        loaded.filter_map(|program| libbpf_rs::Program::id_from_fd(program.as_fd()).ok()).collect()
    }

    /// Runs the decisions of the kernel programs in virtual time; for tests only. `words` is the
    /// context of `phantom_replay`.
    #[doc(hidden)]
    pub fn replay(&self, words: &mut [u8]) -> Result<i32, MonitorError> {
        self.run(REPLAY, Some(words))
    }

    /// Whether this kernel keeps what the limits are about.
    fn can_watch(&self, app: AppId, limits: &Limits) -> Result<(), MonitorError> {
        let (_, kept) = self.call_read(u32::MAX)?;
        for limit in limits.iter() {
            let option = match limit.resource {
                Resource::Delay if !kept.keeps_delay => "CONFIG_SCHED_INFO",
                Resource::Disk if !kept.keeps_disk => "CONFIG_TASK_IO_ACCOUNTING",
                Resource::Net if !self.counts_packets => "CONFIG_CGROUP_BPF",
                _ => continue,
            };
            return Err(MonitorError::NotKept { app, limit: *limit, option });
        }
        Ok(())
    }

    fn find(&self, app: AppId) -> Option<usize> {
        self.slots.iter().position(|slot| slot.as_ref().is_some_and(|found| found.app == app))
    }

    /// The app's slot, or a free one.
    fn slot_for(&mut self, app: AppId) -> Result<usize, MonitorError> {
        let free = || self.slots.iter().position(Option::is_none);
        match self.find(app).or_else(free) {
            Some(index) => Ok(index),
            None if self.slots.len() < MAX_APPS => {
                self.slots.push(None);
                Ok(self.slots.len() - 1)
            }
            None => Err(MonitorError::Full { app, max: MAX_APPS }),
        }
    }

    fn order(&self, index: usize, watched: &Watched) -> Result<(), MonitorError> {
        let slot = u32::try_from(index).unwrap_or(u32::MAX);
        let fd = watched.cgroup.as_raw_fd();
        let mut call = wire::watch_call(slot, fd, watched.serial, &watched.limits).to_bytes();
        match self.run(WATCH, Some(&mut call))? {
            0 => Ok(()),
            code => Err(MonitorError::Refused { name: WATCH, code }),
        }
    }

    fn free(&mut self, index: usize) -> Result<(), MonitorError> {
        let slot = u32::try_from(index).unwrap_or(u32::MAX);
        let Some(_watched) = self.slots[index].take() else {
            return Ok(());
        };
        let mut call = wire::watch_call(slot, -1, 0, &Limits::default()).to_bytes();
        let code = self.run(WATCH, Some(&mut call))?;
        // Only now may the kernel let the cgroup go.
        let _ = self.pins.delete(&slot.to_ne_bytes());
        if self.slots.iter().all(Option::is_none) {
            self.exits = None;
        }
        if code == 0 { Ok(()) } else { Err(MonitorError::Refused { name: WATCH, code }) }
    }

    fn read_slot(&self, index: usize, watched: &Watched) -> Result<Option<Reading>, MonitorError> {
        let (code, answer) = self.call_read(u32::try_from(index).unwrap_or(u32::MAX))?;
        if code != 0 {
            return Err(MonitorError::Refused { name: READ, code });
        }
        // Until the timer has had its first look the rest is of nobody.
        let looked = answer.serial == watched.serial;
        let age = answer.at.saturating_sub(answer.begin);
        let mut uses = [Use::default(); Resource::OF_AN_APP.len()];
        for ((told, resource), place) in answer.uses.iter().zip(Resource::OF_AN_APP).zip(&mut uses)
        {
            let window = watched.window(resource);
            let now = wire::amount(resource, told.now, age.min(window));
            *place = match resource {
                _ if looked => {
                    let peak = wire::amount(resource, told.peak, window);
                    Use { now, peak, over: told.over }
                }
                Resource::Memory => Use { now, peak: now, over: false },
                _ => Use::default(),
            };
        }
        Ok(Some(Reading {
            app: watched.app,
            at: answer.at,
            cpu: answer.cpu,
            delay: answer.delay,
            net: Bytes(answer.net_bytes),
            disk: Bytes(answer.disk_bytes),
            processes: answer.processes,
            uses,
        }))
    }

    fn crossing(&self, record: &CrossingRecord) -> Option<Crossing> {
        let mut watched = self.slots.iter().flatten();
        let watched = watched.find(|watched| watched.serial == record.serial)?;
        let window = watched.window(record.resource);
        let measured = wire::amount(record.resource, record.measured, window);
        Some(Crossing {
            app: watched.app,
            resource: record.resource,
            over: record.over,
            measured,
            at: record.at,
            crossed: record.crossed,
            since: record.since,
        })
    }

    fn call_read(&self, slot: u32) -> Result<(i32, ReadAnswer), MonitorError> {
        let mut call = wire::read_call(slot).to_bytes();
        let code = self.run(READ, Some(&mut call))?;
        let words = Words::from_bytes(&call).ok_or(MonitorError::Missing { name: READ })?;
        Ok((code, ReadAnswer::from(words)))
    }

    /// Runs a program here and now; returns its answer.
    fn run(&self, name: &'static str, context: Option<&mut [u8]>) -> Result<i32, MonitorError> {
        let input = ProgramInput { context_in: context, ..ProgramInput::default() };
        let output = self.program(name, |program| program.test_run(input))?;
        // The kernel's type for the answer is unsigned; the programs' is int.
        Ok(output.return_value.cast_signed())
    }

    /// Does something with a program.
    fn program<T>(
        &self,
        name: &'static str,
        action: impl FnOnce(ProgramMut<'_>) -> libbpf_rs::Result<T>,
    ) -> Result<T, MonitorError> {
        let program = self.object.progs_mut().find(|program| program.name() == name);
        let program = program.ok_or(MonitorError::Missing { name })?;
        action(program).map_err(|source| MonitorError::Run { name, source })
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring_map.as_fd()
    }
}

fn map_handle(object: &Object, name: &'static str) -> Result<MapHandle, MonitorError> {
    let mut maps = object.maps();
    let map = maps.find(|map| map.name() == name).ok_or(MonitorError::Missing { name })?;
    MapHandle::try_from(&map).map_err(|source| MonitorError::Load { source })
}

/// The names of the monitor's programs that this kernel holds, whoever loaded them.
pub fn programs_loaded() -> Vec<String> {
    ProgInfoIter::default()
        .map(|program| program.name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with("phantom_"))
        .collect()
}

/// What libbpf has to say goes to the log, not to stderr.
fn forward_messages() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        libbpf_rs::set_print(Some((PrintLevel::Info, |level, message| {
            let message = message.trim_end();
            match level {
                PrintLevel::Warn => tracing::warn!(target: "libbpf", "{message}"),
                _ => tracing::debug!(target: "libbpf", "{message}"),
            }
        })));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_can_move_to_another_thread() {
        fn send<T: Send>() {}
        send::<Monitor>();
    }
}
