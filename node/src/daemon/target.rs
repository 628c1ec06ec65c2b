//! What this node does as the target of a move.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use phantom_broker::{Candidate, Left, Needs};
use phantom_checkpoint::machine::{SourceRole, TargetAction, TargetRole};
use phantom_model::handoff::{Failure, Prepare, Saved, Timing};
use phantom_model::{AppId, Bytes, Epoch, MoveId, Step};

use super::guests::Guest;
use super::parts::{Action, STEP_DEADLINE, failure};
use super::{Daemon, hold};
use crate::shim::carry::{self, Briefing};
use crate::shim::control::{GuestRole, Reply, Request as ShimRequest, Role, ShimClient};

/// What an image holds besides memory, at most times.
const IMAGE_EXTRA: Bytes = Bytes(8 << 20);

impl Daemon {
    pub(super) async fn perform_target(
        self: &Arc<Self>,
        app: AppId,
        id: MoveId,
        action: TargetAction,
    ) {
        let actions = match action {
            TargetAction::Prepare(prepare) => {
                let result = self.prepare(app, id, *prepare).await.map_err(failure(Step::Prepare));
                self.with_target(app, id, |target| target.prepared(result))
            }
            TargetAction::Restore(saved) => {
                let result = self.restore(app, id, *saved).await;
                self.with_target(app, id, |target| target.held(result))
            }
            TargetAction::Resume { epoch } => {
                let result = self.resume(app, id, epoch).await.map_err(failure(Step::Resume));
                self.with_target(app, id, |target| target.resumed(result))
            }
            TargetAction::Discard => {
                self.discard(app, id).await;
                Vec::new()
            }
            TargetAction::Reply(report) => {
                if let Some(home) = self.home_of(app) {
                    self.report(home, report);
                }
                Vec::new()
            }
        };
        self.perform(app, actions.into_iter().map(|action| Action::Target(id, action)).collect());
    }

    fn with_target(
        &self,
        app: AppId,
        id: MoveId,
        work: impl FnOnce(&mut TargetRole) -> Vec<TargetAction>,
    ) -> Vec<TargetAction> {
        let mut table = self.parts.table();
        let target = table.get_mut(&app).and_then(|part| part.target.as_mut());
        target.filter(|target| target.id() == id).map(work).unwrap_or_default()
    }

    async fn prepare(
        self: &Arc<Self>,
        app: AppId,
        id: MoveId,
        prepare: Prepare,
    ) -> anyhow::Result<()> {
        self.hold(hold::Part::Target, Step::Prepare).await;
        ensure!(prepare.record.app == app, "the record is of another app");
        let briefing: Briefing = carry::unpack(&prepare.capsule)?;
        self.check_needs(&prepare, &briefing)?;
        let epoch = prepare.record.epoch.next();
        let image = self.config.app_dir(app).image(id);
        let shim = if prepare.record.home == self.node {
            self.apps.shim(app)?
        } else {
            self.start_guest(app, id, epoch, &prepare, briefing.blueprint).await?
        };
        std::fs::create_dir_all(&image)
            .with_context(|| format!("cannot make {}", image.display()))?;
        let receiving = self.expect_image(id, prepare.source, image, prepare.needs.memory);
        if let Some(part) = self.parts.table().get_mut(&app) {
            part.receiving = Some(receiving);
        }
        let request = ShimRequest::Prepare { id, epoch, files: briefing.files };
        shim.tell(&request, STEP_DEADLINE).await
    }

    fn check_needs(&self, prepare: &Prepare, briefing: &Briefing) -> anyhow::Result<()> {
        let facts = self.facts.now();
        let own = Candidate::new(self.node, &self.members.name(self.node), Some(facts));
        let needs = Needs {
            host: prepare.source,
            home: prepare.record.home,
            resident: prepare.needs.memory,
            started_on: briefing.started_on.clone(),
            left: Left::default(),
            rules: self.rules(&prepare.record),
        };
        if let Some(reason) = own.refusal(&needs) {
            bail!("it {reason}");
        }
        let folder = &self.config.run_dir;
        let wanted = Bytes(prepare.needs.memory.0.saturating_add(IMAGE_EXTRA.0));
        let room = nix::sys::statvfs::statvfs(folder)
            .map(|fs| Bytes(fs.blocks_available().saturating_mul(fs.fragment_size())))
            .with_context(|| format!("cannot look at {}", folder.display()))?;
        ensure!(
            room >= wanted,
            "it has {room} of room in {}, the image needs {wanted}; enlarge that file system \
             or set `run_dir`",
            folder.display()
        );
        Ok(())
    }

