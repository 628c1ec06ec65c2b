//! The kernel monitor: limits go in, crossings come out, the pure machine makes verdicts of them,
//! and those go to the app's home.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Context;
use phantom_capsule::cgroup::Cgroup;
use phantom_ebpf::{Crossing, Monitor, Reading};
use phantom_model::{AppId, Bytes, Limit, Limits, Resource, Verdict};
use phantom_qos::{Command, Config, Course, Machine, Sample, Use};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::apps::now_unix_us;
use super::peers::{ASK_DEADLINE, Ask};
use super::{Daemon, Refusal};
use crate::api::types::{QosState, TimelineRow};
use crate::shim::control::Charge;

/// How often what apps use is read for listings.
const SAMPLE: Duration = Duration::from_secs(2);

/// After the pressure could not be read.
const PRESSURE_PAUSE: Duration = Duration::from_secs(60);

/// What lies further ahead is not told.
const OUTLOOK: Duration = Duration::from_secs(24 * 3600);

/// What an app uses, as far as listings and the choice of a node need it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// CPU, percent of a core.
    pub cpu_percent: u32,
    /// Waiting for a CPU, percent of the time, all threads added up.
    pub delay_percent: u32,
    /// Memory.
    pub resident: Bytes,
}

impl Used {
    fn of(reading: &Reading) -> Self {
        let percent = |of: Resource| u32::try_from(reading.of(of).now).unwrap_or(u32::MAX);
        Self {
            cpu_percent: percent(Resource::Cpu),
            delay_percent: percent(Resource::Delay),
            resident: Bytes(reading.of(Resource::Memory).now),
        }
    }
}

/// The monitor, when it is on, and what it shall watch, on or off.
pub struct Watcher {
    inner: Mutex<Inner>,
    /// The monitor came or went, or a pause may be over.
    changed: Notify,
}

struct Inner {
    monitor: Option<Monitor>,
    machine: Machine,
    watched: HashMap<AppId, Watched>,
    /// The pressure could not be read, and is not read again before this time.
    no_pressure_until: Duration,
}

/// An app that runs here.
struct Watched {
    cgroup: Cgroup,
    limits: Limits,
    /// Of another node.
    foreign: bool,
    /// What it is held to.
    held: Vec<Resource>,
}

impl Watched {
    /// Holds the app to a soft limit, or lets go of it.
    fn hold(&mut self, limit: Limit, held: bool) -> Result<(), phantom_capsule::Error> {
        let level = held.then_some(limit.level);
        match limit.resource {
            Resource::Cpu => self.cgroup.hold_cpu(level)?,
            Resource::Memory => self.cgroup.hold_memory(level)?,
            _ => return Ok(()),
        }
        self.held.retain(|resource| *resource != limit.resource);
        self.held.extend(held.then_some(limit.resource));
        Ok(())
    }

    /// Lets go of the app, where nobody will see that it uses less.
    fn let_go(&mut self) {
        for limit in self.limits.clone().iter().filter(|limit| limit.soft) {
            // What it was held to before this daemon began is not known.
            if let Err(error) = self.hold(*limit, false) {
                tracing::debug!(error = format!("{error:#}"), "it cannot have been held");
            }
        }
    }
}

impl Default for Watcher {
    fn default() -> Self {
        let inner = Inner {
            monitor: None,
            machine: Machine::new(Config::default()),
            watched: HashMap::new(),
            no_pressure_until: Duration::ZERO,
        };
        Self { inner: Mutex::new(inner), changed: Notify::new() }
    }
}

impl Inner {
    fn pressure_due(&self) -> Option<Duration> {
        self.machine.pressure_due().map(|due| due.max(self.no_pressure_until))
    }

    fn watch(&mut self, app: AppId) -> anyhow::Result<()> {
        let Some(watched) = self.watched.get_mut(&app) else { return Ok(()) };
        watched.let_go();
        self.machine.handle_watch(app, &watched.limits, watched.foreign);
        if let Some(monitor) = &mut self.monitor {
            use std::os::fd::AsFd;
            monitor.watch(app, watched.cgroup.open()?.as_fd(), &watched.limits)?;
        }
        Ok(())
    }
}

