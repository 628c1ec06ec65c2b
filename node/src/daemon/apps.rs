//! Apps whose home is this node: the records, their shims, and what users ask of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use phantom_model::app::OsText;
use phantom_model::{
    AppId, AppRecord, AppSpec, Capability, Credentials, Epoch, NodeId, Subject, Verdict,
};
use tokio::sync::{Notify, watch};

use super::timeline::Timeline;
use super::watch::Used;
use super::{Caller, Daemon, Refusal, detached};
use crate::account;
use crate::api::types::*;
use crate::config::AppDir;
use crate::shim::control::{Charge, Event, Request, Role, ShimClient};

/// How long a shim may take to build a capsule.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long a shim may take to answer a simple question.
pub const SHIM_DEADLINE: Duration = Duration::from_secs(10);
/// Names longer than this do not fit a listing.
const MAX_NAME_CHARS: usize = 40;

/// Which copy may act, told to every stream that serves one.
pub type Authority = (NodeId, Epoch);

/// One app at home here.
pub struct HomeApp {
    /// The durable record.
    pub record: AppRecord,
    /// Its shim.
    pub shim: ShimClient,
    /// The latest verdict, in words.
    pub verdict: Option<Verdict>,
    /// What the monitor last read.
    pub reading: Option<Used>,
    /// Whether its host answers.
    pub reachable: bool,
    /// Whether its shim has built the capsule; until then only its name is taken.
    started: bool,
    /// The last epoch whose copy, away from home, has brought its terminal.
    pub seen: Option<Epoch>,
    /// What prevented a move when that was last looked at; `Some(None)` when nothing did.
    pub obstacle: Option<Option<String>>,
    /// When that was.
    pub inspected: Option<Instant>,
    /// Where it has been too much.
    pub left: phantom_broker::Left,
    /// Why it stays although it exceeds a limit, as its user was last told, and when.
    pub told: Option<(String, Instant)>,
    /// Its life so far.
    pub(super) timeline: Timeline,
    authority: watch::Sender<Authority>,
}

/// All of them.
#[derive(Default)]
pub struct HomeApps {
    table: Mutex<HashMap<AppId, HomeApp>>,
    /// Something was added to a timeline.
    pub(super) noted: Notify,
}

impl HomeApps {
    fn lock(&self) -> MutexGuard<'_, HashMap<AppId, HomeApp>> {
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes an app into the table, one that runs or one that has yet to be started.
    pub fn insert(&self, record: AppRecord, shim: ShimClient, started: bool, timeline: Timeline) {
        let authority = watch::Sender::new((record.host, record.epoch));
        let app = HomeApp {
            shim,
            verdict: None,
            reading: None,
            reachable: true,
            started,
            seen: None,
            obstacle: None,
            inspected: None,
            left: phantom_broker::Left::default(),
            told: None,
            timeline,
            authority,
            record,
        };
        self.lock().insert(app.record.app, app);
    }

    /// Works on one app.
    pub fn with<R>(&self, app: AppId, work: impl FnOnce(&mut HomeApp) -> R) -> anyhow::Result<R> {
        self.lock().get_mut(&app).map(work).with_context(|| format!("no app {app} is at home here"))
    }

    /// Its record as it stands.
    pub fn record(&self, app: AppId) -> anyhow::Result<AppRecord> {
        self.with(app, |app| app.record.clone())
    }

    /// Its shim.
    pub fn shim(&self, app: AppId) -> anyhow::Result<ShimClient> {
        self.with(app, |app| app.shim.clone())
    }

    /// All records.
    pub fn records(&self) -> Vec<AppRecord> {
        self.lock().values().map(|app| app.record.clone()).collect()
    }

    /// The records of those that have been started.
    pub fn started(&self) -> Vec<AppRecord> {
        let table = self.lock();
        table.values().filter(|app| app.started).map(|app| app.record.clone()).collect()
    }

    /// Whether one of them runs elsewhere.
    pub fn any_away(&self) -> bool {
        self.lock().values().any(|app| app.record.is_away())
    }

