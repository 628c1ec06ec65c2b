//! Finds the apps again whose shims lived on while there was no daemon.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use phantom_capsule::cgroup::Cgroup;
use phantom_model::{AppId, AppRecord};

use super::Daemon;
use super::apps::SHIM_DEADLINE;
use super::guests::Guest;
use super::parts::Found;
use super::timeline::Timeline;
use crate::config::AppDir;
use crate::shim::control::{Charge, Event, Request, Role, ShimClient};

/// How long killed processes may take to disappear.
const REMAINS_DEADLINE: Duration = Duration::from_secs(5);
/// How long a shim may take to say how it stands.
const STANDING_DEADLINE: Duration = Duration::from_secs(60);

impl Daemon {
    /// Takes up every shim that answers; forgets apps whose shim is gone.
    pub async fn find_apps(self: &Arc<Self>) -> anyhow::Result<()> {
        let records = self.store.records()?;
        for entry in std::fs::read_dir(self.config.apps_dir())?.flatten() {
            let name = entry.file_name();
            let Some(app) = name.to_str().and_then(|name| name.parse::<AppId>().ok()) else {
                continue;
            };
            let dir = self.config.app_dir(app);
            let record = records.iter().find(|record| record.app == app);
            if let Err(error) = self.take_up(app, &dir, record).await {
                let error = format!("{error:#}");
                if tokio::net::UnixStream::connect(dir.control()).await.is_ok() {
                    tracing::error!(%app, error, "its shim lives, but cannot be taken up");
                    continue;
                }
                tracing::warn!(%app, error, "its shim is gone, so is the app");
                self.clear_remains(app);
            }
        }
        for record in records {
            if self.apps.record(record.app).is_err() {
                tracing::warn!(app = %record.app, name = record.spec.name, "ended while no daemon ran");
                self.store.remove_record(record.app)?;
            }
        }
        Ok(())
    }

    async fn take_up(
        self: &Arc<Self>,
        app: AppId,
        dir: &AppDir,
        record: Option<&AppRecord>,
    ) -> anyhow::Result<()> {
        let charge: Charge = serde_json::from_slice(&std::fs::read(dir.spec())?)?;
        let shim = ShimClient::new(&dir.control());
        let standing = async {
            let mut events = shim.watch().await?;
            events.next().await.context("it says nothing")
        };
        let standing = tokio::time::timeout(STANDING_DEADLINE, standing).await??;
        let Event::Standing { running, epoch, frozen, arrived } = standing else {
            bail!("it does not say how it stands");
        };
        self.guests.adopt_ids(app, charge.id_base);
        let home = match &charge.role {
            Role::Home => self.node,
            Role::Guest(guest) => guest.home,
        };
        match (&frozen, epoch) {
            (Some(id), Some(epoch)) => {
                self.parts.adopt(app, home, Found::Frozen { epoch, id: *id })
            }
            (None, Some(epoch)) if running => {
                self.parts.adopt(app, home, Found::Running { epoch, arrived });
            }
            _ => {}
        }
        match &charge.role {
            Role::Home => match record {
                Some(record) => self.take_up_home(app, shim, record.clone()),
                // A daemon before has heard of its end and could not let it go.
                None if !running => return shim.tell(&Request::Finish, SHIM_DEADLINE).await,
                None => bail!("its record is gone"),
            },
            Role::Guest(guest) => {
                if !running && frozen.is_none() {
                    // It was on its way here when the daemon stopped; its home has given up.
                    return shim.tell(&Request::Finish, SHIM_DEADLINE).await;
                }
                let guest = Guest {
                    home,
                    epoch: epoch.unwrap_or(guest.epoch),
                    shim,
                    brought_by: arrived,
                    running: true,
                };
                self.guests.insert(app, guest);
                self.clone().follow_guest_shim(app);
                self.watch_guest(app).await;
            }
        }
        tracing::info!(%app, name = charge.spec.name, "found again");
        Ok(())
    }

    fn take_up_home(self: &Arc<Self>, app: AppId, shim: ShimClient, record: AppRecord) {
        let (host, epoch, limits) = (record.host, record.epoch, record.spec.limits.clone());
        let timeline = self.store.timeline(app).unwrap_or_else(|error| {
            tracing::warn!(%app, error = format!("{error:#}"), "its life so far cannot be read");
            Vec::new()
        });
        self.apps.insert(record, shim.clone(), true, Timeline::kept(timeline));
        if host == self.node {
            self.watch_again(app, &limits, false);
        } else {
            // The daemon may have ended between the commit and telling the shim of it.
            tokio::spawn(async move {
                let follow = Request::Follow { epoch };
                if let Err(error) = shim.tell(&follow, SHIM_DEADLINE).await {
                    tracing::warn!(%app, error = format!("{error:#}"), "its shim does not follow it");
                }
            });
        }
        self.clone().follow_home_shim(app);
    }

    /// Follows what a guest's shim tells, until it ends.
    pub fn follow_guest_shim(self: Arc<Self>, app: AppId) {
        tokio::spawn(async move {
            let Ok(guest) = self.guests.get(app) else { return };
            if let Ok(mut events) = guest.shim.watch().await {
                let mut ended = false;
                while let Some(event) = events.next().await {
                    if let Event::Ended { code } = event {
                        ended = true;
                        tracing::info!(%app, code, "the guest has ended");
                        let _ = guest.shim.tell(&Request::Finish, SHIM_DEADLINE).await;
                    }
                }
                // Still listed with this epoch, and its shim is gone without a word.
                if !ended && self.guests.get(app).is_ok_and(|now| now.epoch == guest.epoch) {
                    let daemon = self.clone();
                    let _ = tokio::task::spawn_blocking(move || daemon.clear_remains(app)).await;
                }
            }
            // A later guest of the same app has another shim.
            if self.guests.get(app).is_ok_and(|now| now.epoch == guest.epoch || !now.running) {
                self.watcher.unwatch(app);
                self.guests.remove(app);
                self.parts.forget(app);
            }
        });
    }
}

impl Daemon {
    /// Ends and removes what a shim that was killed left of its app here: processes that run or
    /// stand frozen without anybody, mounts, files.
    pub fn clear_remains(&self, app: AppId) {
        let ended = Cgroup::create(&self.node.short(), &app.short()).and_then(|cgroup| {
            cgroup.kill()?;
            cgroup.wait_empty(REMAINS_DEADLINE)?;
            cgroup.remove()
        });
        if let Err(error) = ended {
            tracing::warn!(%app, %error, "processes of the app may be left");
        }
        let dir = self.config.app_dir(app);
        let _ = phantom_fs::fuse::detach(&dir.root());
        if let Err(error) = std::fs::remove_dir_all(&dir.0) {
            tracing::warn!(dir = %dir.0.display(), %error, "cannot be removed");
        }
    }
}
