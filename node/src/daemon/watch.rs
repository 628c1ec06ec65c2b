//! The kernel monitor: limits go in, crossings come out, the pure machine makes verdicts of them,
//! and those go to the app's home.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Context;
use phantom_capsule::cgroup::Cgroup;
use phantom_ebpf::{Crossing, Monitor, Reading};
use phantom_model::{AppId, Bytes, Limits, Resource, Verdict};
use phantom_qos::{Command, Config, Machine, Sample};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::apps::now_unix_us;
use super::peers::{ASK_DEADLINE, Ask};
use super::{Daemon, Refusal};
use crate::api::types::{QosState, TimelineRow};
use crate::shim::control::Charge;

/// How often what apps use is read for listings.
const SAMPLE: Duration = Duration::from_secs(2);

/// What lies further ahead is not told.
const OUTLOOK: Duration = Duration::from_secs(24 * 3600);

/// The monitor, when it is on, and what it shall watch, on or off.
pub struct Watcher {
    inner: Mutex<Inner>,
    /// The monitor came or went, or a pause may be over.
    changed: Notify,
}

struct Inner {
    monitor: Option<Monitor>,
    machine: Machine,
    watched: HashMap<AppId, (Cgroup, Limits)>,
}

impl Default for Watcher {
    fn default() -> Self {
        let inner = Inner {
            monitor: None,
            machine: Machine::new(Config::default()),
            watched: HashMap::new(),
        };
        Self { inner: Mutex::new(inner), changed: Notify::new() }
    }
}

impl Inner {
    fn watch(&mut self, app: AppId) -> anyhow::Result<()> {
        let Some((cgroup, limits)) = self.watched.get(&app) else { return Ok(()) };
        self.machine.handle_watch(app, limits);
        if let Some(monitor) = &mut self.monitor {
            use std::os::fd::AsFd;
            monitor.watch(app, cgroup.open()?.as_fd(), limits)?;
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
        let apps: Vec<AppId> = inner.watched.keys().copied().collect();
        for app in apps {
            inner.watch(app)?;
        }
        drop(inner);
        self.changed.notify_one();
        Ok(())
    }

    /// Whether the monitor is on, and how many programs it has in the kernel.
    pub fn state(&self) -> QosState {
        let inner = self.lock();
        let programs = inner.monitor.as_ref().map_or(0, |monitor| monitor.program_ids().len());
        QosState { on: inner.monitor.is_some(), programs }
    }

    /// Watches an app that runs here.
    pub fn watch(&self, app: AppId, cgroup: Cgroup, limits: &Limits) -> anyhow::Result<()> {
        let mut inner = self.lock();
        inner.watched.insert(app, (cgroup, limits.clone()));
        inner.watch(app)
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
    /// line; only what is on its way.
    pub fn outlook(&self, app: AppId) -> Vec<String> {
        let inner = self.lock();
        let Some(trend) = inner.machine.trend(app) else { return Vec::new() };
        let limits = inner.watched.get(&app).map(|(_, limits)| limits.clone()).unwrap_or_default();
        let mut lines = Vec::new();
        if trend.memory.course == phantom_qos::Course::Rising {
            let per_minute = Bytes((trend.memory.slope_per_s * 60.0) as u64);
            lines.push(format!("its memory grows by {per_minute} a minute"));
        }
        lines.extend(limits.iter().filter_map(|limit| {
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
            inner.machine.handle_sample(Sample {
                app: reading.app,
                at: reading.at,
                cpu: reading.cpu_use,
                cpu_peak: reading.cpu_peak,
                memory: reading.resident,
                memory_peak: reading.resident_peak,
            });
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
        for crossing in crossings {
            let told = phantom_qos::Crossing {
                app: crossing.app,
                resource: crossing.resource,
                over: crossing.over,
                measured: crossing.measured,
                crossed: crossing.crossed,
                since: crossing.since,
            };
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
            let pause = inner.machine.poll_timeout();
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
    /// Gives the app's limits to the monitor; what cannot be is a note for the user.
    pub fn watch_limits(
        self: Arc<Self>,
        app: AppId,
        charge: &Charge,
        mut notes: Vec<String>,
    ) -> Vec<String> {
        let limits = &charge.spec.limits;
        let watched =
            charge.make_cgroup().and_then(|cgroup| self.watcher.watch(app, cgroup, limits));
        match watched {
            Err(error) => notes.push(format!("its limits are not watched: {error:#}")),
            Ok(()) if !limits.is_empty() && !self.watcher.state().on => notes.push(
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
            self.watch_again(app, &record.spec.limits);
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
            Ok(charge) => self.watch_again(app, &charge.spec.limits),
            Err(error) => tracing::warn!(%app, %error, "the guest's limits are not known"),
        }
    }

    /// Watches an app that runs here and was started before.
    pub fn watch_again(&self, app: AppId, limits: &Limits) {
        let watched = Cgroup::create(&self.node.short(), &app.short())
            .context("no control group")
            .and_then(|cgroup| self.watcher.watch(app, cgroup, limits));
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
            let detail = match crossing.resource {
                Resource::Cpu => format!("cpu at {}% of a core", crossing.measured),
                Resource::Memory => {
                    format!("memory at {}", phantom_model::Bytes(crossing.measured))
                }
            };
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
            for reading in self.watcher.readings() {
                let (percent, bytes) = (reading.cpu_use.0, reading.resident.0);
                if let Ok(guest) = self.guests.get(reading.app) {
                    let ask = Ask::Reading(reading.app, percent, bytes);
                    let daemon = self.clone();
                    tokio::spawn(async move {
                        let _ = daemon.ask(guest.home, &ask, ASK_DEADLINE).await;
                    });
                } else {
                    let _ = self.apps.with(reading.app, |app| app.reading = Some((percent, bytes)));
                }
            }
        }
    }

    /// Whether the monitor is on.
    pub fn qos_state(&self) -> QosState {
        self.watcher.state()
    }

    /// Switches the monitor.
    pub fn qos_switch(&self, on: bool) -> Result<QosState, Refusal> {
        self.watcher.switch(on)?;
        Ok(self.watcher.state())
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