    /// Watches which copy of an app may act.
    pub fn authority(&self, app: AppId) -> anyhow::Result<watch::Receiver<Authority>> {
        self.with(app, |app| app.authority.subscribe())
    }

    /// Replaces the record; streams of copies that may no longer act end.
    pub fn set_record(&self, record: AppRecord) -> anyhow::Result<()> {
        self.with(record.app, |app| {
            app.authority.send_replace((record.host, record.epoch));
            app.record = record;
        })
    }

    /// The app whose obstacles were not looked at for the longest time.
    pub fn longest_uninspected(&self) -> Option<AppId> {
        let table = self.lock();
        let started = table.values().filter(|app| app.started);
        started.min_by_key(|app| app.inspected).map(|app| app.record.app)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// What `pick` gives for each app it gives something for.
    pub(super) fn each<R>(&self, mut pick: impl FnMut(AppId, &mut HomeApp) -> Option<R>) -> Vec<R> {
        self.lock().iter_mut().filter_map(|(app, home)| pick(*app, home)).collect()
    }
}

impl Daemon {
    /// Starts a command in a capsule of its own.
    pub async fn run(
        self: Arc<Self>,
        caller: Caller,
        request: RunRequest,
    ) -> Result<RunReply, Refusal> {
        let user = tokio::task::spawn_blocking(move || credentials(caller))
            .await
            .map_err(Refusal::failed)?
            .map_err(|error| Refusal::failed(format!("{error:#}")))?;
        let name = self.pick_name(&user, &request)?;
        let vo = request.vo.as_deref().map(|name| self.vo_to_run_under(name)).transpose()?;
        let names = vo.as_ref().map(|vo| self.organisation(vo).names).unwrap_or_default();
        let subject = Subject { user: &user.user, groups: &user.group_names, vo: &names };
        let granted = self.policy().grant(subject, &request.limits);
        let app = AppId(rand::random());
        let record = AppRecord {
            app,
            epoch: Epoch::FIRST,
            host: self.node,
            home: self.node,
            pending: None,
            spec: AppSpec {
                name: name.clone(),
                argv: request.argv,
                env: request.env,
                cwd: request.cwd,
                user,
                limits: granted.limits,
                term_size: request.term_size,
                vo,
            },
            started_unix_s: now_unix_us() / 1_000_000,
        };
        let dir = self.config.app_dir(app);
        let charge = self.charge(app, record.spec.clone(), Role::Home)?;
        self.store.put_record(&record)?;
        let shim = ShimClient::new(&dir.control());
        self.apps.insert(record, shim, false, Timeline::default());
        match self.start_shim(&dir, &charge).await {
            Ok(mut notes) => {
                notes.extend(granted.notes);
                let _ = self.apps.with(app, |app| app.started = true);
                self.apps.note(app, "start", format!("{name} on {}", self.config.name));
                self.clone().follow_home_shim(app);
                let notes = self.clone().watch_limits(app, &charge, notes);
                Ok(RunReply { app, name, attach: dir.attach(), notes })
            }
            Err(error) => {
                // A shim that was late and killed may have begun.
                let daemon = self.clone();
                let _ = tokio::task::spawn_blocking(move || daemon.clear_remains(app)).await;
                self.forget(app);
                Err(error.into())
            }
        }
    }

    /// What a shim on this node is started with.
    pub fn charge(&self, app: AppId, spec: AppSpec, role: Role) -> anyhow::Result<Charge> {
        Ok(Charge {
            app,
            spec,
            role,
            id_base: self.guests.reserve_ids(app)?,
            node_short: self.node.short(),
            network_lock: self.config.run_dir.join("network.lock"),
            switch: self.config.switch_socket(),
            cache_dir: self.config.cache_dir.clone(),
            cache_max: self.config.cache_max,
            criu: self.facts.criu(),
            network: self.facts.can(Capability::Network),
        })
    }