impl Watcher {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Loads the monitor and watches everything again, or unloads it.
    pub fn switch(&self, on: bool) -> anyhow::Result<()> {
        let mut inner = self.lock();
        if on == inner.monitor.is_some() {
            return Ok(());
        }
        inner.monitor = if on { Some(Monitor::load()?) } else { None };
        inner.watched.values_mut().for_each(Watched::let_go);
        let apps: Vec<AppId> = inner.watched.keys().copied().collect();
        // One that cannot be watched is no reason not to watch the others.
        let failed = apps.into_iter().filter_map(|app| inner.watch(app).err()).next_back();
        drop(inner);
        self.changed.notify_one();
        failed.map_or(Ok(()), Err)
    }

    /// Holds an app to the limit it exceeds, if that is a soft one; says in words how that went.
    fn soften(&self, app: AppId, limit: Limit) -> Option<String> {
        let mut inner = self.lock();
        // It may have ended while something else was waited for; nobody would let go of it then.
        inner.machine.exceeded(app).iter().find(|(exceeded, _)| *exceeded == limit)?;
        let watched = inner.watched.get_mut(&app).filter(|_| limit.soft)?;
        if watched.held.contains(&limit.resource) {
            return None;
        }
        let amount = limit.resource.words(limit.level);
        Some(match watched.hold(limit, true) {
            Ok(()) if limit.resource == Resource::Cpu => format!("to {amount} of a core"),
            Ok(()) => format!("to {amount} of memory"),
            Err(error) => format!("not at all: {error}"),
        })
    }

    /// How many programs the monitor has in the kernel; none if it is off.
    pub fn programs(&self) -> Option<usize> {
        self.lock().monitor.as_ref().map(|monitor| monitor.program_ids().len())
    }

    /// Watches an app that runs here; `foreign`: of another node.
    pub fn watch(
        &self,
        app: AppId,
        cgroup: Cgroup,
        limits: &Limits,
        foreign: bool,
    ) -> anyhow::Result<()> {
        let stutter = limits.get(Resource::Stutter).map(|_| phantom_ebpf::pressure()).transpose();
        let kept = |limit: &&Limit| stutter.is_ok() || limit.resource != Resource::Stutter;
        let limits = limits.iter().filter(kept).copied().collect();
        let mut inner = self.lock();
        inner.watched.insert(app, Watched { cgroup, limits, foreign, held: Vec::new() });
        let watched = inner.watch(app);
        drop(inner);
        self.changed.notify_one();
        watched.and(stutter.map(drop).map_err(Into::into))
    }

    /// Watches it no more.
    pub fn unwatch(&self, app: AppId) {
        let mut inner = self.lock();
        inner.watched.remove(&app);
        inner.machine.handle_unwatch(app);
        if let Some(monitor) = &mut inner.monitor
            && let Err(error) = monitor.unwatch(app)
        {
            tracing::debug!(%app, %error, "the monitor did not know it");
        }
    }

    /// Nothing came of the app's verdict: another may fall after a pause.
    pub fn rearm(&self, app: AppId) {
        self.lock().machine.rearm(app, phantom_ebpf::now());
        self.changed.notify_one();
    }

    /// What an app that runs here uses, where that is heading and when it reaches a limit, each a
    /// line.
    pub fn outlook(&self, app: AppId) -> Vec<String> {
        let inner = self.lock();
        let Some(trend) = inner.machine.trend(app) else { return Vec::new() };
        let used = |resource: Resource| {
            let level = trend.of(resource).map_or(0, |quantity| quantity.level as u64);
            resource.words(level)
        };
        let mut lines = vec![format!(
            "it uses {} of a core and {} of memory, waits {} of the time for a CPU, moves {} over \
             the network and {} on disks",
            used(Resource::Cpu),
            used(Resource::Memory),
            used(Resource::Delay),
            used(Resource::Net),
            used(Resource::Disk)
        )];
        let memory = trend.of(Resource::Memory).filter(|it| it.course == Course::Rising);
        if let Some(memory) = memory {
            let per_minute = Resource::Memory.words((memory.slope_per_s * 60.0) as u64);
            lines.push(format!("its memory grows by {per_minute} a minute"));
        }
        let limits = inner.watched.get(&app).map(|watched| watched.limits.clone());
        lines.extend(limits.unwrap_or_default().iter().filter_map(|limit| {
            let left = trend.reaches(*limit).filter(|left| *left < OUTLOOK)?;
            Some(format!("at this rate it reaches its limit {limit} in {}", span(left)))
        }));
        lines
    }