    async fn start_guest(
        self: &Arc<Self>,
        app: AppId,
        id: MoveId,
        epoch: Epoch,
        prepare: &Prepare,
        blueprint: Vec<u8>,
    ) -> anyhow::Result<ShimClient> {
        let dir = self.config.app_dir(app);
        // Of an attempt that was given up.
        if let Some(old) = self.guests.remove(app) {
            let _ = old.shim.tell(&ShimRequest::Finish, STEP_DEADLINE).await;
        }
        let role = Role::Guest(Box::new(GuestRole { home: prepare.record.home, blueprint, epoch }));
        let charge = self.charge(app, prepare.record.spec.clone(), role)?;
        if let Err(error) = self.start_shim(&dir, &charge).await {
            self.guests.free_ids(app);
            return Err(error);
        }
        let shim = ShimClient::new(&dir.control());
        let guest = Guest {
            home: prepare.record.home,
            epoch,
            shim: shim.clone(),
            brought_by: Some(id),
            running: false,
        };
        self.guests.insert(app, guest);
        self.clone().follow_guest_shim(app);
        Ok(shim)
    }

    async fn restore(
        self: &Arc<Self>,
        app: AppId,
        id: MoveId,
        saved: Saved,
    ) -> Result<Vec<Timing>, Failure> {
        self.hold(hold::Part::Target, Step::Transfer).await;
        let receiving = self.parts.table().get_mut(&app).and_then(|part| part.receiving.take());
        let receiving = receiving
            .filter(|receiving| receiving.id == id)
            .context("no image has come")
            .map_err(failure(Step::Transfer))?;
        let arrived = receiving.finish(saved.manifest).await.map_err(failure(Step::Transfer))?;
        self.hold(hold::Part::Target, Step::Restore).await;
        let shim = self.shim_of(app).map_err(failure(Step::Restore))?;
        let request = ShimRequest::Restore { id, luggage: saved.terminal };
        match shim.ask(&request, STEP_DEADLINE).await.map_err(failure(Step::Restore))? {
            Reply::Held(held) => {
                let timing =
                    |step, took: Duration| Timing { step, micros: took.as_micros() as u64 };
                Ok(vec![
                    timing(Step::Transfer, arrived),
                    timing(Step::Check, held.check),
                    timing(Step::Restore, held.restore),
                ])
            }
            _ => Err(failure(Step::Restore)(anyhow!("the shim did not understand"))),
        }
    }

    async fn resume(
        self: &Arc<Self>,
        app: AppId,
        id: MoveId,
        epoch: Epoch,
    ) -> anyhow::Result<Vec<Timing>> {
        self.hold(hold::Part::Target, Step::Resume).await;
        let shim = self.shim_of(app)?;
        let Reply::Running(running) =
            shim.ask(&ShimRequest::Resume { id, epoch }, STEP_DEADLINE).await?
        else {
            bail!("the shim did not understand");
        };
        let _ = self.guests.with(app, |guest| {
            guest.epoch = epoch;
            guest.running = true;
        });
        if let Some(part) = self.parts.table().get_mut(&app) {
            part.source = Some(SourceRole::new(app, epoch));
        }
        self.watch_guest(app).await;
        self.hold(hold::Part::Target, Step::Drop).await;
        Ok(vec![Timing { step: Step::Resume, micros: running.resume.as_micros() as u64 }])
    }

    async fn discard(self: &Arc<Self>, app: AppId, id: MoveId) {
        if let Some(part) = self.parts.table().get_mut(&app) {
            part.receiving = None;
        }
        let running = self.guests.get(app).is_ok_and(|g| g.running && g.brought_by == Some(id));
        let request = match running {
            true => ShimRequest::Finish,
            false => ShimRequest::Abort { id },
        };
        let told = match self.shim_of(app) {
            Ok(shim) => shim.tell(&request, STEP_DEADLINE).await,
            Err(_) => Ok(()),
        };
        let _ = std::fs::remove_dir_all(self.config.app_dir(app).image(id));
        let guest =
            self.apps.record(app).is_err() && self.guests.get(app).is_ok_and(|g| !g.running);
        if guest {
            self.guests.remove(app);
        }
        if let Err(error) = told {
            tracing::warn!(%app, error = format!("{error:#}"), "what came of the app is not removed by its shim");
            if guest {
                let daemon = self.clone();
                let _ = tokio::task::spawn_blocking(move || daemon.clear_remains(app)).await;
            }
        }
    }
}