    /// Starts a shim and waits until it has built or refused its capsule; gives its notes.
    pub async fn start_shim(&self, dir: &AppDir, charge: &Charge) -> anyhow::Result<Vec<String>> {
        detached::make_dir(&dir.0, 0o711)?;
        std::fs::write(dir.spec(), serde_json::to_vec(charge)?)?;
        detached::start("shim", &dir.0, &dir.0.join("shim.log"), START_DEADLINE).await
    }

    fn pick_name(&self, user: &Credentials, request: &RunRequest) -> Result<String, Refusal> {
        let Some(command) = request.argv.first() else {
            return Err(Refusal::usage("no command given; write it like `phantom run -- python3`"));
        };
        let taken = |name: &str| {
            let records = self.apps.records();
            records.iter().any(|r| r.spec.name == name && r.spec.user.uid == user.uid)
        };
        if let Some(name) = &request.name {
            let usable = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if name.is_empty() || name.len() > MAX_NAME_CHARS || !name.chars().all(usable) {
                return Err(Refusal::usage(format!(
                    "`{name}` is not usable as a name: letters, digits, `-`, `_` and `.`, \
                     at most {MAX_NAME_CHARS}"
                )));
            }
            if taken(name) {
                return Err(Refusal::usage(format!(
                    "you already run an app named `{name}`; see `phantom ps`"
                )));
            }
            return Ok(name.clone());
        }
        let path = command.to_path();
        let base = path.file_name().map_or_else(|| "app".into(), |name| name.to_string_lossy());
        let base: String = base
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
            .take(MAX_NAME_CHARS - 6)
            .collect();
        let names = std::iter::once(base.clone()).chain((2..).map(|n| format!("{base}-{n}")));
        names
            .take(100_000)
            .find(|name| !taken(name))
            .ok_or_else(|| Refusal::failed("all names are taken"))
    }

    /// Finds an app by name, id or the beginning of its id among those the caller may steer.
    pub fn find_app(&self, caller: Caller, text: &str) -> Result<AppId, Refusal> {
        let mine: Vec<AppRecord> = self
            .apps
            .started()
            .into_iter()
            .filter(|record| caller.may_steer(record.spec.user.uid))
            .collect();
        let named: Vec<_> = mine.iter().filter(|record| record.spec.name == text).collect();
        let found = if named.is_empty() && text.len() >= 4 {
            mine.iter().filter(|record| record.app.to_string().starts_with(text)).collect()
        } else {
            named
        };
        match found[..] {
            [one] => Ok(one.app),
            [] => Err(Refusal::usage(format!("no app `{text}` of yours runs; see `phantom ps`"))),
            _ => Err(Refusal::usage(format!(
                "`{text}` names {} apps; give the id from `phantom ps`",
                found.len()
            ))),
        }
    }

    /// The rows of `phantom ps` for a caller.
    pub fn app_rows(&self, caller: Caller) -> Vec<AppRow> {
        let mut rows: Vec<AppRow> = self
            .apps
            .started()
            .iter()
            .filter(|record| caller.may_steer(record.spec.user.uid))
            .filter_map(|record| self.app_row(record.app).ok())
            .collect();
        rows.sort_by_key(|row| (row.started_unix_s, row.app));
        rows
    }

    /// One row of `phantom ps`.
    pub fn app_row(&self, app: AppId) -> anyhow::Result<AppRow> {
        let (record, reading, reachable, inspected) = self.apps.with(app, |app| {
            (app.record.clone(), app.reading, app.reachable, app.obstacle.clone())
        })?;
        let command = record.spec.argv.iter().map(OsText::to_string).collect::<Vec<_>>().join(" ");
        Ok(AppRow {
            app,
            name: record.spec.name.clone(),
            user: record.spec.user.user.clone(),
            command: command.chars().filter(|c| !c.is_control()).take(60).collect(),
            state: match () {
                () if self.moves.is_moving(&record) => AppState::Moving,
                () if !reachable => AppState::Unreachable,
                () => AppState::Running,
            },
            host: self.members.name(record.host),
            home: self.members.name(record.home),
            epoch: record.epoch,
            limits: record.spec.limits.to_string(),
            vo: record.spec.vo.as_ref().map(|vo| self.vo_name(vo)),
            movable: inspected.as_ref().map(Option::is_none),
            obstacle: inspected.flatten(),
            cpu_percent: reading.map(|used| used.cpu_percent),
            resident_bytes: reading.map(|used| used.resident.0),
            started_unix_s: record.started_unix_s,
            attach: Some(self.config.app_dir(app).attach()),
        })
    }