    /// What an app uses, as last read.
    fn readings(&self) -> Vec<Reading> {
        let mut inner = self.lock();
        let readings = match &inner.monitor {
            Some(monitor) => monitor.readings().unwrap_or_default(),
            None => Vec::new(),
        };
        for reading in &readings {
            let uses = Resource::OF_AN_APP.map(|resource| {
                let used = reading.of(resource);
                Use { now: used.now, peak: used.peak }
            });
            inner.machine.handle_sample(Sample { app: reading.app, at: reading.at, uses });
        }
        readings
    }

    /// The verdicts that are due now, each with the crossing it comes from.
    fn take_verdicts(&self) -> Vec<(AppId, Verdict, Option<Crossing>)> {
        let mut inner = self.lock();
        let crossings = match &mut inner.monitor {
            Some(monitor) => monitor.drain().unwrap_or_default(),
            None => Vec::new(),
        };
        let now = phantom_ebpf::now();
        let mut verdicts = Vec::new();
        if inner.pressure_due().is_some_and(|due| due <= now) {
            match phantom_ebpf::pressure() {
                Ok(pressure) => {
                    let found = inner.machine.handle_pressure(pressure, now);
                    verdicts.extend(
                        found.map(|Command::Verdict { app, verdict }| (app, verdict, None)),
                    );
                }
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the pressure cannot be read");
                    inner.no_pressure_until = now + PRESSURE_PAUSE;
                }
            }
        }
        for crossing in crossings {
            let told = phantom_qos::Crossing {
                app: crossing.app,
                resource: crossing.resource,
                over: crossing.over,
                measured: crossing.measured,
                crossed: crossing.crossed,
                since: crossing.since,
            };
            if !crossing.over
                && let Some(watched) = inner.watched.get_mut(&crossing.app)
                && watched.held.contains(&crossing.resource)
                && let Some(limit) = watched.limits.get(crossing.resource)
                && let Err(error) = watched.hold(limit, false)
            {
                let app = crossing.app;
                tracing::warn!(%app, error = format!("{error:#}"), "it is still held to its limit");
            }
            if let Some(Command::Verdict { app, verdict }) =
                inner.machine.handle_crossing(told, now)
            {
                verdicts.push((app, verdict, Some(crossing)));
            }
        }
        for Command::Verdict { app, verdict } in inner.machine.handle_timeout(now) {
            verdicts.push((app, verdict, None));
        }
        verdicts
    }

    /// Waits until there may be a verdict.
    async fn ready(&self) {
        let (fd, pause) = {
            let inner = self.lock();
            let due = [inner.machine.poll_timeout(), inner.pressure_due()];
            let pause = due.into_iter().flatten().min();
            let fd = inner.monitor.as_ref().and_then(|monitor| monitor_fd(monitor).ok());
            (fd, pause.map(|at| at.saturating_sub(phantom_ebpf::now())))
        };
        tokio::select! {
            () = readable(fd) => {}
            () = self.changed.notified() => {}
            () = tokio::time::sleep(pause.unwrap_or(Duration::MAX)), if pause.is_some() => {}
        }
    }
}

fn monitor_fd(monitor: &Monitor) -> std::io::Result<AsyncFd<std::os::fd::OwnedFd>> {
    use std::os::fd::AsFd;
    phantom_capsule::os::reactor::register_readable(monitor.as_fd().try_clone_to_owned()?)
}

async fn readable(fd: Option<AsyncFd<std::os::fd::OwnedFd>>) {
    match fd {
        Some(fd) => drop(fd.readable().await),
        None => std::future::pending().await,
    }
}

impl Daemon {
    /// An app's limits, and on stutter that of this machine's owner where it has none.
    fn limits_here(&self, limits: &Limits) -> Limits {
        limits.iter().copied().chain(self.config.stutter).collect()
    }

    /// Gives the app's limits to the monitor; what cannot be is a note for the user.
    pub fn watch_limits(
        self: Arc<Self>,
        app: AppId,
        charge: &Charge,
        mut notes: Vec<String>,
    ) -> Vec<String> {
        let limits = &self.limits_here(&charge.spec.limits);
        let watched =
            charge.make_cgroup().and_then(|cgroup| self.watcher.watch(app, cgroup, limits, false));
        match watched {
            Err(error) => notes.push(format!("its limits are not watched: {error:#}")),
            Ok(()) if !limits.is_empty() && self.watcher.programs().is_none() => notes.push(
                "its limits are not watched: the monitor is off (`sudo phantom qos on`)".to_owned(),
            ),
            Ok(()) => {}
        }
        notes
    }

