use std::collections::BTreeMap;
use std::time::Duration;

use phantom_model::{AppId, Limit, Limits, Pressure, Resource, Verdict};

use crate::pressure::Gauge;
use crate::trend::History;
use crate::{Command, Config, Crossing, Sample, Trend};

#[cfg(test)]
mod tests;

/// Turns crossings into verdicts: one for each excursion. See the crate's page for the states.
#[derive(Debug, Default)]
pub struct Machine {
    config: Config,
    apps: BTreeMap<AppId, App>,
    /// One for each limit on stutter that some app has.
    gauges: Vec<Gauge>,
    /// No verdict about stutter before this time: one move may be enough.
    next_stutter: Duration,
}

#[derive(Debug)]
struct App {
    foreign: bool,
    guards: Vec<Guard>,
    history: History,
}

/// One limit of one app.
#[derive(Debug)]
struct Guard {
    limit: Limit,
    excursion: Option<Excursion>,
    /// No verdict before this time.
    quiet_until: Option<Duration>,
    /// When a verdict fell of which it is not known yet what comes of it.
    asked: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Excursion {
    measured: u64,
    since: Duration,
    /// When its verdict could fall first.
    due: Duration,
    told: bool,
}

impl Machine {
    /// Watches nobody yet.
    pub fn new(config: Config) -> Self {
        Self { config, ..Self::default() }
    }

    /// An app is watched from now on; what was known of it is forgotten. `foreign`: of another
    /// node, so that it has to leave first.
    pub fn handle_watch(&mut self, app: AppId, limits: &Limits, foreign: bool) {
        let guard = |limit: &Limit| Guard {
            limit: *limit,
            excursion: None,
            quiet_until: None,
            asked: None,
        };
        let guards = limits.iter().map(guard).collect();
        self.apps.insert(app, App { foreign, guards, history: History::default() });
        self.keep_gauges();
        self.apply_stutter();
    }

    /// An app is no longer watched.
    pub fn handle_unwatch(&mut self, app: AppId) {
        self.apps.remove(&app);
        self.keep_gauges();
    }

    /// As many gauges as there are limits on stutter.
    fn keep_gauges(&mut self) {
        let guards = self.apps.values().flat_map(|app| &app.guards);
        let limits = guards.map(|guard| guard.limit).filter(|it| it.resource == Resource::Stutter);
        let wanted: Vec<Limit> = limits.collect();
        self.gauges.retain(|gauge| wanted.contains(&gauge.limit));
        for limit in wanted {
            if self.gauges.iter().all(|gauge| gauge.limit != limit) {
                self.gauges.push(Gauge::new(limit));
            }
        }
    }

    /// When the machine's pressure has to be read; `None` while no app has a limit on it.
    pub fn pressure_due(&self) -> Option<Duration> {
        self.gauges.iter().map(Gauge::due).min()
    }

    /// The machine's pressure was read.
    pub fn handle_pressure(&mut self, pressure: Pressure, now: Duration) -> Option<Command> {
        self.gauges.iter_mut().for_each(|gauge| gauge.push(pressure));
        self.apply_stutter();
        self.stutter_verdict(now)
    }

    /// An excursion of a gauge is one of all apps that have its limit.
    fn apply_stutter(&mut self) {
        for gauge in &self.gauges {
            let guards = self.apps.values_mut().flat_map(|app| &mut app.guards);
            for guard in guards.filter(|guard| guard.limit == gauge.limit) {
                match (&mut guard.excursion, gauge.stutter) {
                    (_, None) => guard.excursion = None,
                    (Some(known), Some(found)) => known.measured = found.measured,
                    (None, Some(found)) => {
                        let since = found.crossed.saturating_sub(guard.limit.window.0);
                        guard.begin(found.measured, since, found.crossed);
                    }
                }
            }
        }
    }

    /// The verdict for the one app that should leave first, if it is time for one.
    fn stutter_verdict(&mut self, now: Duration) -> Option<Command> {
        if now < self.next_stutter {
            return None;
        }
        let mut heaviest: Option<((bool, u64), AppId)> = None;
        for gauge in &self.gauges {
            let Some(found) = gauge.stutter else { continue };
            for (id, app) in &self.apps {
                let waits = |it: &&Guard| it.limit == gauge.limit && it.waits(now);
                if app.guards.iter().find(waits).is_none() {
                    continue;
                }
                let used = app.history.last().map_or(0, |last| last.uses[found.cause.index()].now);
                let weight = (app.foreign, used);
                if heaviest.is_none_or(|(most, _)| weight > most) {
                    heaviest = Some((weight, *id));
                }
            }
        }
        let (_, app) = heaviest?;
        let turn = self.next_stutter;
        let guard = self.guard(app, Resource::Stutter)?;
        let excursion = guard.excursion.as_mut()?;
        excursion.due = excursion.due.max(turn);
        let verdict = guard.verdict(now)?;
        self.next_stutter = now + self.config.pause;
        Some(Command::Verdict { app, verdict })
    }

