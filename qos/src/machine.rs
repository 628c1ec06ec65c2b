use std::collections::BTreeMap;
use std::time::Duration;

use phantom_model::{AppId, Limit, Limits, Resource, Verdict};

use crate::trend::History;
use crate::{Command, Config, Crossing, Sample, Trend};

#[cfg(test)]
mod tests;

/// Turns crossings into verdicts: one for each excursion. See the crate's page for the states.
#[derive(Debug, Default)]
pub struct Machine {
    config: Config,
    apps: BTreeMap<AppId, App>,
}

#[derive(Debug)]
struct App {
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
        Self { config, apps: BTreeMap::new() }
    }

    /// An app is watched from now on; what was known of it is forgotten.
    pub fn handle_watch(&mut self, app: AppId, limits: &Limits) {
        let guard = |limit: &Limit| Guard { limit: *limit, excursion: None, quiet_until: None };
        let guards = limits.iter().map(guard).collect();
        self.apps.insert(app, App { guards, history: History::default() });
    }

    /// An app is no longer watched.
    pub fn handle_unwatch(&mut self, app: AppId) {
        self.apps.remove(&app);
    }

    /// An app began or ceased to exceed a limit. What concerns nobody, or contradicts the limit,
    /// is ignored.
    pub fn handle_crossing(&mut self, crossing: Crossing, now: Duration) -> Option<Command> {
        let guard = self.guard(crossing.app, crossing.resource)?;
        if !crossing.over {
            guard.excursion = None;
            return None;
        }
        if crossing.measured <= guard.limit.level() {
            return None;
        }
        match &mut guard.excursion {
            Some(known) => known.measured = crossing.measured,
            None => {
                let due =
                    guard.quiet_until.map_or(crossing.crossed, |end| end.max(crossing.crossed));
                guard.excursion = Some(Excursion {
                    measured: crossing.measured,
                    since: crossing.since,
                    due,
                    told: false,
                });
            }
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
            let measured = match guard.limit {
                Limit::Cpu { .. } => u64::from(sample.cpu.0),
                Limit::Memory { .. } => sample.memory.0,
            };
            let level = guard.limit.level();
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
        for guard in &mut app.guards {
            let Some(excursion) = &mut guard.excursion else {
                continue;
            };
            if excursion.told {
                excursion.told = false;
                excursion.due = end;
                guard.quiet_until = Some(end);
            }
        }
    }

    /// When [`Machine::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let guards = self.apps.values().flat_map(|app| &app.guards);
        let waiting = guards.filter_map(|guard| guard.excursion).filter(|found| !found.told);
        waiting.map(|excursion| excursion.due).min()
    }

    /// The verdicts whose pause is over.
    pub fn handle_timeout(&mut self, now: Duration) -> Vec<Command> {
        let apps = self.apps.iter_mut();
        let guards = apps.flat_map(|(id, app)| app.guards.iter_mut().map(|guard| (*id, guard)));
        guards
            .filter_map(|(app, guard)| {
                guard.verdict(now).map(|verdict| Command::Verdict { app, verdict })
            })
            .collect()
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
        guards.find(|guard| guard.limit.resource() == resource)
    }
}

impl Guard {
    /// The verdict of the excursion at hand, if it is due and has not fallen.
    fn verdict(&mut self, now: Duration) -> Option<Verdict> {
        if self.quiet_until.is_some_and(|end| now < end) {
            return None;
        }
        let excursion = self.excursion.as_mut().filter(|found| !found.told)?;
        excursion.told = true;
        Some(Verdict {
            limit: self.limit,
            measured: excursion.measured,
            held: now.saturating_sub(excursion.since),
            delay: now.saturating_sub(excursion.due),
        })
    }
}