    /// An app has come or stayed: the node it runs on watches it.
    pub async fn watch_where_it_is(self: &Arc<Self>, app: AppId) {
        let Ok(record) = self.apps.record(app) else { return };
        if record.host == self.node {
            self.watch_again(app, &record.spec.limits, false);
        } else {
            self.watcher.unwatch(app);
        }
    }

    /// A guest runs here now.
    pub async fn watch_guest(self: &Arc<Self>, app: AppId) {
        let spec = std::fs::read(self.config.app_dir(app).spec())
            .map_err(anyhow::Error::from)
            .and_then(|bytes| Ok(serde_json::from_slice::<Charge>(&bytes)?));
        match spec {
            Ok(charge) => self.watch_again(app, &charge.spec.limits, true),
            Err(error) => tracing::warn!(%app, %error, "the guest's limits are not known"),
        }
    }

    /// Watches an app that runs here and was started before.
    pub fn watch_again(&self, app: AppId, limits: &Limits, foreign: bool) {
        let limits = self.limits_here(limits);
        let watched = Cgroup::create(&self.node.short(), &app.short())
            .context("no control group")
            .and_then(|cgroup| self.watcher.watch(app, cgroup, &limits, foreign));
        if let Err(error) = watched {
            tracing::warn!(%app, error = format!("{error:#}"), "limits are not watched");
        }
    }

    /// Makes verdicts of crossings until the daemon stops.
    pub async fn judge(self: Arc<Self>) {
        loop {
            self.watcher.ready().await;
            for (app, verdict, crossing) in self.watcher.take_verdicts() {
                self.pronounce(app, verdict, crossing).await;
            }
        }
    }

    async fn pronounce(self: &Arc<Self>, app: AppId, verdict: Verdict, crossing: Option<Crossing>) {
        let now_us = now_unix_us();
        let ago = |at: Duration| phantom_ebpf::now().saturating_sub(at).as_micros() as u64;
        let mut events = Vec::new();
        if let Some(crossing) = crossing {
            let (resource, measured) = (crossing.resource, crossing.measured);
            let detail = format!("{resource} at {}", resource.words(measured));
            events.push(TimelineRow {
                at_unix_us: now_us.saturating_sub(ago(crossing.at)),
                event: "crossing".to_owned(),
                detail,
            });
        }
        events.push(TimelineRow {
            at_unix_us: now_us,
            event: "verdict".to_owned(),
            detail: format!("it {verdict}"),
        });
        if let Some(detail) = self.watcher.soften(app, verdict.limit) {
            events.push(TimelineRow { at_unix_us: now_us, event: "held".to_owned(), detail });
        }
        if let Ok(guest) = self.guests.get(app) {
            let ask = Ask::Exceeds(app, verdict, events);
            if let Err(error) = self.ask(guest.home, &ask, ASK_DEADLINE).await {
                tracing::warn!(%app, error = format!("{error:#}"), "the home does not hear the verdict");
                self.watcher.rearm(app);
            }
            return;
        }
        for row in events {
            self.apps.note_at(app, row.at_unix_us, &row.event, row.detail);
        }
        self.clone().act_on(app, verdict);
    }

    /// Keeps what listings show current.
    pub async fn sample(self: Arc<Self>) {
        let mut tick = tokio::time::interval(SAMPLE);
        loop {
            tick.tick().await;
            if self.apps.any_away() || self.guests.first_home().is_some() {
                self.count_sent();
            }
            for reading in self.watcher.readings() {
                let used = Used::of(&reading);
                if let Ok(guest) = self.guests.get(reading.app) {
                    let ask = Ask::Reading(reading.app, used);
                    let daemon = self.clone();
                    tokio::spawn(async move {
                        let _ = daemon.ask(guest.home, &ask, ASK_DEADLINE).await;
                    });
                } else {
                    let _ = self.apps.with(reading.app, |app| app.reading = Some(used));
                }
            }
        }
    }

    /// What `phantom qos` tells.
    pub fn qos_state(&self) -> QosState {
        let programs = self.watcher.programs();
        let watched = self.watchlist.exceeding().iter().map(ToString::to_string).collect();
        let pressure = phantom_ebpf::recent_pressure().ok();
        QosState { on: programs.is_some(), programs: programs.unwrap_or(0), pressure, watched }
    }

    /// Switches the monitor.
    pub fn qos_switch(&self, on: bool) -> Result<QosState, Refusal> {
        self.watcher.switch(on)?;
        Ok(self.qos_state())
    }
}

/// A span as people say it.
fn span(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