    /// An app began or ceased to exceed a limit. What concerns nobody, or contradicts the limit,
    /// is ignored.
    pub fn handle_crossing(&mut self, crossing: Crossing, now: Duration) -> Option<Command> {
        let guard = self.guard(crossing.app, crossing.resource)?;
        if !crossing.over {
            guard.excursion = None;
            return None;
        }
        if crossing.measured <= guard.limit.level {
            return None;
        }
        match &mut guard.excursion {
            Some(known) => known.measured = crossing.measured,
            None => guard.begin(crossing.measured, crossing.since, crossing.crossed),
        }
        guard.verdict(now).map(|verdict| Command::Verdict { app: crossing.app, verdict })
    }

    /// An app was measured. This feeds its trend and the figure a renewed verdict names. It neither
    /// begins an excursion, as a sample does not say how long the level has been exceeded, nor ends
    /// one: a dip between two looks of the monitor is none to it, so it would not report the rest.
    pub fn handle_sample(&mut self, sample: Sample) {
        let Some(app) = self.apps.get_mut(&sample.app) else {
            return;
        };
        app.history.push(sample);
        for guard in &mut app.guards {
            let Some(used) = sample.uses.get(guard.limit.resource.index()) else { continue };
            let (measured, level) = (used.now, guard.limit.level);
            if let Some(excursion) = guard.excursion.as_mut().filter(|_| measured > level) {
                excursion.measured = measured;
            }
        }
    }

    /// Nothing came of the app's verdicts: another one may fall after a pause.
    pub fn rearm(&mut self, app: AppId, now: Duration) {
        let Some(app) = self.apps.get_mut(&app) else {
            return;
        };
        let end = now + self.config.pause;
        for guard in app.guards.iter_mut().filter(|guard| guard.asked.is_some()) {
            // Also where the excursion has ended meanwhile: the next one waits as well.
            guard.asked = None;
            guard.quiet_until = Some(end);
            if let Some(excursion) = &mut guard.excursion {
                excursion.told = false;
                excursion.due = excursion.due.max(end);
            }
            if guard.limit.resource == Resource::Stutter {
                self.next_stutter = now;
            }
        }
    }

    /// When [`Machine::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let guards = self.apps.values().flat_map(|app| &app.guards);
        let due = |guard: &Guard| {
            let excursion = guard.excursion?;
            Some(match (guard.limit.resource, excursion.told) {
                (_, true) => guard.asked? + self.config.patience,
                (Resource::Stutter, false) => excursion.due.max(self.next_stutter),
                (_, false) => excursion.due,
            })
        };
        guards.filter_map(due).min()
    }

    /// The verdicts whose pause is over.
    pub fn handle_timeout(&mut self, now: Duration) -> Vec<Command> {
        let forgotten =
            |guard: &Guard| guard.asked.is_some_and(|asked| asked + self.config.patience <= now);
        let apps = self.apps.iter().filter(|(_, app)| app.guards.iter().any(forgotten));
        for app in apps.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.rearm(app, now);
        }
        let apps = self.apps.iter_mut();
        let guards = apps.flat_map(|(id, app)| app.guards.iter_mut().map(|guard| (*id, guard)));
        let own = guards.filter(|(_, guard)| guard.limit.resource != Resource::Stutter);
        let mut commands: Vec<Command> = own
            .filter_map(|(app, guard)| {
                guard.verdict(now).map(|verdict| Command::Verdict { app, verdict })
            })
            .collect();
        commands.extend(self.stutter_verdict(now));
        commands
    }

    /// What an app uses and where that is heading; nothing before its first sample.
    pub fn trend(&self, app: AppId) -> Option<Trend> {
        self.apps.get(&app)?.history.trend()
    }

    /// The limits an app exceeds now, each with the time since when.
    pub fn exceeded(&self, app: AppId) -> Vec<(Limit, Duration)> {
        let guards = self.apps.get(&app).map_or(&[][..], |app| &app.guards);
        let over = |guard: &Guard| Some((guard.limit, guard.excursion?.since));
        guards.iter().filter_map(over).collect()
    }

    fn guard(&mut self, app: AppId, resource: Resource) -> Option<&mut Guard> {
        let mut guards = self.apps.get_mut(&app)?.guards.iter_mut();
        guards.find(|guard| guard.limit.resource == resource)
    }
}

impl Guard {
    /// Its limit is exceeded from now on; the verdict waits until the last one's pause is over.
    fn begin(&mut self, measured: u64, since: Duration, crossed: Duration) {
        let due = self.quiet_until.map_or(crossed, |end| end.max(crossed));
        self.excursion = Some(Excursion { measured, since, due, told: false });
    }

    /// Whether a verdict could fall.
    fn waits(&self, now: Duration) -> bool {
        self.excursion.is_some_and(|found| !found.told)
            && self.quiet_until.is_none_or(|end| now >= end)
    }

    /// The verdict of the excursion at hand, if it is due and has not fallen.
    fn verdict(&mut self, now: Duration) -> Option<Verdict> {
        if !self.waits(now) {
            return None;
        }
        let excursion = self.excursion.as_mut()?;
        excursion.told = true;
        self.asked = Some(now);
        Some(Verdict {
            limit: self.limit,
            measured: excursion.measured,
            held: now.saturating_sub(excursion.since),
            delay: now.saturating_sub(excursion.due),
        })
    }
}