    /// The rows of `phantom log`.
    pub fn timeline(&self, app: AppId) -> Result<Vec<TimelineRow>, Refusal> {
        Ok(self.apps.with(app, |app| app.timeline.rows())?)
    }

    /// Signals an app wherever it is.
    pub async fn kill(&self, app: AppId, signal: i32) -> Result<(), Refusal> {
        self.moves.at_rest(app).await;
        let record = self.apps.record(app)?;
        if self.moves.is_moving(&record) {
            return Err(Refusal::failed(format!(
                "{} is moving; try again when it has arrived",
                record.spec.name
            )));
        }
        if record.host == self.node {
            self.apps.shim(app)?.tell(&Request::Signal(signal), SHIM_DEADLINE).await?;
        } else {
            self.signal_guest(&record, signal).await?;
        }
        Ok(())
    }

    /// Shows one line to the app's user, where the configuration allows.
    pub async fn tell_user(&self, app: AppId, line: String) {
        if !self.config.messages {
            return;
        }
        if let Ok(shim) = self.apps.shim(app)
            && let Err(error) = shim.tell(&Request::Tell(line), SHIM_DEADLINE).await
        {
            tracing::warn!(%app, %error, "cannot show a message to the user");
        }
    }

    /// Follows what a home shim tells, until it ends.
    pub fn follow_home_shim(self: Arc<Self>, app: AppId) {
        tokio::spawn(async move {
            if let Err(error) = self.home_shim_events(app).await {
                tracing::warn!(%app, error = format!("{error:#}"), "lost the app's shim");
                if let Ok(record) = self.apps.record(app)
                    && record.is_away()
                {
                    self.tell_ended(record.host, app);
                }
                let daemon = self.clone();
                let _ = tokio::task::spawn_blocking(move || daemon.clear_remains(app)).await;
            }
            self.forget(app);
        });
    }

    async fn home_shim_events(&self, app: AppId) -> anyhow::Result<()> {
        let shim = self.apps.shim(app)?;
        let mut events = shim.watch().await?;
        while let Some(event) = events.next().await {
            if let Event::Ended { code } = event {
                self.apps.note(app, "end", format!("exit code {code}"));
                // Its user hears of it next.
                self.apps.lock().remove(&app);
                return shim.tell(&Request::Finish, SHIM_DEADLINE).await;
            }
        }
        bail!("it ended without a word; see its shim.log")
    }

    /// Forgets an app that has ended.
    pub fn forget(&self, app: AppId) {
        self.watcher.unwatch(app);
        if let Err(error) = self.store.remove_record(app) {
            tracing::error!(%app, error = format!("{error:#}"), "cannot forget the app");
        }
        self.apps.lock().remove(&app);
        self.guests.free_ids(app);
        let dir = self.config.app_dir(app);
        if let Err(error) = std::fs::remove_dir_all(&dir.0) {
            tracing::debug!(%app, %error, "cannot remove the app's folder");
        }
    }
}

/// The caller's account on this node.
fn credentials(caller: Caller) -> anyhow::Result<Credentials> {
    let user = account::of(caller.uid)?;
    let groups = account::groups(&user.name)?;
    let all: Vec<u32> = groups.iter().copied().chain([caller.gid]).collect();
    Ok(Credentials {
        group_names: account::group_names(&all)?,
        user: user.name,
        uid: caller.uid,
        gid: caller.gid,
        groups: groups.into_iter().filter(|gid| *gid != caller.gid).collect(),
        home_dir: user.home_dir.into(),
    })
}

/// Microseconds since 1970.
pub fn now_unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
